"""The end of a study: what is trained fully, what chose it, and what it is compared with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import nas_proxy
from nas_proxy.data.sources import load_splits
from nas_proxy.errors import ConfigError, StudyError
from nas_proxy.evaluate import factory, final_test
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.evaluate.network import NetworkEvaluator
from nas_proxy.networks.catalogue import NetworkSettings
from nas_proxy.study import pipeline
from nas_proxy.study.config import StudyConfig, check_config, load_config
from nas_proxy.study.pipeline import run_pipeline
from nas_proxy.types import Splits
from tests.helpers.display import Quiet
from tests.study.helpers_retrain import TINY, read, without_clocks


def config(results: Path, **changes: Any) -> StudyConfig:
    return check_config({**TINY, "results": str(results), **changes})


def retrain(**changes: Any) -> dict[str, Any]:
    return {**TINY["retrain"], **changes}


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every training on full data and every look at the test images, in order."""
    seen: list[str] = []
    train, test = NetworkEvaluator.evaluate, final_test.FinalTest.evaluate

    def spy_train(self: Any, *arguments: Any) -> Any:
        if self.keep is not None:
            seen.append("train")
        return train(self, *arguments)

    def spy_test(self: Any, *arguments: Any) -> Any:
        seen.append("test")
        return test(self, *arguments)

    monkeypatch.setattr(NetworkEvaluator, "evaluate", spy_train)
    monkeypatch.setattr(final_test.FinalTest, "evaluate", spy_test)
    return seen


def test_the_line_ends_with_models_and_meets_the_test_split_once(
    tmp_path: Path, events: list[str]
) -> None:
    study = config(tmp_path)
    display = Quiet()
    run_pipeline(study, display, last="retrain")
    assert events == ["train"] * 8 + ["test"] * 8  # (2 + median + ResNet-18) x 2 seeds
    result = read(study.layout.folder, "retrain", "retrain.json")
    rows = result["rows"]
    assert [row["role"] for row in rows] == ["best", "best", "median", "resnet18"]
    search = read(study.layout.folder, "search", "search.json")
    ranked = [trial["architecture_id"] for trial in search["best"]]
    assert {row["architecture_id"] for row in rows[:2]} == set(ranked[:2])
    assert rows[2]["architecture_id"] in ranked[2:]
    assert rows[0]["val_accuracy"]["mean"] >= rows[1]["val_accuracy"]["mean"]
    smallest = NetworkSettings(name="resnet18", width=1, norm="batch")
    assert rows[3]["architecture"]["genotype"] == vars(smallest)
    assert result["verdict"] in "".join(display.said)

    # The champion's file gives the figures that were reported of it.
    splits = load_splits(study.data)
    folder = study.layout.folder / "retrain" / "champion"
    model = nas_proxy.load_model(folder / "model.safetensors")
    for split, found in (
        (splits.test, rows[0]["test_accuracy"]["values"][rows[0]["model"]["chosen_seed"]]),
        (splits.search_val, max(rows[0]["val_accuracy"]["values"])),
    ):
        with torch.no_grad():
            taken = model(split.images.float() / 255).argmax(dim=1)
        assert float((taken == split.labels).float().mean()) == pytest.approx(found)
    card = read(folder, "card.json")
    assert card["test_accuracy"]["value"] == rows[0]["model"]["single_test_accuracy"]["value"]
    assert card["num_params"] == sum(p.numel() for p in model.network.parameters())
    assert card["latencies"][0]["median_seconds"] > 0
    page = (folder / "card.md").read_text()
    assert "CC BY 4.0" in page
    assert f"**Parameters:** {card['num_params']:,}" in page
    assert f"{100 * card['test_accuracy']['value']:.1f} % [" in page
    assert (study.layout.folder / "retrain" / "runner_up_1" / "model.safetensors").is_file()
    assert not (study.layout.folder / "retrain" / "weights" / "unfinished").exists()

    # The guide's lines work on it as they are printed.
    guide = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    lines = guide[guide.index("import nas_proxy\n") :].partition("```")[0]
    names: dict[str, Any] = {"images": torch.rand(3, 1, 8, 8)}
    exec(lines.replace("results/quickstart/retrain/champion", str(folder)), names)
    assert names["logits"].shape == (3, 10)

    # Again: nothing is trained or tested anew, also by a longer search that finds nothing better.
    before = list(events)
    run_pipeline(study, display, last="retrain")
    assert events == before
    longer = config(tmp_path, search={**TINY["search"], "n_trials": 5})
    run_pipeline(longer, display, last="retrain")
    again = {
        row["architecture_id"]
        for row in read(study.layout.folder, "retrain", "retrain.json")["rows"]
    }
    new = again - {row["architecture_id"] for row in rows}
    assert len(events) == len(before) + 4 * len(new)


def with_other_test_images(settings: Any, **options: Any) -> Splits:
    """The same data, but for a test split that says the opposite."""
    splits = load_splits(settings, **options)
    test = splits.test
    flipped = replace(test, images=255 - test.images, labels=9 - test.labels)
    return replace(splits, test=flipped)


