"""TPE in a long search, which is fitted to the best trials and a sample of the others.

What TPE costs grows with the trials that it is fitted to: 168 ms for each proposal at 10,000. It
models the best (25 with one objective) against all others, and the density of the others is told
by a sample of them. `benchmarks/large_studies.py` shows what that costs and what it finds.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas_proxy.reproducibility import derive_seed

MOST_FITTED = 1000  # trials that ended; as long as there are no more, nothing is left out
_NUM_BEST, _SHARE_BEST = 25, 0.1  # what TPE takes for good, of one objective and of several


class ThinnedTPESampler(TPESampler):
    """Optuna's TPE, which sees the best trials and a sample of the others.

    Which others depends on their numbers alone, and a trial more changes one of them at most: so a
    search that is continued goes on as it would have.

    Args:
        seed: Of all draws.
        constant_liar: As of `TPESampler`.
        thinner: Chooses what it sees; samplers of one study may share it, for it keeps what it has
            looked at.
    """

    def __init__(self, *, seed: int, constant_liar: bool, thinner: Thinner | None = None) -> None:
        super().__init__(seed=seed, constant_liar=constant_liar)
        self._thinner = thinner or Thinner()
        self._seen: tuple[int, list[FrozenTrial]] | None = None  # by whom, and what

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """What Optuna's proposes from what it sees."""
        return super().sample_relative(self._view(study, trial), trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Likewise."""
        view = self._view(study, trial)
        return super().sample_independent(view, trial, param_name, param_distribution)

    def _view(self, study: Study, trial: FrozenTrial) -> Study:
        # A proposal asks for each of its parameters, and nothing is told meanwhile.
        if self._seen is None or self._seen[0] != trial.number:
            trials = study._get_trials(deepcopy=False)
            self._seen = trial.number, self._thinner(trials, study.directions)
        return cast("Study", _ThinnedStudy(study, self._seen[1]))


class _ThinnedStudy:
    """A study of which a sampler sees some trials; all else is the study's own."""

    def __init__(self, study: Study, trials: list[FrozenTrial]) -> None:
        self._study = study
        self._trials = trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]


class Thinner:
    """Chooses among the trials of one study, and keeps what it knows of those that ended.

    Args:
        most: Ended trials that are chosen; as long as there are no more, all are.
    """

    def __init__(self, most: int = MOST_FITTED) -> None:
        self._most = most
        self._num_looked = 0  # at so many trials, of which these were open:
        self._open: list[int] = []
        self._numbers: list[int] = []  # of those that are complete or pruned
        self._losses: list[list[float]] = []  # smaller is better

    def __call__(
        self, trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]
    ) -> list[FrozenTrial]:
        """The open ones, the best that ended, and a sample of the others, in their order.

        Args:
            trials: All of the study, each at the place of its number.
            directions: Of the objectives.
        """
        signs = [-1.0 if each is StudyDirection.MAXIMIZE else 1.0 for each in directions]
        self._look(trials, signs)
        return [trials[number] for number in sorted([*self._open, *self._chosen(len(signs))])]

    def _look(self, trials: Sequence[FrozenTrial], signs: Sequence[float]) -> None:
        looked_at = [*self._open, *range(self._num_looked, len(trials))]
        self._num_looked, self._open = len(trials), []
        for number in looked_at:
            trial = trials[number]
            if not trial.state.is_finished():
                self._open.append(number)
            elif trial.state is not TrialState.FAIL:
                is_complete = trial.state is TrialState.COMPLETE
                values = trial.values if is_complete else [np.inf] * len(signs)
                pairs = zip(signs, values, strict=True)
                self._numbers.append(number)
                self._losses.append([s * v if is_complete else v for s, v in pairs])

    def _chosen(self, num_objectives: int) -> list[int]:
        if len(self._numbers) <= self._most:
            return self._numbers
        numbers, losses = np.array(self._numbers), np.array(self._losses)
        num_best = _NUM_BEST if num_objectives == 1 else round(_SHARE_BEST * self._most)
        # The first so many draws of a seed are the same however many follow: a trial keeps its own.
        place = np.random.default_rng(derive_seed("thinned")).random(int(numbers.max()) + 1)[
            numbers
        ]
        best = np.lexsort((numbers, _ranks(losses, num_best)))[:num_best]
        place[best] = -1.0
        chosen: list[int] = numbers[np.argsort(place)[: self._most]].tolist()
        return chosen


def _ranks(losses: NDArray[np.float64], num_best: int) -> NDArray[np.float64]:
    """Of each row, `(n, num_objectives)`, smaller is better: the front that it is in.

    Fronts are counted until `num_best` rows are in one; all others are in the next.
    """
    if losses.shape[1] == 1:
        return losses[:, 0]
    ranks, left = np.full(len(losses), np.inf), np.arange(len(losses))
    for rank in range(len(losses)):
        front = _front(losses[left])
        ranks[left[front]] = rank
        left = left[~front]
        if len(losses) - len(left) >= num_best:
            break
    return ranks


def _front(losses: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows no other beats in all objectives at once, `(n,)`."""
    left, at = np.arange(len(losses)), 0
    while at < len(left):
        here = losses[left[at]]
        stays = (losses[left] < here).any(axis=1) | (losses[left] == here).all(axis=1)
        left, at = left[stays], int(stays[:at].sum()) + 1
    found = np.zeros(len(losses), dtype=bool)
    found[left] = True
    return found
