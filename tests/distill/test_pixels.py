"""What all methods share that optimise pixels: start, loop, result, and a loss that breaks."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from safetensors.torch import load_file

from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.data.augment import DSA_STRATEGY, Augmentation
from nas_proxy.data.multi_formation import decode
from nas_proxy.data.proxy_dataset import LearningRateRule
from nas_proxy.data.splits import draw_per_class
from nas_proxy.data.transforms import normalise
from nas_proxy.data.whitening import Whitening
from nas_proxy.distill.common.pixels import Objective, PixelDistiller
from nas_proxy.distill.common.synthetic import RealImages
from nas_proxy.distill.distribution_matching import DistributionMatching
from nas_proxy.distill.gradient_matching import GradientMatching
from nas_proxy.distill.layerwise_matching import LayerwiseMatching
from nas_proxy.errors import ConfigError, DivergedError
from nas_proxy.reproducibility import make_generator
from nas_proxy.testing import tiny_dataset
from tests.distill.helpers import NUM_CLASSES, SMALL, Log, distill

# Where the images come from


def test_batches_of_real_images_are_of_one_class_without_repeats():
    dataset = tiny_dataset()
    real, generator = RealImages(dataset, 5), make_generator(0)
    normalised = normalise(dataset.images, dataset.spec)
    seen = set()
    for label in range(NUM_CLASSES):
        members = [tuple(image.flatten().tolist()) for image in normalised[dataset.labels == label]]
        for _ in range(6):
            batch = [tuple(image.flatten().tolist()) for image in real.batch(label, generator)]
            assert len(set(batch)) == 5
            assert set(batch) <= set(members)
            seen.update(batch)
    assert len(seen) == len(dataset)
    assert len(RealImages(dataset, 256).batch(0, generator)) == 8


def test_mixed_batches_are_of_all_classes_with_their_labels():
    dataset = tiny_dataset()
    real, generator = RealImages(dataset, 7), make_generator(0)
    normalised = normalise(dataset.images, dataset.spec)
    seen = set()
    for _ in range(50):
        images, labels = real.mixed_batch(generator)
        positions = [int((normalised == x).flatten(1).all(dim=1).nonzero()) for x in images]
        assert len(set(positions)) == 7
        assert torch.equal(labels, dataset.labels[positions])
        seen.update(positions)
    assert len(seen) == len(dataset)
    assert len(RealImages(dataset, 256).mixed_batch(generator)[1]) == len(dataset)


def test_real_images_are_whitened_where_it_is_asked_for():
    dataset = tiny_dataset()
    whitening = Whitening.fit(dataset, 0.1)
    plain, white = RealImages(dataset, 5), RealImages(dataset, 5, whitening)
    first, second = (real.batch(1, make_generator(3)) for real in (plain, white))
    torch.testing.assert_close(whitening.undo(second), first, rtol=1e-3, atol=1e-3)
    assert float((second - first).abs().max()) > 0.1


def test_distilling_starts_from_real_images_or_from_noise():
    dataset = tiny_dataset()
    real, labels = DistributionMatching().initialise(dataset, 4, make_generator(0))
    drawn = dataset.images[draw_per_class(dataset, 4, make_generator(0))]
    assert torch.equal(real, normalise(drawn, dataset.spec))
    noise, noise_labels = DistributionMatching(init="noise").initialise(
        dataset, 8, make_generator(0)
    )
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert noise_labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert abs(float(noise.mean())) < 0.1
    assert float(noise.std()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("method", [DistributionMatching, GradientMatching, LayerwiseMatching])
def test_an_unknown_augmentation_is_refused_at_once(method):
    with pytest.raises(ConfigError, match="did you mean 'flip'"):
        method(augment="color_flipp")


# What a result says of itself


def test_the_result_asks_for_the_augmentation_that_it_was_made_with():
    result = distill(DistributionMatching(num_steps=1, augment="color_crop", **SMALL))
    assert result.augmentation == Augmentation(dsa="color_crop")
    assert result.learning_rate_rule == LearningRateRule()
    assert result.parameters["num_steps"] == 1
    assert (result.seed, result.zca, result.decode_factor) == (0, None, 1)
    assert set(result.costs) == {"distilling"}
    assert result.costs["distilling"] > 0
    assert result.peak_memory_mib >= 0


STILL = DistributionMatching(num_steps=1, image_learning_rate=1e-9, **SMALL)  # moves nothing


def smooth_dataset():
    """Images without detail, as photographs are: reducing and enlarging leaves them alone."""
    dataset = tiny_dataset(images_per_class=40)
    coarse = torch.rand(len(dataset), 3, 2, 2, generator=make_generator(1))
    smooth = torch.nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear")
    return replace(dataset, images=(smooth * 255).to(torch.uint8))


@pytest.mark.parametrize("factor", [1, 2])
def test_whitened_training_images_are_those_of_the_real_ones(factor):
    dataset = smooth_dataset()
    method = replace(STILL, zca=0.1, decode_factor=factor)
    result = distill(method, images_per_class=3, dataset=dataset)
    start, _ = method.initialise(dataset, 3, make_generator(0))
    seen = Whitening.fit(dataset, 0.1).undo(result.training_images())
    expected = decode(start, factor)
    error = float((seen - expected).square().mean() / expected.square().mean())
    assert error < (1e-6 if factor == 1 else 0.05)  # reduced and enlarged twice
    assert result.zca == 0.1
    assert result.costs["whitening"] > 0


def test_noise_is_not_whitened():
    method = replace(STILL, zca=0.1, init="noise")
    start, _ = method.initialise(tiny_dataset(), 2, make_generator(0))
    torch.testing.assert_close(distill(method).images, start)


def test_bfloat16_moves_the_images_almost_as_float32_does():
    for method in (DistributionMatching, LayerwiseMatching):
        precise = method(num_steps=2, augment="", init="noise", **SMALL)
        start, _ = precise.initialise(tiny_dataset(), 2, make_generator(0))
        one, other = (
            distill(replace(precise, precision=precision)).images
            for precision in ("float32", "bfloat16")
        )
        assert other.dtype == torch.float32
        assert not torch.equal(one, other)
        moves = torch.stack([(one - start).flatten(), (other - start).flatten()])
        assert float(torch.corrcoef(moves)[0, 1]) > 0.95


# A loss that is not finite

GOOD = DistributionMatching(num_steps=4, **SMALL)


@pytest.fixture
def always_due(monkeypatch):
    """Every step is checkpointed, however short it was."""
    never = property(lambda self: -math.inf, lambda self, value: None)
    monkeypatch.setattr(Checkpointer, "_saved_at", never, raising=False)


class Breaks(DistributionMatching):
    """Loses its way in the third step, after it has changed the images once more."""

    fault = ""
    done = 0

    def iterate(self, synthetic, real, network, seed):
        loss = super().iterate(synthetic, real, network, seed)
        type(self).done += 1
        if self.done < 3:
            return loss
        if self.fault == "loss":
            synthetic.descend(synthetic.images.sum() * math.nan)
        elif self.fault == "gradient":  # of a root at zero
            synthetic.descend((synthetic.images * 0).square().sum().sqrt())
        elif self.fault == "pixel":
            synthetic.descend(((synthetic.images - synthetic.images.detach()) * 1e38).sum())
        else:
            raise DivergedError("the training loss is not finite from step 7 on")
        raise AssertionError("nobody noticed")


FAULTS = {
    "loss": "the loss is not finite",
    "gradient": "a gradient is not finite",
    "pixel": "a pixel or another learned value is not finite",
    "training": "the training loss is not finite from step 7 on",
}


def breaking(fault, **options):
    chosen = {"image_learning_rate": 1e3 if fault == "pixel" else 1.0, **options}
    broken = type("Breaks", (Breaks,), {"fault": fault})(num_steps=4, **SMALL, **chosen)
    return broken, replace(GOOD, **chosen)


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize(
    ("fault", "optimiser"), [*((fault, "sgd") for fault in FAULTS), ("loss", "adam")]
)
def test_a_breakdown_keeps_the_last_good_state_to_the_bit(tmp_path, fault, optimiser):
    broken, good = breaking(fault, image_optimiser=optimiser)
    kept, expected = tmp_path / "kept.safetensors", tmp_path / "expected.safetensors"
    with pytest.raises(DivergedError, match=rf"diverged at step 3 of 4: {FAULTS[fault]}"):
        distill(broken, checkpoint=kept)
    with pytest.raises(KeyboardInterrupt):
        distill(good, checkpoint=expected, progress=Log(stop_after=2))
    found, wanted = load_file(kept), load_file(expected)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name
    log = Log()
    continued = distill(good, checkpoint=kept, progress=log)
    assert log.steps == [(3, 4), (4, 4)]
    assert continued.id == distill(good).id


@pytest.mark.usefixtures("always_due")
def test_a_breakdown_in_the_first_step_keeps_the_beginning(tmp_path):
    broken, good = breaking("loss")
    type(broken).done = 2
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(DivergedError, match="at step 1 of 4"):
        distill(broken, checkpoint=path)
    start, _ = good.initialise(tiny_dataset(), 2, make_generator(0))
    kept = load_file(path)
    assert set(kept) == {"generator", "parameter.0"}  # no momentum yet
    assert torch.equal(kept["parameter.0"], start)


def test_the_sentence_names_the_step_the_rate_and_the_file_if_there_is_one(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    broken, _ = breaking("loss")
    with pytest.raises(DivergedError) as caught:
        distill(broken, checkpoint=path)
    assert str(caught.value) == (
        "distribution_matching diverged at step 3 of 4: the loss is not finite; lower "
        f"distill.image_learning_rate (now 1.0); {path} keeps the images after step 2"
    )
    broken, _ = breaking("loss")
    with pytest.raises(DivergedError) as caught:
        distill(broken)
    assert str(caught.value).endswith("lower distill.image_learning_rate (now 1.0)")


def test_pixels_that_break_at_the_last_step_are_noticed_too():
    broken, _ = breaking("pixel")
    with pytest.raises(DivergedError, match="at step 3 of 3: a pixel or another"):
        distill(replace(broken, num_steps=3))


@pytest.mark.parametrize(
    "distiller",
    [
        DistributionMatching(num_steps=5, image_learning_rate=3e38, **SMALL),
        GradientMatching(num_steps=5, image_learning_rate=3e38, outer_loop=1, **SMALL),
        GradientMatching(num_steps=5, image_learning_rate=3e38, outer_loop=3, **SMALL),
        LayerwiseMatching(num_steps=5, image_learning_rate=3e38, **SMALL),
    ],
    ids=["dm", "dc", "dc_trains", "layerwise"],
)
def test_a_learning_rate_that_is_much_too_high_is_named(distiller):
    with pytest.raises(DivergedError, match=r"at step [12] of 5: .*rate \(now 3e\+38\)"):
        distill(distiller)


class Counting(Objective):
    """Moves the images by its own count, which breaks in the third step after it has gone on."""

    def __init__(self, breaks):
        self.count, self.breaks = torch.zeros(()), breaks

    def step(self, synthetic, seed):
        self.count += 1
        if self.breaks and self.count == 3:
            raise DivergedError("the count is three")
        synthetic.descend(synthetic.images.sum() * self.count)
        return float(self.count)

    def state(self):
        return {"count": self.count}

    def restore(self, state):
        self.count = state["count"]


@dataclass(frozen=True, kw_only=True)
class Counts(PixelDistiller):
    name = "counts"
    breaks: bool = False

    def objective(self, dataset, real, context):
        return Counting(self.breaks)


@pytest.mark.usefixtures("always_due")
def test_the_state_of_an_objective_is_kept_and_restored_as_well(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    counts = Counts(num_steps=5, image_learning_rate=0.1)
    with pytest.raises(DivergedError, match="at step 3 of 5: the count is three"):
        distill(replace(counts, breaks=True), checkpoint=path)
    assert float(load_file(path)["count"]) == 2
    path.unlink()
    with pytest.raises(KeyboardInterrupt):
        distill(counts, checkpoint=path, progress=Log(stop_after=2))
    log = Log()
    continued = distill(counts, checkpoint=path, progress=log)
    assert log.losses == [3, 4, 5]
    assert continued.id == distill(counts).id


def test_the_published_augmentation_is_the_default_of_the_matching_methods():
    assert DistributionMatching().augment == LayerwiseMatching().augment == DSA_STRATEGY
    assert GradientMatching().augment == ""
