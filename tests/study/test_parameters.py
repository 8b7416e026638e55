"""What MLflow is told of a study's settings: those that are used."""

import pytest

from nas_proxy.study.config import check_config
from nas_proxy.study.parameters import used_parameters
from nas_proxy.study.pipeline import STAGES

PLAIN = {
    "study_name": "s",
    "data": {"name": "digits"},
    "distill": {"name": "random_subset", "images_per_class": 2},
    "space": {"name": "convnet", "widths": [8], "depths": [1]},
    "train": {"num_steps": 2},
    "score": {"signals": ["val_loss"]},
    "search": {"n_trials": 2},
}


def used(**sections):
    return used_parameters(check_config({**PLAIN, **sections}), STAGES)


def test_sections_that_nothing_reads_are_left_out():
    found = used()
    sections = {name.partition(".")[0] for name in found}
    assert sections.isdisjoint({"evaluate_proxy", "pretrain", "retrain", "validate", "calibrate"})
    assert {"data", "distill", "space", "train", "score", "search"} <= sections
    assert None not in found.values()


@pytest.mark.parametrize(
    ("sections", "added"),
    [
        ({"search": {"n_trials": 2, "sampler": "regularized_evolution"}}, "search.tournament_size"),
        ({"search": {"n_trials": 2, "executor": "processes"}}, "search.num_workers"),
        (
            {"score": {"signals": ["val_loss", "naswot"], "combine": "rank_mean"}},
            "score.num_reference",
        ),
        ({"retrain": {"train": {"num_steps": 3}}}, "retrain.train.num_steps"),
        (
            {"search": {"n_trials": 2, "guard": {"every": 2, "train": {"num_steps": 3}}}},
            "search.guard.threshold",
        ),
    ],
)
def test_what_a_choice_brings_into_use_is_there(sections, added):
    assert added not in used()
    assert added in used(**sections)
