"""The configuration section `evaluate_proxy`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from nas_proxy.data.augment import DSA_STRATEGY, Augmentation
from nas_proxy.data.proxy_dataset import LearningRateRule, ProxyDataset
from nas_proxy.networks.catalogue import NetworkOption, NetworkSettings
from nas_proxy.options import Bound, Fraction, Options, PositiveInt
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.teacher_settings import DEFAULT_TEACHER, TeacherOption

DEFAULT_NETWORKS = tuple(
    NetworkSettings(name=name) for name in ("convnet", "resnet18", "vgg11", "alexnet", "mlp")
)


@dataclass(frozen=True, kw_only=True)
class ReplaySettings(Options):
    """A learner that meets the classes task by task and keeps the set as its memory.

    Attributes:
        num_tasks: The classes are divided among so many tasks, in label order.
        network: The learner.
        train: How it learns each task, from real images of the task's classes and the memory of
            the earlier ones, every class alike often.
        num_seeds: Learners, each with its own order of classes.
        embedding: The network by whose embedding herding chooses the memory that it is held
            against.
    """

    num_tasks: Annotated[int, Bound(ge=2)] = 5
    network: NetworkOption = NetworkSettings(name="convnet")
    train: TrainSettings = TrainSettings(
        num_steps=400,
        batch_size=128,
        learning_rate=0.01,
        schedule="cosine",
        nesterov=False,
        augmentation=Augmentation(crop=0.125, flip=True),
    )
    num_seeds: PositiveInt = 3
    embedding: TeacherOption = DEFAULT_TEACHER


@dataclass(frozen=True, kw_only=True)
class EvaluateProxySettings(Options):
    """How it is found out what a proxy data set is worth.

    Attributes:
        networks: Fixed networks that are trained on the set, each by name or as a section.
        num_seeds: Trainings of each; the random control draws other images for each.
        protocol: `published`: 1000 epochs of stochastic gradient descent with Siamese
            augmentation, as in the condensation literature. `file`: the set's own learning-rate
            rule and augmentation. `short`: that rule for `short_steps` steps.
        short_steps: Optimiser steps of the short protocol.
        train: How to train instead, whatever `protocol` says.
        full_data: How to train on all search-training images; None: as on the set, for as many
            steps.
        hard_label_weight: Weight of hard-label recovery in the label-robust score; the rest is
            that of the improvement over random.
        replay: The other task.
    """

    networks: tuple[NetworkOption, ...] = DEFAULT_NETWORKS
    num_seeds: Annotated[int, Bound(ge=2)] = 5
    protocol: Literal["published", "file", "short"] = "published"
    short_steps: PositiveInt = 300
    train: TrainSettings | None = None
    full_data: TrainSettings | None = None
    hard_label_weight: Fraction = 0.5
    replay: ReplaySettings = ReplaySettings()

    def __post_init__(self) -> None:
        """Refuse a list that would measure nothing, or something twice."""
        if not self.networks or len(set(self.networks)) < len(self.networks):
            raise ValueError("networks must name at least one network, and none of them twice")

    def train_settings(self, proxy_dataset: ProxyDataset) -> TrainSettings:
        """How networks are trained on the set."""
        if self.train is not None:
            return self.train
        if self.protocol == "published":
            families = proxy_dataset.augmentation.dsa or DSA_STRATEGY
            published = TrainSettings.of_rule(LearningRateRule())
            return replace(published, augmentation=Augmentation(dsa=families))
        own = TrainSettings.of_rule(proxy_dataset.learning_rate_rule)
        if self.protocol == "file":
            return own
        return replace(own, num_epochs=None, num_steps=self.short_steps)

    def full_data_settings(self, proxy_dataset: ProxyDataset) -> TrainSettings:
        """How networks are trained on all search-training images."""
        if self.full_data is not None:
            return self.full_data
        settings = self.train_settings(proxy_dataset)
        return replace(
            settings,
            num_epochs=None,
            num_steps=settings.steps_for(len(proxy_dataset.labels)),
            augmentation=settings.augmentation or proxy_dataset.augmentation,
        )
