"""Herding: images whose mean embedding is that of their class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nas_proxy.distill.common.coreset import EmbeddingCoreset
from nas_proxy.registry import DISTILLERS


@DISTILLERS.register("herding")
@dataclass(frozen=True, kw_only=True)
class Herding(EmbeddingCoreset):
    """One image after another, each the one that brings the mean embedding nearest to the class's.

    Welling, "Herding Dynamical Weights to Learn", ICML 2009, in the form of iCaRL. Embeddings are
    taken as they are, as the condensation literature does; iCaRL scales each to length one. The
    first k images are the same whatever their number, so a set can be cut short.
    """

    summary = "real images whose mean embedding approaches that of their class"
    paper = "Rebuffi et al., iCaRL: Incremental Classifier and Representation Learning, CVPR 2017"

    def select_in_class(
        self, embeddings: Tensor, num_images: int, generator: torch.Generator
    ) -> Tensor:
        """Greedily; nothing is random."""
        return herd(embeddings, num_images)


def herd(embeddings: Tensor, num_images: int) -> Tensor:
    """Different positions in `embeddings`, `(n, d)`, whose mean follows that of all of them.

    Returns:
        int64 `(num_images,)`, in the order of choice; of equally good ones, the first is taken.
    """
    mean = embeddings.mean(dim=0)
    total = torch.zeros_like(mean)
    taken = torch.zeros(len(embeddings), device=embeddings.device)
    chosen = []
    for count in range(1, num_images + 1):
        # The distance of the new mean from the old one, times the count.
        distances = (embeddings - (count * mean - total)).norm(dim=1)
        best = int((distances + taken).argmin())
        taken[best] = torch.inf
        total = total + embeddings[best]
        chosen.append(best)
    return torch.tensor(chosen)
