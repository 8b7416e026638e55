"""Who is trained fully, and what it is compared with."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_proxy.errors import StudyError
from nas_proxy.networks.catalogue import NetworkSettings, build_network
from nas_proxy.retrain.contenders import Drawn, best_of, median_of, resnet_of_size
from nas_proxy.retrain.settings import RetrainSettings
from nas_proxy.search.result import TrialRow
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture, DatasetSpec

SPEC = DatasetSpec("some", ("a", "b", "c"), (3, 8, 8), (0.5,) * 3, (0.2,) * 3, "none", "hash")
TRAIN = TrainSettings(num_steps=1)


def retrain(**options: Any) -> RetrainSettings:
    return RetrainSettings(train=TRAIN, **options)


def trial(number: int, genotype: str, score: float | None, **objectives: float) -> TrialRow:
    architecture = Architecture("space", genotype)
    return TrialRow(
        trial=number,
        score=score,
        objectives={} if score is None else {"score": score, **objectives},
        latency=None,
        architecture=architecture,
        architecture_id=architecture.id,
        description=f"the {genotype}",
        signals={},
        seconds=1.0,
    )


def trials(*scores: float | None) -> list[TrialRow]:
    return [trial(n, f"t{n}", score) for n, score in enumerate(scores)]


def drawn_with(*scores: float | None) -> list[Drawn]:
    return [Drawn(Architecture("space", f"v{n}"), f"the v{n}", s) for n, s in enumerate(scores)]


def genotypes(contenders: Any) -> list[str]:
    return [contender.architecture.genotype for contender in contenders]


def test_the_best_by_score_earlier_ones_first() -> None:
    found = best_of(trials(0.1, 0.9, None, 0.5, 0.9), [], retrain(num_architectures=3))
    assert genotypes(found) == ["t1", "t4", "t3"]
    assert [contender.search_rank for contender in found] == [1, 2, 3]
    assert found[0].architecture.space == "space"
    assert found[0].chosen_from == "4 trials of the search"
    assert found[0].share_below is None
    assert len(best_of(trials(0.1, 0.9), [], retrain())) == 1


def test_more_than_there_are() -> None:
    with pytest.raises(StudyError, match=r"3 of the search's .* only 1 of its 2 trials have a sc"):
        best_of(trials(0.1, None), [], retrain(num_architectures=3))
    with pytest.raises(StudyError, match="only 0 of its 1 trials"):
        best_of(trials(None), [], retrain(pick="knee"))


def test_the_prediction_is_held_against_what_was_drawn_uniformly() -> None:
    drawn = drawn_with(0.1, 0.2, 0.3, 0.95, None)
    (found,) = best_of(trials(0.1, 0.9), drawn, retrain())
    assert found.share_below == 0.75


def test_the_front_is_picked_from() -> None:
    found = [
        trial(0, "large", 0.9, num_params=1e6),
        trial(1, "knee", 0.88, num_params=1e4),
        trial(2, "small", 0.3, num_params=8e3),
        trial(3, "beaten", 0.2, num_params=2e6),
    ]
    assert genotypes(best_of(found, [], retrain(pick="all"))) == ["large", "knee", "small"]
    assert genotypes(best_of(found, [], retrain(pick="knee"))) == ["knee"]
    (best,) = best_of(found, [], retrain(pick="max_accuracy"))
    assert best.architecture.genotype == "large"
    assert best_of(found, [], retrain(pick="knee"))[0].search_rank == 2


def test_two_answers_to_one_question_are_refused() -> None:
    with pytest.raises(ValueError, match="pick: all and num_architectures: 2 both say"):
        retrain(pick="all", num_architectures=2)
    with pytest.raises(ValueError, match=r"train.num_seeds is 3, .* set retrain.num_seeds"):
        RetrainSettings(train=TrainSettings(num_steps=1, num_seeds=3))
    with pytest.raises(ValueError, match="formats names one twice: onnx, onnx"):
        retrain(formats=("onnx", "onnx"))


def test_the_median_is_that_of_the_uniform_sample() -> None:
    searched = trials(0.5, 0.6, 0.7, 0.8, 0.9)
    best = best_of(searched, [], retrain())
    drawn = drawn_with(0.4, 0.1, 0.3, 0.2, None)
    median = median_of(searched, drawn, best)
    assert median is not None
    assert (median.architecture.genotype, median.score) == ("v3", 0.2)  # of two the worse
    assert median.chosen_from == "4 uniformly drawn architectures of the validation"
    median = median_of(searched, [], best)
    assert median is not None
    assert median.architecture.genotype == "t1"  # of those that are not retrained anyway
    assert median.chosen_from == "5 trials of the search"
    assert median_of(trials(0.5), [], best_of(trials(0.5), [], retrain())) is None


def num_params(width: int) -> int:
    network = build_network(NetworkSettings(name="resnet18", width=width, norm="batch"), SPEC)
    return sum(parameter.numel() for parameter in network.parameters())


LARGEST = 17


@cache
def sizes() -> dict[int, int]:
    return {width: num_params(width) for width in range(1, LARGEST + 3)}


@pytest.mark.exhaustive
@settings(max_examples=25)
@given(st.floats(0, 1))
def test_the_network_made_by_hand_has_the_closest_size(share: float) -> None:
    wanted = round(share * sizes()[LARGEST])
    found = resnet_of_size(wanted, SPEC)
    width = found.architecture.genotype["width"]
    assert abs(sizes()[width] - wanted) == min(abs(size - wanted) for size in sizes().values())
    assert found.description == f"ResNet-18, width {width}, batch norm"
    assert found.search_rank is None
