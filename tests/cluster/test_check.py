"""What `nas-proxy cluster check` finds on each node."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import yaml

from nas_proxy.cluster.check import check_nodes, faults_in_words
from nas_proxy.cluster.slot import Slot, SlotSetup
from nas_proxy.core.packing import pack
from nas_proxy.data.arrays import ImageArrays
from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.evaluate import on_cluster
from tests.cluster.helpers import ThreadCluster
from tests.cluster.test_settings import MINIMAL
from tests.helpers.cli import command_line


class Outdated(Slot):
    """On one of the nodes torch is older."""

    def start(self, setup, given):
        report = super().start(setup, given)
        if self._node != "b":
            return report
        return replace(report, versions={**report.versions, "torch": "1.0"})


class Broken(Slot):
    def start(self, setup, given):
        raise RuntimeError("no such library")


def images(folder, numbers):
    """The settings of twelve images in a file."""
    pixels = [[[number * n] * 4] * 4 for n, number in enumerate(numbers)]
    file = ImageArrays.of(pixels, [n % 2 for n in range(len(pixels))]).save(folder)
    return DataSettings(name="arrays", root=str(file))


def test_each_node_is_asked_and_the_one_that_differs_is_named():
    cluster = ThreadCluster(Outdated, is_asked=True, a=1, b=4)
    first, second = check_nodes(cluster, pack(SlotSetup()), "")
    assert [first.node.name, first.fault] == ["a (10.0.0.1)", ""]
    assert first.ping_seconds > 0
    assert first.report.free_bytes > 0
    assert "torch 1.0 (here " in second.fault
    expected = f"node b (10.0.0.2): {second.fault}"
    assert faults_in_words([first, second]) == expected
    assert all(slot.killed for slot in cluster.slots)


def test_a_node_on_which_no_slot_starts_is_named():
    cluster = ThreadCluster(Broken, is_asked=True, a=1)
    (found,) = check_nodes(cluster, pack(SlotSetup()), "")
    assert found.fault == "no slot can start there: no such library"


def test_other_images_no_images_and_too_little_memory_are_a_sentence_each(tmp_path):
    here, other = images(tmp_path, range(1, 13)), images(tmp_path, range(2, 14))
    expected = load_splits(here).spec.source_hash
    faults = {}
    for what, setup in {
        "same": SlotSetup(data=here),
        "other": SlotSetup(data=other),
        "none": SlotSetup(data=replace(here, root=str(tmp_path / "nowhere.npz"))),
        "memory": SlotSetup(data=here, num_bytes=10**15),
    }.items():
        cluster = ThreadCluster(Slot, is_asked=True, a=1)
        (found,) = check_nodes(cluster, pack(setup), expected)
        faults[what] = found.fault
    assert faults["same"] == ""
    assert "other images are there than here" in faults["other"]
    assert "nowhere.npz" in faults["none"]
    assert "GB of memory are left there, but the images alone take 1000000.00" in faults["memory"]


@pytest.mark.parametrize(("slot", "status"), [(Slot, 0), (Outdated, 2)])
def test_the_command_shows_all_nodes_and_refuses_a_mixture(
    slot, status, tmp_path, monkeypatch, capsys
):
    @contextmanager
    def open_cluster(settings, num_slots):
        assert settings.address == "10.0.0.1:6379"
        yield ThreadCluster(slot, is_asked=True, a=1, b=1)

    monkeypatch.setattr(on_cluster, "open_cluster", open_cluster)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    data = {"name": "arrays", "root": images(tmp_path, range(1, 13)).root}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**MINIMAL, "data": data}))
    outcome = command_line(capsys)("cluster", "check", "c.yaml", "--address", "10.0.0.1:6379")
    assert outcome.status == status, outcome.errors
    assert "a (10.0.0.1)" in outcome.output
    assert "b (10.0.0.2)" in outcome.output
    assert ("node b (10.0.0.2): other versions" in outcome.errors) == (status == 2)
