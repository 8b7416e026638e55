"""The stage `calibrate`: from recipes and full-data references to a recipe that can be trusted."""

import csv
import json
import shutil
from types import SimpleNamespace

import pytest
from PIL import Image
from scipy import stats

from nas_proxy.errors import DataError, StudyError
from nas_proxy.evaluate.network import NetworkEvaluator
from nas_proxy.study.recipe import load_recipe
from tests.study.helpers_calibrate import (
    CONFIG,
    SPACE,
    ZERO_COST,
    Interrupted,
    command,
    genotypes,
    logs,
    poison_test_split,
    result_of,
    run,
    table,
)

pytestmark = pytest.mark.usefixtures("no_test_split")

UNREACHABLE = {"threshold": 0.95, "num_architectures": 20, "recipes": [ZERO_COST]}


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A finished calibration whose threshold every recipe reaches, and what was said."""
    folder = tmp_path_factory.mktemp("calibrated")
    with pytest.MonkeyPatch.context() as monkeypatch:
        poison_test_split(monkeypatch)
        return folder, run(folder)


# --- what it leaves ---------------------------------------------------------------------------


def test_it_leaves_the_verdict_the_frontier_and_the_recipe(calibrated):
    folder, said = calibrated
    result = result_of(folder)
    assert result["trusted"]
    assert result["num_architectures"] == result["num_asked"] == 12
    assert result["reference_name"] == "validation accuracy after full-data training (8 steps)"
    assert {s["recipe"] for s in result["standings"]} == {
        "zero_cost", "stream", "stream_and_flops", "distilled"
    }  # fmt: skip
    seconds = [s["seconds_per_architecture"] for s in result["standings"]]
    assert seconds == sorted(seconds)
    (chosen,) = (s for s in result["standings"] if s["outcome"] == "chosen")
    assert chosen["recipe"] == result["chosen"]
    assert result["chosen"] in said[-1]
    assert "can be trusted" in said[-1]
    with Image.open(result["frontier"]) as picture:
        assert min(picture.size) > 300
    recipe = folder / "tiny" / "calibrate" / "recipe"
    assert {path.name for path in recipe.iterdir()} >= {
        "recipe.json", "evaluations.jsonl", "references.json", "proxy.safetensors"
    }  # fmt: skip
    proxy = folder / "tiny" / "distill" / "proxy.safetensors"
    assert (recipe / "proxy.safetensors").read_bytes() == proxy.read_bytes()


def test_its_figures_follow_from_its_logs(calibrated):
    folder, _ = calibrated
    result = result_of(folder)
    study = folder / "tiny"
    (file,) = study.glob("calibration_sample/*/reference.jsonl")
    truth = {
        json.dumps(e["architecture"]["genotype"], sort_keys=True): e["signals"]["val_accuracy"]
        for e in map(json.loads, file.read_text().splitlines())
    }
    (log,) = study.glob("calibrate/proxy_*.jsonl")
    losses = {
        json.dumps(e["architecture"]["genotype"], sort_keys=True): e["signals"]["val_loss"]
        for e in map(json.loads, log.read_text().splitlines())
    }
    expected = stats.spearmanr([-losses[g] for g in truth], list(truth.values())).statistic
    (found,) = (s for s in result["standings"] if s["recipe"] == "distilled")
    assert found["spearman"]["value"] == pytest.approx(expected)
    assert [p["reference"] for p in result["points"]] == pytest.approx(list(truth.values()))


def test_recipes_that_share_a_training_pay_for_it_once(calibrated):
    folder, _ = calibrated
    found = logs(folder)
    assert sum(name.startswith("full_data_") for name in found) == 1
    assert {name for name in found if "_data_" not in name and "proxy_" not in name} == {
        "reference", "num_params_real", "flops_real"
    }  # fmt: skip
    for entries in found.values():
        assert len(entries) == len(set(genotypes(entries))) == 12
        assert set(genotypes(entries)) == set(genotypes(found["reference"]))


def test_the_recipe_can_be_read_back_and_scores_as_it_did(calibrated):
    folder, _ = calibrated
    result = result_of(folder)
    active = load_recipe(folder / "tiny" / "calibrate" / "recipe")
    assert active.recipe.name == result["chosen"]
    assert active.recipe.train is not None
    score = active.score(SPACE)
    scores = {e.architecture.id: score.of(e) for e in active.calibrated_on}
    for point in result["points"]:
        assert scores[point["architecture_id"]] == pytest.approx(point["scores"][result["chosen"]])
    assert set(active.learned_from) == set(active.references)


@pytest.mark.parametrize("name", ["recipe.json", "evaluations.jsonl", "references.json"])
def test_a_recipe_that_lacks_a_file_is_refused(calibrated, tmp_path, name):
    copy = tmp_path / "recipe"
    shutil.copytree(calibrated[0] / "tiny" / "calibrate" / "recipe", copy)
    (copy / name).unlink()
    with pytest.raises(StudyError, match=f"is missing or damaged.*{name}") as raised:
        load_recipe(copy)
    assert len(str(raised.value).splitlines()) == 1


def test_a_second_run_repeats_nothing(calibrated, monkeypatch):
    folder, _ = calibrated
    before = {p: p.read_bytes() for p in (folder / "tiny").rglob("*") if p.is_file()}
    monkeypatch.setattr(NetworkEvaluator, "evaluate", lambda *_: pytest.fail("evaluated again"))
    assert "calibrate: finished already" in run(folder)
    assert {p: p.read_bytes() for p in before} == before


def test_the_search_ranks_by_what_was_found(calibrated):
    folder, _ = calibrated
    run(folder, last="search")
    found = json.loads((folder / "tiny" / "search" / "search.json").read_text())
    assert found["recipe"] == result_of(folder)["chosen"]
    assert not (folder / "tiny" / "search" / "score_reference.jsonl").exists()
    assert len(found["trials"]) == 3


def test_a_killed_calibration_continues_and_repeats_nothing(calibrated, tmp_path, monkeypatch):
    evaluate, count = NetworkEvaluator.evaluate, []

    def dying(self, architecture, seed):
        if len(count) == 17:  # in the first recipe, after the references
            raise Interrupted
        count.append(1)
        return evaluate(self, architecture, seed)

    monkeypatch.setattr(NetworkEvaluator, "evaluate", dying)
    with pytest.raises(Interrupted):
        run(tmp_path)
    before = logs(tmp_path)
    assert sum(map(len, before.values())) == 17
    (cut,) = (tmp_path / "tiny" / "calibrate").glob("*.jsonl")
    with cut.open("ab") as file:
        file.write(b'{"architecture": {"gen')  # what a kill leaves of a line
    monkeypatch.setattr(NetworkEvaluator, "evaluate", evaluate)
    run(tmp_path)
    after = logs(tmp_path)
    assert {name: entries[: len(before.get(name, ()))] for name, entries in after.items()} == {
        name: before.get(name, []) for name in after
    }
    for entries in after.values():
        assert len(entries) == len(set(genotypes(entries))) == 12
    whole, continued = result_of(calibrated[0]), result_of(tmp_path)
    assert continued["points"] == whole["points"]


# --- references from a table ------------------------------------------------------------------


def test_a_table_takes_the_place_of_trainings(tmp_path):
    reference = table(tmp_path)
    said = run(tmp_path, calibrate={"reference": reference, "recipes": [ZERO_COST]})
    result = result_of(tmp_path)
    assert result["reference_name"] == "accuracy of truth.csv"
    assert "reference" not in logs(tmp_path)
    with open(reference["table"]) as file:
        values = {row["name"]: float(row["accuracy"]) for row in csv.DictReader(file)}
    for point in result["points"]:
        architecture = SimpleNamespace(genotype=point["genotype"])
        name = SPACE.to_string(architecture)
        assert point["reference"] == values[name]
    assert "zero_cost" in said[-1]


def test_a_table_that_is_missing_is_named(tmp_path):
    reference = {"table": str(tmp_path / "nothing.csv")}
    with pytest.raises(DataError, match=r"nothing\.csv \(calibrate\.reference\.table\)"):
        run(tmp_path, calibrate={"reference": reference})


# --- none can be trusted ----------------------------------------------------------------------


@pytest.fixture
def unreachable(tmp_path):
    return {**CONFIG["calibrate"], **UNREACHABLE, "reference": table(tmp_path, agreement=0.0)}


def test_stop_ends_with_one_sentence_and_the_frontier(tmp_path, unreachable):
    status, errors = command(tmp_path, "run", calibrate=unreachable)
    assert status == 2, errors
    assert "Traceback" not in errors
    message = errors[errors.index("nas-proxy: ") :]
    for words in ("No recipe reaches a lower bound of .95", "calibrate.threshold", "when_none"):
        assert words in message
    assert len(message.strip().splitlines()) == 1
    result = result_of(tmp_path)
    assert not result["trusted"]
    assert (tmp_path / "tiny" / "calibrate" / "frontier.png").stat().st_size > 0
    assert result["frontier"] in message
    assert not (tmp_path / "tiny" / "search").exists()
    # A finished calibration says the same again, at no cost.
    again, errors = command(tmp_path, "search", calibrate=unreachable)
    assert again == 2
    assert "No recipe reaches" in errors


def test_best_goes_on_untrusted(tmp_path, unreachable):
    run(tmp_path, last="search", calibrate={**unreachable, "when_none": "best"})
    assert not result_of(tmp_path)["trusted"]
    found = json.loads((tmp_path / "tiny" / "search" / "search.json").read_text())
    assert found["recipe"] == "zero_cost"
