"""Which signal reads which kind of training set?

Architectures that were never looked at before are trained on a study's distilled set, on as many
random images with the same labels, and on the full data's stream, for the same steps at the same
fidelity. Every signal of these trainings, and every training-free score, is held against full
training: a benchmark's table, or our own, of which some are repeated with another seed: how well
the two agree is the ceiling.

    python benchmarks/signals_by_data.py configs/cifar10_convnet.yaml data.root=DATA ... \
        --spent results/spent/convnet.txt

The reference is that of the study's section `validate`. What is finished stays in the study's
folder and is not done again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from common import publish, study_parser
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import rankdata

from nas_proxy.calibrate.recipes import SINGLE_SCORES
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory
from nas_proxy.evaluate.sample import draw_architectures
from nas_proxy.evaluate.table import TruthTable, read_references
from nas_proxy.reproducibility import derive_seed, make_generator
from nas_proxy.scores.signals import higher_is_better
from nas_proxy.statistics import ranks
from nas_proxy.study.config import load_config
from nas_proxy.study.console import ConsoleDisplay
from nas_proxy.study.context import StudyContext
from nas_proxy.study.controls import trained_controls
from nas_proxy.study.knowledge_distillation import recipe_factory
from nas_proxy.study.pipeline import open_study, run_pipeline
from nas_proxy.types import Architecture, Evaluation

SIGNALS = (
    *("val_loss", "val_accuracy", "train_loss_mean", "train_loss_tail", "train_loss_slope"),
    *("fit_loss", "fit_accuracy", "generalisation_gap"),
)
DISTILLED, RANDOM, STREAM = "distilled", "random, same labels", "stream, same steps"
UNTRAINED = "no training"
# Found afterwards on 40 other ConvNets: a hypothesis, which this table tests.
PAIR = ("val_accuracy", "train_loss_mean")
READINGS: dict[str, tuple[str, ...]] = {
    **{signal: (signal,) for signal in SIGNALS},
    "rank mean of " + " and ".join(PAIR): PAIR,
}
# A set, how it is read, and the set and reading that it is compared with, as the hypothesis says.
DUELS = (
    (DISTILLED, PAIR, STREAM, ("val_accuracy",)),
    (DISTILLED, PAIR, RANDOM, PAIR),
    (DISTILLED, ("val_accuracy",), RANDOM, ("val_accuracy",)),
    (DISTILLED, ("val_accuracy",), STREAM, ("val_accuracy",)),
    # Each read as recipes that ship read it.
    (DISTILLED, ("train_loss_mean",), STREAM, ("val_loss",)),
    (RANDOM, ("train_loss_mean",), STREAM, ("val_loss",)),
    # All read in one way.
    (DISTILLED, ("train_loss_tail",), STREAM, ("train_loss_tail",)),
    (RANDOM, ("train_loss_tail",), STREAM, ("train_loss_tail",)),
    (DISTILLED, ("train_loss_tail",), RANDOM, ("train_loss_tail",)),
)
BEST = (0.4, 0.2)
PLAIN = ("calibrate=null", "recipe=configured")

Signals = Mapping[str, NDArray[np.float64]]  # of all architectures, higher is better


def main() -> None:
    """Distil, train on each set and on the full data, publish."""
    arguments = parse_arguments()
    config = load_config(arguments.config, [*arguments.overrides, *PLAIN])
    display = ConsoleDisplay(Console(stderr=True))
    run_pipeline(config, display, last="distill")
    with open_study(config, display) as study:
        table, again_table = truth_tables(study)
        drawn = fresh(study, arguments, table)
        found = {name: evaluated(study, name, make, drawn) for name, make in sets(study).items()}
        untrained = {name: zero_cost_score(study, name, drawn) for name in SINGLE_SCORES}
        if table is None:
            again = drawn[: arguments.num_again]
            first, second = (
                trained_reference(study, some, seed) for seed, some in enumerate((drawn, again))
            )
        else:
            first = [table.values[a] for a in drawn]
            second = [] if again_table is None else [again_table.values.get(a) for a in drawn]
    complete = [
        i
        for i, value in enumerate(first)
        if value is not None and all(es[i].complete for es in found.values())
    ]
    reference = np.array([first[i] for i in complete], dtype=float)
    both = np.array([pair for pair in zip(first, second, strict=False) if None not in pair]).T
    signals = {name: table_of([es[i] for i in complete]) for name, es in found.items()}
    zero_cost = {name: [es[i] for i in complete] for name, es in untrained.items()}
    arguments.device = config.device
    publish(
        {
            "space": config.space.name,
            "data": study.splits.spec.name,
            "num_train_images": len(study.splits.search_train),
            "reference": reference_words(study, table),
            "num_architectures": len(drawn),
            "n": len(complete),
            "failures": {name: failures(es) for name, es in found.items()},
            "seeds_agree": shown(*both) if second else None,
            "num_again": len(both.T),
            "reference_percentiles": percentiles(reference),
            "core_seconds": {name: cost(es) for name, es in found.items()},
            "rows": [
                *rows(signals, reference),
                *zero_cost_rows(zero_cost, reference),
            ],
            "stream_against_zero_cost": against_zero_cost(signals[STREAM], zero_cost, reference),
            "duels": duels(signals, reference),
        },
        arguments,
    )
    if arguments.add_to_spent:
        spend(arguments.spent, [config.space.to_string(a) for a in drawn])


def parse_arguments() -> argparse.Namespace:
    """Which study, and how many architectures."""
    made = study_parser(__doc__, out="signals_by_data.json")
    made.add_argument("--num-architectures", type=int, default=100)
    made.add_argument(
        "--num-again", type=int, default=30, help="that the reference trains with a second seed"
    )
    made.add_argument("--draw", type=int, default=0, help="seed of the draw of architectures")
    made.add_argument(
        "--spent", type=Path, help="architectures that were looked at before, one on each line"
    )
    made.add_argument("--add-to-spent", action="store_true", help="add those of this run to it")
    return made.parse_args()


def fresh(
    study: StudyContext, arguments: argparse.Namespace, table: TruthTable | None
) -> list[Architecture]:
    """Architectures that were not looked at before."""
    space = study.config.space
    spent = []
    for line in [] if arguments.spent is None else arguments.spent.read_text().splitlines():
        with suppress(ValueError):  # of the space with other options: it cannot be drawn
            spent.append(space.from_string(line))
    return draw_architectures(
        space,
        arguments.num_architectures,
        make_generator(derive_seed("signals by data", arguments.draw)),
        among=None if table is None else list(table.values),
        excluded=spent,
    )


def truth_tables(study: StudyContext) -> tuple[TruthTable | None, TruthTable | None]:
    """The table of references, and that of a second seed; None where they are trained."""
    of = study.config.validation.reference
    if of.table is None:
        return None, None
    columns = (of.architecture, of.value, of.second_value)
    return read_references(Path(of.table), study.config.space, *columns)


def sets(study: StudyContext) -> dict[str, NetworkEvaluatorFactory]:
    """What measures every signal, for each training set."""
    recipe = study.recipe.recipe
    (_, _, random), (_, _, stream) = trained_controls(study, SIGNALS)
    return {DISTILLED: recipe_factory(study, recipe, SIGNALS), RANDOM: random, STREAM: stream}


def evaluated(
    study: StudyContext, name: str, factory: NetworkEvaluatorFactory, drawn: Sequence[Architecture]
) -> list[Evaluation]:
    """One evaluation of each architecture."""
    log = study.layout.folder / "signals_by_data" / f"{name.split(',')[0]}.jsonl"
    return study.runner.run(name, factory, drawn, log)


def zero_cost_score(
    study: StudyContext, name: str, drawn: Sequence[Architecture]
) -> list[Evaluation]:
    """One training-free score of each architecture, alone: where it is not defined, it fails."""
    train = study.config.train
    factory = study.factories.measuring((name,), train_on="nothing", settings=train)
    log = study.layout.folder / "signals_by_data" / f"zero_cost_{name}.jsonl"
    return study.runner.run(name, factory, drawn, log)


def trained_reference(
    study: StudyContext, drawn: Sequence[Architecture], index: int
) -> list[float | None]:
    """Test accuracy after full training with a seed; None where it failed."""
    train = study.config.validation.reference.train
    factory = study.factories.on_full_data(train, "test")
    log = study.layout.folder / "signals_by_data" / f"reference_{index}.jsonl"
    seed = derive_seed("reference", study.config.seed, index)
    done = study.runner.run(f"reference {index + 1} of 2", factory, drawn, log, seed=seed)
    return [e.signals["test_accuracy"] if e.complete else None for e in done]


def reference_words(study: StudyContext, table: TruthTable | None) -> str:
    """What the ranking is held against."""
    if table is not None:
        return table.name
    train = study.config.validation.reference.train
    length = study.factories.on_full_data(train, "test").fidelity.length
    return f"test accuracy after full-data training ({length})"


def table_of(evaluations: Sequence[Evaluation]) -> Signals:
    """Each signal of all architectures, turned so that higher is better."""
    return {
        name: np.array([e.signals[name] for e in evaluations])
        * (1 if higher_is_better(name) else -1)
        for name in SIGNALS
    }


def read(signals: Signals, names: Sequence[str]) -> NDArray[np.float64]:
    """One signal, or the mean rank of several among the sample itself."""
    if len(names) == 1:
        return signals[names[0]]
    return np.mean([rankdata(signals[name]) for name in names], axis=0)


def rows(signals: Mapping[str, Signals], reference: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Each set by each reading, over all and within the best."""
    found = []
    for name, of in signals.items():
        for reading, names in READINGS.items():
            scores = read(of, names)
            best = {
                f"best_{fraction:.0%}".replace("%", ""): shown(scores[kept], reference[kept])
                for fraction in BEST
                for kept in [best_of(reference, fraction)]
            }
            found.append(
                {"set": name, "signal": reading, "spearman": shown(scores, reference), **best}
            )
    return found


