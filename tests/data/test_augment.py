"""Ordinary augmentation: shares of each side, one draw per image or a shared one, gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_proxy.data.augment import (
    DSA_STRATEGY,
    Augmentation,
    enlarge_part,
    erase,
    jitter,
    mirror,
    rotate,
    shift,
    siamese_augment,
)
from nas_proxy.errors import ConfigError
from nas_proxy.reproducibility import make_generator
from tests.data.helpers_augment import (
    FAMILIES,
    SHAPES,
    copies,
    erased_rectangle,
    noise,
    offsets_of,
    pixels,
)

seeds = st.integers(0, 2**63 - 1)


# Moving


@given(st.integers(1, 7), st.integers(1, 7), st.floats(0, 0.6), st.integers(1, 3), seeds)
@settings(max_examples=25)
def test_a_moved_image_is_a_window_of_the_zero_padded_one(height, width, share, channels, seed):
    images = noise(3, channels, height, width)
    moved = shift(images, share, len(images), make_generator(seed))
    reach = (pixels(share, height), pixels(share, width))
    for before, after in zip(images, moved, strict=True):
        assert offsets_of(before, after, reach)


@pytest.mark.parametrize(
    ("shape", "reach"), [((4, 5), (1, 1)), ((4, 8), (1, 2)), ((9, 3), (2, 1)), ((1, 6), (0, 2))]
)
def test_each_image_moves_by_its_own_draw_to_every_place_within_reach(shape, reach):
    images = copies(300, 2, *shape)
    moved = shift(images, 0.25, len(images), make_generator(0))
    found = [offsets_of(images[0], image, shape) for image in moved]
    assert all(len(places) == 1 for places in found)
    rows, columns = (range(-largest, largest + 1) for largest in reach)
    assert {place for (place,) in found} == {(y, x) for y in rows for x in columns}


def test_one_draw_moves_all_images_alike():
    images = noise(4, 3, 6, 6)
    moved = shift(images, 0.5, 1, make_generator(2))
    places = [
        offsets_of(before, after, (3, 3)) for before, after in zip(images, moved, strict=True)
    ]
    assert all(place == places[0] and len(place) == 1 for place in places)


@pytest.mark.parametrize("share", [0, 0.1])  # a tenth of four pixels rounds to none
def test_a_reach_of_nothing_moves_nothing(share):
    images = noise(2, 3, 4, 4)
    assert torch.equal(shift(images, share, 2, make_generator(0)), images)


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


@given(st.integers(1, 8), st.integers(1, 8), st.floats(0, 1), seeds)
@settings(max_examples=40)
def test_the_erased_part_is_a_rectangle_that_the_border_may_clip(height, width, share, seed):
    images = noise(2, 3, height, width)
    result = erase(images, share, len(images), make_generator(seed))
    sides = [pixels(share, length) for length in (height, width)]
    for before, after in zip(images, result, strict=True):
        erased = erased_rectangle(before, after)
        if 0 in sides:
            assert erased is None
            continue
        for (first, last), side, length in zip(erased, sides, (height, width), strict=True):
            assert side // 2 <= last - first <= side
            assert last - first == side or first == 0 or last == length


# Where a window of two or three of four pixels may lie, its centre being inside.
TWO_OF_FOUR = {(0, 1), (0, 2), (1, 3), (2, 4), (3, 4)}
THREE_OF_FOUR = {(0, 2), (0, 3), (1, 4), (2, 4)}
FOUR_OF_EIGHT = {
    *((max(0, centre - 2), min(8, centre + 2)) for centre in range(9)),
}


@pytest.mark.parametrize(
    ("share", "width", "rows", "columns"),
    [
        (0.5, 4, TWO_OF_FOUR, TWO_OF_FOUR),
        (0.75, 4, THREE_OF_FOUR, THREE_OF_FOUR),
        (0.5, 8, TWO_OF_FOUR, FOUR_OF_EIGHT),
    ],
)
def test_rectangles_are_erased_at_every_place_whose_centre_is_inside(share, width, rows, columns):
    images = copies(600, 1, 4, width)
    result = erase(images, share, len(images), make_generator(0))
    found = [erased_rectangle(images[0], image) for image in result]
    assert {first for first, _ in found} == rows
    assert {second for _, second in found} == columns
    assert len(set(found)) == len(rows) * len(columns)  # rows and columns are drawn apart


# Enlarging a part


@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 20)])
@pytest.mark.parametrize("smallest", [0.08, 0.5])
def test_a_part_of_published_size_and_shape_is_enlarged_to_the_whole(height, width, smallest):
    across, down = torch.arange(float(width)), torch.arange(float(height))
    image = torch.stack([across.expand(height, width), down[:, None].expand(height, width)])
    images = image.expand(400, 2, height, width).clone()
    result = enlarge_part(images, smallest, len(images), make_generator(0))
    places = set()
    for image in result:
        # Away from the borders, where a pixel is repeated, coordinates go on evenly.
        row, column = image[0, height // 2], image[1, :, width // 2]
        sides = []
        for line, length in ((column, height), (row, width)):
            middle = line[length // 4 : -(length // 4)]
            steps = middle.diff()
            torch.testing.assert_close(steps, steps[:1].expand_as(steps), atol=1e-4, rtol=1e-4)
            side = float(steps.mean()) * length
            first = float(middle[0]) + 0.5 - (length // 4 + 0.5) * side / length
            assert (side, first) == pytest.approx((round(side), round(first)), abs=1e-2)
            assert 0 <= round(first) <= length - round(side)
            sides += [round(first), round(side)]
        places.add(tuple(sides))
        _, tall, _, wide = sides
        assert (tall + 0.5) * (wide + 0.5) >= smallest * height * width
        whole = (tall, wide) == (height, width)
        assert whole or (wide + 0.5) / (tall - 0.5) >= 3 / 4
        assert whole or (wide - 0.5) / (tall + 0.5) <= 4 / 3
    assert len(places) > 150
    areas = [tall * wide / (height * width) for _, tall, _, wide in places]
    assert min(areas) < smallest + 0.1
    assert max(areas) > 0.75  # of a flat image, at most 4:3 of its height


def test_parts_are_enlarged_only_if_it_is_asked_for_and_by_a_draw_of_each_image():
    images = copies(30, 1, 8, 8)
    result = Augmentation(resized_crop=0.1).apply(images, make_generator(0))
    assert len({tuple(image.flatten().tolist()) for image in result}) > 20
    assert float(result.min()) >= float(images.min()) - 1e-6  # nothing from beyond the border
    shared = enlarge_part(images, 0.1, 1, make_generator(0))
    assert len({tuple(image.flatten().tolist()) for image in shared}) == 1


# Ordinary augmentation


def test_no_augmentation_is_the_default():
    images = noise(2, 3, 8, 8)
    assert torch.equal(Augmentation().apply(images, make_generator(0)), images)


def test_sizes_are_shares_of_the_image_side():
    images = copies(200, 1, 32, 16)
    moved = Augmentation(crop=0.125).apply(images, make_generator(0))
    places = [offsets_of(images[0], image, (5, 5))[0] for image in moved]
    assert [max(abs(place[side]) for place in places) for side in (0, 1)] == [4, 2]
    erased = Augmentation(cutout=0.25).apply(images, make_generator(0))
    found = [erased_rectangle(images[0], image) for image in erased]
    sides = [max(last - first for first, last in each) for each in zip(*found, strict=True)]
    assert sides == [8, 4]


def test_flip_and_dsa_are_applied_too():
    images = copies(40, 3, 6, 6)
    flipped = Augmentation(flip=True).apply(images, make_generator(0))
    assert {tuple(image.flatten().tolist()) for image in flipped} == {
        tuple(images[0].flatten().tolist()),
        tuple(images[0].flip(-1).flatten().tolist()),
    }
    coloured = Augmentation(dsa="color").apply(images, make_generator(0))
    assert len({image.sum().item() for image in coloured}) == len(images)  # each its own draw


# Gradients, determinism, faults


EVERYTHING = Augmentation(resized_crop=0.3, crop=0.2, flip=True, cutout=0.3, dsa=DSA_STRATEGY)
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


def test_rotation_turns_by_up_to_the_angle_and_a_quarter_turn_is_exact(monkeypatch):
    images = torch.randn(4, 3, 9, 9)
    monkeypatch.setattr("nas_proxy.data.augment._uniform", lambda shape, *_: torch.ones(shape))
    turned = rotate(images, 90.0, 4, make_generator(0))
    torch.testing.assert_close(turned, torch.rot90(images, 1, (2, 3)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rotate(images, 0.0, 4, make_generator(0)), images)


def test_jitter_changes_each_image_by_its_own_draw():
    images = torch.randn(64, 3, 6, 6)
    changed = jitter(images, 0.4, 64, make_generator(0))
    shifts = (changed.mean(dim=(1, 2, 3)) - images.mean(dim=(1, 2, 3))).abs()
    assert float(shifts.max()) <= 0.4 + 1e-5
    assert len(shifts.unique()) == 64
    torch.testing.assert_close(jitter(images, 0.0, 64, make_generator(0)), images)
    # Grey stays grey, and contrast moves by at most the strength.
    grey = images[:, :1].expand(-1, 3, -1, -1)
    jittered = jitter(grey, 0.4, 64, make_generator(0))
    torch.testing.assert_close(jittered[:, 0], jittered[:, 2])
    ratios = jittered.std(dim=(1, 2, 3)) / grey.std(dim=(1, 2, 3))
    assert float(ratios.min()) >= 0.6 - 1e-4
    assert float(ratios.max()) <= 1.4 + 1e-4


def test_both_are_part_of_an_augmentation():
    images = torch.randn(8, 3, 8, 8)
    for told in (Augmentation(rotation=20.0), Augmentation(colour_jitter=0.3)):
        first, same, other = (told.apply(images, make_generator(seed)) for seed in (0, 0, 1))
        assert torch.equal(first, same)
        assert not torch.equal(first, other)
        assert not torch.equal(first, images)
