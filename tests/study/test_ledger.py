"""What a study has paid for distilling: measured by the stage, also where it was killed."""

import json
import time

import pytest

from nas_proxy.distill.distribution_matching import DistributionMatching
from nas_proxy.errors import ConfigError, DivergedError, StudyError, UserError
from nas_proxy.study.config import check_config
from nas_proxy.study.pipeline import run_pipeline
from tests.contracts import silent
from tests.helpers.display import Quiet

TINY = {
    "data": {"name": "digits", "images_per_class": 12},
    "space": {"name": "convnet", "widths": [8], "depths": [1]},
    "train": {"num_steps": 2, "batch_size": 8, "learning_rate": 0.02},
    "search": {"n_trials": 1, "sampler": "random", "executor": "serial"},
    "validate": {
        "num_architectures": 5,
        "k": 1,
        "controls": ["num_params"],
        "reference": {"train": {"num_steps": 2, "batch_size": 8, "learning_rate": 0.02}},
    },
    "tracking": {"enabled": False},
}


def run(folder, distill, **changes):
    """The folder of the study, and what its report says was paid, by what it was paid for."""
    distill = {"images_per_class": 2, **distill}
    config = {"study_name": "paid", "distill": distill, "results": str(folder), **TINY, **changes}
    checked = check_config(config)
    run_pipeline(checked, Quiet())
    entries = json.loads((checked.layout.folder / "report.json").read_text())["costs"]
    return checked.layout.folder, {entry["what"]: entry for entry in entries}


@pytest.mark.exhaustive
def test_a_plugin_that_states_nothing_is_on_the_ledger(tmp_path):
    name = f"{silent.__file__}:Silent"
    folder, paid = run(tmp_path, {"name": name})
    entry = paid[f"distilling ({name})"]
    assert silent.SECONDS <= entry["seconds"] < 60
    assert entry["hardware"]
    assert not (folder / "distill" / "costs.json").exists()


DISTILLING = {
    "name": "distribution_matching",
    "num_steps": 3,
    "real_batch_size": 8,
    "network_width": 4,
    "network_depth": 2,
}


def test_killed_runs_are_on_the_ledger_too(tmp_path, monkeypatch):
    def killed(*_):
        time.sleep(0.3)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DistributionMatching, "iterate", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, DISTILLING)
    kept = tmp_path / "paid" / "distill" / "costs.json"
    spent = json.loads(kept.read_text())["distilling"]
    assert spent >= 0.3
    _, paid = run(tmp_path, DISTILLING)
    assert paid["distilling (distribution_matching)"]["seconds"] > spent


@pytest.mark.parametrize("error", [ConfigError, DivergedError])
def test_a_mistake_that_leaves_nothing_leaves_the_stage_free(tmp_path, monkeypatch, error):
    def refused(*_):
        raise error("no such thing")

    with monkeypatch.context() as patch:
        patch.setattr(DistributionMatching, "distill", refused)
        with pytest.raises(UserError, match="no such thing"):
            run(tmp_path, DISTILLING)
    assert list((tmp_path / "paid" / "distill").iterdir()) == []


def test_a_damaged_record_of_killed_runs_is_named(tmp_path, monkeypatch):

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DistributionMatching, "iterate", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, DISTILLING)
    (tmp_path / "paid" / "distill" / "costs.json").write_text("{")
    with pytest.raises(StudyError, match=r"costs.json, which holds what earlier runs have cost"):
        run(tmp_path, DISTILLING)
