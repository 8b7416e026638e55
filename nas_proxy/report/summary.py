"""What a person wants to know first: what won, how good it is, whether to believe it, what next."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nas_proxy.report.values import StudyReport
from nas_proxy.retrain.result import Comparison, RetrainResult
from nas_proxy.search.result import TrialRow
from nas_proxy.statistics.accuracy import over_seeds, percent
from nas_proxy.statistics.ranks import Estimate
from nas_proxy.statistics.words import duration

_MOST_ADVISED = 1000  # architectures that anybody is asked to train
_FIRST_VALIDATION = 30  # architectures that a first judgement is advised with


@dataclass(frozen=True)
class Step:
    """Something to do next.

    Attributes:
        words: What for.
        command: What to type.
    """

    words: str
    command: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The first screen of a report.

    Attributes:
        winner: The recommended architecture in words; empty if nothing succeeded.
        result: What it reaches, a phrase.
        beats: A phrase for each network that it was compared with.
        verdict: One sentence on the ranking, with its interval.
        details: The rest of the verdict; empty if that is all.
        joint: What stands between the two.
        wall: How long the study took by the clock, with its stages; empty if that is not known.
        steps: What to do next, the most useful first.
    """

    winner: str
    result: str
    beats: tuple[str, ...]
    verdict: str
    details: str
    joint: str
    wall: str
    steps: tuple[Step, ...]


def summarise(report: StudyReport) -> Summary:
    """The first screen of a report."""
    best = report.search.best[0] if report.search.best else None
    verdict, joint, details = _first_sentence(report.verdict)
    retrained = report.retrain
    winner = retrained.champion.description if retrained else best.description if best else ""
    return Summary(
        winner=winner,
        result=_retrained_words(retrained) if retrained else _searched_words(report, best),
        beats=tuple(_beaten(retrained)) if retrained else (),
        verdict=verdict,
        details=details,
        joint=joint,
        wall=_wall_words(report),
        steps=tuple(_steps(report)),
    )


def _first_sentence(verdict: str) -> tuple[str, str, str]:
    """What is said first, what joins the rest to it, and the rest."""
    found = re.search(r"; |(?<=\.) ", verdict)
    if found is None:
        return verdict, "", ""
    return verdict[: found.start()], found.group(), verdict[found.end() :]


def _retrained_words(retrained: RetrainResult) -> str:
    row = retrained.champion
    size = f"{row.num_params:,.0f} parameters"
    if row.test_accuracy is None:
        return f"{size}; every full training of it failed"
    seeds = len(row.test_accuracy.values)
    accuracy = percent(over_seeds(row.test_accuracy))
    trained = f"mean of {seeds} full trainings" if seeds > 1 else "one full training"
    rate = "" if row.base_rate is None else f". {row.base_rate.words}"
    return f"{accuracy} test accuracy ({trained}), {size}{rate}"


def _searched_words(report: StudyReport, best: TrialRow | None) -> str:
    if best is None:
        return ""
    accuracy = best.signals.get("val_accuracy")
    short = "" if accuracy is None else f", {100 * accuracy:.1f} % after the short training"
    return (
        f"best of {len(report.search.trials)} by score{short}; it was not trained fully yet, so "
        "its accuracy is not known"
    )


def _beaten(retrained: RetrainResult) -> Iterator[str]:
    sizes = {row.role: row.num_params for row in retrained.rows}
    for found in retrained.comparisons:
        name = {
            "median": "the architecture of median score",
            "resnet18": f"a ResNet-18 of {sizes['resnet18']:,.0f} parameters"
            if "resnet18" in sizes
            else "a ResNet-18",
        }.get(found.role, found.description)
        yield _against(found, name)


def _against(found: Comparison, name: str) -> str:
    points = f"{_points(found.difference)} points"
    if found.outcome == "open":
        return f"not told apart from {name} (difference {points})"
    if found.outcome == "unknown" and not found.difference.value:
        return f"not told apart from {name} by these seeds"
    side = "better" if found.difference.value >= 0 else "worse"
    by_few = ", by too few seeds to tell" if found.outcome == "unknown" else ""
    return f"{points} {side} than {name}{by_few}"


def _points(found: Estimate) -> str:
    """The size of a difference of accuracies, whichever side is ahead."""
    if found.low is None or found.high is None:
        return f"{100 * abs(found.value):.1f}"
    low, high = (found.low, found.high) if found.value >= 0 else (-found.high, -found.low)
    return f"{100 * abs(found.value):.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _wall_words(report: StudyReport) -> str:
    found = report.wall_seconds
    if not found:
        return ""
    return ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in found.items())


def _steps(report: StudyReport) -> Iterator[Step]:
    if not report.search.best:
        return
    # The report's own command names the configuration that was resolved.
    config = report.commands[0].removeprefix("nas-proxy run ")
    yield from _more_proof(report, config)
    folder = Path(config).parent
    if report.retrain is None:
        yield Step(
            "Train the best fully and get model files",
            f"nas-proxy run {shlex.quote(config)} retrain.train.num_epochs=50",
        )
    elif report.retrain.champion.model is not None:
        model = folder / "retrain" / report.retrain.champion.model.folder / "model.safetensors"
        yield Step("Use the network", f'nas_proxy.load_model("{model}")')
    if report.config.get("tracking", {}).get("enabled", True):
        results = shlex.quote(str(folder.parent))
        yield Step("See every trial, with its curves", f"nas-proxy ui --results {results}")


def _more_proof(report: StudyReport, config: str) -> Iterator[Step]:
    """How to learn whether the ranking can be trusted, where that is open."""
    validation, quoted = report.validation, shlex.quote(config)
    if validation is None:
        yield Step(
            "Find out whether the ranking can be trusted",
            f"nas-proxy run {quoted} validate.num_architectures={_FIRST_VALIDATION} "
            "validate.reference.train.num_epochs=20",
        )
        return
    more = validation.num_more_architectures
    num = validation.num_architectures + (0 if more is None else more.likely)
    if more is not None and num <= _MOST_ADVISED:
        # Of a sequential validation it is the maximum that grows.
        key = "num_architectures" if validation.stopping is None else "num_architectures.max"
        yield Step(
            "Settle what the verdict leaves open, with more full trainings",
            f"nas-proxy run {quoted} validate.{key}={num}",
        )
