"""What a space recommends for short trainings: taken without a word, refused if it cannot be."""

from dataclasses import dataclass
from types import MappingProxyType

import pytest
import yaml

from nas_proxy.errors import ConfigError
from nas_proxy.options import PositiveInt
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.study.config import check_config
from nas_proxy.study.pipeline import run_pipeline
from tests.helpers.display import Quiet


@dataclass(frozen=True, kw_only=True)
class Reducing(ConvNetSpace):
    """Could train smaller networks; which option does so is up to the tests."""

    size: PositiveInt = 8
    fidelity_options = ("size",)
    reduced_fidelity = MappingProxyType({"size": 2})


class Misspelt(Reducing):
    reduced_fidelity = MappingProxyType({"sizes": 2})


class Impossible(Reducing):
    reduced_fidelity = MappingProxyType({"size": 0})


CONFIG = {
    "study_name": "reduced",
    "data": {"name": "digits", "images_per_class": 12},
    "distill": {"name": "random_subset", "images_per_class": 2},
    "train": {"num_steps": 2, "batch_size": 8},
    "search": {"n_trials": 1, "sampler": "random"},
    "tracking": {"enabled": False},
}
CALIBRATE = {"reference": {"train": {"num_steps": 3}}, "num_architectures": 12, "threshold": -0.5}


def config(space, *, options=None, **changes):
    named = {"name": f"{__file__}:{space}", "widths": [4], "depths": [1], **(options or {})}
    return check_config({**CONFIG, "space": named, **changes})


@pytest.mark.parametrize("calibrate", [None, CALIBRATE])
@pytest.mark.parametrize(
    ("space", "words"),
    [
        (
            "Misspelt",
            r"space.reduced_fidelity: '.*:Misspelt' names 'sizes' there, which is none of its "
            "fidelity_options; did you mean 'size'",
        ),
        ("Impossible", r"space.reduced_fidelity.size: .* greater than or equal to 1 \(got 0\)"),
    ],
)
def test_what_the_space_cannot_be_reduced_by_is_refused_before_anything(space, words, calibrate):
    with pytest.raises(ConfigError, match=words):
        config(space, calibrate=calibrate)


def test_candidates_take_it_where_nothing_else_is_said():
    taken = config("Reducing")
    assert dict(taken.train.space_fidelity) == {"size": 2}
    assert check_config(yaml.safe_load(taken.to_yaml())) == taken
    for said in ({}, {"size": 4}):
        train = {**CONFIG["train"], "space_fidelity": said}
        assert dict(config("Reducing", train=train).train.space_fidelity) == said
    # What is as small already would not become smaller, but larger.
    for size in (2, 1):
        assert dict(config("Reducing", options={"size": size}).train.space_fidelity) == {}


def test_other_trainings_are_at_full_size():
    full = {"train": {"num_steps": 3}}
    found = config("Reducing", validate={"reference": full}, retrain=full)
    assert dict(found.validation.reference.train.space_fidelity) == {}
    assert dict(found.retrain.train.space_fidelity) == {}


def test_a_study_says_that_its_candidates_are_reduced(tmp_path):
    for options, expected in (({}, True), ({"size": 1}, False)):
        display = Quiet()
        found = config("Reducing", options=options, results=str(tmp_path / str(expected)))
        run_pipeline(found, display, last="distill")
        sentences = [said for said in display.said if said.startswith("train: ")]
        assert any("(size: 2; train.space_fidelity: {}" in said for said in sentences) is expected
