"""Networks that train on whitened images are judged by images that are whitened alike."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.data.splits import draw_per_class
from nas_proxy.data.transforms import normalise, resize
from nas_proxy.data.whitening import Whitening
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory, training_fidelity
from nas_proxy.registry import SEARCH_SPACES
from nas_proxy.reproducibility import derive_seed, isolated_rng, make_generator
from nas_proxy.train.loop import train
from nas_proxy.train.measuring import measure
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import Status

DATA = DataSettings(name="digits", classes=(0, 1, 2), images_per_class=40)
ZCA = 0.3
SPACE = SEARCH_SPACES.get("convnet")(widths=(32,), depths=(1,))


@pytest.fixture(scope="module")
def splits():
    return load_splits(DATA)


@pytest.fixture
def save(tmp_path, splits):
    """Writes a set of real images, whitened or not."""

    def write(zca: float | None) -> tuple[ProxyDataset, Path]:
        real = splits.search_train
        indices = draw_per_class(real, 4, make_generator(0))
        images = normalise(real.images[indices], real.spec)
        if zca is not None:
            images = Whitening.fit(real, zca).apply(images)
        made = ProxyDataset(
            images=images,
            labels=real.labels[indices],
            spec=real.spec,
            method="random_subset",
            parameters={},
            images_per_class=4,
            seed=0,
            zca=zca,
        )
        path = tmp_path / f"set{zca}.safetensors"
        made.save(path)
        return made, path

    return write


def settings_for(size):
    return TrainSettings(
        num_steps=8, batch_size=12, learning_rate=0.05, image_size=size, precision="float32"
    )


def evaluate(made, path, size=None, judged_by="search_val", **changes):
    settings = replace(settings_for(size), **changes)
    factory = NetworkEvaluatorFactory(
        data=DATA,
        space=SPACE,
        scores={},
        settings=settings,
        train_on=path,
        judged_by=judged_by,
        device="cpu",
        fidelity=training_fidelity(settings, made.spec, made.id, len(made.labels)),
    )
    evaluator = factory.build()
    architecture = SPACE.sample(make_generator(1))
    return architecture, evaluator, evaluator.evaluate(architecture, seed=7)


@pytest.mark.parametrize("size", [None, 8, 6])
@pytest.mark.parametrize("judged_by", ["search_val", "test"])
def test_the_factory_does_what_is_done_by_hand(save, splits, size, judged_by):
    made, path = save(ZCA)
    architecture, _, evaluation = evaluate(made, path, size, judged_by)
    assert evaluation.status is Status.COMPLETE, evaluation.reason
    judge = splits.test if judged_by == "test" else splits.search_val
    whitening = Whitening.fit(splits.search_train, ZCA)
    asked = resize(whitening.apply(normalise(judge.images, judge.spec)), size or 8)
    spec = judge.spec.with_image_size(size or 8)
    taught = replace(TrainingSet.of(made), images=resize(made.images, size or 8))
    seed = derive_seed("training", 7, 0)
    with isolated_rng(seed):
        network = SPACE.build(architecture, spec)
        train(network, taught, settings_for(size), make_generator(seed))
        measured = measure(network, TrainingSet(asked, judge.labels, spec), settings_for(size))
        plain = measure(
            network,
            TrainingSet(resize(judge.images, size or 8), judge.labels, spec),
            settings_for(size),
        )
    split = "test" if judged_by == "test" else "val"
    assert evaluation.signals[f"{split}_loss"] == pytest.approx(measured.loss, rel=1e-6)
    assert evaluation.signals[f"{split}_accuracy"] == pytest.approx(measured.accuracy)
    assert plain.loss != pytest.approx(measured.loss, rel=0.01)  # images as they come differ


def test_training_and_judging_images_are_prepared_alike(save, splits):
    """The set holds real images: the same ones among the judges must be the same numbers."""
    made, path = save(ZCA)
    for size in (8, 6):
        _, evaluator, _ = evaluate(made, path, size)
        whitening = Whitening.fit(splits.search_train, ZCA)
        val = splits.search_val
        expected = resize(whitening.apply(normalise(val.images, val.spec)), size)
        torch.testing.assert_close(evaluator.evaluation_data.measured_on.images, expected)
        assert evaluator.evaluation_data.measured_on.spec.image_shape == (1, size, size)
        assert torch.equal(
            evaluator.score_images[0], evaluate(*save(None), size)[1].score_images[0]
        )  # zero-cost scores look at images as they come


def test_a_smaller_judge_is_whitened_too(save, splits):
    made, path = save(ZCA)
    _, evaluator, _ = evaluate(made, path, num_val_images=6)
    assert evaluator.evaluation_data.measured_on.images.dtype == torch.float32
    assert len(evaluator.evaluation_data.measured_on) == 6


def test_without_whitening_the_judges_stay_bytes(save, splits):
    made, path = save(None)
    _, evaluator, _ = evaluate(made, path)
    assert torch.equal(evaluator.evaluation_data.measured_on.images, splits.search_val.images)
