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
from nas_proxy.report.values import Cost, Total
from nas_proxy.retrain.result import RetrainResult
from nas_proxy.study.context import StudyContext
from nas_proxy.study.history import add_discarded, read_discarded
from nas_proxy.study.layout import StudyLayout
from nas_proxy.study.logs import StudyLogs
from nas_proxy.teachers.training import read_teacher
from nas_proxy.types import Evaluation
from nas_proxy.validate.values import RankReport


def ledger(study: StudyContext) -> list[Cost]:
    """Everything that was paid for: what, how often, seconds, and on which hardware."""
    proxy_dataset = study.proxy_dataset
    entries = _distilling(proxy_dataset)
    entries += _candidates_teaching(study)
    layout, logs = study.layout, study.logs
    for path in layout.sample_logs():
        found = list(logs.evaluations(path))
        entries.append(_entry("calibration sample: full training", found))
    entries += _building("calibration sample", logs, layout.sample_logs())
    entries += _paid_elsewhere(study)
    set_aside = layout.before_recalibration.name
    for stage in ("calibrate", set_aside, "search", "validate", "retrain"):
        entries += _logged(layout, logs, stage)
    entries += [*_teaching(layout, logs), *_compressing(layout.compression)]
    entries += _discarded(layout, entries)
    if study.device.type != "cpu":  # what a processor does meanwhile says nothing of a GPU's work
        entries = [replace(entry, core_seconds=None) for entry in entries]
    return entries


def totals(costs: Sequence[Cost], report: RankReport | None, num_candidates: int) -> list[Total]:
    """The sums of a ledger that decide whether a study was worth it.

    Args:
        costs: The ledger.
        report: Of the validation; None if there was none.
        num_candidates: How many the search has evaluated.
    """
    own = [cost for cost in costs if cost.paid_by is None]
    found = [
        _total("paid by this study", own),
        _total("of that, without the proof", [cost for cost in own if not cost.is_proof]),
    ]
    if len(own) < len(costs):
        found += [
            _total("with what other studies paid", costs),
            _total(
                "with what other studies paid, without the proof",
                [cost for cost in costs if not cost.is_proof],
            ),
        ]
    return found + ([] if report is None else _alternatives(report, num_candidates))


def _alternatives(report: RankReport, num_candidates: int) -> list[Total]:
    """What full trainings would have cost; nothing where the reference is a table."""
    num_used, stopping = report.num_architectures, report.stopping
    ways = {
        f"instead: full training of all {num_candidates} candidates": num_candidates,
        f"instead: random search with the proof's {num_used} full trainings": num_used,
    }
    if stopping is not None and stopping.num_saved:
        most = stopping.max_architectures
        ways[f"instead: the proof with all {most} full trainings"] = most
    each = report.reference_seconds_per_architecture
    return [Total(what, num * each, None) for what, num in ways.items() if each > 0]


def _total(what: str, costs: Iterable[Cost]) -> Total:
    kept = list(costs)
    return Total(what, sum(c.comparable for c in kept), sum(c.seconds for c in kept))


def _paid_elsewhere(study: StudyContext) -> list[Cost]:
    """Full trainings of the calibration sample that were taken from other studies."""
    sample = study.calibration_sample
    taken = {} if sample is None else sample.paid_elsewhere()
    what = "calibration sample: full training, paid by"
    return [replace(_entry(f"{what} {name}", e), paid_by=name) for name, e in taken.items()]


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
        _entry(f"{stage}: {path.stem.replace('_', ' ')}", list(logs.evaluations(path)))
        for path in layout.stage_logs(stage)
    ]
    entries += _building(stage, logs, layout.stage_logs(stage))
    timed = logs.latencies(layout.latencies(stage))
    if len(timed):
        entries.append(Cost(f"{stage}: latencies", len(timed), timed.seconds))
    return [replace(entry, is_proof=stage == "validate") for entry in entries]


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
        _entry("retrain: choosing temperature and weight", list(logs.evaluations(path)))
        for path in sorted((layout.retrain_teachers / "auto").glob("*.jsonl"))
    ]
    count = len(knowledge_distillation.teachers)
    teaching = Cost("retrain: teaching", count, knowledge_distillation.teaching_seconds)
    return [*([teaching] if count else []), *choosing]


def one_off_seconds(study: StudyContext) -> float:
    """What is paid before the first candidate: distilling, teaching, labelling, calibrating.

    References that other studies paid for count: without them there would be no recipe.
    """
    layout = study.layout
    samples = [layout.score_reference, layout.judged_score_reference]
    paths = [*layout.sample_logs(), *layout.stage_logs("calibrate"), *samples]
    paid = sum(e.seconds for path in paths for e in study.logs.evaluations(path))
    paid += sum(entry.seconds for entry in _candidates_teaching(study))
    paid += sum(entry.seconds for entry in _paid_elsewhere(study))
    return float(study.proxy_dataset.cost_seconds + paid)


def _entry(what: str, evaluations: Sequence[Evaluation]) -> Cost:
    seconds = sum(each.seconds for each in evaluations)
    cores = sum(each.core_seconds for each in evaluations)
    num_paid = sum(not each.same_as for each in evaluations)
    return Cost(what, num_paid, seconds, core_seconds=cores)
