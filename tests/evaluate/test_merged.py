"""One evaluation of several parts that measured the same architecture."""

from dataclasses import replace

import pytest

from nas_proxy.evaluate.log import merged
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status

ARCHITECTURE = Architecture("s", 0)
TRAINED = Evaluation(
    ARCHITECTURE,
    Fidelity("d", 5, 8, 8),
    3,
    Status.COMPLETE,
    {"val_loss": 1.5},
    train_losses=(2.0, 1.0),
    signal_seconds={"training": 4.0},
    seconds=4.5,
    core_seconds=4.0,
)
ZERO_COST = Evaluation(
    ARCHITECTURE,
    Fidelity("", 0, 0, 8),
    3,
    Status.COMPLETE,
    {"naswot": 7.0, "flops": 9.0},
    signal_seconds={"naswot": 0.25, "flops": 0.25},
    seconds=1.5,
    core_seconds=0.5,
)


def failed(evaluation, reason):
    return replace(evaluation, status=Status.FAILED, signals={}, reason=reason)


def test_signals_and_costs_of_all_parts_come_together():
    found = merged([TRAINED, ZERO_COST])
    assert found.complete
    assert found.signals == {"val_loss": 1.5, "naswot": 7.0, "flops": 9.0}
    assert found.signal_seconds == {"training": 4.0, "naswot": 0.25, "flops": 0.25}
    assert (found.seconds, found.core_seconds) == (6.0, 4.5)
    # What only the training has is the first part's.
    assert found.fidelity == TRAINED.fidelity
    assert found.train_losses == TRAINED.train_losses
    assert (found.architecture, found.seed) == (ARCHITECTURE, 3)


def test_a_part_alone_is_itself():
    assert merged([TRAINED]) == TRAINED


@pytest.mark.parametrize("position", [0, 1])
def test_one_failed_part_fails_the_whole_which_still_costs_all(position):
    parts = [TRAINED, ZERO_COST]
    parts[position] = failed(parts[position], "diverged")
    found = merged(parts)
    assert not found.complete
    assert found.reason == "diverged"
    assert found.signals == {}  # as of every failed evaluation: nobody may rank by half of it
    assert (found.seconds, found.core_seconds) == (6.0, 4.5)


def test_the_first_reason_is_given():
    assert merged([failed(TRAINED, "first"), failed(ZERO_COST, "second")]).reason == "first"
