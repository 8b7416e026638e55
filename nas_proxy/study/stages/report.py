"""The stage `report`: everything that a person wants to know, on one page and in one JSON file."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nas_proxy.core.environment import hardware, versions
from nas_proxy.core.files import write_atomically
from nas_proxy.core.nested import flatten
from nas_proxy.report.figures import write_figures
from nas_proxy.report.html import render_html
from nas_proxy.study.context import StudyContext
from nas_proxy.study.ledger import ledger
from nas_proxy.study.stage import Stage
from nas_proxy.study.trust import register_recipe
from nas_proxy.types import Splits
from nas_proxy.validate.coverage import SHOWN_LEVELS

_RANK_METRICS = (
    "spearman", "kendall", "precision_at_k", "regret_at_k", "regret_at_1", "spearman_best",
    "partial_spearman", "ndcg",
)  # fmt: skip


class Report(Stage):
    """Writes `report.json`, `report.html` and the figures, from what the other stages left.

    Cheap, so it is never skipped.
    """

    name = "report"

    def run(self, study: StudyContext, folder: Path) -> None:
        """Collect, draw and write."""
        report, layout = collect(study), study.layout
        figures = write_figures(report, layout.figures)
        write_atomically(layout.report, json.dumps(report, indent=1, allow_nan=False))
        pictures = [
            layout.images_before,
            layout.images_after,
            *sorted(layout.evaluate_proxy(study.proxy_dataset.id).glob("*/*.png")),
            layout.frontier,
            *sorted(layout.stage("retrain").glob("retrain_*.png")),
        ]
        write_atomically(layout.page, render_html(report, [*pictures, *figures]))
        _log(study, report, [*figures, *([layout.frontier] if layout.frontier.is_file() else [])])
        register_recipe(study)
        study.display.say(f"report: {layout.page.resolve()}")


def collect(study: StudyContext) -> dict[str, Any]:
    """Every figure of the report, as plain JSON values."""
    config, layout, proxy_dataset = study.config, study.layout, study.proxy_dataset
    validation = _read(layout.rank_report)
    return {
        "study_name": config.study_name,
        "verdict": validation["verdict"] if validation else "The ranking was not judged.",
        "config": dict(config.resolved),
        "commands": [
            f"nas-proxy run {layout.config}",
            f"nas-proxy inspect {layout.proxy_dataset}",
        ],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": {"hardware": hardware(study.device), "versions": versions()},
        "data": _data(study.splits),
        "proxy_dataset": proxy_dataset.card(),
        "calibration": _read(layout.calibration) if config.recipe == "calibrated" else None,
        "search": _read(layout.search_result),
        "validation": validation,
        "points": _read(layout.points),
        "evaluate_proxy": _evaluated(layout.evaluate_proxy(proxy_dataset.id)),
        "retrain": _read(layout.retrain_result) if config.retrain is not None else None,
        "costs": ledger(study),
    }


def _evaluated(folder: Path) -> dict[str, Any] | None:
    """What `nas-proxy evaluate-proxy` has found out about the study's proxy data set."""
    found = {task: _read(folder / task / f"{task}.json") for task in ("accuracy", "replay")}
    return found if any(found.values()) else None


def _data(splits: Splits) -> dict[str, Any]:
    return {
        "name": splits.spec.name,
        "licence": splits.spec.licence,
        "classes": list(splits.spec.class_names),
        "image_shape": list(splits.spec.image_shape),
        "search_train": len(splits.search_train),
        "search_val": len(splits.search_val),
        "test": len(splits.test),
        "source_hash": splits.spec.source_hash,
    }


def _log(study: StudyContext, report: dict[str, Any], figures: list[Path]) -> None:
    """What a person who opens the study's run in MLflow finds."""
    run = study.tracker.study
    best = report["search"]["best"][0] if report["search"]["best"] else None
    run.description(
        f"**{report['verdict']}**\n\n"
        f"{study.config.space.name} on {report['data']['name']}, "
        f"{len(report['search']['trials'])} architectures trained on "
        f"{report['proxy_dataset']['images']} ({report['proxy_dataset']['method']}).\n\n"
        + (f"Best: {best['description']} (score {best['score']:.4g})" if best else "")
        + (f"\n\n{report['retrain']['verdict']}" if report["retrain"] else "")
    )
    run.params(dict(flatten(report["config"])))
    if report["validation"]:
        for row in report["validation"]["rows"][1:]:
            if row["spearman"] is not None:
                # MLflow's charts group what stands before the slash.
                run.metrics({f"{row['kind']} spearman/{row['name']}": row["spearman"]["value"]})
        run.metrics(_rank_metrics(report["validation"]))
    if report["retrain"]:
        champion = report["retrain"]["rows"][0]
        run.metrics({"retrained_test_accuracy": champion["test_accuracy"]["mean"]})
    for figure in figures:
        run.artifact(figure, "figures")
    for path in (study.layout.page, study.layout.report):
        run.artifact(path)
    run.finish()


def _rank_metrics(validation: dict[str, Any]) -> dict[str, float]:
    """The proxy's figures and the noise ceiling, each with the ends of its interval."""
    proxy = validation["rows"][0]
    estimates = {name: proxy[name] for name in _RANK_METRICS}
    for part in proxy["slices"]:
        percent = f"{100 * part['fraction']:.0f}_percent"
        estimates[f"spearman_best_{percent}"] = part["spearman"]
        estimates[f"precision_best_{percent}"] = part["precision"]
    for entry in (proxy["uncertainty"] or {"coverage": []})["coverage"]:
        if entry["expected"] in SHOWN_LEVELS:
            estimates[f"coverage_{100 * entry['expected']:.0f}_percent"] = entry["observed"]
    estimates["ceiling_spearman"] = (validation["ceiling"] or {"spearman": None})["spearman"]
    return {
        name if end == "value" else f"{name}_{end}": estimate[end]
        for name, estimate in estimates.items()
        for end in ("value", "low", "high")
        if estimate is not None and estimate[end] is not None
    }


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None
