"""What is set aside: samples that can be drawn, and what a recipe says that it learned from."""

import csv
import json
import shutil

import pytest

from nas_proxy.data.sources import load_splits
from nas_proxy.errors import DataError
from nas_proxy.evaluate import factory as factory_module
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.study import pipeline
from nas_proxy.study.config import check_config
from nas_proxy.study.pipeline import run_pipeline
from nas_proxy.study.recipe import PROXY, load_recipe
from nas_proxy.study.stages import distill
from nas_proxy.types import Architecture
from nas_proxy.validate.values import Points
from tests.helpers.display import Quiet
from tests.study.helpers_calibrate import CONFIG, SPACE, ZERO_COST, run, table

pytestmark = pytest.mark.usefixtures("no_test_split")

VALIDATE = {"num_architectures": 14, "k": 2}


def first_rows(reference, num, name="first.csv"):
    """A table of the first rows of another."""
    with open(reference["table"], newline="") as file:
        rows = list(csv.reader(file))[: num + 1]
    path = f"{reference['table']}.{name}"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return {**reference, "table": path}


def refused(tmp_path, **changes):
    """Why a study is refused; nothing was done."""
    with pytest.raises(DataError) as raised:
        run(tmp_path, last="distill", **changes)
    assert not (tmp_path / "tiny").exists()
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


# --- before anything is done ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"table": "nothing.csv"}, "nothing.csv (calibrate.reference.table) does not exist"),
        ({"value": "acuracy"}, "'acuracy' (calibrate.reference.value); did you mean 'accuracy'"),
        ({"architecture": "nme"}, "'nme' (calibrate.reference.architecture); did you mean 'name'"),
    ],
)
def test_a_calibration_table_that_cannot_be_read(tmp_path, change, words):
    assert words in refused(tmp_path, calibrate={"reference": {**table(tmp_path), **change}})


def test_a_table_with_too_few_rows_for_the_calibration(tmp_path):
    reference = first_rows(table(tmp_path), 11)
    message = refused(tmp_path, calibrate={"reference": reference})
    assert message.startswith("calibrate.num_architectures: 12 different architectures")
    assert "only 11 could be drawn from the truth table" in message


@pytest.mark.parametrize("num_rows", [25, 26])
def test_one_table_must_hold_both_samples(tmp_path, num_rows):
    reference = first_rows(table(tmp_path), num_rows)  # 12, and 14 others
    changes = {
        "calibrate": {"reference": reference, "recipes": [ZERO_COST]},
        "validate": {**VALIDATE, "reference": reference},
    }
    if num_rows == 26:
        run(tmp_path, last="distill", **changes)
        return
    message = refused(tmp_path, **changes)
    assert message.startswith("validate.num_architectures: 14 ")
    assert "only 13 could be drawn from the truth table (12 are set aside" in message


def test_a_space_must_hold_both_samples_too(tmp_path):
    validate = {**VALIDATE, "num_architectures": 171, "reference": CONFIG["calibrate"]["reference"]}
    message = refused(tmp_path, validate=validate)
    assert "could be drawn from the space 'convnet' (12 are set aside" in message


def test_another_genotype_of_a_calibrated_network_is_no_other_row(tmp_path, monkeypatch):
    monkeypatch.setattr(ConvNetSpace, "canonical_form", lambda *_: "all are one")
    reference = table(tmp_path)
    changes = {"calibrate": {"reference": reference}, "validate": {**VALIDATE}}
    changes["validate"]["reference"] = reference
    assert "only 0 could be drawn" in refused(tmp_path, **changes)


# --- what a recipe learned from ---------------------------------------------------------------


@pytest.fixture
def learned(tmp_path, monkeypatch):
    """A recipe of a distiller that learned from 20, though the race ended after 12."""
    given = []
    monkeypatch.setattr("nas_proxy.distill.random_subset.RandomSubset.needs_calibration", True)
    whole = distill._calibration_sample
    monkeypatch.setattr(distill, "_calibration_sample", lambda s: given.append(whole(s)))
    reference = table(tmp_path)
    calibrate = {"reference": reference, "recipes": [ZERO_COST], "num_architectures": 20}
    run(tmp_path, calibrate=calibrate)
    monkeypatch.undo()
    (sample,) = given
    return sample.architectures, first_rows(reference, 1000), tmp_path


def test_it_names_all_that_its_distiller_learned_from(learned):
    architectures, _, folder = learned
    active = load_recipe(folder / "tiny" / "calibrate" / "recipe")
    assert len(active.references) == len(active.calibrated_on) == 12
    assert len(set(architectures)) == 20
    assert set(active.learned_from) == set(architectures)
    file = folder / "tiny" / "calibrate" / "recipe" / "learned_from.json"
    stored = [Architecture.from_json(each) for each in json.loads(file.read_text())]
    assert set(stored) == set(architectures)


def test_a_study_that_trusts_it_is_judged_on_none_of_them(learned, monkeypatch):
    architectures, reference, folder = learned

    def fetch(study):
        shutil.copytree(folder / "tiny" / "calibrate" / "recipe", study.layout.trusted_recipe)
        shutil.copy(study.layout.trusted_recipe / PROXY, study.layout.proxy_dataset)

    monkeypatch.setattr(distill, "fetch_trusted", fetch)
    # 28 rows: those 20, and the only eight that may be drawn.
    with open(reference["table"], newline="") as file:
        header, *rows = csv.reader(file)
    names = {SPACE.to_string(a) for a in architectures}
    others = [row for row in rows if row[0] not in names][:8]
    with open(reference["table"], "w", newline="") as file:
        csv.writer(file).writerows([header, *others, *(r for r in rows if r[0] in names)])
    trusting = {key: value for key, value in CONFIG.items() if key != "calibrate"}
    validate = {**VALIDATE, "num_architectures": 8, "reference": reference}
    validate["controls"] = ["num_params"]
    trusting |= {"study_name": "other", "recipe": "trusted", "results": str(folder)}
    trusting |= {"validate": validate, "search": {"n_trials": 1, "sampler": "random"}}
    for module in (factory_module, pipeline):
        monkeypatch.setattr(module, "load_splits", load_splits)
    run_pipeline(check_config(trusting), Quiet(), last="validate")
    points = Points.read(folder / "other" / "validate" / "points.json").points
    judged = {SPACE.to_string(point.architecture) for point in points}
    assert judged == {row[0] for row in others}
