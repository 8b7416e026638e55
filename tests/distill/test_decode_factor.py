"""Multi-formation as an option of every method that optimises pixels."""

from dataclasses import replace

import pytest

from nas_proxy.data.multi_formation import decode, encode
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.transforms import normalise
from nas_proxy.distill.distribution_matching import DistributionMatching
from nas_proxy.distill.gradient_matching import GradientMatching
from nas_proxy.distill.layerwise_matching import LayerwiseMatching
from nas_proxy.distill.random_subset import RandomSubset
from nas_proxy.errors import ConfigError
from nas_proxy.reproducibility import make_generator
from nas_proxy.testing import DISTILLER_CHECKS, tiny_dataset
from nas_proxy.testing._distillers import check_labels
from nas_proxy.train.training_set import TrainingSet
from tests.distill.helpers import SMALL, Log, distill, embed_by_hand, real_images, remember_networks

SMALL_STEPS = {"num_steps": 7, "decode_factor": 2, **SMALL}
METHODS = {
    "distribution_matching": DistributionMatching(**SMALL_STEPS),
    "gradient_matching": GradientMatching(outer_loop=2, inner_loop=1, **SMALL_STEPS),
    "layerwise_matching": LayerwiseMatching(**SMALL_STEPS),
}


@pytest.mark.parametrize(
    "check", DISTILLER_CHECKS, ids=lambda check: check.__name__.removeprefix("check_")
)
@pytest.mark.parametrize(
    "name",
    [
        "distribution_matching",
        pytest.param("gradient_matching", marks=pytest.mark.exhaustive),
        pytest.param("layerwise_matching", marks=pytest.mark.exhaustive),
    ],
)
def test_the_contract_holds_with_several_images_in_one(name, check):
    check(METHODS[name])


@pytest.mark.parametrize("name", METHODS)
def test_each_training_image_has_a_label_of_its_class(name, tmp_path):
    result = distill(replace(METHODS[name], num_steps=1), images_per_class=3)
    assert result.images.shape == (9, 3, 8, 8)
    assert result.training_images().shape == (36, 3, 8, 8)
    assert result.labels.tolist() == [0] * 12 + [1] * 12 + [2] * 12
    assert (result.decode_factor, result.images_per_class) == (2, 3)
    result.save(tmp_path / "proxy.safetensors")
    loaded = ProxyDataset.load(tmp_path / "proxy.safetensors")
    assert loaded == result
    assert len(TrainingSet.of(loaded)) == 36


def test_the_check_of_labels_wants_one_for_each_training_image():
    class Forgetful(RandomSubset):
        def distill(self, task):
            return replace(super().distill(task), decode_factor=2)

    Forgetful.name = "forgetful"
    with pytest.raises(AssertionError, match="hard labels must be int64 and run class by class"):
        check_labels(Forgetful())


@pytest.mark.parametrize("factor", [2, 3])
def test_a_start_holds_different_real_images_of_the_class_until_there_are_no_more(factor):
    dataset = tiny_dataset(images_per_class=20)
    method = DistributionMatching(decode_factor=factor)
    images, labels = method.initialise(dataset, 2, make_generator(0))
    assert images.shape == (6, 3, 8, 8)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    seen = decode(images, factor)
    real = normalise(dataset.images, dataset.spec)
    tiles = factor**2
    # What each real image looks like when it is taken out of each of the tiles again.
    stored = encode(real.repeat_interleave(tiles, dim=0), factor)
    alone = decode(stored, factor).view(len(real), tiles, 3, 8, 8)
    found = []
    for position, image in enumerate(seen):
        distances = (alone[:, position % tiles] - image).abs().flatten(1).amax(dim=1)
        nearest = int(distances.argmin())
        assert distances[nearest] < 1e-4
        assert dataset.labels[nearest] == position // (2 * tiles)
        found.append(nearest)
    assert len(set(found)) == len(found) == 6 * tiles


def test_a_class_with_too_few_images_for_its_tiles_gives_some_more_than_once():
    dataset = tiny_dataset(images_per_class=3)
    images, _ = DistributionMatching(decode_factor=2).initialise(dataset, 2, make_generator(0))
    shown = decode(images, 2)[:8]  # eight places for the three images of the first class
    distinct = {tuple(image.flatten().mul(1e3).round().tolist()) for image in shown}
    assert len(distinct) == 3


@pytest.mark.parametrize("name", METHODS)
def test_the_images_are_optimised_through_their_tiles(name):
    method = replace(METHODS[name], num_steps=2, init="real", augment="")
    start, _ = method.initialise(tiny_dataset(), 2, make_generator(0))
    moved = (distill(method).images - start).abs()
    assert float(moved.max()) > 1e-4
    for tile in decode(moved, 2):
        assert float(tile.max()) > 0


def test_the_tiles_are_what_is_matched(monkeypatch):
    networks, log = remember_networks(monkeypatch), Log()
    method = replace(METHODS["distribution_matching"], num_steps=1, augment="")
    distill(method, progress=log)
    start, _ = method.initialise(tiny_dataset(), 2, make_generator(0))
    loss = 0.0
    for label, images in enumerate(decode(start, 2).split(8)):
        goal = embed_by_hand(networks[0], real_images(tiny_dataset(), label)).mean(dim=0)
        loss += float((goal - embed_by_hand(networks[0], images).mean(dim=0)).square().sum())
    assert log.losses == pytest.approx([loss], rel=0.01)


@pytest.mark.parametrize("factor", [5, 9])
def test_more_tiles_than_there_are_pixels_for_are_refused(factor):
    with pytest.raises(ConfigError, match=f"decode_factor {factor} is too large for 8x8 pixels"):
        distill(replace(METHODS["distribution_matching"], decode_factor=factor))
