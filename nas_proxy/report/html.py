"""The report as one HTML file that needs nothing beside itself."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from nas_proxy.core.nested import set_values
from nas_proxy.data.proxy_dataset import TeacherRecord
from nas_proxy.data.proxy_summary import ProxySummary
from nas_proxy.report._pareto_figure import amount, cost_in_words, costs_of
from nas_proxy.report.figures import rank_outliers, ranked_points
from nas_proxy.report.summary import summarise
from nas_proxy.report.values import StudyReport
from nas_proxy.search.result import SearchResult
from nas_proxy.statistics.words import decimal, duration
from nas_proxy.validate.coverage import SHOWN_LEVELS, Coverage
from nas_proxy.validate.looks import Look
from nas_proxy.validate.stopping import stopping_words
from nas_proxy.validate.values import Difference, Point, RankReport, RankRow

# Name of the picture, what is on it, and how to read it.
_SEARCH_FIGURES = (
    (
        "importance",
        "Importance of each choice.",
        "How much each choice decides whether an architecture scores among the best tenth "
        "(PED-ANOVA; all together are 100 %). Of few trials it says little, and it speaks of the "
        "score, not of full training.",
    ),
    (
        "parallel_coordinates",
        "Every trial as a line through its choices to its score.",
        "A line for each trial; the darker, the higher its score, and the best one in red.",
    ),
    (
        "slice",
        "The score against each choice.",
        "The score of each trial by what it chose; the darker a dot, the later the trial.",
    ),
    (
        "timeline",
        "When each trial was evaluated.",
        "Each bar is one evaluation, by the clock of the machine that it ran on. Bars side by side "
        "ran at the same time.",
    ),
    (
        "edf",
        "Share of architectures up to each score.",
        "The lower and further right a line, the better. Where the search's lies above that of "
        "uniform draws, it proposed nothing better than chance.",
    ),
)
_COST_SIGNALS = ("train_seconds", "images_seen")  # no quality of an architecture


def render_html(report: StudyReport, pictures: Sequence[Path]) -> str:
    """The page.

    Args:
        report: Of a study; its texts are escaped.
        pictures: PNG files, recognised by their names; one that does not exist is left out.
    """
    # Jinja would not know from the template's name, which ends in .j2, that it is HTML.
    environment = Environment(
        loader=PackageLoader("nas_proxy", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=duration, decimal=decimal, flat=_flat, outcome=_outcome)
    environment.filters.update(amount=lambda value, cost: amount(cost, value), cost=cost_in_words)
    # What costs of an architecture are counted in; see `StudyContext.cost`.
    core_words = "core time" if report.config.get("device", "cpu") == "cpu" else "GPU time"
    return environment.get_template("report.html.j2").render(
        report=report,
        config=report.config,
        search=report.search,
        recipe=_recipe(report),
        calibration=report.calibration,
        validation=report.validation,
        pictures={path.stem: _data_uri(path) for path in pictures if path.is_file()},
        outliers=rank_outliers(report),
        best=_best(report.search),
        costs=costs_of(report.search),
        evaluate_proxy=report.evaluate_proxy,
        retrain=report.retrain,
        stages=_stages(report),
        labels_itself=isinstance(report.config.get("recipe"), Mapping),
        labelling=dict(sorted(asdict(report.proxy_dataset.labelling).items())),
        teachers=_teachers(report.proxy_dataset),
        failures=_failures(report),
        total_seconds=sum(entry.seconds for entry in report.costs if entry.paid_by is None),
        pick=_pick(report),
        looks=_looks(report),
        summary=summarise(report),
        search_figures=_SEARCH_FIGURES,
        core_words=core_words,
        stopping=stopping_words(report.validation.stopping) if report.validation else "",
        **_ranking(report.validation, core_words),
    )


def _recipe(report: StudyReport) -> Mapping[str, Any]:
    """What candidates trained on and were ranked by: the recipe that was found, or the sections."""
    if "score" in report.config:
        sections = ("train", "knowledge_distillation", "score")
        return {"train_on": "proxy", **{key: report.config.get(key) for key in sections}}
    return report.search.recipe_settings


def _stages(report: StudyReport) -> list[Mapping[str, Any]]:
    """The stages of a cascade, each with how many trials began it; none of another recipe."""
    stages = report.search.recipe_settings.get("stages", ())
    begun = [len(trial.stage_seconds) for trial in report.search.trials]
    return [
        {
            **stage,
            "signals": stage["score"]["signals"],
            "num_trials": sum(reached >= number for reached in begun),
        }
        for number, stage in enumerate(stages, start=1)
    ]


def _teachers(summary: ProxySummary) -> list[TeacherRecord]:
    """Every network that had a part in the proxy data set, once."""
    records = [*summary.networks, *summary.labelling.teachers]
    return list({record.id: record for record in records}.values())


def _ranking(validation: RankReport | None, core_words: str) -> dict[str, Any]:
    """The rows in the order of the page, each with its outcome, as are the comparisons."""
    if validation is None:
        return {"proxy": None, "controls": [], "signals": [], "comparisons": []}
    proxy = validation.judged
    controls = [row for row in validation.rows if row.kind == "control"]
    # `judge` writes one sentence for each control, in the order of the rows.
    sentences = zip(validation.comparisons, controls, strict=True)
    signals = [row for row in validation.rows if row.kind == "signal"]
    return {
        "proxy": proxy,
        "controls": sorted(controls, key=_by_spearman),
        "signals": sorted(signals, key=_by_spearman),
        "comparisons": [(sentence, _outcome(row)) for sentence, row in sentences],
        "regret_digits": _regret_digits(validation.all_rows),
        "coverage": _coverage(proxy),
        "pairs": _pairs(validation),
        "saving": _saving(proxy, validation.reference_seconds_per_architecture, core_words),
    }


def _looks(report: StudyReport) -> list[tuple[Look, int]]:
    """Each look, and at how many of its architectures there was a look before."""
    found, known = [], set[str]()
    for look in report.looks:
        found.append((look, len(known.intersection(look.architectures))))
        known.update(look.architectures)
    return found


def _pick(report: StudyReport) -> Point | None:
    """The architecture that the proxy ranks first; the earlier one of a tie."""
    best = max(ranked_points(report), key=lambda each: each.score, default=None)
    return None if best is None else best.point


def _outcome(row: RankRow) -> str:
    """Whether the proxy ranks better than this row, all controls taken together."""
    return row.outcome or "unknown"


def _pairs(validation: RankReport) -> list[Difference]:
    """Every two rankings that are no single signals."""
    signals = {row.name for row in validation.rows if row.kind == "signal"}
    return [p for p in validation.differences if not signals & {p.first, p.second}]


def _coverage(proxy: RankRow) -> list[Coverage]:
    found = proxy.uncertainty.coverage if proxy.uncertainty else ()
    return [entry for entry in found if entry.expected in SHOWN_LEVELS]


def _by_spearman(row: RankRow) -> float:
    return -row.spearman.value if row.spearman else math.inf


def _regret_digits(rows: Sequence[RankRow]) -> int:
    """Regret is in the unit of the reference: accuracies of 0 to 1 need a digit more."""
    regrets = [regret for row in rows for regret in (row.regret_at_k, row.regret_at_1)]
    largest = max((regret.value for regret in regrets if regret), default=0)
    return 3 if largest < 1 else 2


def _saving(proxy: RankRow, reference_seconds: float, core_words: str) -> str:
    """What the proxy saves against the reference, in words; `core_words` is whose seconds."""
    seconds, one_off = proxy.seconds_per_architecture, proxy.one_off_seconds
    if reference_seconds <= 0:
        return "The reference is a table, so it costs nothing here."
    both = (
        f"The proxy takes {duration(seconds)} of {core_words} for one architecture, "
        f"the reference {duration(reference_seconds)}"
    )
    if seconds >= reference_seconds:
        return f"{both}: here the proxy saves no time."
    paid_back = math.ceil(one_off / (reference_seconds - seconds))
    return (
        f"{both}: {reference_seconds / seconds:.3g} times as long. "
        f"The one-off cost of {duration(one_off)} is paid back after {paid_back:,} architectures."
    )


def _best(search: SearchResult) -> dict[str, Any]:
    """The best trials with their signals, one column for each, those of the score first."""
    trials = search.best
    measured = dict.fromkeys(name for trial in trials for name in trial.signals)
    names = [
        *(name for name in search.signals if name in measured),
        *(name for name in measured if name not in (*search.signals, *_COST_SIGNALS)),
    ]
    columns = {name: _column([trial.signals.get(name) for trial in trials]) for name in names}
    return {
        "columns": columns,
        "scores": _column([trial.score for trial in trials]),
        "trials": trials,
    }


def _column(values: Sequence[float | None]) -> list[str]:
    """Numbers of one column with as many digits each as its largest one needs."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    unit, suffix = next(
        ((unit, suffix) for unit, suffix in ((1e9, " G"), (1e6, " M")) if largest >= unit),
        (1.0, ""),
    )
    digits = max(0, 3 - int(math.log10(largest / unit))) if largest >= unit else 4
    return ["–" if v is None else f"{v / unit:,.{digits}f}{suffix}" for v in values]


def _failures(report: StudyReport) -> list[tuple[str, str, int]]:
    """Where evaluations failed, why and how often."""
    found = Counter(
        ("search", trial.reason or "no reason was given")
        for trial in report.search.trials
        if trial.score is None
    )
    for row in report.validation.all_rows if report.validation else ():
        for reason, count in row.failures.items():
            found[f"validation: {row.name}", reason] += count
    return [(where, reason, count) for (where, reason), count in found.most_common()]


def _flat(mapping: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings as dotted keys and words; what is not set is left out."""
    for name, value in set_values(mapping).items():
        yield name, _words(value)


def _words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