def zero_cost_rows(
    zero_cost: Mapping[str, Sequence[Evaluation]], reference: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """Each training-free score, on what it is defined for."""
    found = []
    for name, evaluations in zero_cost.items():
        kept, scores = defined(name, evaluations)
        truth = reference[kept]
        best = {
            f"best_{fraction:.0%}".replace("%", ""): shown(scores[part], truth[part])
            for fraction in BEST
            for part in [best_of(truth, fraction)]
        }
        row = {"set": UNTRAINED, "signal": name, "n": len(kept)}
        found.append({**row, "spearman": shown(scores, truth), **best})
    return found


def against_zero_cost(
    stream: Signals,
    zero_cost: Mapping[str, Sequence[Evaluation]],
    reference: NDArray[np.float64],
) -> dict[str, str]:
    """Validation loss on the stream minus each training-free score."""
    found = {}
    for name, evaluations in zero_cost.items():
        kept, scores = defined(name, evaluations)
        sides = np.stack([stream["val_loss"][kept], scores])
        found[name] = difference(sides, reference[kept])
    return found


def defined(
    name: str, evaluations: Sequence[Evaluation]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Where a score is defined, and its values there, higher is better."""
    kept = np.flatnonzero([e.complete for e in evaluations])
    sign = 1 if higher_is_better(name) else -1
    return kept, sign * np.array([evaluations[i].signals[name] for i in kept])


def duels(signals: Mapping[str, Signals], reference: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Paired differences of two sets, each with its reading."""
    found = []
    for first, first_names, second, second_names in DUELS:
        sides = np.stack([read(signals[first], first_names), read(signals[second], second_names)])
        kept = best_of(reference, BEST[0])
        found.append(
            {
                "first": f"{first}: {' + '.join(first_names)}",
                "second": f"{second}: {' + '.join(second_names)}",
                "difference": difference(sides, reference),
                f"best_{BEST[0]:.0%}".replace("%", ""): difference(sides[:, kept], reference[kept]),
            }
        )
    return found


def best_of(reference: NDArray[np.float64], fraction: float) -> NDArray[np.intp]:
    """Indices of the best part, with all that are tied with the last of it."""
    num = ranks.num_best(fraction, len(reference))
    return np.flatnonzero(reference >= np.sort(reference)[-num])


def shown(scores: NDArray[np.float64], reference: NDArray[np.float64]) -> str:
    """Spearman with its interval."""
    return str(ranks.estimate(ranks.spearman, scores, reference))


def difference(sides: NDArray[np.float64], reference: NDArray[np.float64]) -> str:
    """Spearman of the first minus that of the second, with its interval."""
    return str(ranks.estimate(ranks.difference_of(ranks.spearman), sides, reference))


def percentiles(reference: NDArray[np.float64]) -> dict[str, float]:
    """How far the references lie apart."""
    return {f"{q}": round(float(np.percentile(reference, q)), 4) for q in (0, 10, 50, 90, 100)}


def failures(evaluations: Sequence[Evaluation]) -> int:
    """How many failed."""
    return sum(not e.complete for e in evaluations)


def cost(evaluations: Sequence[Evaluation]) -> float:
    """Mean core-seconds of an evaluation."""
    return round(float(np.mean([e.core_seconds for e in evaluations])), 2)


def spend(file: Path, strings: Sequence[str]) -> None:
    """Add architectures to the list of those that were looked at."""
    known = file.read_text().splitlines()
    file.write_text("\n".join(dict.fromkeys([*known, *strings])) + "\n")


if __name__ == "__main__":
    main()
