"""Weights of backbones: what fits, what does not, and what is kept with a file."""

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models
from torchvision.models import VisionTransformer, get_model

from nas_proxy.backbones.backbone import build_backbone
from nas_proxy.backbones.weights import (
    LICENCE,
    identify_weights,
    load_weights,
    record_of,
    save_weights,
    saved_key,
)
from nas_proxy.errors import ConfigError, DataError
from nas_proxy.reproducibility import isolated_rng
from nas_proxy.testing import tiny_dataset
from nas_proxy.types import WeightsRecord

NAME = "squeezenet1_1"


@pytest.fixture(scope="module")
def state():
    with isolated_rng(5):
        return get_model(NAME, weights=None).state_dict()


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_head_that_is_a_convolution_is_replaced_and_the_rest_is_loaded(tmp_path, state, ending):
    file = tmp_path / f"weights.{ending}"
    (save_file if ending == "safetensors" else torch.save)(state, file)
    with isolated_rng(0):
        backbone = build_backbone(
            NAME, tiny_dataset().spec, 32, weights=str(file), hidden_units=4, dropout=0.5
        )
    own = backbone.network.state_dict()
    assert all(
        torch.equal(own[key], value)
        for key, value in state.items()
        if not key.startswith("classifier.1.")
    )
    kinds = [type(layer).__name__ for layer in backbone.head]
    assert kinds == ["Conv2d", "ReLU", "Dropout", "Conv2d"]
    assert backbone.train()(torch.zeros(2, 3, 8, 8)).shape == (2, 3)


def test_torchvisions_own_weights_are_taken_where_they_can_be_had(monkeypatch, state):
    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", lambda self, **_: dict(state))
    with isolated_rng(0):
        backbone = build_backbone(NAME, tiny_dataset().spec, 32, weights="DEFAULT")
    assert torch.equal(backbone.network.features[0].weight, state["features.0.weight"])


def test_what_colours_the_weights_expect_goes_with_a_trained_network(monkeypatch):
    # Of VGG-16 there are weights for pixels from 0 to 255, and others; a small network stands in.
    preset = models.VGG16_Weights.IMAGENET1K_FEATURES.transforms()
    spec = tiny_dataset().spec
    with isolated_rng(0):
        plain = build_backbone(NAME, spec, 32)
        default = models.get_model_weights(NAME).DEFAULT
        monkeypatch.setattr(type(default), "transforms", property(lambda self: lambda: preset))
        trained = build_backbone(NAME, spec, 32)
    images = torch.randn(2, *spec.image_shape)
    assert not torch.equal(plain.preparation(images), trained.preparation(images))
    plain.load_state_dict(trained.state_dict())
    assert torch.equal(plain.preparation(images), trained.preparation(images))


def transformer(image_size):
    with isolated_rng(image_size):
        network = VisionTransformer(
            image_size=image_size, patch_size=8, num_layers=1, num_heads=2, hidden_dim=16,
            mlp_dim=16, num_classes=3,
        )  # fmt: skip
        torch.nn.init.normal_(network.heads.head.weight)
    return network


def test_positions_of_a_transformer_are_interpolated_to_another_size(tmp_path):
    large, small = transformer(64), transformer(32)
    file = tmp_path / "weights.safetensors"
    save_weights(file, large, WeightsRecord("somewhere"))
    load_weights(small, "vit_b_16", str(file), head="heads.head")
    given, own = large.encoder.pos_embedding, small.encoder.pos_embedding
    assert own.shape == (1, 17, 16)
    assert torch.equal(own[:, 0], given[:, 0])  # that of the class token
    assert not torch.equal(own[:, 1:], given[:, 1:17])
    assert torch.equal(small.conv_proj.weight, large.conv_proj.weight)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"features.0.weight": torch.zeros(64, 1, 3, 3)},
            "features.0.weight has shape (64, 1, 3, 3) instead of (64, 3, 3, 3)",
        ),
        ({"features.99.weight": torch.zeros(2)}, "features.99.weight (2,) is unknown"),
        ({"features.0.bias": None}, "features.0.bias (64,) is missing"),
    ],
)
def test_layers_that_do_not_fit_are_named_with_their_shapes(tmp_path, state, change, said):
    file = tmp_path / "weights.pth"
    torch.save({k: v for k, v in {**state, **change}.items() if v is not None}, file)
    with pytest.raises(DataError) as caught:
        load_weights(get_model(NAME), NAME, str(file), head="classifier.1")
    assert str(caught.value) == (
        f"the weights {file} are not of {NAME} ({said}); name the network that they belong to"
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.full((64,), float("nan")), "features.0.bias holds values that are not finite"),
        (torch.zeros(64, dtype=torch.int32), "features.0.bias holds torch.int32"),
        (torch.zeros(64, device="meta"), "features.0.bias holds torch.float32, torch.strided, on"),
    ],
)
def test_layers_without_plain_finite_numbers_are_named(tmp_path, state, value, said):
    file = tmp_path / "weights.pth"
    torch.save({**state, "features.0.bias": value}, file)
    with pytest.raises(DataError) as caught:
        load_weights(get_model(NAME), NAME, str(file), head="classifier.1")
    assert f"the weights {file} of {NAME} cannot be used ({said}" in str(caught.value)


def test_a_whole_network_is_refused_in_words(tmp_path):
    file = tmp_path / "network.pth"
    torch.save(torch.nn.Linear(2, 2), file)
    with pytest.raises(DataError) as caught:
        load_weights(get_model(NAME), NAME, str(file), head="classifier.1")
    assert "it would run torch.nn.modules.linear.Linear" in str(caught.value)
    assert "save its state_dict alone" in str(caught.value)


def test_nothing_is_loaded_from_weights_that_do_not_fit(tmp_path, state):
    network = get_model(NAME)
    before = network.features[0].weight.clone()
    torch.save({"features.0.weight": state["features.0.weight"]}, tmp_path / "part.pth")
    with pytest.raises(DataError, match=r"and \d+ more"):
        load_weights(network, NAME, str(tmp_path / "part.pth"), head="classifier.1")
    assert torch.equal(network.features[0].weight, before)


def test_source_and_licence_go_with_a_file(tmp_path, state):
    file, plain = tmp_path / "own.safetensors", tmp_path / "plain.safetensors"
    network = get_model(NAME)
    save_weights(file, network, WeightsRecord("SimCLR on beetles", "CC BY 4.0"), "abc")
    assert saved_key(file) == "abc"
    record = record_of(NAME, str(file))
    assert record == WeightsRecord(
        f"{NAME}: SimCLR on beetles ({identify_weights(NAME, str(file))})", "CC BY 4.0"
    )
    assert not record.is_non_commercial
    save_file(state, plain)
    assert saved_key(plain) == ""
    assert record_of(NAME, str(plain)).licence.startswith("not known")
    published = record_of(NAME, "DEFAULT")
    assert published == WeightsRecord(f"{NAME}: IMAGENET1K_V1 of torchvision", LICENCE)
    assert published.is_non_commercial


def test_a_name_that_is_nearly_right_is_corrected():
    with pytest.raises(ConfigError, match="no network 'squeezenet1_2'; did you mean"):
        identify_weights("squeezenet1_2", "DEFAULT")
    with pytest.raises(ConfigError, match="did you mean 'IMAGENET1K_V1'"):
        identify_weights(NAME, "IMAGENET1K")
