"""k-center: images such that no image of their class is far from all of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nas_proxy.distill.common.coreset import EmbeddingCoreset
from nas_proxy.registry import DISTILLERS


@DISTILLERS.register("k_center")
@dataclass(frozen=True, kw_only=True)
class KCenter(EmbeddingCoreset):
    """Starts with the image nearest to the class mean; each next one is the farthest from those.

    The greedy solution, whose radius is at most twice the best one. Balanced over classes, as the
    condensation literature does. It seeks out unusual images, and with a few of each class it is
    known to be worse than random.
    """

    summary = "real images that leave no image of their class far from all of them"
    paper = "Sener and Savarese, Active Learning for CNNs: A Core-Set Approach, ICLR 2018"

    def select_in_class(
        self, embeddings: Tensor, num_images: int, generator: torch.Generator
    ) -> Tensor:
        """Greedily; nothing is random."""
        return farthest_first(embeddings, num_images)


def farthest_first(embeddings: Tensor, num_images: int) -> Tensor:
    """Different positions in `embeddings`, `(n, d)`: the most central, then always the farthest.

    Returns:
        int64 `(num_images,)`, in the order of choice; of equally far ones, the first is taken.
    """
    latest = int((embeddings - embeddings.mean(dim=0)).norm(dim=1).argmin())
    chosen = [latest]
    distances = torch.full((len(embeddings),), torch.inf, device=embeddings.device)
    for _ in range(num_images - 1):
        distances = distances.minimum((embeddings - embeddings[latest]).norm(dim=1))
        distances[latest] = -torch.inf  # not again, where two images have the same embedding
        latest = int(distances.argmax())
        chosen.append(latest)
    return torch.tensor(chosen)
