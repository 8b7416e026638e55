"""Who ends a candidate early, through Optuna's pruner interface."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    WilcoxonPruner,
)
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import Trial, TrialState

from nas_proxy.search.pruner_settings import PrunerName, PrunerSettings

_PRUNERS: Mapping[PrunerName, type[BasePruner]] = {
    "median": MedianPruner,
    "percentile": PercentilePruner,
    "successive_halving": SuccessiveHalvingPruner,
    "hyperband": HyperbandPruner,
    "wilcoxon": WilcoxonPruner,
}
_END = 100  # per cent of the steps


def make_pruner(settings: PrunerSettings, first_step: int) -> BasePruner:
    """The pruner that the settings name.

    What Optuna would find out while a study runs, and anew after a kill, is said: the resource
    begins with the first checkpoint and ends with the training.

    Args:
        settings: Its name and options.
        first_step: The first that it is told of.
    """
    options = dict(settings.given)
    if settings.name in ("successive_halving", "hyperband"):
        options.setdefault("min_resource", first_step)
    if settings.name == "hyperband":
        options["max_resource"] = _END
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _PRUNERS[settings.name](**options)


def attach_pruner(study: Study, settings: PrunerSettings, first_step: int) -> None:
    """Give a study its pruner.

    Hyperband divides trials into brackets, also for samplers, which learn from their own bracket
    alone; it does so from its first verdict on, so it gives one about nothing here.
    """
    study.pruner = make_pruner(settings, first_step)
    study.pruner.prune(study, optuna.trial.create_trial(state=TrialState.FAIL))


class Judge:
    """A pruner, asked about a copy of the study in memory.

    Successive halving notes who competed at which rung while it is asked, in the study itself. A
    kill between that and what follows would change the verdict, so nothing of it is kept: told the
    same in the same order, a pruner says the same.

    Args:
        settings: Of the pruner.
        first_step: The first that it is told of.
        study: The copied one, of which the name counts: Hyperband's brackets follow from it.
    """

    def __init__(self, settings: PrunerSettings, first_step: int, study: Study) -> None:
        self._study = optuna.create_study(
            study_name=study.study_name, direction="maximize", sampler=RandomSampler(seed=0)
        )
        attach_pruner(self._study, settings, first_step)
        self._trials: list[Trial] = []

    def ends(self, number: int, step: int, value: float) -> bool:
        """Whether a trial ends at a step, where it has the value; higher is better."""
        trial = self._trial(number)
        trial.report(value, step)
        return trial.should_prune()

    def told(self, number: int, state: TrialState, value: float | None) -> None:
        """A trial has ended; `value` is that of a complete one."""
        self._trial(number)
        self._study.tell(number, value if state is TrialState.COMPLETE else None, state)

    def _trial(self, number: int) -> Trial:
        while len(self._trials) <= number:  # the numbers of all others are the same
            self._trials.append(self._study.ask())
        return self._trials[number]
