"""MeCo: how far the channels of feature maps are from repeating one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from nas_proxy.errors import EvaluationError
from nas_proxy.options import PositiveInt
from nas_proxy.registry import SCORES
from nas_proxy.scores._loss_gradients import OneBatchScore
from nas_proxy.scores._sharing import Read, TrainingPass

# Below it an eigenvalue is zero up to the rounding of float32 features, which leaves about 1e-12.
_ROUNDING = 1e-9


@SCORES.register("meco")
@dataclass(frozen=True, kw_only=True)
class MeCo(OneBatchScore):
    """Sum over the layers of the smallest eigenvalue of the correlation matrix of the channels.

    A layer is a module without modules inside that puts out feature maps `(n, c, h, w)`, with or
    without weights; its channels are compared over the pixels of all images. Where there are no
    more pixels than channels, or a channel is constant, the smallest eigenvalue is zero. The
    network runs in training mode, as published: fresh norms then use the batch's statistics.

    Attributes:
        num_images: Images to look at, the first ones given; all when fewer are given. Published
            with one image, on whose few pixels wide layers of small images have no score; on
            NAS-Bench-201 a handful ranks as one does.
    """

    num_images: PositiveInt = 8

    summary: ClassVar[str] = "how far the channels of feature maps are from repeating one another"
    paper: ClassVar[str] = "Jiang et al., MeCo, NeurIPS 2023"

    def join(self, shared: TrainingPass) -> Read:
        """See `SharingScore.join`.

        There is no score if no layer puts out feature maps, features are not finite, or every
        smallest eigenvalue is zero.
        """
        smallest: list[float] = []

        def add_eigenvalue(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                smallest.append(_smallest_eigenvalue(output.detach()))

        def read() -> float:
            if not smallest:
                raise EvaluationError("meco: no layer of the network puts out feature maps")
            if sum(smallest) == 0:
                raise EvaluationError(
                    "meco: in every layer the channels are as many as the pixels or depend on one "
                    "another, so that all smallest eigenvalues are zero"
                )
            return sum(smallest)

        shared.watched.append((_layers, add_eigenvalue))
        return read


def _layers(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if not list(module.children())]


def _smallest_eigenvalue(features: Tensor) -> float:
    """Of the channels' correlation matrix over all images and pixels of `(n, c, h, w)`."""
    channels = features.transpose(0, 1).flatten(1).double()
    if not bool(channels.isfinite().all()):
        raise EvaluationError("meco: the features are not finite")
    if channels.shape[1] <= len(channels) or bool((channels.amin(1) == channels.amax(1)).any()):
        return 0.0
    smallest = float(torch.linalg.eigvalsh(torch.corrcoef(channels).cpu())[0])
    return smallest if smallest > _ROUNDING else 0.0
