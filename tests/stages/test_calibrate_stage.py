"""The stage `calibrate`: from recipes and full-data references to a recipe that can be trusted."""

import contextlib
import csv
import io
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy import stats

from nas_proxy import cli, pipeline
from nas_proxy.config import check_config
from nas_proxy.data.sources import load_splits
from nas_proxy.errors import DataError, StudyError
from nas_proxy.evaluate import factory as factory_module
from nas_proxy.evaluate.network import NetworkEvaluator
from nas_proxy.interfaces import no_progress
from nas_proxy.pipeline import run_pipeline
from nas_proxy.search import guard as guard_module
from nas_proxy.stages.recipe import load_recipe
from search_spaces.convnet import ConvNetSpace

SHORT = {"num_steps": 4, "batch_size": 16, "learning_rate": 0.05, "precision": "float32"}
ZERO_COST = {
    "name": "zero_cost",
    "train_on": "nothing",
    "score": {"signals": ["num_params", "flops"], "combine": "rank_mean"},
}
STREAM = {"name": "stream", "train_on": "full_data", "score": {"signals": ["val_loss"]}}
BOTH = {
    "name": "stream_and_flops",
    "train_on": "full_data",
    "score": {"signals": ["val_accuracy", "flops"], "combine": "rank_mean"},
}
DISTILLED = {"name": "distilled", "train_on": "proxy", "score": {"signals": ["val_loss"]}}
CONFIG = {
    "study_name": "tiny",
    "data": {"name": "digits", "images_per_class": 20},
    "distill": {"name": "random_subset", "images_per_class": 2},
    "space": {"name": "convnet", "widths": [4, 8], "depths": [1, 2]},
    "train": SHORT,
    "search": {"n_trials": 3, "sampler": "random"},
    "tracking": {"enabled": False},
    "calibrate": {
        "reference": {"train": {**SHORT, "num_steps": 8}},
        "num_architectures": 12,
        "threshold": -0.9,
        "recipes": [ZERO_COST, STREAM, BOTH, DISTILLED],
    },
}
UNREACHABLE = {"threshold": 0.95, "num_architectures": 20, "recipes": [ZERO_COST]}


class Lines:
    """A display that remembers what was said."""

    def __init__(self):
        self.said = []

    def say(self, message):
        self.said.append(message)

    def progress(self, title):
        return contextlib.nullcontext(no_progress)


class Interrupted(BaseException):
    """What a kill looks like from inside."""


def run(folder, *, last="calibrate", calibrate=None, **changes):
    """Run a study in `folder`; what it said."""
    merged = {**CONFIG, **changes, "results": str(folder)}
    if calibrate is not None:
        merged["calibrate"] = {**CONFIG["calibrate"], **calibrate}
    display = Lines()
    run_pipeline(check_config(merged), display, last=last)
    return display.said


def command(folder, *words, **changes):
    """Exit status and standard error of the command line."""
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({**CONFIG, **changes, "results": str(folder)}))
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        cli._console.file = errors
        with pytest.raises(SystemExit) as ended:
            cli.main([words[0], str(file), *words[1:]])
    return ended.value.code, errors.getvalue()


def result_of(folder, name="tiny"):
    return json.loads((folder / name / "calibrate" / "calibration.json").read_text())


def logs(folder):
    """The architectures in every log of the calibration, by the log's name."""
    study = folder / "tiny"
    files = [*study.glob("calibrate/*.jsonl"), *study.glob("calibration_sample/*/*.jsonl")]
    return {
        file.stem: [json.loads(line)["architecture"] for line in file.read_text().splitlines()]
        for file in files
    }


def genotypes(entries):
    return [json.dumps(entry["genotype"], sort_keys=True) for entry in entries]


@pytest.fixture(autouse=True)
def _no_test_split(monkeypatch):
    """No calibration may look at the test split; whoever does finds nothing there."""
    poison_test_split(monkeypatch)


def poison_test_split(monkeypatch):
    def load(*arguments, **options):
        splits = load_splits(*arguments, **options)
        return SimpleNamespace(
            search_train=splits.search_train, search_val=splits.search_val, spec=splits.spec
        )

    for module in (factory_module, pipeline):
        monkeypatch.setattr(module, "load_splits", load)


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
    context = SimpleNamespace(config=SimpleNamespace(space=ConvNetSpace()))
    score = active.score(context)
    scores = {e.architecture.id: score.of(e) for e in active.calibrated_on}
    for point in result["points"]:
        assert scores[point["architecture_id"]] == pytest.approx(point["scores"][result["chosen"]])
    assert set(active.learned_from) == set(active.references)


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


