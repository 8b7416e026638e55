"""Results are read back as they were written, or refused with one sentence."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_proxy.calibrate.result import CalibrationPoint, CalibrationResult, StandingRow
from nas_proxy.compress.result import CompressedVersion, CompressionResult
from nas_proxy.core.results import StoredResult
from nas_proxy.data.proxy_dataset import Labelling, TeacherRecord
from nas_proxy.errors import StudyError
from nas_proxy.evaluate.latency import Latency
from nas_proxy.evaluate_proxy.accuracy import NetworkAccuracies, Stability
from nas_proxy.evaluate_proxy.result import LearnerMemory, ProxyAccuracy, ProxyReplay
from nas_proxy.export.folder import ExportedFile
from nas_proxy.knowledge_distillation.record import DistillationRecord
from nas_proxy.knowledge_distillation.tuning import ChosenOptions, Trial, TuningRecord
from nas_proxy.report.values import ProxyEvaluations, StudyReport
from nas_proxy.retrain.result import (
    Comparison,
    Curves,
    ModelFiles,
    RetrainResult,
    RetrainRow,
    SeedAccuracy,
)
from nas_proxy.search.guard import GuardCheck, GuardPoint, GuardResult
from nas_proxy.search.result import BestTraining, SearchResult, TrialRow
from nas_proxy.statistics.accuracy import SeedMean
from nas_proxy.statistics.ranks import Estimate
from nas_proxy.types import Architecture
from nas_proxy.validate.values import Points
from tests.report.helpers import PROXY_DATASET, make_report

ARCHITECTURE = Architecture("convnet", {"widths": [8, 16], "depth": 2, "norm": None})
LATENCY = Latency(0.002, 0.001, 0.003, 50, 1, 1, "a processor")
ESTIMATE = Estimate(0.5, 0.25, 0.75)
LONE = Estimate(0.5, None, None)
TEACHER = TeacherRecord("a1", "ResNet-18", "some terms", 3)

DISTILLATION = DistillationRecord(
    terms=("response (hinton)",),
    teachers=(TEACHER,),
    num_leaked_images=(3,),
    num_unlabelled=0,
    teaching_seconds=1.5,
    auto=TuningRecord(
        chosen=(ChosenOptions("response (hinton)", 4.0, None),),
        trials=(Trial(0, {"temperature": 4.0}, 0.5, 1.25), Trial(0, {"weight": 1.0}, reason="why")),
    ),
)
TRIAL = TrialRow(
    trial=0,
    score=-0.5,
    objectives={"score": -0.5, "latency": 0.002},
    latency=LATENCY,
    architecture=ARCHITECTURE,
    architecture_id=ARCHITECTURE.id,
    description="two blocks",
    signals={"val_loss": 0.5},
    seconds=2.0,
)
FAILED = replace(TRIAL, trial=1, score=None, objectives={}, latency=None, signals={}, reason="why")
GUARD = GuardResult(
    threshold=0.5,
    action="warn",
    checks=(
        GuardCheck(10, ESTIMATE, 4, None, 2, 1, "everyone", "holds", 0.5, "warn"),
        GuardCheck(20, LONE, 4, ESTIMATE, 2, 1, "random", "below", 0.5, "warn"),
    ),
    points=(
        GuardPoint(0, ARCHITECTURE.id, "best", -0.5, 0.75, ""),
        GuardPoint(1, ARCHITECTURE.id, "random", -0.5, None, "why"),
    ),
    seconds=3.0,
)
SEARCH = SearchResult(
    recipe="configured",
    recipe_settings={"train": {"num_steps": 3, "augmentation": None}, "signals": ["val_loss"]},
    knowledge_distillation=DISTILLATION,
    signals=("val_loss",),
    trials=(TRIAL, FAILED),
    best=(TRIAL,),
    best_training=BestTraining("two blocks", (2.0, 1.0), (("head", 1), ("all", 1))),
    pareto_front=(TRIAL,),
    knee=0,
    num_failed=1,
    num_duplicates=2,
    num_infeasible=3,
    stopped="it fell",
    guard=GUARD,
)
NOTHING_FOUND = replace(
    SEARCH, knowledge_distillation=None, trials=(), best=(), best_training=None, pareto_front=(),
    knee=None, guard=None,
)  # fmt: skip
CALIBRATION = CalibrationResult(
    verdict="It can be trusted.",
    trusted=True,
    chosen="distilled",
    threshold=0.5,
    reference_name="test accuracy",
    num_architectures=12,
    num_asked=24,
    seconds=10.0,
    frontier="results/frontier.png",
    standings=(
        StandingRow(
            "distilled", {"name": "x"}, "chosen", "why", 12, ESTIMATE, 1.0, 0, 0.2, 0.99, None
        ),
        StandingRow("stream", {}, "failed", "why", 0, None, 2.0, 12, None, 0.99, LONE),
    ),
    points=(CalibrationPoint(ARCHITECTURE, ARCHITECTURE.id, 0.9, {"distilled": 1.0, "x": None}),),
)
VERSION = CompressedVersion(
    name="float32",
    val_accuracy=0.5,
    num_parameters=650,
    file_bytes=7,
    zipped_bytes=6,
    latency=LATENCY,
    peak_memory_mib=1.0,
    class_agreement=1.0,
    largest_difference=0.0,
    largest_logit=2.0,
    train_seconds=0.0,
    paid_seconds=0.0,
    test_accuracy=ESTIMATE,
    file="float32.onnx",
)
COMPRESSION = CompressionResult((VERSION,), "one is missing")
RETRAINED = RetrainRow(
    role="best",
    architecture=ARCHITECTURE,
    architecture_id=ARCHITECTURE.id,
    description="two blocks",
    score=-0.5,
    search_rank=1,
    share_below=0.75,
    chosen_from="4 trials of the search",
    num_params=5000.0,
    flops=1e6,
    val_accuracy=SeedAccuracy(0.5, 0.1, (0.4, 0.6), 0.0, 1.0),
    test_accuracy=SeedAccuracy(0.5, None, (0.5,)),
    train_seconds=(1.0, 2.0),
    failures=("why",),
    curves=Curves(((1, 2.0), (2, 1.0)), ((2, 0.5),)),
    phases=(("all", 2),),
    model=ModelFiles(
        "champion",
        (ExportedFile("model.safetensors", 0.0, 2), ExportedFile("model.onnx", None, 0, "why")),
        0,
        ESTIMATE,
    ),
)
ALL_FAILED = replace(
    RETRAINED, role="median", search_rank=None, share_below=None, val_accuracy=None,
    test_accuracy=None, train_seconds=(), curves=None, phases=(), model=None,
)  # fmt: skip
RETRAIN = RetrainResult(
    verdict="It is better.",
    num_seeds=2,
    rows=(RETRAINED, ALL_FAILED),
    knowledge_distillation=DISTILLATION,
    compressed=COMPRESSION,
    comparisons=(Comparison("median", "another", LONE, "unknown"),),
    test_images=100,
    hardware="a processor",
)
PROXY_EVALUATION = {
    "proxy_dataset": replace(
        PROXY_DATASET, labelling=Labelling("soft", 4.0, "view", (TEACHER,)), networks=(TEACHER,)
    ),
    "classes": ("a", "b"),
    "settings": {"protocol": "short"},
    "num_seeds": 2,
    "hardware": "a processor",
    "versions": {"torch": "2.9"},
}
ACCURACY = ProxyAccuracy(
    **PROXY_EVALUATION,
    protocol="short",
    num_steps=3,
    networks=(
        NetworkAccuracies(
            "MLP", {"as it is": SeedMean(0.5, 0.1, (0.4, 0.6))}, SeedMean(0.1, None), None, 0.5,
            ((3, 1), (2, 2)), (0.75, 0.5), {"full data": ("why",)},
        ),
        NetworkAccuracies("ConvNet", {}, None, None, None, (), (), {}),
    ),
    stability=Stability(0.1, 0.2, 0.3, None),
    seconds={"as it is": 2.0},
)  # fmt: skip
REPLAY = ProxyReplay(
    **PROXY_EVALUATION,
    memories=(
        LearnerMemory(
            name="herding",
            after_each_task=((1.0, 0.5), (0.75, 0.25)),
            final_accuracy=SeedMean(0.375, 0.125, (0.5, 0.25)),
            forgetting=SeedMean(0.0, None),
            seconds=1.0,
        ),
    ),
    num_tasks=2,
    learner="MLP",
)
BARE_REPORT = make_report(validated=False, num_trials=3)
REPORT = replace(
    make_report(num_architectures=12, num_trials=3, costs=("latency",)),
    calibration=CALIBRATION,
    evaluate_proxy=ProxyEvaluations(ACCURACY, None),
    retrain=RETRAIN,
)
RESULTS = {
    "search": SEARCH,
    "search that found nothing": NOTHING_FOUND,
    "guard": GUARD,
    "calibration": CALIBRATION,
    "calibration of nothing": replace(CALIBRATION, chosen=None, standings=(), points=()),
    "compression": COMPRESSION,
    "compression of nothing": CompressionResult((), ""),
    "retraining": RETRAIN,
    "retraining, plain": replace(
        RETRAIN, knowledge_distillation=None, compressed=None, comparisons=()
    ),
    "accuracy": ACCURACY,
    "accuracy of one network": replace(ACCURACY, stability=None, networks=ACCURACY.networks[1:]),
    "replay": REPLAY,
    "rank report": REPORT.validation,
    "points": Points(REPORT.points),
    "no points": Points(()),
    "report": REPORT,
    "report of a search alone": BARE_REPORT,
}


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_a_result_is_read_back_as_it_was_written(result: StoredResult, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "result.json"
    result.write(path)
    assert type(result).read(path) == result
    assert json.loads(path.read_text())["format"] == result.FORMAT


@dataclass(frozen=True)
class Example(StoredResult):
    FORMAT: ClassVar[int] = 3

    architecture: Architecture
    figures: tuple[Estimate | None, ...]
    named: dict[str, float]
    phases: tuple[tuple[str, int], ...] = ()


FINITE = st.floats(allow_nan=False, allow_infinity=False)
GENOTYPES = st.recursive(
    st.none() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
EXAMPLES = st.builds(
    Example,
    architecture=st.builds(Architecture, st.text(max_size=5), GENOTYPES),
    figures=st.lists(
        st.none() | st.builds(Estimate, FINITE, st.none() | FINITE, FINITE), max_size=3
    ).map(tuple),
    named=st.dictionaries(st.text(max_size=5), FINITE, max_size=3),
    phases=st.lists(st.tuples(st.text(max_size=5), st.integers()), max_size=3).map(tuple),
)


@settings(max_examples=40)
@given(EXAMPLES)
def test_whatever_it_holds(example: Example) -> None:
    assert Example.from_json(json.loads(json.dumps(example.to_json()))) == example


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_written(value: float, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    example = Example(ARCHITECTURE, (), {"a": 1.0})
    example.write(path)
    for wrong in (
        replace(example, named={"a": value}),
        replace(example, figures=(Estimate(value, None, None),)),
    ):
        with pytest.raises(ValueError, match="not JSON compliant"):
            wrong.write(path)
    assert Example.read(path) == example
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


WHOLE = Example(ARCHITECTURE, (ESTIMATE,), {"a": 1.0}).to_json()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("", "is damaged"),
        (json.dumps(WHOLE)[:40], "is damaged"),
        ("[]", "another version of nas_proxy or is damaged (format None, not 3)"),
        (json.dumps({**WHOLE, "format": 2}), "another version of nas_proxy or is damaged (format"),
        (json.dumps({k: v for k, v in WHOLE.items() if k != "format"}), "(format None, not 3)"),
        (json.dumps({**WHOLE, "figures": [{"value": "high"}]}), "is damaged (figures.0.value: "),
        (json.dumps({**WHOLE, "named": {"a": "1.0"}}), "is damaged (named.a: "),
        (json.dumps({**WHOLE, "architecture": {"space": "s"}}), "is damaged ('genotype')"),
        (json.dumps({**WHOLE, "architecture": 4}), "is damaged ("),
        (json.dumps({k: v for k, v in WHOLE.items() if k != "named"}), "(named: Field required)"),
    ],
)
def test_what_cannot_be_read_is_refused_with_one_sentence(
    content: str | None, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "result.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StudyError) as refused:
        Example.read(path)
    message = str(refused.value)
    assert message.startswith(f"{path} ")
    assert words in message
    assert "choose another study_name, or pass --force" in message
    assert len(message.splitlines()) == 1


def test_the_file_of_an_earlier_release_is_refused(tmp_path: Path) -> None:
    plain = SEARCH.to_json()
    del plain["format"]
    (tmp_path / "search.json").write_text(json.dumps(plain))
    with pytest.raises(StudyError, match="written by another version of nas_proxy"):
        SearchResult.read(tmp_path / "search.json")


def test_another_kind_of_result_is_no_result_of_this_kind(tmp_path: Path) -> None:
    GUARD.write(tmp_path / "guard.json")
    with pytest.raises(StudyError, match=r"guard.json is damaged \(recipe: Field required\)"):
        SearchResult.read(tmp_path / "guard.json")


def test_the_report_knows_the_judged_ranking() -> None:
    again = StudyReport.from_json(REPORT.to_json()).validation
    assert again is not None
    assert again.judged.kind == "proxy"
    assert all(row.kind != "proxy" for row in again.rows)
