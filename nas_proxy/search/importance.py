"""How much each choice of a search space decides about the score."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

_FEWEST = 10  # trials with a score, below which importances are noise


def choice_importances(study: optuna.Study, score_index: int) -> dict[str, float]:
    """Importance of each parameter for a score among the best tenth, by PED-ANOVA; they sum to 1.

    Watanabe et al., "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
    Subspaces" (IJCAI 2023), with conditional parameters as Optuna takes them.

    Args:
        study: Its finished trials count.
        score_index: Of the score, which is maximised, among the objectives.

    Returns:
        The most important first; empty where fewer than ten trials have a score, where all have the
        same, or where nothing was chosen.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    scores = {trial.values[score_index] for trial in trials if trial.values}
    if len(trials) < _FEWEST or len(scores) < 2 or not _varied(trials):
        return {}

    def negated(trial: FrozenTrial) -> float:  # PED-ANOVA takes smaller values for better
        return -float(trial.values[score_index])

    with warnings.catch_warnings():  # that it does so is what `negated` is for
        warnings.filterwarnings("ignore", "PedAnovaImportanceEvaluator computes")
        found = get_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator(), target=negated
        )
    return {name: float(value) for name, value in found.items()}


def _varied(trials: Sequence[FrozenTrial]) -> bool:
    return any(not d.single() for trial in trials for d in trial.distributions.values())
