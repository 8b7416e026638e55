"""Which networks are trained fully: the search's best, and what they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from nas_proxy.errors import StudyError
from nas_proxy.networks.catalogue import FixedNetworks, NetworkSettings, build_network, describe
from nas_proxy.retrain.settings import RetrainSettings
from nas_proxy.search.pareto import pareto_front, pick
from nas_proxy.types import Architecture, DatasetSpec

Trial = Mapping[str, Any]
Role = Literal["best", "median", "resnet18"]


@dataclass(frozen=True)
class Contender:
    """A network that is trained fully.

    Attributes:
        role: `best` for what the search recommends; otherwise what it is compared with.
        architecture: Of the study's space, or one of the fixed networks.
        description: In words.
        score: What the search or the validation made of it; None for a fixed network.
        search_rank: Its place among the search's trials, from 1; None if it was none of them.
        share_below: Share of the validation's uniformly drawn architectures that the score puts
            below it: with the rank, the search's prediction. None if nothing was validated.
        chosen_from: Among what it was chosen, in words.
    """

    role: Role
    architecture: Architecture
    description: str
    score: float | None = None
    search_rank: int | None = None
    share_below: float | None = None
    chosen_from: str = ""


def best_of(
    trials: Sequence[Trial],
    validation: Sequence[Trial],
    settings: RetrainSettings,
    space: str,
) -> list[Contender]:
    """The trials of the highest score, of equal ones the earlier; or those of the Pareto front.

    Args:
        trials: As `search.json` lists them.
        validation: The same of the uniformly drawn architectures of the validation; empty if
            nothing was validated.
        settings: How many, or who of the front.
        space: Name of the search space.

    Raises:
        StudyError: If fewer trials have a score.
    """
    scored = _by_score(trials)
    chosen = _chosen(scored, settings, len(trials))
    return [
        Contender(
            role="best",
            architecture=Architecture(space, trial["genotype"]),
            description=trial["description"],
            score=trial["score"],
            search_rank=rank,
            share_below=_share_below(trial["score"], validation),
            chosen_from=f"{len(scored)} trials of the search",
        )
        for rank, trial in enumerate(scored, start=1)
        if trial in chosen
    ]


def _chosen(scored: Sequence[Trial], settings: RetrainSettings, num_trials: int) -> Sequence[Trial]:
    num = settings.num_architectures or 1
    if len(scored) < num:
        raise StudyError(
            f"{num} of the search's architectures are to be retrained, but only {len(scored)} of "
            f"its {num_trials} trials have a score; ask for fewer, or search longer"
        )
    if settings.pick is None:
        return scored[:num]
    return pick(pareto_front(scored), settings.pick)


def median_of(
    trials: Sequence[Trial],
    validation: Sequence[Trial],
    best: Sequence[Contender],
) -> Contender | None:
    """The architecture of median score, of two the worse; None if all are among the best.

    Args:
        trials: As `search.json` lists them.
        validation: As for `best_of`. They say more than trials: the search prefers good ones.
        best: Those that are retrained; they are left out.
    """
    chosen = {contender.architecture for contender in best}
    space = best[0].architecture.space
    drawn = _by_score(validation)
    ranked = drawn or _by_score(trials)
    left = [each for each in ranked if Architecture(space, each["genotype"]) not in chosen]
    if not left:
        return None
    median = left[len(left) // 2]
    where = "uniformly drawn architectures of the validation" if drawn else "trials of the search"
    return Contender(
        role="median",
        architecture=Architecture(space, median["genotype"]),
        description=median["description"],
        score=median["score"],
        chosen_from=f"{len(ranked)} {where}",
    )


def resnet_of_size(num_params: int, spec: DatasetSpec) -> Contender:
    """ResNet-18 with batch norm, of the width that brings it closest to `num_params` parameters."""
    width = _closest(lambda width: _num_params(_resnet(width), spec), num_params)
    settings = _resnet(width)
    return Contender(
        role="resnet18",
        architecture=FixedNetworks().architecture(settings),
        description=describe(settings),
        chosen_from="no search: a network made by hand, scaled to the same number of parameters",
    )


def _share_below(score: float, validation: Sequence[Trial]) -> float | None:
    drawn = [entry["score"] for entry in _by_score(validation)]
    return sum(each < score for each in drawn) / len(drawn) if drawn else None


def _by_score(entries: Sequence[Trial]) -> list[Trial]:
    scored = [entry for entry in entries if entry["score"] is not None]
    return sorted(scored, key=lambda entry: -entry["score"])


def _resnet(width: int) -> NetworkSettings:
    return NetworkSettings(name="resnet18", width=width, norm="batch")


def _num_params(settings: NetworkSettings, spec: DatasetSpec) -> int:
    with torch.device("meta"):  # no memory for weights that nobody uses
        network = build_network(settings, spec)
    return sum(parameter.numel() for parameter in network.parameters())


def _closest(size: Callable[[int], int], wanted: int) -> int:
    """The width whose size, which grows with it, is closest to `wanted`."""
    high = 1
    while size(high) < wanted:
        high *= 2
    low = max(1, high // 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) < wanted else (low, middle)
    return min((low, high), key=lambda width: abs(size(width) - wanted))
