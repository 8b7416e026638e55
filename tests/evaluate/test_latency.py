"""Latencies: what is timed, in which mode, by which clock, and that nothing is left changed."""

import os
import statistics
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from nas_proxy.core.environment import hardware
from nas_proxy.errors import ConfigError
from nas_proxy.evaluate.latency import Latency, measure_calls, measure_latency

CPU = torch.device("cpu")


class Recorder(nn.Module):
    """Remembers how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.drop = nn.Dropout()
        self.calls = []

    def forward(self, images):
        found = images * self.weight
        state = (self.training, self.drop.training, found.requires_grad, torch.get_num_threads())
        self.calls.append((tuple(images.shape), *state))
        return found


def work(seconds):
    """Keep the processor busy."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_warm_calls_in_evaluation_mode_without_gradients_on_the_threads_asked_for():
    network = Recorder()
    found = measure_latency(network, (3, 4, 5), batch_size=6, num_warm_up=2, num_repeats=7)
    assert network.calls == [((6, 3, 4, 5), False, False, False, 1)] * 9
    assert (found.num_repeats, found.batch_size, found.num_threads) == (7, 6, 1)
    assert found.device == hardware(CPU)


def test_the_network_and_torch_are_left_as_they_were():
    network = Recorder()
    network.drop.eval()  # a frozen part of a network that trains
    threads = torch.get_num_threads()
    for _ in range(2):
        measure_latency(network, (1, 2, 2), num_warm_up=0, num_repeats=1, num_threads=2)
        assert network.calls[-1][-1] == 2
        assert (network.training, network.drop.training) == (True, False)
        assert torch.get_num_threads() == threads
        network.forward = lambda images: 1 / 0  # and after an error too
        with pytest.raises(ZeroDivisionError):
            measure_latency(network, (1, 2, 2))
        del network.forward


def test_median_and_quartiles_of_the_calls():
    planned = [0.004, 0.001, 0.009, 0.002, 0.003]
    queue = [0.05, *planned]  # the warm-up does not count
    found = measure_calls(lambda: work(queue.pop(0)), batch_size=3, num_warm_up=1, num_repeats=5)
    low, median, high = statistics.quantiles(planned, n=4, method="inclusive")
    for value, expected in ((found.low, low), (found.median_seconds, median), (found.high, high)):
        assert expected <= value < expected + 0.0009
    assert not queue


def test_waiting_for_a_core_does_not_count_on_one_thread():
    """Sleeping is as good as being preempted: the thread has no core."""
    found = measure_calls(lambda: time.sleep(0.01), batch_size=1, num_warm_up=0, num_repeats=5)
    assert found.median_seconds < 0.002
    waited = measure_calls(
        lambda: time.sleep(0.01), batch_size=1, num_warm_up=0, num_repeats=5, num_threads=2
    )
    assert waited.median_seconds >= 0.01


def test_a_busy_machine_changes_little():
    """Three processes per core beside it: the wall clock would say three times as much."""
    network = nn.Sequential(*(nn.Conv2d(32, 32, 3, padding=1) for _ in range(4)))
    quiet = measure_latency(network, (32, 16, 16))
    code = "while True: pass"
    num = 3 * (os.cpu_count() or 1)
    others = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(num)]
    try:
        busy = measure_latency(network, (32, 16, 16))
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert busy.median_seconds < 2 * quiet.median_seconds


def test_more_work_takes_longer():
    def network(width):
        layers = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        return nn.Sequential(nn.Conv2d(3, width, 1), *layers)

    small, large = (measure_latency(network(w), (3, 16, 16), num_repeats=20) for w in (8, 64))
    assert large.low > 2 * small.high


def test_network_that_refuses_one_image_is_timed_on_two():
    network = nn.Sequential(nn.Conv2d(1, 4, 3, stride=3), nn.GroupNorm(4, 4))
    with pytest.raises(ValueError, match="more than 1 value"):
        network.eval()(torch.zeros(1, 1, 3, 3))
    assert measure_latency(network, (1, 3, 3), num_repeats=2).batch_size == 2
    assert measure_latency(network, (1, 6, 6), num_repeats=2).batch_size == 1
    with pytest.raises(RuntimeError, match="channels"):  # two do not help everyone
        measure_latency(network, (3, 6, 6))


def test_no_call_is_no_latency():
    with pytest.raises(ConfigError, match="num_repeats is 0"):
        measure_latency(Recorder(), (1, 2, 2), num_repeats=0)


def test_in_words_and_through_json():
    found = Latency(0.0032149, 0.00315, 0.0341, 50, 1, 1, "a processor")
    assert str(found) == "3.21 ms [3.15, 34.1]"
    assert Latency(**found.to_json()) == found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_waited_for():
    device = torch.device("cuda")
    layers = [nn.Conv2d(64, 64, 3, padding=1) for _ in range(20)]
    network = nn.Sequential(*layers).to(device)
    small, large = (
        measure_latency(network, (64, s, s), batch_size=8, device=device) for s in (8, 256)
    )
    assert large.median_seconds > 5 * small.median_seconds  # the same launches, other kernels
    assert large.device == torch.cuda.get_device_name(device)