# --- the sample -------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_validation_leaves_out_every_genotype_of_a_calibrated_network(tmp_path, monkeypatch):
    def form(space, architecture):
        genotype = architecture.genotype
        return f"{genotype['width']}-{genotype['depth']}-{genotype['norm']}"

    monkeypatch.setattr(ConvNetSpace, "canonical_form", form)
    for module in (factory_module, pipeline):
        monkeypatch.setattr(module, "load_splits", load_splits)  # validation reads the test split
    validate = {
        "reference": {"train": SHORT},
        "num_architectures": 8,
        "num_stratified": 0,
        "controls": ["num_params"],
        "k": 2,
        "num_resamples": 100,
    }
    run(
        tmp_path,
        last="validate",
        validate=validate,
        calibrate={"num_architectures": 7, "recipes": [ZERO_COST]},
        search={"n_trials": 1, "sampler": "random"},
    )
    points = json.loads((tmp_path / "tiny" / "validate" / "points.json").read_text())
    asked = logs(tmp_path)["reference"]
    forms = [
        {form(None, SimpleNamespace(genotype=e["genotype"])) for e in entries}
        for entries in (asked, points)
    ]
    assert len(points) == 8
    assert not forms[0] & forms[1]


def table(folder, *, agreement=1.0):
    """A truth table of the whole space that agrees with the number of parameters so much."""
    rng = np.random.default_rng(0)
    space = ConvNetSpace(widths=(4, 8), depths=(1, 2))
    generator_rows = {}
    import torch

    generator = torch.Generator().manual_seed(0)
    for _ in range(1500):
        architecture = space.sample(generator)
        genotype = architecture.genotype
        size = genotype["width"] * 10 + genotype["depth"] + 0.01 * len(generator_rows)
        generator_rows.setdefault(space.to_string(architecture), size)
    ranks = stats.rankdata(list(generator_rows.values())) / len(generator_rows)
    noise = rng.normal(size=len(ranks))
    file = folder / "truth.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", "accuracy"])
        for name, rank, other in zip(generator_rows, ranks, noise, strict=True):
            writer.writerow([name, agreement * rank + (1 - agreement) * other])
    return {"table": str(file), "architecture": "name", "value": "accuracy"}


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
        name = ConvNetSpace().to_string(architecture)
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


# --- kills and budgets ------------------------------------------------------------------------


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


@pytest.fixture
def second_each(monkeypatch):
    """Every evaluation is said to take a second."""
    evaluate, done = NetworkEvaluator.evaluate, []

    def timed(self, architecture, seed):
        done.append(architecture)
        found = evaluate(self, architecture, seed)
        return replace(found, seconds=1.0, core_seconds=1.0)

    monkeypatch.setattr(NetworkEvaluator, "evaluate", timed)
    return done


# Correlated about as the threshold asks: no round decides it.
OPEN = {"num_architectures": 30, "threshold": 0.6, "recipes": [ZERO_COST], "when_none": "best"}


@pytest.mark.parametrize(("budget", "num"), [(0.5, 12), (50, 24), (1000, 30)])
def test_a_budget_ends_it_after_a_round(tmp_path, second_each, budget, num):
    reference = table(tmp_path, agreement=0.75)
    run(tmp_path, calibrate={**OPEN, "reference": reference, "budget_seconds": budget})
    result = result_of(tmp_path)
    assert result["num_architectures"] == num
    assert result["num_asked"] == 30
    assert result["seconds"] == pytest.approx(2 * num)  # two signals
    assert not result["trusted"]
    assert f"with the {num} full-data references" in result["verdict"]


def test_a_budget_is_not_spent_twice_after_a_kill(tmp_path, second_each, monkeypatch):
    asked = {**OPEN, "reference": table(tmp_path, agreement=0.75), "budget_seconds": 50}
    timed = NetworkEvaluator.evaluate

    def dying(self, architecture, seed):
        if len(second_each) == 24 + 8:  # in the second round
            raise Interrupted
        return timed(self, architecture, seed)

    monkeypatch.setattr(NetworkEvaluator, "evaluate", dying)
    with pytest.raises(Interrupted):
        run(tmp_path, calibrate=asked)
    monkeypatch.setattr(NetworkEvaluator, "evaluate", timed)
    run(tmp_path, calibrate=asked)
    assert result_of(tmp_path)["num_architectures"] == 24
    assert len(second_each) == 48


