"""What candidates of a search learn from teachers: what it changes, costs, and must not see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.sources import load_splits
from nas_proxy.errors import ConfigError, StudyError
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.interfaces import DistillContext
from nas_proxy.study.config import StudyConfig, check_config
from nas_proxy.study.pipeline import run_pipeline
from nas_proxy.teachers.training import obtain_teacher
from tests.helpers.display import Quiet
from tests.study.helpers_calibrate import DISTILLED, STREAM, result_of, run
from tests.study.helpers_retrain import TINY, read

SHORT = {"num_steps": 3, "batch_size": 16, "learning_rate": 0.02, "precision": "float32"}
TEACHER = {"network": {"name": "convnet", "width": 8, "depth": 1}, "train": SHORT}
RESPONSE = {"kind": "response", "teachers": [TEACHER]}
VALIDATE = {
    "num_architectures": 6,
    "k": 2,
    "controls": ["log_synflow"],
    "reference": {"train": SHORT},
}


def config(results: Path, **changes: Any) -> StudyConfig:
    kept = {key: value for key, value in TINY.items() if key != "retrain"}
    return check_config({**kept, "results": str(results), **changes})


def scores(study: StudyConfig) -> dict[str, float]:
    trials = read(study.layout.folder, "search", "search.json")["trials"]
    return {trial["architecture_id"]: trial["score"] for trial in trials}


def losses(study: StudyConfig, name: str) -> list[float]:
    log = EvaluationLog(study.layout.folder / "validate" / f"{name}.jsonl")
    return [e.signals["val_loss"] for e in log]


@pytest.mark.exhaustive
def test_teachers_teach_candidates_and_controls_and_are_paid_for(tmp_path: Path) -> None:
    plain = config(tmp_path / "plain", validate=VALIDATE)
    taught = config(tmp_path / "taught", validate=VALIDATE, knowledge_distillation=RESPONSE)
    for study in (plain, taught):
        run_pipeline(study, Quiet())
    assert scores(plain).keys() == scores(taught).keys()  # the same draws
    for architecture, score in scores(plain).items():
        assert scores(taught)[architecture] != score
    for name in ("proxy", "random_subset", "same_steps_full_data"):
        pairs = zip(losses(plain, name), losses(taught, name), strict=True)
        assert all(without != with_teacher for without, with_teacher in pairs)
    # Full training is what it was: candidates alone are taught.
    references = [
        [
            dict(e.signals)
            for e in EvaluationLog(study.layout.folder / "validate" / "reference.jsonl")
        ]
        for study in (plain, taught)
    ]
    for without, with_teacher in zip(*references, strict=True):
        assert without["test_accuracy"] == with_teacher["test_accuracy"]
    record = read(taught.layout.folder, "search", "search.json")["knowledge_distillation"]
    assert record["terms"] == ["response (hinton)"]
    assert record["num_leaked_images"] == [0]
    report = read(taught.layout.folder, "report.json")
    (paid,) = (e for e in report["costs"] if e["what"].startswith("candidates: teaching ConvNet"))
    assert paid["seconds"] == record["teaching_seconds"] > 0
    proxy = read(taught.layout.folder, "validate", "rank_report.json")["judged"]
    distilling = ProxyDataset.load(
        taught.layout.folder / "distill" / "proxy.safetensors"
    ).cost_seconds
    assert proxy["one_off_seconds"] == pytest.approx(distilling + paid["seconds"])
    html = (taught.layout.folder / "report.html").read_text()
    assert "every candidate learned by distillation: response (hinton), from ConvNet" in html
    assert "every candidate learned" not in (plain.layout.folder / "report.html").read_text()

    # Again, as it is written down: everything is there. Another distillation is another search.
    resolved = check_config(taught.resolved)
    assert resolved == taught
    again = Quiet()
    run_pipeline(resolved, again, last="search")
    assert "search: finished already" in again.said
    changed = {**RESPONSE, "temperature": 2}
    other = config(tmp_path / "taught", validate=VALIDATE, knowledge_distillation=changed)
    with pytest.raises(StudyError, match=r"knowledge_distillation\.terms"):
        run_pipeline(other, Quiet(), last="search")


@pytest.mark.parametrize("variant", ["generations", "exits"])
def test_candidates_teach_themselves(tmp_path: Path, variant: str) -> None:
    study = config(tmp_path, knowledge_distillation={"kind": "self", "variant": variant})
    run_pipeline(study, Quiet(), last="search")
    trials = read(study.layout.folder, "search", "search.json")["trials"]
    assert sum(trial["score"] is not None for trial in trials) >= 2
    for trial in trials:  # one without pooling has no shallower stage
        expected = "self (exits) needs feature maps of two resolutions or more"
        assert trial["score"] is not None or trial["reason"].startswith(expected)
    assert not list((study.layout.folder / "teachers").glob("*.safetensors"))


def test_a_teacher_that_has_seen_held_out_images_is_refused_unless_that_is_said(
    tmp_path: Path,
) -> None:
    other = config(tmp_path, knowledge_distillation=RESPONSE, data={**TINY["data"], "seed": 1})
    splits = load_splits(other.data)  # its search-training images judge in the study here
    context = DistillContext(device=torch.device("cpu"))
    (settings,) = other.knowledge_distillation.all_teachers
    leaking = obtain_teacher(settings, splits.search_train, context)
    leaking.save(tmp_path / "leaking.safetensors")
    section = {"kind": "response", "teachers": [str(tmp_path / "leaking.safetensors")]}
    with pytest.raises(StudyError, match=r"set knowledge_distillation\.allow_leakage=true"):
        run_pipeline(config(tmp_path, knowledge_distillation=section), Quiet(), last="search")
    allowed = config(tmp_path, knowledge_distillation={**section, "allow_leakage": True})
    run_pipeline(allowed, Quiet())
    assert "The teachers have seen" in (allowed.layout.folder / "report.html").read_text()


def test_a_replaced_teacher_does_not_go_on_with_the_work_of_another(
    tmp_path: Path,
) -> None:
    file = tmp_path / "teacher.safetensors"

    def save_teacher(seed: int) -> None:
        study = config(
            tmp_path, knowledge_distillation={**RESPONSE, "teachers": [{**TEACHER, "seed": seed}]}
        )
        (settings,) = study.knowledge_distillation.all_teachers
        images = load_splits(study.data).search_train
        context = DistillContext(device=torch.device("cpu"))
        obtain_teacher(settings, images, context).save(file)

    def study(num_trials: int) -> StudyConfig:
        search = {**TINY["search"], "n_trials": num_trials}
        section = {"kind": "response", "teachers": [str(file)]}
        return config(tmp_path, knowledge_distillation=section, search=search)

    save_teacher(0)
    run_pipeline(study(1), Quiet(), last="search")
    save_teacher(1)
    with pytest.raises(StudyError, match="not what they were when this study began to learn"):
        run_pipeline(study(2), Quiet(), last="search")
    save_teacher(0)
    run_pipeline(study(2), Quiet(), last="search")


def test_a_teacher_that_diverges_is_a_users_error(tmp_path: Path) -> None:
    wild = {**TEACHER, "train": {**SHORT, "learning_rate": 1e9, "num_steps": 10}}
    section = {"kind": "response", "teachers": [wild]}
    with pytest.raises(StudyError, match=r"diverged: .*lower its train\.learning_rate"):
        run_pipeline(config(tmp_path, knowledge_distillation=section), Quiet(), last="search")


def test_whitened_images_have_no_teachers(tmp_path: Path) -> None:
    whitened = {"name": "kernel_ridge", "images_per_class": 1, "num_steps": 2, "network_width": 4}
    with pytest.raises(StudyError, match="ZCA-whitened"):
        run_pipeline(config(tmp_path, distill=whitened, knowledge_distillation=RESPONSE), Quiet())
    run_pipeline(
        config(tmp_path, distill=whitened, knowledge_distillation="self"), Quiet(), last="search"
    )


@pytest.mark.exhaustive
def test_calibrate_races_a_recipe_with_teachers_against_the_same_without(tmp_path: Path) -> None:
    taught = {**STREAM, "name": "taught", "knowledge_distillation": RESPONSE}
    run(
        tmp_path,
        calibrate={"recipes": [STREAM, taught, {**DISTILLED, "knowledge_distillation": "self"}]},
    )
    points = result_of(tmp_path)["standings"]
    assert {point["recipe"] for point in points} == {"stream", "taught", "distilled"}
    folder = tmp_path / "tiny" / "calibrate"
    logs = [EvaluationLog(path) for path in sorted(folder.glob("*.jsonl"))]
    assert len(logs) == 3
    by_architecture = [{e.architecture: e.signals["val_loss"] for e in log} for log in logs]
    shared = set.intersection(*map(set, by_architecture))
    assert shared
    assert all(len({log[a] for log in by_architecture}) == 3 for a in shared)


@pytest.mark.exhaustive
def test_a_recipe_that_was_found_teaches_its_candidates(tmp_path: Path) -> None:
    taught = {**STREAM, "name": "taught", "knowledge_distillation": RESPONSE}
    run(tmp_path, last="search", calibrate={"recipes": [taught]})
    search = read(tmp_path / "tiny", "search", "search.json")
    assert search["recipe"] == "taught"
    assert search["knowledge_distillation"]["teachers"][0]["description"].startswith("ConvNet")
    run(tmp_path / "alone", last="search", calibrate={"recipes": [STREAM]})
    alone = read(tmp_path / "alone" / "tiny", "search", "search.json")
    assert alone["knowledge_distillation"] is None
    for trial, other in zip(search["trials"], alone["trials"], strict=True):
        assert trial["architecture_id"] == other["architecture_id"]
        assert trial["score"] != other["score"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"knowledge_distillation": {**RESPONSE, "temperature": "auto"}},
            "knowledge_distillation: auto is chosen by short trainings of one network",
        ),
        (
            {"knowledge_distillation": RESPONSE, "score": {"signals": ["naswot"]}},
            "knowledge_distillation: nothing is trained here",
        ),
        (
            {"knowledge_distillation": {**RESPONSE, "unlabelled": "more"}},
            "knowledge_distillation: unlabelled images can be mixed among real ones alone",
        ),
        ({"knowledge_distillation": {"kind": "respnse"}}, "did you mean 'response'"),
        (
            {
                "knowledge_distillation": RESPONSE,
                "calibrate": {"reference": {"train": SHORT}, "num_architectures": 12},
                "score": None,
            },
            "knowledge_distillation: recipe is calibrated",
        ),
        (
            {
                "calibrate": {
                    "reference": {"train": SHORT},
                    "recipes": [
                        {
                            "name": "zero",
                            "train_on": "nothing",
                            "score": {"signals": ["flops"]},
                            "knowledge_distillation": RESPONSE,
                        }
                    ],
                },
                "score": None,
            },
            "nothing is trained here",
        ),
    ],
)
def test_what_makes_no_sense_is_one_sentence(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    given = {key: value for key, value in {**TINY, **changes}.items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        check_config({**given, "results": str(tmp_path)})
