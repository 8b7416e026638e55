"""The stage `report`: everything that a person wants to know, on one page and in one JSON file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from nas_proxy.calibrate.result import CalibrationResult
from nas_proxy.core.environment import hardware, versions
from nas_proxy.core.files import write_atomically
from nas_proxy.core.results import StoredResult
from nas_proxy.data.proxy_summary import ProxySummary
from nas_proxy.errors import masked
from nas_proxy.evaluate_proxy.result import ProxyAccuracy, ProxyReplay
from nas_proxy.plugin_sources import sources_named
from nas_proxy.report.figures import write_figures
from nas_proxy.report.html import render_html
from nas_proxy.report.summary import Summary, summarise
from nas_proxy.report.values import DataSummary, Environment, ProxyEvaluations, StudyReport
from nas_proxy.retrain.result import RetrainResult
from nas_proxy.search.dashboard import write_note
from nas_proxy.search.result import SearchResult
from nas_proxy.search.storage import open_storage
from nas_proxy.statistics.ranks import Estimate
from nas_proxy.study.clock import wall_seconds
from nas_proxy.study.context import StudyContext
from nas_proxy.study.history import read_looks
from nas_proxy.study.layout import StudyLayout
from nas_proxy.study.ledger import ledger, totals
from nas_proxy.study.recipe import optuna_name
from nas_proxy.study.stage import Stage
from nas_proxy.study.trust import register_recipe
from nas_proxy.types import Splits
from nas_proxy.validate.coverage import SHOWN_LEVELS
from nas_proxy.validate.values import Points, RankReport

logger = logging.getLogger("nas_proxy")

T = TypeVar("T", bound=StoredResult)


class Report(Stage):
    """Writes `report.json`, `report.html` and the figures, from what the other stages left.

    A calibrated recipe is registered with what it turned out to be worth.

    Cheap, so it is never skipped.
    """

    name = "report"
    always_runs = True

    def run(self, study: StudyContext, folder: Path) -> None:
        """Collect, draw and write."""
        report, layout = collect(study), study.layout
        figures = write_figures(report, layout.figures)
        report.write(layout.report)
        pictures = [
            layout.images_before,
            layout.images_after,
            *sorted(layout.evaluate_proxy(study.proxy_dataset.id).glob("*/*.png")),
            layout.frontier,
            *layout.retrain_pictures(),
        ]
        write_atomically(layout.page, render_html(report, [*pictures, *figures]))
        _log(study, report, [*figures, *([layout.frontier] if layout.frontier.is_file() else [])])
        _write_note(study, report)
        register_recipe(study)
        study.display.say(f"report: {layout.page.resolve()}")


def collect(study: StudyContext) -> StudyReport:
    """Every figure of the report.

    Raises:
        StudyError: If a result is damaged, or was written by another version of nas_proxy.
    """
    config, layout, proxy_dataset = study.config, study.layout, study.proxy_dataset
    validation, points = _read(RankReport, layout.rank_report), _read(Points, layout.points)
    search, costs = SearchResult.read(layout.search_result), tuple(ledger(study))
    is_calibrated, is_retrained = config.recipe == "calibrated", config.retrain is not None
    return StudyReport(
        study_name=config.study_name,
        verdict=validation.verdict if validation else "The ranking was not judged.",
        config=config.resolved,
        commands=(
            f"nas-proxy run {layout.config}",
            f"nas-proxy inspect {layout.proxy_dataset}",
        ),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=Environment(
            hardware(study.device),
            {**versions(), **_own_code(config.resolved)},
            study.logs.node_shares(),  # of all logs, which the ledger has read
        ),
        data=_data(study.splits),
        proxy_dataset=ProxySummary.of(proxy_dataset),
        calibration=_read(CalibrationResult, layout.calibration) if is_calibrated else None,
        search=search,
        validation=validation,
        points=points.points if points else (),
        evaluate_proxy=_evaluated(layout, proxy_dataset.id),
        retrain=_read(RetrainResult, layout.retrain_result) if is_retrained else None,
        costs=costs,
        totals=tuple(totals(costs, validation, len(search.trials) - search.num_same)),
        looks=tuple(read_looks(layout)),
        wall_seconds=wall_seconds(layout.clock),
    )


def _own_code(config: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of the plug-ins that are the user's own, where others have a version."""
    return {name: f"source {found}" for name, found in sources_named(config).items()}


def _evaluated(layout: StudyLayout, proxy_dataset_id: str) -> ProxyEvaluations | None:
    """What `nas-proxy evaluate-proxy` has found out about the study's proxy data set."""
    accuracy = _read(ProxyAccuracy, layout.proxy_result(proxy_dataset_id, "accuracy"))
    replay = _read(ProxyReplay, layout.proxy_result(proxy_dataset_id, "replay"))
    return ProxyEvaluations(accuracy, replay) if accuracy or replay else None


