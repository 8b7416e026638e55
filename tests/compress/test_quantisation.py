import copy
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from nas_proxy.compress._pruning import holding_zeros, prune_weights
from nas_proxy.compress._quantisation import finish_training, prepare_training, quantise
from nas_proxy.compress.onnx_file import OnnxNetwork, write_onnx
from nas_proxy.errors import CompressionError
from nas_proxy.reproducibility import make_generator
from nas_proxy.train.loop import train
from nas_proxy.train.measuring import measure
from tests.compress.helpers import SHORT, Chain, batches, digits, trained, training_set


def accuracy(network):
    return measure(network, digits().search_val, SHORT).accuracy


def int8_weights(network):
    return [value for value in network.state_dict().values() if value.dtype == torch.int8]


def test_rounding_a_trained_network_keeps_its_answers() -> None:
    network = trained()
    quantised = quantise(network, batches())
    images = batches(3)[2]
    expected, found = network(images), quantised(images)
    assert accuracy(network) > 0.8
    assert accuracy(quantised) == pytest.approx(accuracy(network), abs=0.01)
    assert float((found - expected).abs().max()) < 0.05 * float(expected.abs().max())
    assert not torch.equal(found, expected)


def test_weights_are_symmetric_int8_with_a_scale_for_each_output_channel() -> None:
    network = Chain()
    stored = int8_weights(quantise(network, batches()))
    for layer, integers in zip((network[0], network[2], network[6]), stored, strict=True):
        weight = layer.weight.detach()
        scale = weight.flatten(1).abs().amax(dim=1).view(-1, *[1] * (weight.ndim - 1)) / 127
        # The nearest integers, but that a number may lie on the edge: it is below 128 and has
        # been divided and multiplied once each.
        edge = 0.5 + 2 * 128 * torch.finfo(torch.float32).eps
        assert float((integers - weight / scale).abs().max()) <= edge


@pytest.mark.parametrize("make", [quantise, prepare_training])
def test_the_network_that_came_is_left_alone(make) -> None:
    network = trained()
    before = copy.deepcopy(network.state_dict())
    made = make(network, batches())
    for parameter in made.parameters():
        parameter.data.add_(1.0)
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_training_with_rounding_starts_at_the_rounded_network_and_learns() -> None:
    network = trained()
    training = prepare_training(network, batches())
    training.eval()
    assert accuracy(training) == pytest.approx(accuracy(network), abs=0.02)
    before = training(batches()[0])
    train(training, training_set(), SHORT, make_generator(0))
    training.eval()
    after = training(batches()[0])
    assert not torch.equal(before, after)
    quantised = finish_training(training)
    torch.testing.assert_close(quantised(batches()[0]), after)


def ranges(training):
    return {
        name: value.clone()
        for name, value in training.state_dict().items()
        if name.endswith(("min_val", "max_val", "scale", "zero_point"))
    }


def test_ranges_follow_in_training_and_stand_still_in_evaluation() -> None:
    training = prepare_training(trained(), batches())
    before = ranges(training)
    assert before
    training.eval()
    training(10 * batches()[0])
    assert all(torch.equal(before[name], value) for name, value in ranges(training).items())
    training.train()
    training(10 * batches()[0])
    assert any(not torch.equal(before[name], value) for name, value in ranges(training).items())


def test_pruned_weights_are_zero_in_int8_too() -> None:
    network = trained()
    prune_weights(network, 0.8)
    num_zeros = sum(int((p == 0).sum()) for p in network.parameters() if p.ndim > 1)
    training = prepare_training(network, batches())
    with holding_zeros(training):
        train(training, training_set(), SHORT, make_generator(0))
    stored = int8_weights(finish_training(training))
    assert sum(int((integers == 0).sum()) for integers in stored) >= num_zeros


