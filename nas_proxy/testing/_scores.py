"""Checks of zero-cost scores, on networks of the two built-in search spaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from nas_proxy.data.transforms import normalise
from nas_proxy.errors import EvaluationError
from nas_proxy.interfaces import SearchSpace, ZeroCostScore
from nas_proxy.registry import SEARCH_SPACES
from nas_proxy.reproducibility import isolated_rng
from nas_proxy.testing._common import (
    blame,
    check_class,
    global_generators_untouched,
    require,
    tiny_dataset,
)
from nas_proxy.types import Architecture

# The ConvNets differ in norm, activation and pooling; one cell of NAS-Bench-201 is complete, and
# through the other nothing flows.
_ARCHITECTURES = {
    "convnet": (
        "ConvNet-W32-D3-NIN-AR-PA",
        "ConvNet-W32-D2-NBN-AL-PM",
        "ConvNet-W64-D1-NLN-AS-PN",
        "ConvNet-W32-D4-NN-AR-PA",
    ),
    "nasbench201": (
        "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|none~2|",
        "|skip_connect~0|+|none~0|nor_conv_3x3~1|+|none~0|avg_pool_3x3~1|nor_conv_1x1~2|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
    ),
}


def check_score_class(score: ZeroCostScore) -> None:
    """The class is named, has a direction, and everything it declares as an option is one."""
    check_class(score)
    require(
        isinstance(score.higher_is_better, bool),
        f"{score.name}: higher_is_better must be true or false, not {score.higher_is_better!r}",
    )


def check_finite(score: ZeroCostScore) -> None:
    """A score is a finite float or an EvaluationError with a reason, and mostly the former."""
    for space, architectures in _networks():
        values = [_measure(score, space, architecture) for architecture in architectures]
        require(
            sum(value is not None for value in values) > len(values) / 2,
            f"{score.name}: most networks of {space.name} have no score",
        )


def check_deterministic(score: ZeroCostScore) -> None:
    """Equal weights and images give the equal score."""
    for space, architectures in _networks():
        for architecture in architectures:
            first, second = (_measure(score, space, architecture) for _ in range(2))
            require(
                first == second,
                f"{score.name}: the same network of {space.name} scores {first} and {second} "
                "under equal seeds",
            )


def check_leaves_images(score: ZeroCostScore) -> None:
    """The images are left as they were: the next architecture is measured on them too."""
    for space, architectures in _networks():
        images = _images()
        before = images.clone()
        _measure(score, space, architectures[0], images)
        require(
            torch.equal(images, before) and not images.requires_grad,
            f"{score.name}: measure() changes the images that it is given",
        )


def check_score_leaves_generators(score: ZeroCostScore) -> None:
    """Measured inside `isolated_rng`, a score leaves no trace in the global generators."""
    for space, architectures in _networks():
        with global_generators_untouched(f"{score.name}: measure()"):
            _measure(score, space, architectures[0])


SCORE_CHECKS: tuple[Callable[[ZeroCostScore], None], ...] = (
    check_score_class,
    check_finite,
    check_deterministic,
    check_leaves_images,
    check_score_leaves_generators,
)


def _networks() -> Iterator[tuple[SearchSpace, list[Architecture]]]:
    for name, texts in _ARCHITECTURES.items():
        space = SEARCH_SPACES.get(name)()
        yield space, [space.from_string(text) for text in texts]


def _images() -> Tensor:
    dataset = tiny_dataset()
    return normalise(dataset.images, dataset.spec)


def _measure(
    score: ZeroCostScore,
    space: SearchSpace,
    architecture: Architecture,
    images: Tensor | None = None,
) -> float | None:
    """The score of a fresh network with 8x8 images of five classes; None where it has none."""
    spec = replace(tiny_dataset().spec, class_names=tuple("abcde"))
    what = f"{score.name}: the network {space.to_string(architecture)}"
    with isolated_rng(0), blame(f"{what} cannot be measured"):
        network = space.build(architecture, spec)
        try:
            value = score.measure_labelled(
                network, _images() if images is None else images, tiny_dataset().labels
            )
        except EvaluationError as error:
            require(bool(str(error).strip()), f"{what} has no score, and the error gives no reason")
            return None
    require(
        isinstance(value, float) and abs(value) < float("inf"),
        f"{what} scores {value!r}, which is not a finite float",
    )
    return value
