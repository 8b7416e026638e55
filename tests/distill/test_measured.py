"""What a set has cost is measured by whoever has it made, whatever its method says."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest
import torch

from nas_proxy.core.costs import CostMeter
from nas_proxy.core.plugin_source import source_hash
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.distill.common import recording
from nas_proxy.distill.common.recording import map_in_workers
from nas_proxy.distill.file import ProxyDatasetFile
from nas_proxy.distill.measured import distill_and_label
from nas_proxy.distill.random_subset import RandomSubset
from nas_proxy.interfaces import DistillContext
from nas_proxy.processes import pack, unpack
from tests.contracts.silent import SECONDS, Silent
from tests.distill.helpers import make_task


def test_a_method_that_states_nothing_is_measured():
    before = time.perf_counter()
    made = distill_and_label(Silent(), make_task())
    around = time.perf_counter() - before
    assert set(made.costs) == {"distilling"}
    assert SECONDS <= made.costs["distilling"] <= around
    assert made.hardware
    assert "torch" in made.versions
    assert made.parameters["code"] == source_hash(Silent)
    plain = replace(made, parameters=Silent().distill(make_task()).parameters)
    assert plain.id == Silent().distill(make_task()).id


@dataclass(frozen=True, kw_only=True)
class Stating(Silent):
    name = "stating"
    seconds: float

    def distill(self, task):
        return replace(super().distill(task), method=self.name, costs={"distilling": self.seconds})


@pytest.mark.parametrize(("said", "found"), [(0.0, SECONDS), (1e6, 1e6)])
def test_a_method_cannot_say_less_than_was_measured(said, found):
    made = distill_and_label(Stating(seconds=said), make_task())
    assert made.costs["distilling"] == pytest.approx(found, abs=5.0)
    assert made.costs["distilling"] >= found


def test_a_set_from_a_file_keeps_what_it_cost_and_where(tmp_path):
    made = distill_and_label(RandomSubset(), make_task())
    made = replace(made, costs={"distilling": 40.0}, hardware="a GPU", peak_memory_mib=7.0)
    made.save(tmp_path / "proxy.safetensors")
    method = ProxyDatasetFile(path=str(tmp_path / "proxy.safetensors"))
    read = distill_and_label(method, make_task())
    assert set(read.costs) == {"distilling", "reading"}
    assert read.costs["distilling"] == 40.0
    assert 0 < read.costs["reading"] < 10
    assert (read.hardware, read.peak_memory_mib) == ("a GPU", 7.0)
    assert read.id == made.id


@dataclass(frozen=True)
class Sleeps:
    seconds: float

    def __call__(self, item):
        time.sleep(self.seconds)
        return 2 * item


@dataclass(frozen=True, kw_only=True)
class SideBySide(Silent):
    name = "side_by_side"

    def distill(self, task):
        doubled = list(map_in_workers(Sleeps(0.5), [1, 2, 3, 4], task.context))
        return replace(super().distill(task), method=self.name, parameters={"found": doubled})


def test_work_of_several_processes_costs_what_it_would_cost_one(monkeypatch):
    def side_by_side(function, items, num_workers, **_):
        assert num_workers == 4
        with ThreadPoolExecutor(num_workers) as pool:
            yield from pool.map(unpack(pack(function)), items)

    monkeypatch.setattr(recording, "map_in_processes", side_by_side)
    made = distill_and_label(SideBySide(), make_task(context=DistillContext(num_workers=4)))
    assert made.parameters["found"] == [2, 4, 6, 8]
    assert 4 * 0.5 + SECONDS <= made.costs["distilling"] < 4 * 0.5 + SECONDS + 3


def test_the_seconds_of_a_killed_run_are_added(tmp_path):
    file = tmp_path / "costs.json"
    file.write_text(json.dumps({"distilling": 1000.0}))
    context = DistillContext(costs=CostMeter(file))
    made = distill_and_label(RandomSubset(), make_task(context=context))
    assert 1000 < made.costs["distilling"] < 1010
    made.save(tmp_path / "proxy.safetensors")
    assert ProxyDataset.load(tmp_path / "proxy.safetensors").costs == made.costs
    assert torch.equal(made.images, RandomSubset().distill(make_task()).images)
