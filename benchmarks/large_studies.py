"""What a search of very many trials costs: a trial more, going on after a kill, and the report.

python benchmarks/large_studies.py --sizes 1000 10000 --out results/benchmarks/large_studies.json

With `--before FOLDER`, another checkout of this repository, the same is measured there, in turn.
Seconds are those of one processor core, each in a process of its own, whose peak memory is noted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from common import parser, publish
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import TrialState
from overhead import InstantExecutor, InstantFactory

from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.interfaces import SearchSpace, Trial
from nas_proxy.report.figures import write_figures
from nas_proxy.report.html import render_html
from nas_proxy.report.values import StudyReport
from nas_proxy.reproducibility import canonical_json
from nas_proxy.scores.combine import SingleSignal
from nas_proxy.search.guard import TrialRecord
from nas_proxy.search.result import SearchResult, TrialRow
from nas_proxy.search.settings import SearchSettings
from nas_proxy.search.storage import open_storage
from nas_proxy.search.study import run_search
from nas_proxy.search.task import SearchTask
from nas_proxy.types import Architecture, Evaluation

ROOT = Path(__file__).parents[1]
SAMPLERS = ("random", "regularized_evolution", "tpe")
NUM_TIMED = 20  # trials more
EDGES, OPERATIONS = 9, 5
TARGET = {
    "milliseconds_per_trial": 50,
    "resume_core_seconds": 30,
    "report_core_seconds": 60,
    "peak_gib": 2,
}


@dataclass(frozen=True, kw_only=True)
class Cells(SearchSpace):
    """Nearly two million genotypes, which nobody builds."""

    name = "cells"

    def suggest(self, trial: Trial) -> Architecture:
        """One operation for each edge."""
        names = [f"edge {edge}" for edge in range(EDGES)]
        return Architecture(
            self.name, [trial.suggest_categorical(n, range(OPERATIONS)) for n in names]
        )

    def sample(self, generator: Any) -> Architecture:
        """Not asked for here."""
        raise NotImplementedError

    def build(self, architecture: Architecture, spec: Any) -> Any:
        """Not asked for here."""
        raise NotImplementedError


def worth(genotype: list[int]) -> float:
    """A landscape with interactions of neighbours, at most 1."""
    rng = np.random.default_rng(5)
    single, pairs = rng.random((EDGES, OPERATIONS)), rng.random((EDGES, OPERATIONS, OPERATIONS))
    own = sum(single[edge, chosen] for edge, chosen in enumerate(genotype))
    after = sum(
        pairs[e, a, b] for e, (a, b) in enumerate(zip(genotype, genotype[1:], strict=False))
    )
    return float(own + after) / (2 * EDGES)


class Memory(BaseJournalBackend):
    """A journal that is written to a file in one go."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Keep them."""
        self.logs += json.loads(json.dumps(logs))

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """All from there on."""
        return iter(self.logs[log_number_from:])