@pytest.mark.exhaustive
def test_no_choice_depends_on_the_test_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = retrain(comparisons=[])
    studies = [config(tmp_path / name, retrain=settings) for name in ("real", "other")]
    run_pipeline(studies[0], Quiet(), last="retrain")
    for module in (pipeline, factory, final_test):
        monkeypatch.setattr(module, "load_splits", with_other_test_images)
    run_pipeline(studies[1], Quiet(), last="retrain")
    real, other = (read(s.layout.folder, "retrain", "retrain.json") for s in studies)
    assert real["rows"][0]["test_accuracy"] != other["rows"][0]["test_accuracy"]
    kept = ("architecture_id", "val_accuracy", "curves", "role")
    for row, twin in zip(real["rows"], other["rows"], strict=True):
        assert {k: row[k] for k in kept} == {k: twin[k] for k in kept}
        chosen, also = ((each["model"] or {}).get("chosen_seed") for each in (row, twin))
        assert chosen == also
    weights = [s.layout.folder / "retrain" / "champion" / "model.safetensors" for s in studies]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.exhaustive
def test_the_report_and_the_median_of_a_validated_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("No ONNX function found for <OpOverload(op='aten.roll', overload='')>")

    monkeypatch.setattr(torch.onnx, "export", fail)
    validation = {
        "num_architectures": 5,
        "k": 2,
        "controls": [],
        "reference": {"train": {"num_steps": 3, "batch_size": 16, "learning_rate": 0.02}},
    }
    settings = retrain(num_architectures=1, formats=["onnx", "torch_export"])
    study = config(tmp_path, validate=validation, retrain=settings)
    run_pipeline(study, Quiet())
    report = read(study.layout.folder, "report.json")
    best, median, resnet = report["retrain"]["rows"]
    points = read(study.layout.folder, "validate", "points.json")["points"]
    (proxy, *_) = points[0]["scores"]
    others = [p for p in points if p["architecture_id"] != best["architecture_id"]]
    ranked = sorted(others, key=lambda point: -point["scores"][proxy])
    assert median["architecture_id"] == ranked[len(ranked) // 2]["architecture_id"]
    assert best["share_below"] == sum(p["scores"][proxy] < best["score"] for p in points) / 5
    assert [c["role"] for c in report["retrain"]["comparisons"]] == ["median", "resnet18"]
    html = (study.layout.folder / "report.html").read_text()
    assert 'id="retrained"' in html
    assert resnet["description"] in html
    assert "<b>missing:</b> it cannot be exported to ONNX: the operator aten.roll has no" in html
    assert html.count("data:image/png") >= 2
    champion = study.layout.folder / "retrain" / "champion"
    assert {path.name for path in champion.iterdir()} == {
        "architecture.json", "card.json", "card.md", "model.pt2", "model.safetensors",
    }  # fmt: skip
    assert "`model.onnx`: missing: it cannot be exported" in (champion / "card.md").read_text()
    paid = {entry["what"]: entry["count"] for entry in report["costs"]}
    assert paid["retrain: training"] == paid["retrain: test"] == 6


def test_without_a_section_nothing_is_trained(tmp_path: Path) -> None:
    study = config(tmp_path, retrain=None)
    display = Quiet()
    run_pipeline(study, display)
    assert any("no section retrain" in said for said in display.said)
    assert not (study.layout.folder / "retrain").exists()
    assert "retrained" not in (study.layout.folder / "report.html").read_text()


@pytest.mark.exhaustive
def test_a_reduced_space_is_retrained_and_exported_as_it_was_trained(tmp_path: Path) -> None:
    space = {"name": "nasbench201", "num_cells": 2}
    train = {"num_steps": 2, "batch_size": 16, "space_fidelity": {"num_cells": 1}, "image_size": 16}
    settings = retrain(num_architectures=1, num_seeds=1, train=train, comparisons=["resnet18"])
    search = {**TINY["search"], "n_trials": 1}
    study = config(tmp_path, space=space, retrain=settings, search=search)
    run_pipeline(study, Quiet(), last="retrain")
    model = nas_proxy.load_model(study.layout.folder / "retrain" / "champion" / "model.safetensors")
    assert model.origin.space_options["num_cells"] == 1
    assert model(torch.rand(2, 1, 16, 16)).shape == (2, 10)
    assert read(study.layout.folder, "retrain", "champion", "card.json")["over_seeds"]["values"]


def test_trainings_that_all_diverge_are_said(tmp_path: Path) -> None:
    train = {"num_steps": 60, "learning_rate": 1e30, "schedule": "constant"}
    study = config(tmp_path, retrain=retrain(num_architectures=1, num_seeds=1, train=train))
    with pytest.raises(StudyError, match=r"could be trained \(.*not finite.*\); change retrain.t"):
        run_pipeline(study, Quiet(), last="retrain")
    log = EvaluationLog(study.layout.folder / "retrain" / "training.jsonl")
    assert len(log) == 3
    assert not (study.layout.folder / "retrain" / "test.jsonl").exists()


def test_the_pareto_front_of_a_search_is_retrained(tmp_path: Path) -> None:
    search = {**TINY["search"], "n_trials": 8, "objectives": ["score", "num_params"]}
    settings = retrain(num_architectures=None, pick="all", num_seeds=1, comparisons=[])
    study = config(tmp_path, search=search, retrain=settings)
    run_pipeline(study, Quiet(), last="retrain")
    rows = read(study.layout.folder, "retrain", "retrain.json")["rows"]
    by_size = sorted(rows, key=lambda row: row["num_params"])
    scores = [row["score"] for row in by_size]
    assert scores == sorted(scores)  # more parameters only for a better score
    trials = read(study.layout.folder, "search", "search.json")["trials"]
    assert max(trial["score"] for trial in trials) == scores[-1]
    assert len(list((study.layout.folder / "retrain").glob("runner_up_*"))) == len(rows) - 1


@pytest.mark.exhaustive
def test_teachers_teach_all_networks_of_the_table(tmp_path: Path) -> None:
    small = {"num_steps": 3, "batch_size": 16, "learning_rate": 0.02}
    teacher = {"network": {"name": "convnet", "width": 8, "depth": 1}, "train": small}
    knowledge_distillation = {
        "kind": "response",
        "temperature": "auto",
        "teachers": [teacher],
        "auto_num_steps": 2,
    }
    plain = retrain(num_architectures=1, num_seeds=1)
    taught = {**plain, "knowledge_distillation": knowledge_distillation}
    studies = [
        config(tmp_path / name, retrain=section)
        for name, section in (("plain", plain), ("taught", taught))
    ]
    run_pipeline(studies[0], Quiet(), last="retrain")
    run_pipeline(studies[1], Quiet())
    without, result = (read(study.layout.folder, "retrain", "retrain.json") for study in studies)
    for row, other in zip(result["rows"], without["rows"], strict=True):
        assert row["architecture_id"] == other["architecture_id"]
        assert row["curves"]["train_loss"] != other["curves"]["train_loss"]
    record = result["knowledge_distillation"]
    assert record["terms"] == ["response (hinton)"]
    assert record["auto"]["chosen"][0]["temperature"] in (1.0, 2.0, 4.0, 8.0)
    assert len(record["auto"]["trials"]) == 4
    assert record["num_leaked_images"] == [0]
    card = read(studies[1].layout.folder, "retrain", "champion", "card.json")
    assert any(name.startswith("teacher ConvNet") for name in card["licences"])
    html = (studies[1].layout.folder / "report.html").read_text()
    assert "learned by distillation: response (hinton), from ConvNet" in html
    paid = [entry["what"] for entry in read(studies[1].layout.folder, "report.json")["costs"]]
    assert "retrain: teaching" in paid
    assert "retrain: choosing temperature and weight" in paid
    # The resolved configuration gives the same study.
    again = load_config(studies[1].layout.folder / "config.yaml")
    assert again.retrain == studies[1].retrain


def test_a_changed_recipe_is_refused_and_force_repeats(tmp_path: Path, events: list[str]) -> None:
    settings = retrain(num_architectures=1, num_seeds=1, comparisons=[])
    study = config(tmp_path, retrain=settings)
    run_pipeline(study, Quiet(), last="retrain")
    first = read(study.layout.folder, "retrain", "retrain.json")
    train = {**TINY["retrain"]["train"], "learning_rate": 0.05}
    changed = config(tmp_path, retrain={**settings, "train": train})
    with pytest.raises(StudyError, match=r"retrain.train.learning_rate: 0.02 -> 0.05"):
        run_pipeline(changed, Quiet(), last="retrain")
    run_pipeline(changed, Quiet(), last="retrain", force=True)
    assert events == ["train", "test"] * 2
    run_pipeline(study, Quiet(), last="retrain", force=True)
    repeated = read(study.layout.folder, "retrain", "retrain.json")
    assert without_clocks(repeated) == without_clocks(first)


def test_faults_of_the_section_are_all_said_at_once() -> None:
    faulty = retrain(formats=["onx"], train={"num_steps": 5, "space_fidelity": {"num_cell": 1}})
    with pytest.raises(ConfigError, match=r"retrain.formats.0: .*'onnx' or 'torch_export'"):
        config(Path("unused"), retrain=faulty)
    faulty = retrain(train={"num_steps": 5, "space_fidelity": {"num_cell": 1}})
    with pytest.raises(ConfigError, match=r"retrain.train.space_fidelity.num_cell: not a fidelity"):
        config(Path("unused"), retrain=faulty)
    faulty = {"train": {"num_steps": 5}, "pick": "knee"}
    with pytest.raises(ConfigError, match=r"retrain.pick: knee is for a Pareto front, but score"):
        config(Path("unused"), retrain=faulty)
    with pytest.raises(ConfigError, match=r"retrain.num_architecture: unknown key; did you mean"):
        config(Path("unused"), retrain=retrain(num_architecture=2))
