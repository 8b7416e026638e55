"""Searching: ask Optuna for an architecture, evaluate it, tell what its score was."""

from __future__ import annotations

import optuna

from nas_proxy.evaluate.executors import Executor
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.search._loop import Search
from nas_proxy.search._pruned_loop import PrunedSearch
from nas_proxy.search.storage import open_optuna_study
from nas_proxy.search.task import SearchOutcome, SearchTask


def run_search(
    task: SearchTask,
    executor: Executor,
    log: EvaluationLog,
    storage: optuna.storages.BaseStorage | str,
) -> SearchOutcome:
    """Evaluate `n_trials` different architectures, or continue where a killed run stopped.

    With a pruner the number of workers that the settings name counts, whatever the executor has:
    who is compared with whom depends on it, and so the search is the same with every executor.

    Raises:
        StudyError: If the storage cannot be opened, no candidate can be evaluated, none satisfies
            the constraints, or the pruner ended all of them.
        PluginError: If the space suggests architectures of another.
        RecalibrationNeeded: If the guard asks for it.
    """
    settings = task.settings
    num_workers = executor.num_workers if task.pruning is None else settings.num_workers
    study = open_optuna_study(settings, task.study_name, storage)
    kind = Search if task.pruning is None else PrunedSearch
    return kind(task, executor, log, study, num_workers).run()
