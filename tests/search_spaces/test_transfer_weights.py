"""What is refused of weights and images before a study starts, and what is said aloud."""

from dataclasses import replace

import pytest
import torch
from torchvision.models import WeightsEnum, get_model

from nas_proxy.backbones.weights import save_weights, seen_images
from nas_proxy.data.splits import image_hashes
from nas_proxy.errors import ConfigError, DataError, StudyError
from nas_proxy.reproducibility import isolated_rng
from nas_proxy.search_spaces.torchvision_backbones import TorchvisionBackbonesSpace as Space
from nas_proxy.testing import tiny_dataset
from nas_proxy.types import Splits, WeightsRecord

NAME = "squeezenet1_1"


@pytest.fixture(scope="module")
def network():
    with isolated_rng(0):
        return get_model(NAME)


def splits(**changes):
    whole = tiny_dataset()
    whole = replace(whole, spec=replace(whole.spec, **changes))
    parts = torch.arange(len(whole)).tensor_split(3)
    return Splits(*(whole.subset(part) for part in parts))


def space(file):
    return Space(backbones=(NAME,), weights={NAME: str(file)})


def saved(folder, network, images):
    file = folder / "own.safetensors"
    save_weights(file, network, WeightsRecord("somewhere"), seen=image_hashes(images))
    return file


def test_weights_of_another_network_are_refused_before_anything_is_done(tmp_path, network):
    file = tmp_path / "other.pth"
    torch.save({"conv1.weight": torch.zeros(1)}, file)
    with pytest.raises(DataError, match=f"are not of {NAME}"):
        space(file).check_images(splits())


def test_images_that_no_backbone_takes_are_refused():
    small = splits(image_shape=(3, 600, 600))
    with pytest.raises(ConfigError, match="vit_b_16 .* accepts no multiple of 32 pixels from 600"):
        Space(backbones=("vit_b_16",)).check_images(small)


def test_weights_that_were_trained_on_what_judges_are_refused(tmp_path, network):
    own = splits()
    for part in (own.search_val, own.test):
        file = saved(tmp_path, network, part.images[:3])
        with pytest.raises(StudyError, match=r"were trained on 3 of the 16 images that judge"):
            space(file).check_images(own)


def test_weights_that_know_the_training_images_alone_are_accepted(tmp_path, network):
    own = splits()
    file = saved(tmp_path, network, own.search_train.images)
    assert torch.equal(seen_images(str(file)), image_hashes(own.search_train.images))
    space(file).check_images(own)
    # Which images a stranger's file was trained on is not on record.
    torch.save(network.state_dict(), tmp_path / "plain.pth")
    space(tmp_path / "plain.pth").check_images(own)


def test_published_weights_that_may_know_what_judges_are_warned_of(monkeypatch, caplog, network):
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: network.state_dict())
    published = Space(backbones=(NAME,), weights="default")
    published.check_images(splits())
    assert not caplog.records
    published.check_images(splits(name="imagenette"))
    assert f"torchvision's weights of {NAME}" in caplog.text
    assert "take their accuracies for too high" in caplog.text
