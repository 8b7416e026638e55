"""What one trial costs beside its training: Optuna's storage, our log, and tracking in MLflow.

python benchmarks/overhead.py --out results/benchmarks/overhead.json
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from common import parser, publish

from nas_proxy.evaluate.executors import EvaluatorFactory
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.scores.combine import SingleSignal
from nas_proxy.search.guard import TrialRecord
from nas_proxy.search.settings import SearchSettings
from nas_proxy.search.storage import open_storage
from nas_proxy.search.study import SearchTask, run_search
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.study.logged_trials import log_trial
from nas_proxy.tracking import TrackingSettings, open_tracker
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status

NUM_STEPS = 300


class InstantExecutor:
    """Answers at once with figures of the usual size."""

    num_workers = 1

    def submit(
        self, factory: EvaluatorFactory, architecture: Architecture, seed: int
    ) -> Future[Evaluation]:
        """A complete evaluation."""
        value = int(architecture.id, 16) / 16**12
        names = ("val_loss", "val_accuracy", "train_loss_mean", "train_loss_tail", "train_seconds")
        signals = dict.fromkeys((*names, "images_seen", "naswot", "log_synflow"), value)
        future: Future[Evaluation] = Future()
        future.set_result(
            Evaluation(
                architecture,
                factory.fidelity,
                seed,
                Status.COMPLETE,
                signals=signals,
                seed_signals=(signals,),
                train_losses=(value,) * NUM_STEPS,
                seconds=1.0,
            )
        )
        return future


class InstantFactory:
    """Nothing to build."""

    fidelity = Fidelity("none", NUM_STEPS, 64, 32)


def milliseconds_per_trial(results: Path, n_trials: int, *, tracked: bool) -> tuple[Any, float]:
    """Milliseconds from trial to trial, `(n_trials - 1,)`; seconds to upload the rest."""
    settings = TrackingSettings(enabled=tracked)
    space, told = NASBench201Space(), []
    with open_tracker(settings, results, results / "study", "study") as tracker:

        def on_trial(trial: TrialRecord, attributes: Mapping[str, Any]) -> None:
            score = trial[2]
            log_trial(tracker, space, trial, {} if score is None else {"score": score})
            told.append(time.perf_counter())

        task = SearchTask(
            space=space,
            factory=InstantFactory(),
            score=SingleSignal("val_accuracy"),
            settings=SearchSettings(n_trials=n_trials, sampler="random"),
            study_name="study",
            seed=0,
            sizes=lambda _: {},
            on_trial=on_trial,
        )
        log = EvaluationLog(results / "evaluations.jsonl")
        run_search(task, InstantExecutor(), log, open_storage("journal", results))
        ended = time.perf_counter()
        tracker.close(timeout=300)
        return 1000 * np.diff(told), time.perf_counter() - ended


def main() -> None:
    """Measure and publish."""
    arguments_parser = parser(__doc__, data=False)
    arguments_parser.add_argument("--n-trials", type=int, default=200)
    arguments = arguments_parser.parse_args()
    rows = []
    for tracked in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            taken, upload = milliseconds_per_trial(
                Path(folder), arguments.n_trials, tracked=tracked
            )
        rows.append(
            {
                "tracking": tracked,
                "milliseconds_per_trial_median": round(float(np.median(taken)), 2),
                "milliseconds_per_trial_mean": round(float(taken.mean()), 2),
                "seconds_to_upload_the_rest": round(upload, 1),
            }
        )
    publish({"n_trials": arguments.n_trials, "target_milliseconds": 50, "rows": rows}, arguments)


if __name__ == "__main__":
    main()
