"""What a rank card keeps, and whom it lets use its recipe."""

import json
from dataclasses import asdict, replace

import pytest

from nas_proxy.errors import StudyError
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.statistics.ranks import Estimate
from nas_proxy.tracking.registry.rank_card import RankCard
from nas_proxy.types import DatasetSpec

SPACE = NASBench201Space()
SPEC = DatasetSpec("made_up", ("cat", "dög"), (3, 8, 8), (0.5,) * 3, (0.2,) * 3, "none", "01ab")


def make_card(**changes):
    values = {
        "recipe": {"train": {"num_steps": 20}, "score": {"signals": ["val_loss", "naswot"]}},
        "recipe_name": "20 steps and naswot",
        "space": SPACE.name,
        "space_options": asdict(SPACE),
        "space_fingerprint": SPACE.fingerprint(),
        "dataset": SPEC.name,
        "class_names": SPEC.class_names,
        "image_shape": SPEC.image_shape,
        "source_hash": SPEC.source_hash,
        "proxy_dataset_id": None,
        "reference_name": "test accuracy",
        "spearman": Estimate(0.93, 0.9, 0.95),
        "n": 40,
        "threshold": 0.9,
        "judged_by": "validation",
        "trusted": True,
        "core_seconds_per_architecture": 18.0,
        "one_off_seconds": 60.0,
        "hardware": "a processor",
        "created": "2026-01-02T03:04:05+00:00",
        "versions": {"torch": "2.9"},
    }
    return RankCard(**{**values, **changes})


@pytest.mark.parametrize("low", [0.9, None])
def test_json_round_trip(low):
    card = make_card(spearman=Estimate(0.93, low, None), trusted=low is not None)
    assert RankCard.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_damaged_card_is_refused():
    value = make_card().to_json()
    with pytest.raises(StudyError, match=r"\(n is missing; m is unknown\)"):
        RankCard.from_json({("m" if k == "n" else k): v for k, v in value.items()})


@pytest.mark.parametrize("low", [0.89, None])
def test_no_card_claims_more_trust_than_its_figures(low):
    with pytest.raises(StudyError, match="is below its threshold .90; calibrate again"):
        make_card(spearman=Estimate(0.93, low, 0.95))


def test_the_race_that_chose_a_recipe_makes_it_no_trusted_one():
    with pytest.raises(StudyError, match="of the calibration that chose the recipe; validate it"):
        make_card(judged_by="calibration")
    assert not make_card(judged_by="calibration", trusted=False).trusted


def test_the_calibrated_study_may_use_it():
    card = RankCard.from_json(json.loads(json.dumps(make_card().to_json())))
    card.check_fits(NASBench201Space(), replace(SPEC, licence="another"))


@pytest.mark.parametrize(
    ("space", "spec", "difference"),
    [
        (ConvNetSpace(), SPEC, "the space 'nasbench201', not 'convnet'"),
        (NASBench201Space(num_cells=1), SPEC, "'nasbench201' with num_cells 5 (here 1):"),
        (SPACE, replace(SPEC, name="digits"), "the data set 'made_up', not 'digits'"),
        (
            SPACE,
            replace(SPEC, class_names=("cat", "cow")),
            "other classes of 'made_up' (dög lacking here, cow only here)",
        ),
        (SPACE, replace(SPEC, class_names=("dög", "cat")), "'made_up' (in another order)"),
        (SPACE, replace(SPEC, image_shape=(1, 8, 8)), "images of shape (3, 8, 8), not (1, 8, 8)"),
        (SPACE, replace(SPEC, source_hash="ff"), "images of 'made_up' (hash 01ab, not ff:"),
    ],
)
def test_others_may_not(space, spec, difference):
    with pytest.raises(StudyError) as caught:
        make_card().check_fits(space, spec)
    message = str(caught.value)
    assert difference in message
    assert "nas-proxy calibrate" in message
    assert "another alias" in message


def test_all_differences_are_named():
    with pytest.raises(StudyError, match=r"not 'convnet'; and for the data set 'made_up', not 'x'"):
        make_card().check_fits(ConvNetSpace(), replace(SPEC, name="x"))