def known_study(folder: Path, num: int) -> None:
    """Write what a search of `num` trials leaves: the log of evaluations and Optuna's journal."""
    backend, executor, factory = Memory(), InstantExecutor(), InstantFactory()
    study = optuna.create_study(
        study_name="study", storage=JournalStorage(backend), direction="maximize"
    )
    choice = optuna.distributions.CategoricalDistribution(tuple(range(OPERATIONS)))
    distributions = {f"edge {edge}": choice for edge in range(EDGES)}
    genotypes = np.random.default_rng(0).permutation(OPERATIONS**EDGES)[:num]
    rng = np.random.default_rng(1)
    with (folder / "evaluations.jsonl").open("w") as file:
        for code in genotypes.tolist():
            genotype = [code // OPERATIONS**edge % OPERATIONS for edge in range(EDGES)]
            architecture = Architecture(Cells.name, genotype)
            found = executor.submit(factory, architecture, 0).result()
            losses = np.float32(2.3 * rng.random(len(found.train_losses))).tolist()
            found = replace(found, train_losses=tuple(losses))
            to_line = getattr(found, "to_line", lambda: canonical_json(found.to_json()))  # noqa: B023
            file.write(to_line() + "\n")
            attributes = {"architecture_id": architecture.id, "description": str(genotype)}
            study.add_trial(
                optuna.trial.create_trial(
                    params={f"edge {edge}": chosen for edge, chosen in enumerate(genotype)},
                    distributions=distributions,
                    value=found.signals["val_accuracy"],
                    user_attrs={**attributes, "num_params": 1e5, "flops": 1e7, "seconds": 1.0},
                )
            )
    (folder / "optuna_journal.log").write_text(
        "".join(json.dumps(each, separators=(",", ":")) + "\n" for each in backend.logs)
    )


def more_trials(folder: Path, sampler: str) -> dict[str, float]:
    """Go on with a search: seconds until the first new trial, milliseconds for each one more."""
    began, told = time.process_time(), []

    def on_trial(trial: TrialRecord, attributes: Mapping[str, Any]) -> None:
        told.append(time.process_time())

    log = EvaluationLog(folder / "evaluations.jsonl")
    task = SearchTask(
        space=Cells(),
        factory=InstantFactory(),
        score=SingleSignal("val_accuracy"),
        settings=SearchSettings(n_trials=len(log) + NUM_TIMED, sampler=sampler),
        study_name="study",
        seed=0,
        sizes=lambda _: {},
        on_trial=on_trial,
    )
    run_search(task, InstantExecutor(), log, open_storage("journal", folder))
    return {
        "resume_core_seconds": told[0] - began,
        "milliseconds_per_trial": 1000 * float(np.median(np.diff(told))),
    }


def rows_of(folder: Path) -> Iterator[TrialRow]:
    """Those of the log's evaluations."""
    for number, found in enumerate(EvaluationLog(folder / "evaluations.jsonl")):
        yield row_of(number, found)


def row_of(number: int, found: Evaluation) -> TrialRow:
    """As the stage `search` makes it."""
    architecture, score = found.architecture, found.signals["val_accuracy"]
    return TrialRow(
        trial=number,
        score=score,
        objectives={"score": score},
        latency=None,
        architecture=architecture,
        architecture_id=architecture.id,
        description=architecture.genotype_json,
        signals=dict(found.signals),
        seconds=1.0,
        num_params=1e5,
        flops=1e7,
        started_unix_seconds=1e9 + number,
        choices={f"edge {edge}": chosen for edge, chosen in enumerate(architecture.genotype)},
    )


def write_report(folder: Path, example: Path) -> dict[str, float]:
    """Write `search.json` of the known study, and the page from it as of a study of that size."""
    report = StudyReport.read(example)
    rows = tuple(rows_of(folder))
    best = tuple(sorted(rows, key=lambda row: -(row.score or 0.0))[:10])
    search = replace(report.search, trials=rows, best=best, pareto_front=best[:1], num_failed=0)
    search.write(folder / "search.json")
    began = time.process_time()
    report = replace(report, search=SearchResult.read(folder / "search.json"))
    figures = write_figures(report, folder / "figures")
    report.write(folder / "report.json")
    (folder / "report.html").write_text(render_html(report, figures))
    return {"report_core_seconds": time.process_time() - began}


def tiny_report(folder: Path) -> Path:
    """The report of a study that is as small as possible."""
    import nas_proxy as nas

    study = nas.Study(
        "example",
        data=nas.dataset("digits", images_per_class=24),
        space={"name": "convnet", "widths": [4, 8], "depths": [1]},
        distill={"name": "random_subset", "images_per_class": 2},
        train={"num_steps": 2},
        score={"signals": ["val_loss"]},
        search={"n_trials": 2, "sampler": "random"},
        tracking={"enabled": False},
        results=folder,
    )
    study.run()
    return folder / "example" / "report.json"


def best_found(num_trials: int, seed: int, sampler: Any) -> float:
    """The best that a sampler finds of `worth`."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(num_trials):
        trial = study.ask()
        genotype = [trial.suggest_categorical(f"edge {e}", range(OPERATIONS)) for e in range(EDGES)]
        study.tell(trial, worth(genotype), TrialState.COMPLETE)
    return float(study.best_value)


def compare_samplers(num_trials: int, num_seeds: int) -> list[dict[str, Any]]:
    """What TPE finds that is fitted to all trials, to its sample, and to a tenth of that."""
    from nas_proxy.search.thinned import MOST_FITTED, ThinnedTPESampler, Thinner

    def thinned(seed: int, most: int) -> TPESampler:
        return ThinnedTPESampler(seed=seed, constant_liar=False, thinner=Thinner(most))

    kinds = {
        "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
        "all trials": lambda seed: TPESampler(seed=seed, constant_liar=False),
        f"the best and a sample, {MOST_FITTED}": lambda seed: thinned(seed, MOST_FITTED),
        f"the best and a sample, {MOST_FITTED // 4}": lambda s: thinned(s, MOST_FITTED // 4),
    }
    rows = []
    for name, make in kinds.items():
        found = [best_found(num_trials, seed, make(seed)) for seed in range(num_seeds)]
        rows.append(
            {
                "sees": name,
                "best_mean": round(float(np.mean(found)), 4),
                "best": [round(value, 4) for value in found],
            }
        )
    return rows


def child(checkout: Path, what: str, folder: Path, *more: str) -> dict[str, float]:
    """What a process of a checkout found, with its peak memory."""
    command = [sys.executable, __file__, "--child", what, str(folder), *more]
    environment = {**os.environ, "PYTHONPATH": f"{checkout}:{Path(__file__).parent}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def serve(what: str, folder: Path, *more: str) -> None:
    """The child's side."""
    found: dict[str, float] = {}
    if what == "known":
        known_study(folder, int(more[0]))
    elif what == "more":
        found = more_trials(folder, more[0])
    else:
        found = write_report(folder, Path(more[0]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({**found, "peak_gib": round(peak, 2)}))


def measured(checkout: Path, num: int, example: Path) -> dict[str, Any]:
    """Everything of one size in one checkout."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        child(checkout, "known", folder, str(num))
        size = (folder / "evaluations.jsonl").stat().st_size / num
        row: dict[str, Any] = {"n_trials": num, "bytes_per_line": round(size)}
        for sampler in SAMPLERS:
            found = child(checkout, "more", folder, sampler)
            row |= {f"{sampler}.{key}": round(value, 2) for key, value in found.items()}
        found = child(checkout, "report", folder, str(example))
        return row | {f"report.{key}": round(value, 2) for key, value in found.items()}


def measure_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """The tables of all sizes and checkouts."""
    checkouts = {"now": ROOT} | ({"before": arguments.before} if arguments.before else {})
    with tempfile.TemporaryDirectory() as name:
        example = tiny_report(Path(name))
        rows = [
            {"code": which, **measured(checkout.resolve(), num, example)}
            for num in arguments.sizes
            for which, checkout in checkouts.items()
        ]
    quality = compare_samplers(arguments.num_quality_trials, arguments.num_seeds)
    setting = {"num_trials": arguments.num_quality_trials, "num_seeds": arguments.num_seeds}
    return {"target": TARGET, "rows": rows, "tpe_finds": {**setting, "rows": quality}}


def main() -> None:
    """Measure and publish."""
    if sys.argv[1:2] == ["--child"]:
        serve(sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])
        return
    made = parser(__doc__, data=False)
    made.add_argument("--sizes", type=int, nargs="+", default=[1000, 10000])
    made.add_argument("--before", type=Path, help="another checkout, measured in turn")
    made.add_argument("--num-quality-trials", type=int, default=2000)
    made.add_argument("--num-seeds", type=int, default=3)
    arguments = made.parse_args()
    publish(measure_all(arguments), arguments)


if __name__ == "__main__":
    main()
