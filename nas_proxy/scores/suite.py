"""Several zero-cost scores of one architecture: what they have in common is done once."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping

from torch import Tensor, nn

from nas_proxy.interfaces import ZeroCostScore
from nas_proxy.reproducibility import isolated_rng
from nas_proxy.scores._sharing import can_share


def measure_scores(
    scores: Mapping[str, ZeroCostScore],
    build: Callable[[], nn.Module],
    images: Tensor,
    labels: Tensor,
    seed: int,
) -> tuple[dict[str, float], dict[str, float]]:
    """Every score of the network that `build` makes, as if it had been measured alone.

    A score that knows how to share reads a pass that all of its kind have in common. Every other
    one, such as a plug-in that implements `measure`, is given a fresh network of equal weights.

    Args:
        scores: By the names that they are reported under.
        build: Makes the network on the device of the images; draws from torch's global generator.
        images: Normalised, `(n, c, h, w)`.
        labels: int64, `(n,)`.
        seed: Of torch's global generator, for each network and what is measured on it.

    Returns:
        The values, and what each cost in seconds, building its network included. What several
        share is divided equally among them, so that the sum is what was spent.

    Raises:
        EvaluationError: If one of the scores is not defined for this network, with the reason.
    """
    values: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for names in _groups(scores):
        started = time.perf_counter()
        with isolated_rng(seed):
            network = build()
            members = {name: scores[name] for name in names}
            readers = _read_together(members, network, images, labels)
            common = (time.perf_counter() - started) / len(names)
            for name, read in readers.items():
                started = time.perf_counter()
                values[name] = read()
                seconds[name] = common + time.perf_counter() - started
    order = list(scores)
    return {name: values[name] for name in order}, {name: seconds[name] for name in order}


def _groups(scores: Mapping[str, ZeroCostScore]) -> list[list[str]]:
    """The names of the scores; together those that share, the others each alone."""
    groups: dict[Hashable, list[str]] = {}
    for name, score in scores.items():
        key: Hashable = score.shares() if can_share(score) else ("alone", name)
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _read_together(
    members: Mapping[str, ZeroCostScore], network: nn.Module, images: Tensor, labels: Tensor
) -> dict[str, Callable[[], float]]:
    """What gives each score, after what they share has been done."""
    sharing = {name: score for name, score in members.items() if can_share(score)}
    if not sharing:  # it is alone
        ((name, score),) = members.items()
        return {name: lambda: score.measure_labelled(network, images, labels)}
    shared = next(iter(sharing.values())).new_pass()
    shared.num_readers = len(sharing)
    readers = {name: score.join(shared) for name, score in sharing.items()}
    shared.run(network, images, labels)
    return readers
