"""k-means: the real images nearest to the centres of clusters."""

from __future__ import annotations

from dataclasses import dataclass

import scipy
import torch
from torch import Tensor

from nas_proxy.distill.common.coreset import EmbeddingCoreset
from nas_proxy.registry import DISTILLERS

_MAX_ROUNDS = 300  # scikit-learn's limit; a class of CIFAR-10 settles within a tenth of it


@DISTILLERS.register("k_means")
@dataclass(frozen=True, kw_only=True)
class KMeans(EmbeddingCoreset):
    """As many clusters of each class as images are asked for, each with a real image for it.

    DC-BENCH found it the strongest of the cheap selections.
    """

    summary = "the real images nearest to the centres of clusters of their class"
    paper = "Cui et al., DC-BENCH: Dataset Condensation Benchmark, NeurIPS 2022"

    def select_in_class(
        self, embeddings: Tensor, num_images: int, generator: torch.Generator
    ) -> Tensor:
        """Lloyd's rounds from a k-means++ start."""
        start = embeddings[spread_start(embeddings, num_images, generator)]
        return nearest_images(embeddings, lloyd(embeddings, start))


def spread_start(embeddings: Tensor, num_centres: int, generator: torch.Generator) -> Tensor:
    """Where k-means++ starts: positions drawn by their squared distance from those before.

    Arthur and Vassilvitskii, "k-means++", SODA 2007.

    Args:
        embeddings: `(n, d)`.
        num_centres: At most n.
        generator: On the CPU.

    Returns:
        int64 `(num_centres,)`; only where embeddings are equal can they repeat.
    """
    chosen = [int(torch.randint(len(embeddings), (1,), generator=generator))]
    distances = torch.full((len(embeddings),), torch.inf, device=embeddings.device)
    for _ in range(num_centres - 1):
        distances = distances.minimum((embeddings - embeddings[chosen[-1]]).square().sum(dim=1))
        # The smallest positive number: if all distances are zero, the draw is uniform.
        weights = distances.double().cpu().clamp_min(torch.finfo(torch.float64).tiny)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
    return torch.tensor(chosen)


def lloyd(embeddings: Tensor, centres: Tensor) -> Tensor:
    """Centres that are the means of the embeddings nearest to them, `(k, d)`.

    Args:
        embeddings: `(n, d)`.
        centres: Where to start, `(k, d)`; one that is nearest to nothing stays where it is.
    """
    nearest = None
    for _ in range(_MAX_ROUNDS):
        previous, nearest = nearest, torch.cdist(embeddings, centres).argmin(dim=1)
        if previous is not None and torch.equal(previous, nearest):
            break
        # A product, not a scattered sum, whose order of addition would vary on a GPU.
        belongs = torch.nn.functional.one_hot(nearest, len(centres)).to(embeddings.dtype)
        sizes = belongs.sum(dim=0).unsqueeze(1)
        centres = torch.where(sizes > 0, belongs.T @ embeddings / sizes.clamp_min(1), centres)
    return centres


def nearest_images(embeddings: Tensor, centres: Tensor) -> Tensor:
    """A different image for each centre, with the smallest sum of distances.

    Args:
        embeddings: `(n, d)`.
        centres: `(k, d)`, with k at most n.

    Returns:
        Positions in `embeddings`, int64 `(k,)`; the nearest one unless two centres share it.
    """
    distances = torch.cdist(centres, embeddings, compute_mode="donot_use_mm_for_euclid_dist")
    _, positions = scipy.optimize.linear_sum_assignment(distances.cpu().numpy())
    return torch.from_numpy(positions)
