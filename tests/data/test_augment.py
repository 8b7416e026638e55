"""Augmentation: published ranges, one draw per image or a shared one, gradients, determinism."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_proxy.data.augment import (
    DSA_STRATEGY,
    DSA_STRATEGY_WITHOUT_FLIP,
    Augmentation,
    dsa_families,
    erase,
    mirror,
    shift,
    siamese_augment,
)
from nas_proxy.errors import ConfigError
from nas_proxy.reproducibility import make_generator

FAMILIES = ("color", "crop", "cutout", "flip", "scale", "rotate")
SHAPES = [(3, 8, 8), (1, 8, 8), (3, 6, 10), (1, 10, 6)]
seeds = st.integers(0, 2**63 - 1)


def noise(num, *shape, seed=0, dtype=torch.float32):
    """Images without symmetry and without a zero."""
    return torch.rand(num, *shape, generator=make_generator(seed), dtype=dtype) + 0.5


def copies(num, *shape):
    """One image `num` times, so that whatever differs was drawn."""
    return noise(1, *shape).expand(num, *shape).clone()


def offsets_of(image, moved, largest):
    """Every move by up to `largest` pixels that turns `image` into `moved`, found by trying."""
    height, width = image.shape[-2:]
    padded = F.pad(image, [largest] * 4)
    return [
        (down, right)
        for down in range(-largest, largest + 1)
        for right in range(-largest, largest + 1)
        if torch.equal(
            padded[:, largest + down :, largest + right :][:, :height, :width],
            moved,
        )
    ]


def erased_square(image, result):
    """First and one past the last row and column of the erased part; all else must be as it was."""
    gone = result[0] == 0
    assert torch.equal(result, image.masked_fill(gone, 0.0))
    if not gone.any():
        return None
    rows, columns = gone.any(dim=1).nonzero().flatten(), gone.any(dim=0).nonzero().flatten()
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    assert gone[top:bottom, left:right].all()
    assert int(gone.sum()) == (bottom - top) * (right - left)
    return (top, bottom), (left, right)


# Moving


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 4), st.integers(1, 3), seeds)
@settings(max_examples=25)
def test_a_moved_image_is_a_window_of_the_zero_padded_one(height, width, largest, channels, seed):
    images = noise(3, channels, height, width)
    moved = shift(images, largest, len(images), make_generator(seed))
    for before, after in zip(images, moved, strict=True):
        assert offsets_of(before, after, largest)


def test_each_image_moves_by_its_own_draw_to_every_place_within_reach():
    images = copies(300, 2, 4, 5)
    moved = shift(images, 1, len(images), make_generator(0))
    found = [offsets_of(images[0], image, 1) for image in moved]
    assert all(len(places) == 1 for places in found)
    assert {place for (place,) in found} == {(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)}


def test_one_draw_moves_all_images_alike():
    images = noise(4, 3, 6, 6)
    moved = shift(images, 3, 1, make_generator(2))
    places = [offsets_of(before, after, 3) for before, after in zip(images, moved, strict=True)]
    assert all(place == places[0] and len(place) == 1 for place in places)


def test_a_reach_of_nothing_moves_nothing():
    images = noise(2, 3, 4, 4)
    assert torch.equal(shift(images, 0, 2, make_generator(0)), images)


# Mirroring


def test_about_half_of_the_images_are_mirrored_left_to_right():
    images = copies(400, 3, 2, 5)
    mirrored = torch.stack([image.flip(-1) for image in images])
    result = mirror(images, len(images), make_generator(0))
    changed = (result == mirrored).flatten(1).all(dim=1)
    kept = (result == images).flatten(1).all(dim=1)
    assert (changed ^ kept).all()
    assert 150 < int(changed.sum()) < 250  # five standard deviations


def test_one_draw_mirrors_all_images_or_none():
    images = noise(3, 1, 4, 4)
    outcomes = [mirror(images, 1, make_generator(seed)) for seed in range(20)]
    mirrored = [torch.equal(outcome, images.flip(-1)) for outcome in outcomes]
    kept = [torch.equal(outcome, images) for outcome in outcomes]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 0 < sum(mirrored) < 20


# Erasing


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 10), seeds)
@settings(max_examples=40)
def test_the_erased_part_is_a_square_that_the_border_may_clip(height, width, size, seed):
    images = noise(2, 3, height, width)
    result = erase(images, size, len(images), make_generator(seed))
    for before, after in zip(images, result, strict=True):
        square = erased_square(before, after)
        if size == 0:
            assert square is None
            continue
        for (first, last), length in zip(square, (height, width), strict=True):
            assert min(size, length) // 2 <= last - first <= size
            assert last - first == size or first == 0 or last == length


@pytest.mark.parametrize(
    ("size", "places"),
    [
        (2, {(0, 1), (0, 2), (1, 3), (2, 4), (3, 4)}),
        (3, {(0, 2), (0, 3), (1, 4), (2, 4)}),
    ],
)
def test_squares_are_erased_at_every_place_whose_centre_is_inside(size, places):
    images = copies(300, 1, 4, 4)
    result = erase(images, size, len(images), make_generator(0))
    squares = [erased_square(images[0], image) for image in result]
    assert {rows for rows, _ in squares} == places
    assert {columns for _, columns in squares} == places
    assert len(set(squares)) == len(places) ** 2  # rows and columns are drawn apart


# Ordinary augmentation


def test_no_augmentation_is_the_default():
    images = noise(2, 3, 8, 8)
    assert torch.equal(Augmentation().apply(images, make_generator(0)), images)


def test_sizes_are_shares_of_the_image_side():
    images = copies(200, 1, 32, 32)
    moved = Augmentation(crop=0.125).apply(images, make_generator(0))
    places = [offsets_of(images[0], image, 5)[0] for image in moved]
    assert max(abs(step) for place in places for step in place) == 4
    erased = Augmentation(cutout=0.25).apply(images, make_generator(0))
    squares = [erased_square(images[0], image) for image in erased]
    assert max(last - first for square in squares for first, last in square) == 8


def test_flip_and_dsa_are_applied_too():
    images = copies(40, 3, 6, 6)
    flipped = Augmentation(flip=True).apply(images, make_generator(0))
    assert {tuple(image.flatten().tolist()) for image in flipped} == {
        tuple(images[0].flatten().tolist()),
        tuple(images[0].flip(-1).flatten().tolist()),
    }
    coloured = Augmentation(dsa="color").apply(images, make_generator(0))
    assert len({image.sum().item() for image in coloured}) == len(images)  # each its own draw


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

    places = [offsets_of(images[0], image, 3)[0] for image in augmented("crop")]
    assert max(abs(step) for place in places for step in place) == 2  # an eighth of the side
    squares = [erased_square(images[0], image) for image in augmented("cutout")]
    assert max(last - first for square in squares for first, last in square) == 8  # half of it
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


# Gradients, determinism, faults


EVERYTHING = Augmentation(crop=0.2, flip=True, cutout=0.3, dsa=DSA_STRATEGY)
AUGMENTATIONS = [
    *(pytest.param(lambda x, g, f=f: siamese_augment(x, f, g), id=f) for f in FAMILIES),
    pytest.param(EVERYTHING.apply, id="everything"),
]


@pytest.mark.parametrize("shape", [(3, 5, 5), (1, 4, 6)])
@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_gradients_are_those_of_finite_differences(augment, shape):
    images = noise(2, *shape, dtype=torch.float64)
    weights = noise(2, *shape, seed=7, dtype=torch.float64)

    def value(changed):
        return (weights * augment(changed, make_generator(4))).sum()

    variable = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(variable), variable)
    assert float(gradient.abs().sum()) > 0
    for pixel in (0, 7, images[0].numel() // 2, images.numel() - 3):
        step = torch.zeros_like(images)
        step.view(-1)[pixel] = 1e-3
        slope = (value(images + step) - value(images - step)) / 2e-3
        assert float(gradient.flatten()[pixel]) == pytest.approx(float(slope), abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_the_same_seed_gives_the_same_images_and_leaves_the_input_alone(augment, shape):
    images = noise(4, *shape)
    before, state = images.clone(), torch.get_rng_state()
    first, second = (augment(images, make_generator(5)) for _ in range(2))
    others = [augment(images, make_generator(seed)) for seed in range(6, 12)]
    assert torch.equal(images, before)
    assert torch.equal(first, second)
    assert any(not torch.equal(first, other) for other in others)
    assert first.shape == images.shape
    assert first.dtype == images.dtype
    assert first.isfinite().all()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "refused",
    [
        lambda: Augmentation(dsa="crop_colour"),
        lambda: siamese_augment(torch.zeros(1, 1, 2, 2), "crop_colour", make_generator(0)),
    ],
)
def test_an_unknown_family_is_refused_and_the_nearest_is_named(refused):
    with pytest.raises(ConfigError, match=r"'colour' in 'crop_colour'; did you mean 'color'\?"):
        refused()