# --- another study trusts it ------------------------------------------------------------------


@pytest.mark.slow
def test_another_study_takes_the_trusted_recipe_or_is_refused(tmp_path, monkeypatch):
    for module in (factory_module, pipeline):
        monkeypatch.setattr(module, "load_splits", load_splits)  # the report counts its images
    tracked = {"tracking": {}, "search": {"n_trials": 3, "sampler": "random"}}
    calibrate = {"recipes": [DISTILLED], "num_architectures": 8}
    said = run(tmp_path, last="report", calibrate=calibrate, **tracked)
    assert any("alias trusted" in line for line in said)
    first = tmp_path / "tiny"

    trusting = {key: value for key, value in CONFIG.items() if key != "calibrate"}
    trusting |= {**tracked, "recipe": "trusted", "study_name": "other", "results": str(tmp_path)}
    display = Lines()
    run_pipeline(check_config(trusting), display, last="search")
    assert any(line.startswith("recipe: distilled, version 1") for line in display.said)
    other = tmp_path / "other"
    proxies = [(f / "distill" / "proxy.safetensors").read_bytes() for f in (first, other)]
    assert proxies[0] == proxies[1]
    trials = [json.loads((f / "search" / "search.json").read_text()) for f in (first, other)]
    assert [t["recipe"] for t in trials] == ["distilled", "distilled"]
    scores = [[(t["architecture_id"], t["score"]) for t in each["trials"]] for each in trials]
    assert scores[0] == scores[1]

    wider = {"name": "convnet", "widths": [4, 8, 16], "depths": [1, 2]}
    stranger = check_config({**trusting, "study_name": "stranger", "space": wider})
    with pytest.raises(StudyError, match="cannot be trusted here") as raised:
        run_pipeline(stranger, Lines(), last="search")
    assert "widths [4, 8] (here [4, 8, 16])" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


# --- the search finds a fault with it ---------------------------------------------------------

GUARDED = {
    "n_trials": 6,
    "sampler": "random",
    "guard": {
        "every": 2,
        "num_best": 1,
        "num_random": 1,
        "action": "recalibrate",
        "train": SHORT,
    },
}
# Six give an interval that ends anywhere.
SIX = {"num_architectures": 6, "recipes": [ZERO_COST], "when_none": "best"}


def falls(monkeypatch, num_times):
    """Make the guard's verdict `fell` for so many checks, whatever it sees."""
    left = [num_times]

    def verdict(found, threshold):
        left[0] -= 1
        return "fell" if left[0] >= 0 else "holds"

    monkeypatch.setattr(guard_module, "_verdict", verdict)


def test_a_ranking_that_fell_is_calibrated_again_on_more(tmp_path, monkeypatch):
    falls(monkeypatch, 1)
    said = run(tmp_path, last="search", calibrate=SIX, search=GUARDED)
    study = tmp_path / "tiny"
    before = study / "search_before_recalibration"
    checked = [
        json.loads(line)["architecture"]
        for line in (before / "guard.jsonl").read_text().splitlines()
    ]
    result = result_of(tmp_path)
    asked = genotypes(result["points"])
    assert set(genotypes(checked)) <= set(asked)
    assert result["num_asked"] == len(set(asked)) > 6
    # What was measured is kept, and only what is new was measured.
    for entries in logs(tmp_path).values():
        assert sorted(genotypes(entries)) == sorted(asked)
    assert len((before / "evaluations.jsonl").read_text().splitlines()) >= 2
    assert len(json.loads((study / "search" / "search.json").read_text())["trials"]) == 6
    assert sum("the recipe has to be calibrated again" in line for line in said) == 1
    assert sum(line.startswith("calibrate: ") for line in said) == 2
    # A finished study stays finished.
    assert "search: finished already" in run(tmp_path, last="search", calibrate=SIX, search=GUARDED)


def test_a_ranking_that_falls_twice_is_given_up(tmp_path, monkeypatch):
    falls(monkeypatch, 1000)
    words = "although the recipe was calibrated again before; the ranking cannot be trusted here"
    for _ in range(2):  # and so it stays
        with pytest.raises(StudyError, match=words):
            run(tmp_path, last="search", calibrate=SIX, search=GUARDED)
