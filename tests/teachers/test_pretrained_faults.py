"""Pretrained teachers that cannot be: one sentence each, and no file is ever run."""

from http.client import IncompleteRead
from urllib.error import URLError

import pytest
import torch
from torchvision import models

from nas_proxy.errors import ConfigError, DataError
from nas_proxy.reproducibility import isolated_rng
from nas_proxy.teachers.pretrained import build_pretrained, identify_weights
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.teacher_settings import PretrainedSettings
from tests.teachers.helpers import SIZE, SMALL, pretrained, short, teach


def refusal(error, told):
    with pytest.raises(error) as caught:
        teach(pretrained=told, train=short())
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet81", "torchvision has no network 'resnet81'; did you mean 'resnet18'?"),
        ("maskrcnn_resnet50_fpn", "torchvision has no network 'maskrcnn_resnet50_fpn'"),
    ],
)
def test_an_unknown_network_is_refused(name, said):
    assert said in refusal(ConfigError, PretrainedSettings(name=name))


def test_unknown_weights_are_refused_before_anything_is_built(monkeypatch):
    monkeypatch.setattr(models, "get_model", lambda *_, **__: pytest.fail("it was built"))
    told = PretrainedSettings(name="resnet18", weights="IMAGENET1K_V3")
    assert refusal(ConfigError, told) == (
        "torchvision has no weights 'IMAGENET1K_V3' for resnet18; did you mean 'IMAGENET1K_V1'? "
        "(or name a local .pth file)"
    )


def test_default_weights_are_recorded_by_their_name():
    assert identify_weights(PretrainedSettings(name="resnet50")) == "IMAGENET1K_V2"
    assert identify_weights(PretrainedSettings(name="resnet18")) == "IMAGENET1K_V1"


def test_a_missing_file_is_refused(tmp_path):
    message = refusal(DataError, pretrained(SMALL, tmp_path / "none.pth"))
    assert f"the weights file {tmp_path / 'none.pth'} does not exist" in message


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x02]q\x00."])
def test_a_damaged_file_is_refused(tmp_path, kind, content):
    file = tmp_path / f"weights.{kind}"
    file.write_bytes(content)
    message = refusal(DataError, pretrained(SMALL, file))
    assert f"the weights file {file}" in message
    assert "cannot be read" in message or "holds no state_dict" in message


def test_a_truncated_file_is_refused(weights, tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(weights[SMALL].read_bytes()[:-1000])
    assert f"the weights file {file} cannot be read" in refusal(DataError, pretrained(SMALL, file))


class Payload:
    """What no file of weights may bring along."""

    def __reduce__(self):
        return pytest.fail, ("the file's code was run",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"fc.weight": Payload()}, "cannot be read"),
        ({"state_dict": {"fc.weight": torch.zeros(2)}}, "holds no state_dict; save that alone"),
        ([torch.zeros(2)], "holds no state_dict; save that alone"),
        ({3: torch.zeros(2)}, "holds no state_dict; save that alone"),
    ],
)
def test_a_file_of_anything_else_is_refused_and_never_run(tmp_path, content, said):
    file = tmp_path / "weights.pth"
    torch.save(content, file)
    assert said in refusal(DataError, pretrained(SMALL, file))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: {**state, "layer9.weight": torch.zeros(2)}, "layer9.weight (2,) is unknown"),
        (
            lambda state: {k: v for k, v in state.items() if k != "conv1.0.weight"},
            "conv1.0.weight (24, 3, 3, 3) is missing",
        ),
        (
            lambda state: {**state, "conv1.0.weight": torch.zeros(3)},
            "conv1.0.weight has shape (3,) instead of (24, 3, 3, 3)",
        ),
    ],
)
def test_weights_of_another_network_are_refused(weights, tmp_path, change, said):
    file = tmp_path / "weights.pth"
    torch.save(change(torch.load(weights[SMALL], weights_only=True)), file)
    message = refusal(DataError, pretrained(SMALL, file))
    assert f"the weights {file} are not of {SMALL}" in message
    assert said in message
    assert "name the network that they belong to" in message


def test_another_network_is_named_as_such(weights):
    message = refusal(DataError, pretrained("resnet18", weights[SMALL]))
    assert f"the weights {weights[SMALL]} are not of resnet18 (" in message


@pytest.mark.parametrize(
    "error",
    [
        URLError("no route to host"),
        ConnectionResetError("reset"),
        IncompleteRead(b"half"),
        RuntimeError('invalid hash value (expected "f37072fd", got "0")'),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_download_that_fails_says_what_else_can_be_done(monkeypatch, error):
    def fail(self, *arguments, **options):
        assert options == {"progress": False, "check_hash": True}
        raise error

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", fail)
    message = refusal(DataError, PretrainedSettings(name=SMALL, image_size=SIZE))
    assert f"the weights DEFAULT of {SMALL} cannot be downloaded (" in message
    assert "put the file somewhere and name its path in weights" in message


def test_weights_of_torchvision_are_taken_where_they_can_be_had(monkeypatch, weights):
    state = torch.load(weights[SMALL], weights_only=True)
    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", lambda self, **_: dict(state))
    teacher = teach(pretrained=PretrainedSettings(name=SMALL, image_size=SIZE), train=short())
    assert torch.equal(teacher.network.network.conv1[0].weight, state["conv1.0.weight"])
    assert teacher.description == f"{SMALL} of torchvision (IMAGENET1K_V1), 4 steps on tiny"


def test_a_network_whose_last_layer_is_no_linear_one_is_refused():
    told = PretrainedSettings(name="squeezenet1_1", image_size=SIZE)
    assert "SqueezeNet does not end in a linear layer" in refusal(ConfigError, told)


def test_a_size_that_the_network_cannot_take_is_refused(monkeypatch):
    def small(name, *, weights, num_classes, image_size):
        return models.VisionTransformer(
            image_size=32,
            patch_size=8,
            num_layers=1,
            num_heads=2,
            hidden_dim=16,
            mlp_dim=16,
            num_classes=num_classes,
        )

    monkeypatch.setattr(models, "get_model", small)
    with isolated_rng(0):
        network = build_pretrained(
            PretrainedSettings(name="vit_b_16", image_size=32), tiny_dataset().spec
        )
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 3)
    message = refusal(ConfigError, PretrainedSettings(name="vit_b_16", image_size=40))
    assert message.startswith("vit_b_16 of torchvision cannot take images of 40 pixels (")
    assert "set image_size to what it was made for, such as 224" in message
