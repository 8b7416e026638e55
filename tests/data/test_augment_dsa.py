"""Differentiable Siamese augmentation: published ranges, one family for each batch."""

import math

import pytest
import torch

from nas_proxy.data.augment import (
    DSA_STRATEGY,
    DSA_STRATEGY_WITHOUT_FLIP,
    dsa_families,
    siamese_augment,
)
from nas_proxy.reproducibility import make_generator
from tests.data.helpers_augment import FAMILIES, SHAPES, copies, erased_rectangle, noise, offsets_of

# The families of differentiable Siamese augmentation


def factors(images, result, centre):
    """By how much each image's distance from its `centre` was multiplied."""
    before, after = (images - centre).flatten(1), (result - centre).flatten(1)
    scale = (before * after).sum(dim=1) / before.square().sum(dim=1)
    torch.testing.assert_close(after, scale[:, None] * before)
    return scale


def test_brightness_adds_a_constant_of_at_most_one_half():
    images = copies(300, 3, 4, 4)
    brightness, _, _ = dsa_families("color")[0]
    added = (brightness(images, len(images), make_generator(0)) - images).flatten(1)
    torch.testing.assert_close(added, added[:, :1].expand_as(added))
    assert -0.5 <= float(added.min()) < -0.45
    assert 0.45 < float(added.max()) <= 0.5


def test_saturation_keeps_the_grey_of_each_pixel_and_at_most_doubles_its_colour():
    images = copies(300, 3, 4, 4)
    _, saturation, _ = dsa_families("color")[0]
    scale = factors(
        images,
        saturation(images, len(images), make_generator(0)),
        images.mean(dim=1, keepdim=True),
    )
    assert 0 <= float(scale.min()) < 0.1
    assert 1.9 < float(scale.max()) <= 2


def test_saturation_leaves_images_of_one_channel_alone():
    images = noise(5, 1, 4, 6)
    _, saturation, _ = dsa_families("color")[0]
    assert torch.equal(saturation(images, 5, make_generator(0)), images)


def test_contrast_keeps_the_mean_of_each_image_and_scales_about_it():
    images = copies(300, 3, 4, 4)
    _, _, contrast = dsa_families("color")[0]
    scale = factors(
        images,
        contrast(images, len(images), make_generator(0)),
        images.mean(dim=(1, 2, 3), keepdim=True),
    )
    assert 0.5 <= float(scale.min()) < 0.55
    assert 1.45 < float(scale.max()) <= 1.5


def test_the_color_family_changes_brightness_and_contrast_together():
    images = copies(200, 1, 4, 4)
    result = siamese_augment(images, "color", make_generator(0), shared=False)
    added = result.mean(dim=(1, 2, 3)) - images.mean(dim=(1, 2, 3))
    assert float(added.abs().max()) <= 0.5
    assert float(added.std()) > 0.1
    scale = result.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))
    assert 0.5 <= float(scale.min()) < 0.6
    assert 1.4 < float(scale.max()) <= 1.5


def coordinates(num, side):
    """Images whose two channels are the horizontal and the vertical coordinate, -1 to 1."""
    axis = (2 * torch.arange(side, dtype=torch.float64) + 1) / side - 1
    grid = torch.stack([axis.expand(side, side), axis[:, None].expand(side, side)])
    return grid.expand(num, 2, side, side).clone()


def inner(images):
    """The middle of the images, where nothing is sampled from beyond their borders."""
    quarter = images.shape[-1] // 4
    return images[..., quarter:-quarter, quarter:-quarter]


def test_scaling_stretches_each_direction_by_its_own_factor():
    images = coordinates(300, 16)
    result = siamese_augment(images, "scale", make_generator(0), shared=False)
    ratios = inner(result) / inner(images)
    torch.testing.assert_close(ratios, ratios[..., :1, :1].expand_as(ratios))
    horizontal, vertical = ratios[:, 0, 0, 0], ratios[:, 1, 0, 0]
    for factor in (horizontal, vertical):
        assert 1 / 1.2 - 1e-9 <= float(factor.min()) < 0.85
        assert 1.18 < float(factor.max()) <= 1.2 + 1e-9
    assert abs(float(torch.corrcoef(torch.stack([horizontal, vertical]))[0, 1])) < 0.3


def test_rotation_turns_about_the_centre_by_at_most_fifteen_degrees():
    images = coordinates(300, 16)
    result = siamese_augment(images, "rotate", make_generator(0), shared=False)
    before, after = inner(images), inner(result)
    torch.testing.assert_close(after.norm(dim=1), before.norm(dim=1))  # no stretching
    turned = torch.atan2(after[:, 1], after[:, 0]) - torch.atan2(before[:, 1], before[:, 0])
    degrees = torch.rad2deg(torch.remainder(turned + math.pi, 2 * math.pi) - math.pi).flatten(1)
    torch.testing.assert_close(degrees, degrees[:, :1].expand_as(degrees))
    assert -15 - 1e-9 <= float(degrees.min()) < -13.5
    assert 13.5 < float(degrees.max()) <= 15 + 1e-9


def test_crop_cutout_and_flip_have_the_published_sizes():
    images = copies(200, 3, 16, 16)

    def augmented(family):
        return siamese_augment(images, family, make_generator(0), shared=False)

    places = [offsets_of(images[0], image, (3, 3))[0] for image in augmented("crop")]
    assert max(abs(step) for place in places for step in place) == 2  # an eighth of the side
    found = [erased_rectangle(images[0], image) for image in augmented("cutout")]
    assert max(last - first for place in found for first, last in place) == 8  # half of it
    flipped = (augmented("flip") == images.flip(-1)).flatten(1).all(dim=1)
    assert 60 < int(flipped.sum()) < 140


def test_one_family_is_drawn_for_each_batch_and_every_family_is():
    images = noise(3, 3, 8, 8)
    seen = set()
    for seed in range(120):
        result = siamese_augment(images, DSA_STRATEGY, make_generator(seed))
        alone = [
            family
            for family in FAMILIES
            if torch.equal(siamese_augment(images, family, make_generator(seed)), result)
        ]
        assert alone
        seen.update(alone if len(alone) == 1 else [])
    assert seen == set(FAMILIES)


def test_the_published_strategies_name_all_families_and_digits_are_not_flipped():
    assert set(DSA_STRATEGY.split("_")) == set(FAMILIES)
    assert set(DSA_STRATEGY_WITHOUT_FLIP.split("_")) == set(FAMILIES) - {"flip"}


def test_no_family_changes_nothing():
    images = noise(2, 1, 3, 3)
    assert torch.equal(siamese_augment(images, "", make_generator(0)), images)


# The Siamese use


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_two_batches_get_the_same_change(family, shape):
    real = noise(5, *shape)
    synthetic = torch.cat([real[3:], noise(1, *shape, seed=1)])
    changed = 0
    for seed in range(6):
        one = siamese_augment(real, family, make_generator(seed))
        other = siamese_augment(synthetic, family, make_generator(seed))
        assert one.shape == real.shape
        assert torch.equal(one[3:], other[:2])
        changed += not torch.equal(one, real)
    assert changed


@pytest.mark.parametrize("family", FAMILIES)
def test_a_change_that_is_not_shared_differs_from_image_to_image(family):
    images = copies(12, 3, 8, 8)
    own = siamese_augment(images, family, make_generator(0), shared=False)
    together = siamese_augment(images, family, make_generator(0), shared=True)
    assert len({tuple(image.flatten().tolist()) for image in own}) > 1
    assert len({tuple(image.flatten().tolist()) for image in together}) == 1
