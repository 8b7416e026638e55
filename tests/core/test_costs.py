"""The clock of costs: what counts for what, and what a kill loses."""

import time
from types import SimpleNamespace

import pytest

from nas_proxy.core import costs
from nas_proxy.core.costs import INTERRUPTED, CostMeter, Timed
from nas_proxy.errors import StudyError


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(costs, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    return now


def test_a_second_counts_for_the_innermost_block(clock):
    meter = CostMeter()
    clock.seconds += 1000  # nothing is open
    with meter.measure("distilling"):
        clock.seconds += 2
        with meter.measure("whitening"):
            clock.seconds += 3
        clock.seconds += 4
        assert meter.seconds == {"distilling": 6, "whitening": 3}
    with meter.measure("distilling"):
        clock.seconds += 10
    assert meter.seconds == {"distilling": 16, "whitening": 3}


def test_what_is_obtained_costs_what_it_says_whenever_it_was_made(clock):
    meter = CostMeter()
    with meter.measure("distilling"):
        for _ in range(2):
            with meter.obtain() as paid:
                clock.seconds += 7
                with meter.obtain() as within:
                    clock.seconds += 7
                    within["weights"] = 5.0
                paid["teaching"] = 40.0
        clock.seconds += 1
    assert meter.seconds == {"distilling": 1, "weights": 5, "teaching": 40}


def test_what_was_not_obtained_counts_as_interrupted(clock):
    def killed():
        with meter.measure("distilling"):
            clock.seconds += 1
            with meter.obtain() as paid:
                paid["teaching"] = 40.0
                clock.seconds += 7
                raise KeyboardInterrupt

    meter = CostMeter()
    with pytest.raises(KeyboardInterrupt):
        killed()
    with meter.obtain() as paid:
        clock.seconds += 3
        paid["teaching"] = 20.0
    assert meter.seconds == {"distilling": 1, INTERRUPTED: 7, "teaching": 20}


def test_the_seconds_of_other_processes_count_instead_of_the_wait(clock):
    def work(item):
        clock.seconds += item  # three workers would need a third of it
        return 2 * item

    def wait():
        for item in (3.0, 6.0):
            result = Timed(work)(item)
            clock.seconds -= 2 * item / 3
            yield result

    meter = CostMeter()
    with meter.measure("distilling"):
        found = []
        for result in meter.of_workers(wait()):
            clock.seconds += 1
            found.append(result)
    assert found == [6, 12]
    assert meter.seconds == {"distilling": 3 + 6 + 2}


def test_the_next_run_goes_on_counting_until_it_forgets(tmp_path, clock):
    def killed():
        with CostMeter(file).measure("distilling"):
            clock.seconds += 2
            raise KeyboardInterrupt

    file = tmp_path / "costs.json"
    with pytest.raises(KeyboardInterrupt):
        killed()
    meter = CostMeter(file)
    with meter.measure("distilling"):
        clock.seconds += 3
    assert meter.seconds == CostMeter(file).seconds == {"distilling": 5}
    meter.forget()
    assert CostMeter(file).seconds == {}


def test_a_kill_without_warning_loses_only_what_was_not_written_yet(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "_WRITTEN_EVERY", 0.01)
    file = tmp_path / "costs.json"
    with CostMeter(file).measure("distilling"):
        deadline = time.monotonic() + 20
        while CostMeter(file).seconds.get("distilling", 0) < 0.03:
            assert time.monotonic() < deadline, "nothing is written while the block is open"
            time.sleep(0.005)


@pytest.mark.parametrize("content", ["", "[]", '{"distilling": "x"}', '{"distilling": null}'])
def test_a_damaged_file_is_refused_with_the_way_out(tmp_path, content):
    file = tmp_path / "costs.json"
    file.write_text(content)
    with pytest.raises(StudyError, match=r"costs.json.* is damaged \(.*\); delete it"):
        CostMeter(file)
