"""What a study has paid for, in seconds of one process."""

from __future__ import annotations

from pathlib import Path

from nas_proxy.compress.result import CompressionResult
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.report.values import Cost
from nas_proxy.retrain.result import RetrainResult
from nas_proxy.search.resources import LATENCIES, LatencyLog
from nas_proxy.study.calibration_sample import BEFORE_RECALIBRATION, sample_logs
from nas_proxy.study.context import StudyContext
from nas_proxy.teachers.training import read_teacher

_STAGES = ("calibrate", BEFORE_RECALIBRATION, "search", "validate", "retrain")


def ledger(study: StudyContext) -> list[Cost]:
    """Everything that was paid for: what, how often, seconds, and on which hardware."""
    proxy_dataset = study.load_proxy_dataset()
    entries = [
        Cost(
            f"{what} ({proxy_dataset.method})" if what == "distilling" else what,
            1,
            seconds,
            proxy_dataset.hardware,
        )
        for what, seconds in proxy_dataset.costs.items()
    ]
    entries += _candidates_teaching(study)
    logs = sample_logs(study.config.folder)
    entries += [_entry("calibration sample: full training", path) for path in logs]
    for stage in _STAGES:
        # Every evaluation of the study stands in one of these logs, failed ones too.
        for path in sorted((study.config.folder / stage).glob("*.jsonl")):
            entries.append(_entry(f"{stage}: {path.stem.replace('_', ' ')}", path))
        timed = LatencyLog(study.config.folder / stage / LATENCIES)
        if len(timed):
            entries.append(Cost(f"{stage}: latencies", len(timed), timed.seconds))
    return [*entries, *_teaching(study), *_compressing(study)]


def _candidates_teaching(study: StudyContext) -> list[Cost]:
    """What the teachers of candidates cost; one that labelled the proxy data set is paid there."""
    paid = study.load_proxy_dataset().costs
    teachers = map(read_teacher, sorted(study.teachers_folder.glob("*.safetensors")))
    return [
        Cost(f"candidates: {teacher.cost_name}", 1, teacher.train_seconds)
        for teacher in teachers
        if teacher.cost_name not in paid
    ]


def _compressing(study: StudyContext) -> list[Cost]:
    """What fine-tuning the smaller versions of the recommended network cost."""
    made = study.config.folder / "retrain" / "compressed" / "compressed.json"
    if not made.is_file():
        return []
    versions = CompressionResult.read(made).versions
    trained = [version.paid_seconds for version in versions if version.paid_seconds]
    what = "retrain: fine-tuning smaller versions"
    return [Cost(what, len(trained), sum(trained))] if trained else []


def _teaching(study: StudyContext) -> list[Cost]:
    """What the teachers of the retrained networks cost, and the choice of what is `auto`."""
    folder = study.config.folder / "retrain"
    result = folder / "retrain.json"
    knowledge_distillation = (
        RetrainResult.read(result).knowledge_distillation if result.is_file() else None
    )
    if knowledge_distillation is None:
        return []
    choosing = [
        _entry("retrain: choosing temperature and weight", path)
        for path in sorted((folder / "teachers" / "auto").glob("*.jsonl"))
    ]
    count = len(knowledge_distillation.teachers)
    teaching = Cost("retrain: teaching", count, knowledge_distillation.teaching_seconds)
    return [*([teaching] if count else []), *choosing]


def one_off_seconds(study: StudyContext) -> float:
    """What is paid before the first candidate: distilling, teaching, labelling, calibrating."""
    folder = study.config.folder
    logs = [*sample_logs(folder), *sorted((folder / "calibrate").glob("*.jsonl"))]
    reference = folder / "search" / "score_reference.jsonl"
    logs += [reference] if reference.is_file() else []
    paid = sum(_entry("", path).seconds for path in logs)
    paid += sum(entry.seconds for entry in _candidates_teaching(study))
    return float(study.load_proxy_dataset().cost_seconds + paid)


def _entry(what: str, path: Path) -> Cost:
    log = EvaluationLog(path)
    return Cost(what, len(log), sum(e.seconds for e in log))
