"""A space that builds what it is told to, a score that answers what it is told to."""

from collections.abc import Callable
from dataclasses import dataclass, field

from nas_proxy.data.transforms import normalise
from nas_proxy.evaluate.factory import training_fidelity
from nas_proxy.evaluate.network import NetworkEvaluator
from nas_proxy.evaluate.trained_signals import EvaluationData
from nas_proxy.interfaces import ZeroCostScore
from nas_proxy.networks.convnet import ConvNet
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import Architecture
from tests.helpers.spaces import UnusedSpace

ARCHITECTURE = Architecture("fake", 0)


def small_net(space, spec):
    return ConvNet(spec.image_shape, spec.num_classes, width=space.width, depth=1, norm="batch")


@dataclass(frozen=True, kw_only=True)
class FakeSpace(UnusedSpace):
    """Builds whatever it is told to."""

    make: Callable = small_net
    width: int = 8

    name = "fake"
    fidelity_options = ("width",)

    def build(self, architecture, spec):
        return self.make(self, spec)


@dataclass(frozen=True, kw_only=True)
class FakeScore(ZeroCostScore):
    """Answers what it is told to, and remembers what it saw."""

    answer: Callable = lambda network, images: 1.0
    seen: list = field(default_factory=list)

    name = "fake"

    def measure(self, network, images):
        self.seen.append((network, images))
        return self.answer(network, images)


def settings(**changes):
    fixed = {"num_steps": 3, "batch_size": 8, "learning_rate": 0.05, "precision": "float32"}
    return TrainSettings(**{**fixed, **changes})


def evaluator(make=small_net, *, train_settings=None, trained=True, scores=None, space=None):
    dataset = tiny_dataset()
    train_settings = train_settings or settings()
    return NetworkEvaluator(
        space=space or FakeSpace(make=make),
        scores=scores or {},
        score_images=(normalise(dataset.images[:6], dataset.spec), dataset.labels[:6]),
        spec=dataset.spec,
        settings=train_settings,
        fidelity=training_fidelity(train_settings, dataset.spec, "d", len(dataset)),
        evaluation_data=EvaluationData(dataset, "val", TrainingSet.of(dataset))
        if trained
        else None,
    )
