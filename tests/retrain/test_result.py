"""Who wins, and how that is said."""

from __future__ import annotations

from typing import Any

import pytest

from nas_proxy.retrain.contenders import Contender
from nas_proxy.retrain.result import (
    SeedAccuracy,
    TrainedContender,
    best_first,
    comparison,
    verdict,
)
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status

FIDELITY = Fidelity("d", 1, 1, 8)


def trained(
    name: str,
    val: list[float | None],
    test: list[float] | None = None,
    role: Any = "best",
    losses: list[float] | None = None,
    confusion: tuple[tuple[int, ...], ...] = (),
) -> TrainedContender:
    """A contender; None in `val` is a training that failed."""
    architecture = Architecture("space", name)
    trainings, tests = [], []
    for seed, value in enumerate(val):
        if value is None:
            trainings.append(Evaluation(architecture, FIDELITY, seed, Status.FAILED, reason="why"))
            continue
        loss = losses[seed] if losses else 1.0
        signals = {"val_accuracy": value, "val_loss": loss, "train_seconds": 2.0}
        trainings.append(
            Evaluation(
                architecture, FIDELITY, seed, Status.COMPLETE, signals, train_losses=(2.0, 1.0)
            )
        )
    for seed, value in enumerate(test or []):
        signals = {"test_accuracy": value}
        tests.append(
            Evaluation(architecture, FIDELITY, seed, Status.COMPLETE, signals, confusion=confusion)
        )
    contender = Contender(role, architecture, f"network {name}")
    sizes = {"num_params": 5000.0, "flops": 1e6}
    return TrainedContender(contender, sizes, ("a", "b"), trainings, tests)


def test_validation_decides_and_never_the_test_split() -> None:
    first = trained("a", [0.8, 0.9], [0.99, 0.99])
    second = trained("b", [0.9, 0.9], [0.1, 0.1])
    assert best_first([first, second, trained("c", [None, None])]) == [second, first]
    assert first.chosen.seed == 1
    assert trained("d", [0.9, 0.9, None], losses=[0.4, 0.3, 0]).chosen.seed == 1


def test_what_failed_is_said_and_counts_nowhere() -> None:
    half = trained("a", [None, 0.9], [0.7])
    assert half.failures == ["why"]
    assert half.val_accuracy.values == (0.9,)
    none = trained("b", [None]).row()
    assert none.test_accuracy is None
    assert none.val_accuracy is None
    assert none.curves is None
    assert none.failures == ("why",)
    assert half.row().test_accuracy == SeedAccuracy(0.7, None, (0.7,))


@pytest.mark.parametrize(
    ("other", "outcome", "words"),
    [
        (
            [0.80, 0.81],
            "better",
            "ResNet-18 with 5,000 parameters reaches 80.5 %: 15.0 [12.0, 18.0] po",
        ),
        ([0.94, 0.97], "open", "95.5 %: they cannot be told apart (difference 0.0 [-"),
        ([0.99, 1.0], "worse", "reaches 99.5 %: "),
        ([0.80], "unknown", "80.0 %: 15.5 points less, by too few seeds to tell"),
    ],
)
def test_the_verdict_is_no_bolder_than_the_interval(
    other: list[float], outcome: str, words: str
) -> None:
    best = trained("a", [0.9, 0.9], [0.95, 0.96])
    compared = trained("b", [0.9] * len(other), other, "resnet18")
    assert comparison(best, compared).outcome == outcome
    said = verdict(best, [compared])
    assert said.startswith(
        "The retrained network (network a; 5,000 parameters) reaches 95.5 % (no interval) test "
        "accuracy (mean of 2 seeds)."
    )
    assert words in said
    assert ("points more" in said) == (outcome == "worse")


def test_one_seed_and_nothing_to_compare_with() -> None:
    said = verdict(trained("a", [0.9], [0.95]), [])
    assert said == (
        "The retrained network (network a; 5,000 parameters) reaches 95.0 % (no interval) test "
        "accuracy (one seed)."
    )


def test_where_classes_differ_in_size_an_accuracy_stands_beside_that_of_one_answer() -> None:
    lazy = trained("a", [0.9], [120 / 121], confusion=((120, 0), (1, 0)))
    assert "Always answering a reaches 99.2 %, and the network is not shown" in verdict(lazy, [])
    assert lazy.row().base_rate.balanced_accuracy == 0.5
    even = trained("a", [0.9], [0.75], confusion=((5, 1), (2, 4)))
    assert "Always answering" not in verdict(even, [])
    assert even.row().base_rate is None
