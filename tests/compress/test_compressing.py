import copy
import logging
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas_proxy.compress import compressing, measurements
from nas_proxy.compress._quantisation import quantise
from nas_proxy.compress.compressing import UNCOMPRESSED, compress
from nas_proxy.compress.measurements import EXACT, compare
from nas_proxy.compress.settings import CompressSettings, variant_name
from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.errors import CompressionError
from nas_proxy.train.measuring import measure
from nas_proxy.train.objective import Objective
from tests.compress.helpers import SHORT, digits, trained, training_set, untrained

PRUNE, QAT = "structured_pruning", "quantisation_aware_training"


def run(folder, *variants, network=None, make_objective=None, on_failure=None, **options):
    val = digits().search_val
    return compress(
        network or trained(),
        training_set(),
        val.subset(torch.arange(150)),
        CompressSettings(variants=variants, fine_tuning=SHORT, **options),
        folder=folder,
        seed=0,
        make_objective=make_objective,
        on_failure=on_failure,
    )


class Counting(Objective):
    """Cross-entropy that counts its steps, and is killed after so many of them."""

    def __init__(self, counts, kill_after=None):
        super().__init__()
        self.counts, self.kill_after = counts, kill_after

    def forward(self, batch):
        if self.counts and self.counts[-1] == self.kill_after:
            raise KeyboardInterrupt
        self.counts.append(len(self.counts) + 1)
        return batch.cross_entropy


def counted(counts, kill_after=None):
    return lambda student, settings: nullcontext(Counting(counts, kill_after))


@pytest.fixture
def without_files(monkeypatch):
    """Neither written nor measured: that takes seconds for each version."""

    def finished(name, made, search_val, maker):
        return SimpleNamespace(name=name, network=made.network, made=made)

    monkeypatch.setattr(compressing, "_finished", finished)


def same_state(first, second):
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.exhaustive
def test_every_version_is_written_measured_and_named(tmp_path) -> None:
    network = trained()
    before = copy.deepcopy(network.state_dict())
    variants = ((PRUNE,), ("unstructured_pruning",), (PRUNE, "post_training_quantisation"))
    models = run(tmp_path, *variants, network=network)
    assert [model.name for model in models] == [UNCOMPRESSED, *map(variant_name, variants)]
    assert {path.name for path in tmp_path.iterdir()} == {f"{model.name}.onnx" for model in models}
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    original, pruned, sparse, small = (model.row for model in models)
    assert pruned.num_parameters < 0.4 * original.num_parameters
    assert sparse.num_parameters < 0.35 * original.num_parameters
    assert small.num_parameters == pruned.num_parameters
    assert pruned.file_bytes < original.file_bytes
    assert small.file_bytes < pruned.file_bytes
    assert sparse.file_bytes == pytest.approx(original.file_bytes, rel=0.01)
    assert sparse.zipped_bytes < 0.8 * original.zipped_bytes
    for model in models:
        row = model.row
        assert row.file_bytes == model.onnx.stat().st_size
        assert row.class_agreement >= 0.95
        assert 0 < row.latency.low <= row.latency.median_seconds <= row.latency.high
        assert row.peak_memory_mib > 0
        val = digits().search_val.subset(torch.arange(150))
        assert measure(model.runtime, val, EXACT).accuracy == row.val_accuracy


@pytest.mark.exhaustive
@pytest.mark.usefixtures("without_files")
def test_a_killed_call_continues_to_the_identical_result(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Checkpointer, "is_due", property(lambda self: True))
    variants = ((PRUNE, "distillation"), (PRUNE, QAT, "distillation"))
    whole, killed, rest, network = [], [], [], untrained(width=8, depth=1)
    expected = run(tmp_path / "whole", *variants, network=network, make_objective=counted(whole))
    assert len(whole) == 2 * SHORT.num_steps  # what both begin with is trained once
    _, first, second = (model.made for model in expected)
    assert first.paid_seconds == first.train_seconds > 0
    # ... and paid for once.
    assert 0 < second.paid_seconds < second.train_seconds
    folder = tmp_path / "killed"
    objective = counted(killed, SHORT.num_steps + 3)
    with pytest.raises(KeyboardInterrupt):
        run(folder, *variants, network=network, make_objective=objective)
    assert list(folder.glob("*.safetensors"))
    found = run(folder, *variants, network=network, make_objective=counted(rest))
    assert len(rest) == SHORT.num_steps - 3
    for one, other in zip(found, expected, strict=True):
        assert same_state(one.network, other.network)
    assert not list(folder.glob("*.safetensors"))


@pytest.mark.exhaustive
@pytest.mark.usefixtures("without_files")
def test_distilling_variants_minimise_their_own_objective(tmp_path) -> None:
    teacher = trained()

    class Imitate(Objective):
        def forward(self, batch):
            with torch.no_grad():
                taught = teacher(batch.images)
            return F.mse_loss(batch.logits, taught)

    entered = []

    def make(student, settings):
        entered.append((type(student).__name__, settings.num_steps))
        return nullcontext(Imitate())

    plain, distilled = run(tmp_path, (PRUNE,), (PRUNE, "distillation"), make_objective=make)[1:]
    assert entered == [("ConvNet", SHORT.num_steps)]
    images, _ = training_set().batch(torch.arange(64))
    with torch.no_grad():
        taught = teacher(images)
        far, near = (F.mse_loss(model.network(images), taught) for model in (plain, distilled))
    assert near < far


@pytest.mark.exhaustive
def test_a_network_that_cannot_be_compressed_keeps_what_was_written(tmp_path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(CompressionError, match="finds no channel to take out"):
        run(tmp_path, (PRUNE,), network=network)
    assert [path.name for path in tmp_path.iterdir()] == ["float32.onnx"]


@pytest.mark.usefixtures("without_files")
def test_a_variant_that_cannot_be_made_leaves_the_others(tmp_path) -> None:
    network, failures = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), {}
    models = run(
        tmp_path,
        (PRUNE,),
        ("unstructured_pruning",),
        network=network,
        on_failure=lambda name, error: failures.update({name: str(error)}),
    )
    assert [model.name for model in models] == [UNCOMPRESSED, "unstructured_pruning"]
    assert list(failures) == [PRUNE]
    assert "finds no channel to take out" in failures[PRUNE]


def test_a_file_that_answers_otherwise_is_refused_or_said(caplog) -> None:
    val, network = digits().search_val, trained()
    other = nn.Sequential(network, nn.Softmin(dim=1))
    with pytest.raises(CompressionError, match="does not answer as the network does"):
        compare(other, network, val, "float32")
    batch = training_set().batch(torch.arange(64))[0]
    with caplog.at_level(logging.WARNING, logger="nas_proxy"):
        compare(other, quantise(network, [batch]), val, "int8")
    assert "gives another class than its simulation" in caplog.text


def test_a_file_that_the_runtime_refuses_is_said(tmp_path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(CompressionError, match="ONNX Runtime cannot run it"):
        measurements._peak_memory(tmp_path / "broken.onnx")


@pytest.mark.usefixtures("without_files")
def test_norms_are_recalibrated_where_the_settings_say_so(tmp_path) -> None:
    made = []
    for statistics in ("running", "recalibrated"):
        settings = CompressSettings(
            variants=((PRUNE,),), fine_tuning=replace(SHORT, norm_statistics=statistics)
        )
        folder = tmp_path / statistics
        _, pruned = compress(
            trained(), training_set(), digits().search_val, settings, folder=folder, seed=0
        )
        made.append(dict(pruned.network.named_buffers()))
    assert any(not torch.equal(made[0][name], made[1][name]) for name in made[0])
