"""Weights and checkpoints go to a slot and come back; nothing else is written there."""

from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from nas_proxy.cluster.slot import Slot
from nas_proxy.core.files import write_atomically
from nas_proxy.data import given
from nas_proxy.data.given import GivenSplits, give_splits
from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.errors import ConfigError
from nas_proxy.evaluate.executors import Workplace, place_words, pool_of, start_workers
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.evaluate.on_cluster import changed_state, open_on_cluster
from nas_proxy.processes import map_in_processes
from nas_proxy.report.values import NodeShare
from nas_proxy.study.logs import StudyLogs
from nas_proxy.types import Architecture, Evaluation, Status
from tests.cluster.helpers import ThreadCluster
from tests.evaluate.helpers import FIDELITY

SEEN = {}


@dataclass(frozen=True)
class CountingFactory:
    """Each training counts on from the checkpoint in its folder, and leaves weights."""

    keep: Path
    fidelity: object = FIDELITY

    @property
    def state_folder(self):
        return self.keep

    def with_state_in(self, folder):
        return replace(self, keep=folder)

    def build(self):
        return Counting(self)


@dataclass(frozen=True)
class Counting:
    factory: CountingFactory

    def evaluate(self, architecture, seed):
        folder = self.factory.keep
        SEEN.setdefault("folders", set()).add(folder)
        checkpoint = folder / "unfinished" / f"{architecture.id}_1.json"
        count = int(checkpoint.read_text()) if checkpoint.is_file() else 0
        write_atomically(checkpoint, str(count + 1))
        SEEN["meanwhile"] = changed_state()
        if count == 1:
            checkpoint.unlink()
            write_atomically(folder / f"{architecture.id}_1.safetensors", b"weights")
        signals = {"count": float(count)}
        return Evaluation(architecture, FIDELITY, seed, Status.COMPLETE, signals)


@contextmanager
def one_slot():
    @contextmanager
    def open_cluster(settings, num_slots):
        yield ThreadCluster(Slot, a=1)

    with open_on_cluster(1, Workplace(), open_cluster) as executor:
        yield executor


def test_a_training_goes_on_from_what_the_driver_keeps_and_its_weights_come_back(tmp_path):
    architecture, other = Architecture("s", 1), Architecture("s", 2)
    factory, strange = CountingFactory(tmp_path), tmp_path / f"{other.id}_1.safetensors"
    strange.write_bytes(b"of another")
    checkpoint = tmp_path / "unfinished" / f"{architecture.id}_1.json"
    with one_slot() as executor:
        first = executor.submit(factory, architecture, 0).result(30)
        assert checkpoint.read_text() == "1"
        assert SEEN["meanwhile"] == {f"unfinished/{architecture.id}_1.json": b"1"}
        second = executor.submit(factory, architecture, 0).result(30)
    assert [first.signals["count"], second.signals["count"]] == [0, 1]
    assert not checkpoint.exists()
    assert (tmp_path / f"{architecture.id}_1.safetensors").read_bytes() == b"weights"
    assert strange.read_bytes() == b"of another"
    assert tmp_path not in SEEN["folders"]
    assert len(SEEN["folders"]) == 1  # so that the evaluator is not built again for each
    assert first.node == "a (10.0.0.1)"


def test_images_that_are_given_are_those_that_are_loaded(monkeypatch):
    monkeypatch.setattr(given, "_given", {})
    settings = DataSettings(images_per_class=10)
    splits = load_splits(settings)
    elsewhere = replace(settings, name="cifar10", root="/nowhere")
    sent = GivenSplits.of(splits)
    give_splits(elsewhere, sent.splits())
    found = load_splits(elsewhere)
    assert found.spec == splits.spec
    for name, part in splits.parts.items():
        assert found.parts[name].images.equal(part.images)
        assert found.parts[name].labels.equal(part.labels)
        # The very memory that was handed over: no copy for each process.
        assert found.parts[name].images.data_ptr() in {i.ctypes.data for i in sent.images}
    assert sent.num_bytes == sum(part.images.nbytes for part in splits.parts.values())


def test_a_study_knows_what_each_node_did(tmp_path):
    logs = StudyLogs()
    for name, nodes in (("a.jsonl", ["x", "y", "x"]), ("b.jsonl", ["y", ""])):
        log = EvaluationLog(tmp_path / name)
        for seed, node in enumerate(nodes):
            architecture = Architecture("s", seed)
            found = Evaluation(architecture, FIDELITY, 0, Status.COMPLETE, seconds=2.0, node=node)
            log.append(found)
        logs.evaluations(tmp_path / name)
    assert logs.node_shares() == (NodeShare("x", 2, 4.0), NodeShare("y", 2, 4.0))


def test_a_cluster_is_looked_for_when_it_is_needed():
    def open_cluster(settings, num_slots):
        raise ConfigError("there is no cluster")

    with open_on_cluster(1, Workplace(), open_cluster) as executor:
        assert place_words(executor) == ""
        with pytest.raises(ConfigError, match="there is no cluster"):
            start_workers(executor)
        with pytest.raises(ConfigError, match="there is no cluster"):
            executor.submit(CountingFactory(Path()), Architecture("s", 1), 0)


def test_the_slots_are_lent_for_distilling():
    with one_slot() as executor:
        found = map_in_processes(abs, [-3, 2, -1], 2, open_pool=pool_of(executor))
        assert list(found) == [3, 2, 1]
        assert place_words(executor) == "1 node, 1 slot"