@pytest.mark.parametrize("make", [quantise, prepare_training])
def test_norms_that_follow_no_convolution_are_kept_as_scale_and_shift(make) -> None:
    network = nn.Sequential(
        nn.BatchNorm2d(1), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten(),
        nn.Linear(4 * 36, 10),
    )  # fmt: skip
    for _ in range(3):
        network(batches()[0] + 1)
    network.eval()
    made = make(network, batches())
    made.eval()
    torch.testing.assert_close(made(batches()[0]), network(batches()[0]), atol=0.05, rtol=0.1)


@pytest.fixture(scope="module")
def int8(tmp_path_factory):
    """A quantised network, and its file."""
    quantised, path = quantise(trained(), batches()), tmp_path_factory.mktemp("int8") / "int8.onnx"
    write_onnx(quantised, digits().spec, path)
    return quantised, path


def test_the_int8_file_is_small_holds_int8_and_agrees(int8, tmp_path) -> None:
    network, spec = trained(), digits().spec
    quantised, path = int8
    write_onnx(network, spec, tmp_path / "float32.onnx")
    shutil.copy(path, tmp_path)
    stored = onnx.load(tmp_path / "int8.onnx").graph.initializer
    large = [each for each in stored if np.prod(each.dims) > 100]
    assert large
    assert {each.data_type for each in large} == {onnx.TensorProto.INT8}
    images = batches(3)[2]
    with torch.no_grad():
        for name, each, tolerance in (("float32", network, 1e-4), ("int8", quantised, 0.3)):
            found = OnnxNetwork(tmp_path / f"{name}.onnx", spec)(images)
            expected = each(images)
            assert float((found - expected).abs().max()) < tolerance
            assert float((found.argmax(1) == expected.argmax(1)).float().mean()) >= 0.95
            assert found.shape == expected.shape


def test_the_int8_file_runs_where_nas_proxy_is_not(int8, tmp_path) -> None:
    quantised, path = int8
    shutil.copy(path, tmp_path)
    colours = digits().search_val.images[:100].float() / 255
    np.save(tmp_path / "images.npy", colours.numpy())
    code = (
        "import sys, numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession('int8.onnx')\n"
        "logits = session.run(['logits'], {'images': numpy.load('images.npy')})[0]\n"
        "numpy.save('logits.npy', logits)\n"
        "assert not {'nas_proxy', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    found = torch.from_numpy(np.load(tmp_path / "logits.npy"))
    spec = digits().spec
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    with torch.no_grad():
        expected = quantised((colours - mean) / std)
    assert float((found.argmax(1) == expected.argmax(1)).float().mean()) >= 0.95
    assert float((found - expected).abs().max()) < 0.05 * float(expected.abs().max())


@pytest.mark.exhaustive
def test_the_rounded_network_can_be_kept_by_torch_export(tmp_path) -> None:
    quantised, images = quantise(trained(), batches()), batches()[0]
    torch.export.save(torch.export.export(quantised, (images,)), tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    torch.testing.assert_close(loaded(images), quantised(images))


class Computed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 64))

    def forward(self, images):
        return nn.functional.linear(images.flatten(1), self.weight.tanh())


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, images):
        logits = self.layer(images.flatten(1))
        return logits if float(logits.sum()) > 0 else -logits


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (nn.Sequential(nn.Flatten(), nn.ReLU()), "needs a two-dimensional convolution"),
        (Computed(), "the weight of linear is computed in the forward pass"),
        (Branching(), "cannot be traced by torch.export"),
    ],
)
def test_what_cannot_be_int8_is_said(network: nn.Module, said: str) -> None:
    with pytest.raises(CompressionError, match=said) as raised:
        quantise(network, batches())
    assert "\n" not in str(raised.value)


class Sorting(nn.Module):
    """`torch.histc` has no ONNX form."""

    def forward(self, images):
        return torch.histc(images, 10) + images.flatten(1)[:, :10]


@pytest.mark.exhaustive
def test_an_operator_without_onnx_form_is_named(tmp_path) -> None:
    with pytest.raises(CompressionError, match="cannot be written as ONNX") as raised:
        write_onnx(Sorting(), digits().spec, tmp_path / "model.onnx")
    assert "histc" in str(raised.value)
    assert not list(tmp_path.iterdir())
