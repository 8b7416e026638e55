"""Torchvision's networks as teachers: their weights, their preprocessing, a new last layer."""

import shutil

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models
from torchvision.models import get_model
from torchvision.transforms.v2 import functional as TF  # noqa: N812 - as torchvision's own pages

from nas_proxy.backbones.weights import LICENCE
from nas_proxy.data.transforms import normalise
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.teachers.pretrained import build_pretrained, identify_weights
from nas_proxy.teachers.teacher import Ensemble
from nas_proxy.testing import tiny_dataset
from nas_proxy.testing._common import global_generators_untouched
from nas_proxy.train.teacher_settings import PretrainedSettings
from tests.teachers.helpers import SIZE, SMALL, pretrained, short, teach


def original(name, file):
    network = get_model(name, weights=None)
    network.load_state_dict(torch.load(file, weights_only=True))
    return network.eval()


def loaded(name, file, spec=None, **changes):
    """The network with the weights of the file, and any last layer."""
    told = pretrained(name, file, **changes)
    with isolated_rng(0):
        network = build_pretrained(told, spec or tiny_dataset().spec)
    network.load_published_weights(told.weights)
    return network.eval()


# Weights


@pytest.mark.parametrize(
    ("name", "kind"),
    [("resnet18", "pth"), ("resnet18", "safetensors"), (SMALL, "pt"), (SMALL, "safetensors")],
)
def test_all_but_the_last_layer_is_as_published(weights, tmp_path, name, kind):
    state = torch.load(weights[name], weights_only=True)
    file = tmp_path / f"weights.{kind}"
    if kind == "safetensors":
        save_file(state, file)
    else:
        shutil.copyfile(weights[name], file)
    network = loaded(name, file)
    own = network.network.state_dict()
    assert set(own) == set(state)
    for key, value in state.items():
        assert key.startswith("fc.") or torch.equal(own[key], value)
    assert network.classifier.out_features == 3
    assert network.classifier is network.network.fc


