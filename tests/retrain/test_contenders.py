"""Who is trained fully, and what it is compared with."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_proxy.errors import StudyError
from nas_proxy.networks.catalogue import NetworkSettings, build_network
from nas_proxy.retrain.contenders import best_of, median_of, resnet_of_size
from nas_proxy.retrain.settings import RetrainSettings
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import DatasetSpec

SPEC = DatasetSpec("some", ("a", "b", "c"), (3, 8, 8), (0.5,) * 3, (0.2,) * 3, "none", "hash")
TRAIN = TrainSettings(num_steps=1)


def retrain(**options: Any) -> RetrainSettings:
    return RetrainSettings(train=TRAIN, **options)


def trials(*scores: float | None, prefix: str = "t") -> list[dict[str, Any]]:
    return [
        {"genotype": f"{prefix}{n}", "description": f"the {prefix}{n}", "score": score}
        for n, score in enumerate(scores)
    ]


def genotypes(contenders: Any) -> list[str]:
    return [contender.architecture.genotype for contender in contenders]


def test_the_best_by_score_earlier_ones_first() -> None:
    found = best_of(trials(0.1, 0.9, None, 0.5, 0.9), [], retrain(num_architectures=3), "space")
    assert genotypes(found) == ["t1", "t4", "t3"]
    assert [contender.search_rank for contender in found] == [1, 2, 3]
    assert found[0].architecture.space == "space"
    assert found[0].chosen_from == "4 trials of the search"
    assert found[0].share_below is None
    assert len(best_of(trials(0.1, 0.9), [], retrain(), "space")) == 1


def test_more_than_there_are() -> None:
    with pytest.raises(StudyError, match=r"3 of the search's .* only 1 of its 2 trials have a sc"):
        best_of(trials(0.1, None), [], retrain(num_architectures=3), "space")
    with pytest.raises(StudyError, match="only 0 of its 1 trials"):
        best_of(trials(None), [], retrain(pick="knee"), "space")


def test_the_prediction_is_held_against_what_was_drawn_uniformly() -> None:
    drawn = trials(0.1, 0.2, 0.3, 0.95, None, prefix="v")
    (found,) = best_of(trials(0.1, 0.9), drawn, retrain(), "space")
    assert found.share_below == 0.75


def with_size(score: float, size: float, genotype: str) -> dict[str, Any]:
    objectives = {"score": score, "num_params": size}
    return {"genotype": genotype, "description": "", "score": score, "objectives": objectives}


def test_the_front_is_picked_from() -> None:
    found = [
        with_size(0.9, 1e6, "large"),
        with_size(0.88, 1e4, "knee"),
        with_size(0.3, 8e3, "small"),
        with_size(0.2, 2e6, "beaten"),
    ]
    assert genotypes(best_of(found, [], retrain(pick="all"), "s")) == ["large", "knee", "small"]
    assert genotypes(best_of(found, [], retrain(pick="knee"), "s")) == ["knee"]
    (best,) = best_of(found, [], retrain(pick="max_accuracy"), "s")
    assert best.architecture.genotype == "large"
    assert best_of(found, [], retrain(pick="knee"), "s")[0].search_rank == 2


def test_two_answers_to_one_question_are_refused() -> None:
    with pytest.raises(ValueError, match="pick: all and num_architectures: 2 both say"):
        retrain(pick="all", num_architectures=2)
    with pytest.raises(ValueError, match=r"train.num_seeds is 3, .* set retrain.num_seeds"):
        RetrainSettings(train=TrainSettings(num_steps=1, num_seeds=3))
    with pytest.raises(ValueError, match="formats names one twice: onnx, onnx"):
        retrain(formats=("onnx", "onnx"))


def test_the_median_is_that_of_the_uniform_sample() -> None:
    searched = trials(0.5, 0.6, 0.7, 0.8, 0.9)
    best = best_of(searched, [], retrain(), "space")
    drawn = trials(0.4, 0.1, 0.3, 0.2, None, prefix="v")
    median = median_of(searched, drawn, best)
    assert median is not None
    assert (median.architecture.genotype, median.score) == ("v3", 0.2)  # of two the worse
    assert median.chosen_from == "4 uniformly drawn architectures of the validation"
    median = median_of(searched, [], best)
    assert median is not None
    assert median.architecture.genotype == "t1"  # of those that are not retrained anyway
    assert median.chosen_from == "5 trials of the search"
    assert median_of(trials(0.5), [], best_of(trials(0.5), [], retrain(), "space")) is None


def num_params(width: int) -> int:
    network = build_network(NetworkSettings(name="resnet18", width=width, norm="batch"), SPEC)
    return sum(parameter.numel() for parameter in network.parameters())


LARGEST = 17


@cache
def sizes() -> dict[int, int]:
    return {width: num_params(width) for width in range(1, LARGEST + 3)}


@settings(max_examples=25)
@given(st.floats(0, 1))
def test_the_network_made_by_hand_has_the_closest_size(share: float) -> None:
    wanted = round(share * sizes()[LARGEST])
    found = resnet_of_size(wanted, SPEC)
    width = found.architecture.genotype["width"]
    assert abs(sizes()[width] - wanted) == min(abs(size - wanted) for size in sizes().values())
    assert found.description == f"ResNet-18, width {width}, batch norm"
    assert found.search_rank is None
