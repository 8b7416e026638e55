"""The last stage: everything that a person wants to know, on one page and in one JSON file."""

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
from nas_proxy.study.trust import register_recipe
from nas_proxy.validate.coverage import SHOWN_LEVELS

_RANK_METRICS = (
    "spearman", "kendall", "precision_at_k", "regret_at_k", "regret_at_1", "spearman_best",
    "partial_spearman", "ndcg",
)  # fmt: skip


def run_report(study: StudyContext, *, force: bool) -> None:
    """Write `report.json`, `report.html` and the figures, from what the other stages left.

    Cheap, so it is never skipped; `force` changes nothing.
    """
    report = collect(study)
    folder = study.config.folder
    figures = write_figures(report, folder / "figures")
    pictures = [study.proxy_file.parent / name for name in ("before.png", "after.png")]
    write_atomically(folder / "report.json", json.dumps(report, indent=1, allow_nan=False))
    pictures += sorted(_evaluate_proxy_folder(study).glob("*/*.png"))
    pictures += [*_frontier(folder), *sorted((folder / "retrain").glob("retrain_*.png"))]
    write_atomically(folder / "report.html", render_html(report, [*pictures, *figures]))
    _log(study, report, [*figures, *_frontier(folder)])
    register_recipe(study)
    study.display.say(f"report: {(folder / 'report.html').resolve()}")


def collect(study: StudyContext) -> dict[str, Any]:
    """Every figure of the report, as plain JSON values."""
    config = study.config
    proxy_dataset = study.load_proxy_dataset()
    validation = _read(config.folder / "validate" / "rank_report.json")
    search = _read(config.folder / "search" / "search.json")
    return {
        "study_name": config.study_name,
        "verdict": validation["verdict"] if validation else "The ranking was not judged.",
        "config": dict(config.resolved),
        "commands": [
            f"nas-proxy run {config.folder / 'config.yaml'}",
            f"nas-proxy inspect {study.proxy_file}",
        ],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": {"hardware": hardware(study.device), "versions": versions()},
        "data": _data(study),
        "proxy_dataset": proxy_dataset.card(),
        "calibration": _calibration(study),
        "search": search,
        "validation": validation,
        "points": _read(config.folder / "validate" / "points.json"),
        "evaluate_proxy": _evaluate_proxy(study),
        "retrain": _retrain(study),
        "costs": ledger(study),
    }


def _frontier(folder: Path) -> list[Path]:
    return sorted((folder / "calibrate").glob("frontier.png"))


def _calibration(study: StudyContext) -> dict[str, Any] | None:
    """How the recipe was found; None where the configuration's own sections are the recipe."""
    found: dict[str, Any] | None = None
    if study.config.recipe == "calibrated":
        found = _read(study.config.folder / "calibrate" / "calibration.json")
    return found


def _retrain(study: StudyContext) -> dict[str, Any] | None:
    """What full training made of the best; None where it was not asked for."""
    found: dict[str, Any] | None = None
    if study.config.retrain is not None:
        found = _read(study.config.folder / "retrain" / "retrain.json")
    return found


def _evaluate_proxy_folder(study: StudyContext) -> Path:
    return study.config.folder / "evaluate_proxy" / study.load_proxy_dataset().id


def _evaluate_proxy(study: StudyContext) -> dict[str, Any] | None:
    """What `nas-proxy evaluate-proxy` has found out about the study's proxy data set."""
    folder = _evaluate_proxy_folder(study)
    found = {task: _read(folder / task / f"{task}.json") for task in ("accuracy", "replay")}
    return found if any(found.values()) else None


def _data(study: StudyContext) -> dict[str, Any]:
    splits = study.splits
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
    for name in ("report.html", "report.json"):
        run.artifact(study.config.folder / name)
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