def _data(splits: Splits) -> DataSummary:
    parts = (splits.search_train, splits.search_val, splits.test)
    counts = [part.labels.bincount(minlength=splits.spec.num_classes).tolist() for part in parts]
    return DataSummary(
        name=splits.spec.name,
        licence=splits.spec.licence,
        classes=splits.spec.class_names,
        image_shape=splits.spec.image_shape,
        search_train=len(splits.search_train),
        search_val=len(splits.search_val),
        test=len(splits.test),
        source_hash=splits.spec.source_hash,
        per_class=tuple(zip(*counts, strict=True)),
        left_out=splits.left_out,
    )


def _log(study: StudyContext, report: StudyReport, figures: list[Path]) -> None:
    """What a person who opens the study's run in MLflow finds."""
    run = study.tracker.study
    summary = summarise(report)
    run.description(_page(study, report, summary))
    best = f"trial {report.search.best[0].trial:04d}" if report.search.best else "none"
    run.tags({"winner": summary.winner, "verdict": summary.verdict, "best_trial": best})
    run.metrics({f"wall_seconds/{name}": value for name, value in report.wall_seconds.items()})
    if report.validation:
        for row in report.validation.rows:
            if row.spearman is not None:
                # MLflow's charts group what stands before the slash.
                run.metrics({f"{row.kind}_spearman/{row.name}": row.spearman.value})
        run.metrics(_rank_metrics(report.validation))
    if report.retrain and report.retrain.champion.test_accuracy:
        run.metrics({"retrained_test_accuracy": report.retrain.champion.test_accuracy.mean})
        rate = report.retrain.champion.base_rate
        if rate is not None:
            run.metrics({"retrained_majority_share": rate.majority_share})
            run.metrics({"retrained_balanced_accuracy": rate.balanced_accuracy})
    for figure in figures:
        run.artifact(figure, "figures")
    for path in (study.layout.page, study.layout.report):
        run.artifact(path)
    run.finish()


def _write_note(study: StudyContext, report: StudyReport) -> None:
    """The verdict where Optuna's dashboard shows it; a storage that is away costs no report."""
    config = study.config
    text = _page(study, report, summarise(report))
    try:
        storage = open_storage(config.search.storage, study.layout.stage("search"))
        write_note(storage, optuna_name(config, study.recipe), text)
    except Exception as error:  # noqa: BLE001 - a driver's own, whichever database it is
        logger.warning("optuna: the study has no note (%s)", masked(str(error)))


def _page(study: StudyContext, report: StudyReport, summary: Summary) -> str:
    """The description of the study's run; MLflow folds what follows the first lines."""
    failed, same = report.search.num_failed, report.search.num_same
    known = f", {same} the same network as another" if same else ""
    parts = (
        f"**{summary.winner}**: {summary.result}" if summary.winner else "",
        "\n".join(f"- {phrase}" for phrase in summary.beats),
        f"**{report.verdict}**",
        f"{study.config.space.name} on {report.data.name}: {len(report.search.trials)} "
        f"architectures, {failed} of them failed{known}, {_trained_on(report)}.",
        f"By the clock: {summary.wall}." if summary.wall else "",
        report.retrain.verdict if report.retrain else "",
    )
    return "\n\n".join(filter(None, parts))


def _trained_on(report: StudyReport) -> str:
    """What candidates were trained on, in words."""
    recipe = report.search.recipe_settings
    parts = recipe["stages"] or [recipe]
    images = {part["train_on"] for part in parts}
    images |= {"proxy" for part in parts if part.get("warm_up")}
    made = report.proxy_dataset
    words = {"proxy": f"{made.images} ({made.method})", "full_data": "the full data"}
    found = [word for name, word in words.items() if name in images]
    return f"trained on {' and '.join(found)}" if found else "none of them trained"


def _rank_metrics(validation: RankReport) -> dict[str, float]:
    """The proxy's figures and the noise ceiling, each with the ends of its interval."""
    proxy = validation.judged
    estimates: dict[str, Estimate | None] = {
        "spearman": proxy.spearman,
        "spearman_failures_last": proxy.spearman_failures_last,
        "kendall": proxy.kendall,
        "precision_at_k": proxy.precision_at_k,
        "regret_at_k": proxy.regret_at_k,
        "regret_at_1": proxy.regret_at_1,
        "spearman_best": proxy.spearman_best,
        "partial_spearman": proxy.partial_spearman,
        "ndcg": proxy.ndcg,
        "ceiling_spearman": validation.ceiling.spearman if validation.ceiling else None,
    }
    for part in proxy.slices:
        percent = f"{100 * part.fraction:.0f}_percent"
        estimates[f"spearman_best_{percent}"] = part.spearman
        estimates[f"precision_best_{percent}"] = part.precision
    for entry in proxy.uncertainty.coverage if proxy.uncertainty else ():
        if entry.expected in SHOWN_LEVELS:
            estimates[f"coverage_{100 * entry.expected:.0f}_percent"] = entry.observed
    return {
        name if end == "value" else f"{name}_{end}": value
        for name, estimate in estimates.items()
        if estimate is not None
        for end, value in vars(estimate).items()
        if value is not None
    }


def _read(kind: type[T], path: Path) -> T | None:
    """The result in a file; None where the file is not there."""
    return kind.read(path) if path.is_file() else None
