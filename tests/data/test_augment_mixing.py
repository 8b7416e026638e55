"""Mixing images and labels: both by the same share, partners without repeats, Beta shares."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nas_proxy.data.augment import Augmentation, blend, paste
from nas_proxy.reproducibility import make_generator
from nas_proxy.testing import _common as common
from tests.data.helpers_augment import noise, rectangle

MIXERS = {
    "mixup": Augmentation(mixup=0.7),
    "cutmix": Augmentation(cutmix=1.0),
    "both": Augmentation(mixup=0.7, cutmix=1.0),
}
mixers = pytest.mark.parametrize("augmentation", MIXERS.values(), ids=MIXERS)


def numbered(num, *shape):
    """Image i has the value i everywhere, and the label i: what is mixed can be read off."""
    images = torch.arange(float(num)).view(-1, 1, 1, 1).expand(num, *shape).clone()
    return images, torch.eye(num)


@mixers
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 9)])
def test_a_label_is_mixed_in_the_proportion_of_the_pixels(augmentation, shape):
    images, labels = numbered(6, *shape)
    for seed in range(20):
        mixed, mixed_labels = augmentation.mix(images, labels, make_generator(seed))
        assert (mixed_labels >= 0).all()
        torch.testing.assert_close(mixed_labels.sum(dim=1), torch.ones(6))
        torch.testing.assert_close(
            mixed.mean(dim=(1, 2, 3)), mixed_labels @ torch.arange(6.0), atol=1e-5, rtol=1e-5
        )


@mixers
def test_every_image_is_the_partner_of_one(augmentation):
    images, labels = numbered(7, 1, 6, 6)
    shares = []
    for seed in range(20):
        _, mixed_labels = augmentation.mix(images, labels, make_generator(seed))
        torch.testing.assert_close(mixed_labels.sum(dim=0), torch.ones(7))
        assert ((mixed_labels > 0).sum(dim=1) <= 2).all()
        shares.append(mixed_labels)
    assert len({tuple(each.flatten().tolist()) for each in shares}) > 10


@pytest.mark.parametrize("alpha", [0.4, 1.0, 3.0])
def test_shares_of_mixup_are_those_of_the_published_beta_distribution(alpha):
    images, labels = numbered(2, 1, 1, 1)
    augmentation = Augmentation(mixup=alpha)
    shares = []
    for seed in range(600):
        mixed, _ = augmentation.mix(images, labels, make_generator(seed))
        if mixed[0] != images[0]:  # one half has itself for a partner
            shares.append(float(mixed[0]))
    assert 220 < len(shares) < 380
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.001
    others = stats.beta(3.0, 3.0) if alpha < 3 else stats.beta(0.4, 0.4)
    assert stats.kstest(shares, others.cdf).pvalue < 0.001


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.integers(0, 2**62))
@settings(max_examples=60)
def test_a_pasted_part_is_a_rectangle_whose_share_is_said_exactly(height, width, share, seed):
    images, others = noise(2, 3, height, width), -noise(2, 3, height, width, seed=1)
    pasted, exact = paste(images, others, share, make_generator(seed))
    taken = (pasted < 0)[0, 0]
    assert torch.equal(pasted, torch.where(taken, others, images))  # the same place in all
    assert exact == int(taken.sum()) / (height * width)
    found = rectangle(taken)
    # The paper's box: each side is the root of the share; the border may clip it.
    sides = [round(length * share**0.5) for length in (height, width)]
    if 0 in sides:
        assert found is None
        return
    for (first, last), side, length in zip(found, sides, (height, width), strict=True):
        assert side // 2 <= last - first <= side
        assert last - first == side or first == 0 or last == length


def test_rectangles_are_pasted_everywhere():
    images, others = torch.zeros(1, 1, 6, 6), torch.ones(1, 1, 6, 6)
    pasted = [paste(images, others, 0.25, make_generator(seed))[0] for seed in range(300)]
    covered = torch.stack(pasted).mean(dim=0)[0, 0]
    assert (covered > 0.05).all()
    places = {rectangle(each[0, 0] > 0) for each in pasted}
    assert len(places) == 36  # a centre at every pixel


def test_a_blend_is_linear_in_both_images():
    images, others = noise(2, 3, 4, 4), noise(2, 3, 4, 4, seed=1)
    mixed, share = blend(images, others, 0.3, make_generator(0))
    assert share == 0.3
    torch.testing.assert_close(mixed, images.lerp(others, 0.3))


def test_with_both_each_is_done_in_half_of_the_batches():
    images, labels = numbered(3, 1, 4, 4)
    num_pasted = 0
    for seed in range(300):
        mixed, _ = MIXERS["both"].mix(images, labels, make_generator(seed))
        num_pasted += bool(torch.equal(mixed, mixed.round()))  # no pixel is of two images
    assert 100 < num_pasted < 200


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(crop=0.5, dsa="color")])
def test_nothing_is_mixed_unless_it_is_asked_for(augmentation):
    images, labels = numbered(4, 3, 4, 4)
    generator = make_generator(0)
    before = generator.get_state()
    mixed, mixed_labels = augmentation.mix(images, labels, generator)
    assert not augmentation.mixes
    assert torch.equal(mixed, images)
    assert torch.equal(mixed_labels, labels)
    assert torch.equal(generator.get_state(), before)


@mixers
def test_the_seed_decides_and_the_input_is_left_alone(augmentation):
    images, labels = numbered(5, 2, 6, 6)
    kept = images.clone(), labels.clone()
    assert augmentation.mixes
    with common.global_generators_untouched("mixing"):
        first = augmentation.mix(images, labels, make_generator(3))
        second = augmentation.mix(images, labels, make_generator(3))
        others = [augmentation.mix(images, labels, make_generator(seed)) for seed in range(4, 10)]
    assert all(map(torch.equal, first, second))
    assert any(not torch.equal(first[0], other[0]) for other in others)
    assert all(map(torch.equal, (images, labels), kept))


@mixers
def test_gradients_reach_both_images(augmentation):
    images, labels = numbered(3, 1, 4, 4)
    images.requires_grad_()
    for seed in range(10):
        mixed, _ = augmentation.mix(images, labels, make_generator(seed))
        (gradient,) = torch.autograd.grad(mixed.sum(), images)
        # Each image is whole in one and a partner in another: its shares add up to one.
        torch.testing.assert_close(gradient, torch.ones_like(images))


def test_one_image_alone_is_mixed_with_itself():
    images, labels = noise(1, 3, 4, 4), torch.tensor([[0.25, 0.75]])
    for augmentation in MIXERS.values():
        mixed, mixed_labels = augmentation.mix(images, labels, make_generator(0))
        torch.testing.assert_close(mixed, images)
        torch.testing.assert_close(mixed_labels, labels)
