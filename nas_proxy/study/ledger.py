"""What a study has paid for, in seconds of one process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from nas_proxy.compress.result import CompressionResult
from nas_proxy.core.costs import CostMeter
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.errors import UserError
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.report.values import Cost
from nas_proxy.retrain.result import RetrainResult
from nas_proxy.study.context import StudyContext
from nas_proxy.study.history import add_discarded, read_discarded
from nas_proxy.study.layout import StudyLayout
from nas_proxy.study.logs import StudyLogs
from nas_proxy.teachers.training import read_teacher


def ledger(study: StudyContext) -> list[Cost]:
    """Everything that was paid for: what, how often, seconds, and on which hardware."""
    proxy_dataset = study.proxy_dataset
    entries = _distilling(proxy_dataset)
    entries += _candidates_teaching(study)
    layout, logs = study.layout, study.logs
    for path in layout.sample_logs():
        entries.append(_entry("calibration sample: full training", logs.evaluations(path)))
    entries += _building("calibration sample", logs, layout.sample_logs())
    set_aside = layout.before_recalibration.name
    for stage in ("calibrate", set_aside, "search", "validate", "retrain"):
        entries += _logged(layout, logs, stage)
    entries += [*_teaching(layout, logs), *_compressing(layout.compression)]
    return [*entries, *_discarded(layout, entries)]


def note_discarded(study: StudyContext, stage: str) -> None:
    """Note what a stage has paid for, before its folder is removed.

    Raises:
        StudyError: If what was noted before is damaged.
        OSError: If it cannot be noted.
    """
    layout, logs = study.layout, study.logs
    costs = _logged(layout, logs, stage)
    if stage == "distill":
        with suppress(UserError):  # without a set that can be read, nobody knows
            costs += _distilling(ProxyDataset.load(layout.proxy_dataset))
        with suppress(UserError):
            unfinished = CostMeter(layout.distill_costs).seconds.items()
            costs += [Cost(what, 1, seconds) for what, seconds in unfinished]
    if stage == "retrain":
        with suppress(UserError):
            costs += [*_teaching(layout, logs), *_compressing(layout.compression)]
    add_discarded(layout, "discarded by --force", costs)


def _discarded(layout: StudyLayout, entries: Sequence[Cost]) -> list[Cost]:
    """What is no part of the results; what was taken up again, such as a cached teacher, is."""
    counted = {(entry.what, entry.seconds) for entry in entries}
    return [
        replace(cost, what=f"{each.why}: {cost.what}")
        for each in read_discarded(layout)
        for cost in each.costs
        if (cost.what, cost.seconds) not in counted
    ]


def _distilling(proxy_dataset: ProxyDataset) -> list[Cost]:
    return [
        Cost(
            f"{what} ({proxy_dataset.method})" if what == "distilling" else what,
            1,
            seconds,
            proxy_dataset.hardware,
        )
        for what, seconds in proxy_dataset.costs.items()
    ]


def _logged(layout: StudyLayout, logs: StudyLogs, stage: str) -> list[Cost]:
    """Every evaluation of a stage, failed ones too, and its latencies."""
    entries = [
        _entry(f"{stage}: {path.stem.replace('_', ' ')}", logs.evaluations(path))
        for path in layout.stage_logs(stage)
    ]
    entries += _building(stage, logs, layout.stage_logs(stage))
    timed = logs.latencies(layout.latencies(stage))
    if len(timed):
        entries.append(Cost(f"{stage}: latencies", len(timed), timed.seconds))
    return entries


def _building(what: str, logs: StudyLogs, paths: Iterable[Path]) -> list[Cost]:
    """What loading images and proxy data sets cost before evaluations could begin."""
    built = [e.build_seconds for path in paths for e in logs.evaluations(path) if e.build_seconds]
    return [Cost(f"{what}: building evaluators", len(built), sum(built))] if built else []


def _candidates_teaching(study: StudyContext) -> list[Cost]:
    """What the teachers of candidates cost; one that labelled the proxy data set is paid there."""
    paid = study.proxy_dataset.costs
    teachers = map(read_teacher, sorted(study.layout.candidates_teachers.glob("*.safetensors")))
    return [
        Cost(f"candidates: {teacher.cost_name}", 1, teacher.train_seconds)
        for teacher in teachers
        if teacher.cost_name not in paid
    ]


def _compressing(made: Path) -> list[Cost]:
    """What fine-tuning the smaller versions of the recommended network cost."""
    if not made.is_file():
        return []
    versions = CompressionResult.read(made).versions
    trained = [version.paid_seconds for version in versions if version.paid_seconds]
    what = "retrain: fine-tuning smaller versions"
    return [Cost(what, len(trained), sum(trained))] if trained else []


def _teaching(layout: StudyLayout, logs: StudyLogs) -> list[Cost]:
    """What the teachers of the retrained networks cost, and the choice of what is `auto`."""
    result = layout.retrain_result
    knowledge_distillation = (
        RetrainResult.read(result).knowledge_distillation if result.is_file() else None
    )
    if knowledge_distillation is None:
        return []
    choosing = [
        _entry("retrain: choosing temperature and weight", logs.evaluations(path))
        for path in sorted((layout.retrain_teachers / "auto").glob("*.jsonl"))
    ]
    count = len(knowledge_distillation.teachers)
    teaching = Cost("retrain: teaching", count, knowledge_distillation.teaching_seconds)
    return [*([teaching] if count else []), *choosing]


def one_off_seconds(study: StudyContext) -> float:
    """What is paid before the first candidate: distilling, teaching, labelling, calibrating."""
    layout = study.layout
    paths = [*layout.sample_logs(), *layout.stage_logs("calibrate"), layout.score_reference]
    paid = sum(e.seconds for path in paths for e in study.logs.evaluations(path))
    paid += sum(entry.seconds for entry in _candidates_teaching(study))
    return float(study.proxy_dataset.cost_seconds + paid)


def _entry(what: str, log: EvaluationLog) -> Cost:
    return Cost(what, len(log), sum(e.seconds for e in log))
