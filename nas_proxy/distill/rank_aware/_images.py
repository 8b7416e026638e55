"""What short trainings tell of each image, and sets of images that are chosen by it."""

from __future__ import annotations

from dataclasses import dataclass

import scipy
import torch
from torch import Tensor

from nas_proxy.data.splits import members_of_classes
from nas_proxy.errors import DataError
from nas_proxy.options import Options
from nas_proxy.reproducibility import make_generator
from nas_proxy.statistics import ranks
from nas_proxy.types import ImageDataset

_NUM_BINS = 10  # groups of images of similar difficulty in each class
_IMAGES_PER_BIN = 5  # at least, where a class has so few that ten groups would be smaller


@dataclass(frozen=True, kw_only=True)
class Composition(Options):
    """What kind of images a set is made of; random ones unless a weight says otherwise.

    The images of a class are drawn one after the other, each with a probability in proportion to
    `exp(agreement * a + difficulty * d + extremity * |2 d - 1|)`, where a and d are its ranks
    among the class from 0 to 1: of how well its loss ranks architectures, and of its mean loss.
    From about 30 on a weight leaves nothing to chance.

    Attributes:
        name: Names the set in the table of the race.
        agreement: Positive: images whose losses rank the architectures as full training does.
        difficulty: Positive: images with high losses; negative: with low ones.
        extremity: Negative: neither the easiest nor the hardest.
    """

    name: str
    agreement: float = 0.0
    difficulty: float = 0.0
    extremity: float = 0.0


@dataclass(frozen=True, eq=False)
class Parts:
    """Three parts of the search-training images that share none, int64, class by class.

    Attributes:
        held_out: Measures trained networks.
        pool: What sets are chosen from: position p of the pool is of class
            `p // candidates_per_class`.
        stream: All others: networks that tell of the pool are trained on these.
    """

    held_out: Tensor
    pool: Tensor
    stream: Tensor


@dataclass(frozen=True, eq=False)
class Ratings:
    """What is known of each image of the pool, float64 `(num_classes, candidates_per_class)`.

    Attributes:
        agreement: How well its losses rank the architectures, in [-1, 1]; see `rate`.
        difficulty: Its mean loss.
    """

    agreement: Tensor
    difficulty: Tensor


def divide(
    dataset: ImageDataset, held_out_per_class: int, candidates_per_class: int, seed: int
) -> Parts:
    """Divide the images of each class at random.

    Raises:
        DataError: If a class leaves nothing for the stream; the message names it.
    """
    generator = make_generator(seed)
    held = held_out_per_class + candidates_per_class
    shuffled = []
    for name, members in zip(dataset.spec.class_names, members_of_classes(dataset, 1), strict=True):
        if len(members) <= held:
            raise DataError(
                f"class {name!r} of {dataset.spec.name} has {len(members)} images in the "
                f"search-training split, but rank_aware holds {held_out_per_class} of each class "
                f"back to judge, chooses among {candidates_per_class} and trains on others; lower "
                "distill.candidates_per_class or distill.judge_images_per_class"
            )
        shuffled.append(members[torch.randperm(len(members), generator=generator)])
    return Parts(
        held_out=torch.cat([members[:held_out_per_class] for members in shuffled]),
        pool=torch.cat([members[held_out_per_class:held] for members in shuffled]),
        stream=torch.cat([members[held:] for members in shuffled]),
    )


def rate(losses: Tensor, references: Tensor) -> Ratings:
    """Which images tell good architectures from bad, and which are hard.

    With a few dozen architectures the agreement of one image is mostly chance. What the images of
    similar difficulty have in common is not; of what an image has beyond that, the share stays
    that two halves of the architectures confirm to one another.

    Args:
        losses: Of each image under each trained architecture, `(n, num_classes, m)`.
        references: What full training of these reached, float64 `(n,)`.
    """
    difficulty = losses.double().mean(dim=0)
    agreement = rank_agreement(losses, references)
    expected = _of_similar_images(agreement, difficulty)
    order = references.argsort(stable=True)
    first, second = (
        rank_agreement(losses[half], references[half]) for half in (order[::2], order[1::2])
    )
    confirmed = _correlation(
        first - _of_similar_images(first, difficulty),
        second - _of_similar_images(second, difficulty),
    )
    # Spearman and Brown: how far the whole can be trusted whose halves agree so far.
    reliability = max(0.0, 2 * confirmed / (1 + confirmed)) if confirmed > 0 else 0.0
    return Ratings(expected + reliability * (agreement - expected), difficulty)


def rank_agreement(losses: Tensor, references: Tensor) -> Tensor:
    """Spearman's rho of minus the loss with the references, for each image; 0 if it is undefined.

    Args:
        losses: `(n, ...)`.
        references: float64 `(n,)`.

    Returns:
        float64 `(...)`.
    """
    found = ranks.spearman(-losses.double().movedim(0, -1).numpy(), references.numpy())
    return torch.from_numpy(found).nan_to_num(0.0)


def choose(ratings: Ratings, composition: Composition, num_per_class: int, seed: int) -> Tensor:
    """Draw a set of the pool's images.

    Args:
        ratings: Of the pool.
        composition: What kind of images.
        num_per_class: How many of each class, at most all.
        seed: With the same one, sets of different compositions share their luck.

    Returns:
        Positions in the pool, int64 `(num_classes * num_per_class,)`, class by class.
    """
    num_classes, num_candidates = ratings.difficulty.shape
    agreement, difficulty = _ranks(ratings.agreement), _ranks(ratings.difficulty)
    uniform = torch.rand(
        difficulty.shape, generator=make_generator(seed), dtype=torch.float64
    ).clamp(1e-12, 1 - 1e-12)
    # The largest sums of log-weight and Gumbel noise are draws without replacement.
    keys = (
        composition.agreement * agreement
        + composition.difficulty * difficulty
        + composition.extremity * (2 * difficulty - 1).abs()
        - (-uniform.log()).log()
    )
    chosen = keys.argsort(dim=1, descending=True, stable=True)[:, :num_per_class]
    return (chosen + num_candidates * torch.arange(num_classes).unsqueeze(1)).flatten()


def _of_similar_images(values: Tensor, difficulty: Tensor) -> Tensor:
    """Mean of `values` over the images of a class that are about as hard, for each image."""
    num_images = values.shape[1]
    num_bins = max(1, min(_NUM_BINS, num_images // _IMAGES_PER_BIN))
    means = torch.empty_like(values)
    for bin_ in difficulty.argsort(dim=1, stable=True).tensor_split(num_bins, dim=1):
        mean = values.gather(1, bin_).mean(dim=1, keepdim=True)
        means.scatter_(1, bin_, mean.expand(bin_.shape))
    return means


def _ranks(values: Tensor) -> Tensor:
    """Ranks within each row from 0, the lowest, to 1."""
    found = torch.from_numpy(scipy.stats.rankdata(values.numpy(), axis=1))
    return (found - 1) / max(1, values.shape[1] - 1)


def _correlation(first: Tensor, second: Tensor) -> float:
    """Pearson's correlation over all values; 0 if it is undefined."""
    first, second = (each.flatten() - each.mean() for each in (first, second))
    norm = float((first.square().sum() * second.square().sum()).sqrt())
    return float((first * second).sum()) / norm if norm > 0 else 0.0
