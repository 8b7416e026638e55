"""The names of signals: which are trained, in which direction, at which checkpoint."""

import pytest

from nas_proxy.errors import ConfigError
from nas_proxy.registry import SCORES
from nas_proxy.scores.signals import (
    TRAINED_SIGNALS,
    base_signal,
    checkpoint_of,
    higher_is_better,
    is_trained,
    trained_among,
    zero_cost_among,
)

LOWER = {
    "val_loss", "val_loss_mean", "train_loss_mean", "train_loss_tail", "train_loss_slope",
    "fit_loss", "generalisation_gap", "averaged_val_loss",
}  # fmt: skip
WHOLE_RUN = ("val_loss_mean", "train_loss_slope", "averaged_val_loss", "averaged_val_accuracy")
AT_CHECKPOINTS = sorted(set(TRAINED_SIGNALS) - set(WHOLE_RUN))


def test_directions_are_those_of_good_architectures():
    found = {signal for signal in TRAINED_SIGNALS if not higher_is_better(signal)}
    assert found == LOWER


@pytest.mark.parametrize("signal", AT_CHECKPOINTS)
@pytest.mark.parametrize("percentage", [1, 50, 99])
def test_a_checkpoint_has_the_direction_of_its_signal(signal, percentage):
    written = f"{signal}@{percentage}"
    assert higher_is_better(written) is higher_is_better(signal)
    assert checkpoint_of(written) == percentage
    assert base_signal(written) == signal
    assert is_trained(written)


@pytest.mark.parametrize("signal", ["val_loss", "naswot", "/a@b/plugin.py:Score"])
def test_without_a_checkpoint_it_is_read_at_the_end(signal):
    assert checkpoint_of(signal) is None


@pytest.mark.parametrize("signal", WHOLE_RUN)
@pytest.mark.parametrize("ask", [higher_is_better, checkpoint_of])
def test_what_describes_the_whole_run_has_no_checkpoint(ask, signal):
    with pytest.raises(ConfigError, match=f"{signal} describes the whole training") as raised:
        ask(f"{signal}@50")
    assert f"write '{signal}'" in str(raised.value)


# A leading zero would be another name than the one under which it is measured.
@pytest.mark.parametrize("percentage", ["x", "", "0", "100", "-5", "5.5", "050", "²", "٥", "50@50"])
@pytest.mark.parametrize("ask", [higher_is_better, checkpoint_of])
def test_a_bad_percentage_is_refused_in_one_sentence(ask, percentage):
    with pytest.raises(ConfigError, match="from 1 to 99, as in val_loss@50") as raised:
        ask(f"val_loss@{percentage}")
    assert len(str(raised.value).splitlines()) == 1


def test_zero_cost_signals_have_no_checkpoints():
    assert "naswot" in SCORES.names()
    with pytest.raises(ConfigError, match="unknown signal 'naswot@50'; did you mean 'naswot'"):
        higher_is_better("naswot@50")


def test_signals_are_told_apart_in_their_order():
    signals = ("naswot", "val_loss@25", "flops", "val_accuracy")
    assert trained_among(signals) == ("val_loss@25", "val_accuracy")
    assert zero_cost_among(signals) == ("naswot", "flops")