def test_the_embedding_is_that_of_the_original_network(weights):
    file, spec = weights["resnet18"], tiny_dataset().spec
    network = loaded("resnet18", file)
    images = normalise(tiny_dataset().images[:5], spec)
    body = original("resnet18", file)
    body.fc = torch.nn.Identity()
    torch.testing.assert_close(
        network.embed(images), body(network.preparation(images)), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(network.classifier(network.embed(images)), network(images))


def test_pixels_meet_the_network_as_torchvision_prepares_them():
    preset = models.ShuffleNet_V2_X0_5_Weights.DEFAULT.transforms()
    dataset = tiny_dataset(image_shape=(3, SIZE, SIZE), images_per_class=2)
    expected = TF.normalize(
        TF.to_dtype(dataset.images, torch.float32, scale=True), preset.mean, preset.std
    )
    told = PretrainedSettings(name=SMALL, image_size=SIZE)
    with isolated_rng(0):
        network = build_pretrained(told, dataset.spec)
    prepared = network.preparation(normalise(dataset.images, dataset.spec))
    torch.testing.assert_close(prepared, expected, atol=1e-5, rtol=1e-5)


def test_smaller_images_are_enlarged_without_a_shift():
    told = PretrainedSettings(name=SMALL, image_size=SIZE)
    with isolated_rng(0):
        network = build_pretrained(told, tiny_dataset().spec)
    preset = models.ShuffleNet_V2_X0_5_Weights.DEFAULT.transforms()
    pixels = tiny_dataset().images[:3]
    expected = TF.normalize(
        TF.resize(TF.to_dtype(pixels, torch.float32, scale=True), [SIZE, SIZE], antialias=True),
        preset.mean,
        preset.std,
    )
    prepared = network.preparation(normalise(pixels, tiny_dataset().spec))
    torch.testing.assert_close(prepared, expected, atol=1e-4, rtol=1e-4)


def test_weights_of_another_preprocessing_get_theirs(monkeypatch):
    # The one network of torchvision that was trained on values from -1 to 1 is too large to be
    # built here; its word for it is given to a small one.
    large = models.EfficientNet_V2_L_Weights.DEFAULT.transforms()
    assert (large.mean, large.std) == ([0.5] * 3, [0.5] * 3)
    preset = models.get_model_weights(SMALL).DEFAULT
    monkeypatch.setattr(type(preset), "transforms", property(lambda self: lambda: large))
    dataset = tiny_dataset(image_shape=(3, SIZE, SIZE), images_per_class=2)
    with isolated_rng(0):
        network = build_pretrained(PretrainedSettings(name=SMALL, image_size=SIZE), dataset.spec)
    prepared = network.preparation(normalise(dataset.images, dataset.spec))
    torch.testing.assert_close(prepared, dataset.images / 127.5 - 1, atol=1e-5, rtol=1e-5)


def test_grey_images_become_three_equal_channels(weights):
    dataset = tiny_dataset(image_shape=(1, 8, 8))
    network = loaded(SMALL, weights[SMALL], dataset.spec)
    prepared = network.preparation(normalise(dataset.images, dataset.spec))
    colour = dataset.images.expand(-1, 3, -1, -1).float() / 255
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    middle = prepared[:, :, SIZE // 2, SIZE // 2]
    back = middle * std.flatten() + mean.flatten()
    torch.testing.assert_close(back, back[:, :1].expand(-1, 3), atol=1e-5, rtol=1e-5)
    size = [SIZE, SIZE]
    expected = (TF.resize(colour, size, antialias=True) - mean) / std
    torch.testing.assert_close(prepared, expected, atol=1e-4, rtol=1e-4)
    assert network(normalise(dataset.images[:2], dataset.spec)).shape == (2, 3)


def test_the_answer_does_not_depend_on_how_many_are_asked_about(weights, monkeypatch):
    network = loaded(SMALL, weights[SMALL])
    images = normalise(tiny_dataset().images, tiny_dataset().spec)
    whole = network(images)
    asked = []
    inner = network.network.forward
    monkeypatch.setattr(
        network.network, "forward", lambda batch: (asked.append(len(batch)), inner(batch))[1]
    )
    monkeypatch.setattr("nas_proxy.train.measuring._PIXELS_AT_ONCE", 10 * SIZE * SIZE)
    torch.testing.assert_close(network(images), whole, atol=1e-5, rtol=1e-5)
    assert asked == [8, 8, 8]
    torch.testing.assert_close(
        network.classifier(network.embed(images)), whole, atol=1e-5, rtol=1e-5
    )
    network._settings = PretrainedSettings(name=SMALL, image_size=SIZE, train="all")
    network.train()
    asked.clear()
    network(images)
    assert asked == [24]  # batch statistics are those of the whole batch


# Training


def taught(name, file, tmp_path=None, **changes):
    told = short(num_steps=3, batch_size=6)
    return teach(cache=tmp_path, pretrained=pretrained(name, file, **changes), train=told)


@pytest.mark.exhaustive
def test_training_the_head_leaves_the_body_as_it_was_published(weights):
    with global_generators_untouched("teaching"):
        teacher = taught("resnet18", weights["resnet18"])
    state = torch.load(weights["resnet18"], weights_only=True)
    own = teacher.network.network.state_dict()
    for key, value in state.items():  # with the statistics of its batch norms
        assert key.startswith("fc.") or torch.equal(own[key], value)
    untrained = taught("resnet18", weights["resnet18"])
    assert torch.equal(untrained.network.classifier.weight, own["fc.weight"])
    with isolated_rng(0):
        other = build_pretrained(pretrained("resnet18", weights["resnet18"]), teacher.spec)
    assert not torch.equal(other.classifier.weight, own["fc.weight"])


def test_training_all_changes_every_weight(weights):
    teacher = taught(SMALL, weights[SMALL], train="all")
    state = torch.load(weights[SMALL], weights_only=True)
    own = teacher.network.network.state_dict()
    unchanged = [k for k, v in state.items() if not k.startswith("fc.") and torch.equal(own[k], v)]
    assert not unchanged


def test_the_head_learns_the_classes(weights):
    told = short(num_steps=20, batch_size=24, augmentation=None)
    teacher = teach(pretrained=pretrained(SMALL, weights[SMALL]), train=told)
    dataset = tiny_dataset()
    answers = teacher.logits(normalise(dataset.images, dataset.spec)).argmax(dim=1)
    assert float((answers == dataset.labels).float().mean()) > 0.9


@pytest.mark.exhaustive
def test_it_is_kept_with_its_licence_and_without_a_path(weights, tmp_path):
    teacher = taught(SMALL, weights[SMALL], tmp_path)
    weights_id = identify_weights(pretrained(SMALL, weights[SMALL]))
    assert teacher.description == f"{SMALL} of torchvision ({weights_id}), 3 steps on tiny"
    assert str(weights[SMALL].parent) not in f"{teacher.description}{teacher.recipe}"
    assert teacher.licence == LICENCE
    assert teacher.knows_imagenet
    images = normalise(tiny_dataset().images, tiny_dataset().spec)
    again = taught(SMALL, weights[SMALL], tmp_path)
    assert again.id == teacher.id
    assert torch.equal(Ensemble([again])(images), Ensemble([teacher])(images))
    (kept,) = (tmp_path / "teachers").glob("*.safetensors")
    moved = tmp_path / "moved.safetensors"
    kept.rename(moved)
    # No weights file is needed any more, nor torchvision's download.
    checkpoint = teach(checkpoint=str(moved))
    assert torch.equal(Ensemble([checkpoint])(images), Ensemble([teacher])(images))


def test_the_same_file_elsewhere_is_the_same_teacher_and_another_under_its_name_is_not(
    weights, tmp_path
):
    elsewhere = tmp_path / weights[SMALL].name
    shutil.copyfile(weights[SMALL], elsewhere)
    first = taught(SMALL, weights[SMALL], tmp_path)
    assert taught(SMALL, elsewhere, tmp_path).id == first.id
    assert len(list((tmp_path / "teachers").glob("*.safetensors"))) == 1
    state = torch.load(elsewhere, weights_only=True)
    torch.save(
        {key: value * 1.01 if "conv" in key else value for key, value in state.items()}, elsewhere
    )
    assert taught(SMALL, elsewhere, tmp_path).id != first.id


# Networks with ways of their own


@pytest.mark.parametrize("name", ["mnasnet0_5", "densenet121", "googlenet"])
def test_weights_in_their_published_form_are_understood(tmp_path, name):
    with isolated_rng(1):
        # Published with two heads for training.
        options = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
        network = get_model(name, weights=None, **options).eval()
    state = network.state_dict()
    if name == "densenet121":  # and with the names of 2017: norm.1 for norm1
        for key in list(state):
            old = key.replace("norm1.", "norm.1.").replace("norm2.", "norm.2.")
            old = old.replace("conv1.", "conv.1.").replace("conv2.", "conv.2.")
            state[old if "denselayer" in key else key] = state.pop(key)
    file = tmp_path / "weights.pth"
    torch.save(state, file)
    ours = loaded(name, file)
    images = torch.randn(2, 3, SIZE, SIZE, generator=make_generator(0))
    inputs = []
    hook = network.get_submodule("fc" if name == "googlenet" else "classifier")
    layer = hook[-1] if name == "mnasnet0_5" else hook
    layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    network.transform_input = True  # as torchvision sets it for published weights
    with torch.no_grad():
        network(ours.preparation(images))
        torch.testing.assert_close(ours.embed(images), inputs[0].flatten(1), atol=1e-4, rtol=1e-4)


def test_every_network_of_torchvision_has_weights_and_a_word_for_their_preprocessing():
    for name in models.list_models(module=models):
        preset = models.get_model_weights(name).DEFAULT.transforms()
        assert len(preset.mean) == len(preset.std) == 3


def test_terms_of_their_own_are_added_to_the_licence(monkeypatch):
    terms = models.ViT_B_16_Weights.IMAGENET1K_SWAG_LINEAR_V1.meta["license"]
    preset = models.get_model_weights(SMALL).DEFAULT
    monkeypatch.setitem(preset.meta, "license", terms)
    with isolated_rng(0):
        network = build_pretrained(
            PretrainedSettings(name=SMALL, image_size=SIZE), tiny_dataset().spec
        )
    assert network.licence == f"{LICENCE}; {terms}"
