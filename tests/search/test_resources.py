"""What a candidate costs to use: measured once, kept on disk, on one device."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from nas_proxy.errors import EvaluationError, StudyError
from nas_proxy.evaluate.latency import Latency
from nas_proxy.scores.flops import Flops
from nas_proxy.scores.num_params import NumParams
from nas_proxy.search import resources
from nas_proxy.search.resources import LatencyLog, Resources
from nas_proxy.search.settings import Constraints, SearchSettings
from nas_proxy.types import Architecture, DatasetSpec

CPU = torch.device("cpu")
SPEC = DatasetSpec("d", ("a", "b"), (1, 4, 4), (0.0,), (1.0,), "none", "hash")
TIMED = SearchSettings(objectives=("score", "latency"))
built = []


class Widths:
    """One convolution of a width; width 0 cannot be built."""

    def build(self, architecture, spec):
        built.append(architecture)
        width = architecture.genotype
        if width == 0:
            raise ValueError("no channels\nat all")
        head = nn.Sequential(nn.Flatten(), nn.Linear(width * 16, 2))
        return nn.Sequential(nn.Conv2d(1, width, 1, bias=False), *head)


def wide(width):
    return Architecture("widths", width)


@pytest.fixture(autouse=True)
def nothing_built():
    built.clear()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "search" / "latencies.log"


def make_resources(path, settings=TIMED):
    measures = {"num_params": NumParams(), "flops": Flops()}
    return Resources(Widths(), SPEC, measures, settings, LatencyLog(path), CPU)


def test_parameters_and_flops_are_those_of_the_network(path):
    found = make_resources(path, SearchSettings())(wide(3))
    assert found == {"num_params": 3 + 3 * 16 * 2 + 2, "flops": 2 * (3 * 16 + 3 * 16 * 2)}
    assert not path.exists()  # nobody asked for the latency


@pytest.mark.parametrize(
    "settings", [TIMED, SearchSettings(constraints=Constraints(latency_ms=1e4))]
)
def test_measured_once_and_kept(settings, path, monkeypatch):
    first = make_resources(path, settings)
    sizes = first(wide(3))
    assert first(wide(3)) == sizes
    assert built == [wide(3)]
    latency = first.latency(wide(3))
    assert sizes["latency"] == latency.median_seconds > 0
    assert first.latency(wide(4)) is None
    monkeypatch.setattr(resources, "measure_latency", None)  # a continued search does not measure
    again = make_resources(path, settings)
    assert again(wide(3)) == sizes
    assert again.latency(wide(3)) == latency
    assert len(path.read_bytes().splitlines()) == 1


def test_global_randomness_is_left_alone(path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    make_resources(path)(wide(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_another_limit_rules_out_is_not_timed(path):
    limits = Constraints(num_params=60)
    found = make_resources(path, replace(TIMED, constraints=limits))
    assert "latency" not in found(wide(2))
    assert "latency" in found(wide(1))


def test_network_that_cannot_be_built_says_why(path):
    with pytest.raises(EvaluationError, match=r"^ValueError: no channels$"):
        make_resources(path)(wide(0))


def test_full_disk_is_no_fault_of_the_network(path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resources, "append_line", full)
    with pytest.raises(OSError, match="No space left"):
        make_resources(path)(wide(1))


def test_line_cut_by_a_kill_is_measured_again(path):
    first = make_resources(path)
    first(wide(1))
    first(wide(2))
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    log = LatencyLog(path)
    assert len(log) == 1
    assert (log.get(wide(1)), log.get(wide(2))) == (first.latency(wide(1)), None)


def test_damaged_line_is_named(path):
    make_resources(path)(wide(1))
    path.write_bytes(b"nonsense\n" + path.read_bytes())
    with pytest.raises(StudyError, match="line 1, is damaged .*; remove the line"):
        LatencyLog(path)


def test_latencies_of_other_hardware_are_refused(path):
    latency = Latency(0.1, 0.1, 0.1, 1, 1, 1, "an abacus")
    LatencyLog(path).append(wide(1), latency, 7.5)
    assert LatencyLog(path).seconds == 7.5
    with pytest.raises(StudyError, match="measured on an abacus, and this is .*another study_name"):
        make_resources(path)
