"""Decoupled statistical matching: images that a trained network knows, with the data's statistics.

Squeeze: networks with batch norm are trained on the real images. Recover: images start as noise
and are changed until a network sees their class in them and the inputs of its batch norm layers
have the mean and variance that these layers have kept of the real images. Relabelling, the third
part of the published method, is done by `labels`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.multi_formation import encode
from nas_proxy.data.proxy_dataset import LearningRateRule, ProxyDataset
from nas_proxy.data.splits import members_of_classes
from nas_proxy.data.transforms import normalise
from nas_proxy.distill.common.finished import FinishedImages, as_normalised, finished_images
from nas_proxy.distill.common.memory import BatchMemory
from nas_proxy.distill.common.random_networks import SpaceNetworks
from nas_proxy.distill.common.recording import map_in_workers, recorded
from nas_proxy.distill.common.recovery import (
    Batch,
    Recovery,
    RecoverySettings,
    layers_with_statistics,
)
from nas_proxy.distill.common.synthetic import SyntheticImages
from nas_proxy.errors import ConfigError, DivergedError, required
from nas_proxy.interfaces import DistillContext, Distiller, DistillTask
from nas_proxy.networks.base import has_batchnorm
from nas_proxy.networks.catalogue import NETWORKS, NetworkSettings, describe
from nas_proxy.options import Bound, Fraction, NonNegativeFloat, PositiveFloat, PositiveInt
from nas_proxy.processes import MadeItems
from nas_proxy.registry import DISTILLERS, SEARCH_SPACES
from nas_proxy.reproducibility import derive_seed, isolated_rng, make_generator
from nas_proxy.teachers.pretrained import build_pretrained
from nas_proxy.teachers.teacher import Teacher
from nas_proxy.teachers.training import obtain_teachers
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.teacher_settings import TeacherOption, TeacherSettings
from nas_proxy.types import DatasetSpec, ImageDataset

# The published squeezing of CIFAR.
SQUEEZED_RESNET18 = TeacherSettings(
    network=NetworkSettings(name="resnet18", norm="batch"),
    train=TrainSettings(
        num_epochs=200,
        batch_size=128,
        learning_rate=0.1,
        schedule="cosine",
        nesterov=False,
        augmentation=Augmentation(crop=0.125, flip=True),
    ),
)
_SMALL = 32  # pixels: up to here the authors' settings of CIFAR, above those of ImageNet
_ANY_IMAGES = DatasetSpec(
    name="any",
    class_names=("a", "b"),
    image_shape=(3, 32, 32),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    licence="",
    source_hash="",
)


@DISTILLERS.register("statistical_matching")
@dataclass(frozen=True, kw_only=True)
class StatisticalMatching(Distiller):
    """SRe2L: images recovered from what a trained network has kept of the data.

    The defaults are the published ones for CIFAR; at 64 pixels and above crops come with them. The
    authors use 4000 `num_steps` for ImageNet, and with an `image_learning_rate` of 0.1, a
    `statistics_weight` of 1 and a `jitter` of 0.0625 for Tiny-ImageNet. Their figures are those of
    labels by the same networks, `labels: {kind: soft, per: view, temperature: 30}` (20 for
    ImageNet, and a `teachers` that names them).

    Several networks take turns, a step each: the backbones of G-VBSM (Shao et al., CVPR 2024; a
    ConvNet, ResNet-18, WRN-16-2, MobileNetV2 and ShuffleNetV2, 4000 steps at a rate of 0.05). The
    statistics of convolutions and the densification of that method are not here.

    Images are recovered in independent batches of all classes: classes are not. The memory that a
    batch needs bounds that of the whole.

    Attributes:
        networks: Squeezed networks, each with batch norm: a name, a file, or a section.
            `search_space`: one random architecture of the study's space that has batch norm.
        train: How that one is trained; all others say it themselves.
        num_steps: Steps of Adam for each batch; its rate falls to zero along a cosine.
        batch_size: Images at a time, at most; batches are of nearly equal size.
        image_learning_rate: Of the pixels, at the first step.
        statistics_weight: Of the distance of the statistics, beside the cross-entropy.
        first_layer_weight: Of the first batch norm, beside 1 for each other.
        init: Start from Gaussian `noise` or from `real` images.
        decode_factor: Multi-formation (IDC): each image holds this many reduced images along each
            side, which are enlarged for training; 1 for none.
        smallest_crop: In each step the networks see a random part of the images, enlarged and
            mirrored in half of the cases, which has at least this share of their area; 1: no crops
            and no mirroring. None: as published, 1 up to 32 pixels and 0.08 above.
        jitter: Largest shift in each step as a share of the side.
        augmentation: What the set asks for when a network trains on it; None: as published.
        precision: `bfloat16` computes convolutions and products in bfloat16 (autocast).
    """

    family = "decoupled statistical matching"
    typical_cost = "minutes for 100 images on a GPU, hours on one CPU core; and its networks"
    summary = "recovers images from the batch norm statistics of a trained network (SRe2L)"
    paper = "Yin, Xing and Shen, Squeeze, Recover and Relabel, NeurIPS 2023"

    networks: tuple[TeacherOption, ...] | Literal["search_space"] = (SQUEEZED_RESNET18,)
    train: TrainSettings = SQUEEZED_RESNET18.train
    num_steps: PositiveInt = 1000
    batch_size: PositiveInt = 100
    image_learning_rate: PositiveFloat = 0.25
    statistics_weight: NonNegativeFloat = 0.01
    first_layer_weight: NonNegativeFloat = 10.0
    init: Literal["noise", "real"] = "noise"
    decode_factor: PositiveInt = 1
    smallest_crop: Annotated[float, Bound(gt=0, le=1)] | None = None
    jitter: Fraction = 0.125
    augmentation: Augmentation | None = None
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        """Refuse networks without batch norm before one is trained."""
        if self.networks == "search_space":
            return
        if not self.networks:
            raise ConfigError("statistical_matching needs at least one network; name one")
        if self.train != SQUEEZED_RESNET18.train:
            raise ConfigError("train is for networks: search_space; each of networks has its own")
        for settings in self.networks:
            if settings.checkpoint is None and not _will_have_batchnorm(settings):
                raise _without_batchnorm(settings)

    @property
    def teachers(self) -> tuple[TeacherSettings, ...]:
        """The squeezed networks, as far as they are known before the space is."""
        return () if self.networks == "search_space" else self.networks

    @property
    def draws_from_space(self) -> bool:
        """With `networks: search_space`."""
        return self.networks == "search_space"

    def initialise(
        self, dataset: ImageDataset, images_per_class: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Gaussian noise, or random real images; see `Distiller.initialise`."""
        plan = self._plan(dataset, images_per_class, generator)
        starts = [plan.batch(number).start for number in range(plan.num_batches)]
        images = plan.by_class(torch.cat(starts)).to(dataset.images.device)
        return images, plan.labels().to(images.device)

    def distill(self, task: DistillTask) -> ProxyDataset:
        """Recover one batch after the other, or side by side; see `Distiller.distill`.

        Raises:
            ConfigError: If a network has no batch norm, or a batch does not fit into memory.
            DivergedError: If a loss, a gradient or a pixel is not finite; the checkpoint keeps
                what is finished.
            StudyError: If a worker process dies.
        """
        dataset, context = task.dataset, task.context
        plan = self._plan(dataset, task.images_per_class, task.generator)
        networks, facts = self._networks(task)
        teachers = self._obtain(networks, dataset, context)
        recovery = Recovery(self._settings(dataset.spec), teachers, dataset.spec)
        memory = BatchMemory.measure(recovery.attempt, context.device)
        memory.check(plan.largest_batch, context.device, context.num_workers)
        finished = finished_images(self, task, teachers)
        try:
            self._recover(plan, recovery, finished, context)
        except torch.OutOfMemoryError as error:
            raise memory.refusal(plan.largest_batch, context.device, context.num_workers) from error
        made = recorded(
            self,
            task,
            as_normalised(plan.by_class(finished.all()), dataset.spec, context.device),
            plan.labels().to(context.device).repeat_interleave(self.decode_factor**2),
            augmentation=self.augmentation or _augmentation(dataset.spec),
            networks=teachers,
        )
        rule = _learning_rate_rule(dataset.spec)
        made = replace(made, parameters={**made.parameters, **facts})
        return replace(made, decode_factor=self.decode_factor, learning_rate_rule=rule)

    def _networks(self, task: DistillTask) -> tuple[Sequence[TeacherSettings], dict[str, Any]]:
        """The networks to squeeze, and what the set's record says of them."""
        if self.networks != "search_space":
            return self.networks, {}
        source = SpaceNetworks.of_study(self.name, task.dataset, task.context, batch_norm=True)
        seed = int(torch.randint(2**62, (1,), generator=task.generator))
        return [source.draw_teacher(seed, self.train)], source.facts()

    def _obtain(
        self, networks: Sequence[TeacherSettings], dataset: ImageDataset, context: DistillContext
    ) -> list[Teacher]:
        """The squeezed networks; one from a file is looked at only now."""
        teachers = obtain_teachers(networks, dataset, context)
        for settings, teacher in zip(networks, teachers, strict=True):
            if not layers_with_statistics(teacher):
                raise _without_batchnorm(settings)
        return teachers

    def _recover(
        self, plan: _Plan, recovery: Recovery, finished: FinishedImages, context: DistillContext
    ) -> None:
        """All batches that are not finished yet."""
        numbers = range(finished.num_parts, plan.num_batches)
        total = plan.num_batches * self.num_steps
        in_this_process = min(context.num_workers, len(numbers)) <= 1
        if in_this_process:
            observer = _Keeper(finished, context, self.num_steps, total)
            recovery = replace(recovery, observer=observer)
        batches = MadeItems(plan.batch, numbers)
        try:
            for images in map_in_workers(recovery, batches, context):
                finished.add(images)
                context.progress(finished.num_parts * self.num_steps, total)
        except DivergedError as error:
            if not in_this_process:
                finished.save({})
            kept = f"; {context.checkpoint} keeps what is finished" if context.checkpoint else ""
            raise DivergedError(f"{self.name}: {error}{kept}") from error

    def _plan(
        self, dataset: ImageDataset, images_per_class: int, generator: torch.Generator
    ) -> _Plan:
        members = members_of_classes(dataset, images_per_class)
        seed = int(torch.randint(2**62, (1,), generator=generator))
        num_images = images_per_class * dataset.spec.num_classes
        rows = None
        if self.init == "real":
            draw = make_generator(derive_seed(seed, "real"))
            wanted = images_per_class * self.decode_factor**2
            rows = torch.stack([_drawn(each, wanted, draw) for each in members])
        return _Plan(
            dataset=dataset,
            rows=rows,
            decode_factor=self.decode_factor,
            positions=torch.arange(num_images).tensor_split(-(-num_images // self.batch_size)),
            seed=seed,
        )

    def _settings(self, spec: DatasetSpec) -> RecoverySettings:
        options = {field.name: getattr(self, field.name) for field in fields(RecoverySettings)}
        if self.smallest_crop is None:
            options["smallest_crop"] = 1.0 if spec.image_shape[1] <= _SMALL else 0.08
        return RecoverySettings(**options)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Plan:
    """Which images are recovered together, and from where they start.

    Position p is image p // num_classes of class p % num_classes, so that a batch has as many
    classes as it can.

    Attributes:
        dataset: The real images.
        rows: Real images to start from, `(num_classes, images_per_class * decode_factor ** 2)`;
            None for noise.
        decode_factor: Tiles along each side of an image.
        positions: Of each batch, int64.
        seed: From which those of the batches come.
    """

    dataset: ImageDataset
    rows: Tensor | None
    decode_factor: int
    positions: tuple[Tensor, ...]
    seed: int

    @property
    def num_batches(self) -> int:
        return len(self.positions)

    @property
    def num_images(self) -> int:
        return sum(map(len, self.positions))

    @property
    def largest_batch(self) -> int:
        return len(self.positions[0])

    def batch(self, number: int) -> Batch:
        """The batch with that number, which counts from 0."""
        positions, spec = self.positions[number], self.dataset.spec
        seed = derive_seed(self.seed, "batch", number)
        classes = positions % spec.num_classes
        if self.rows is None:
            shape = (len(positions), *spec.image_shape)
            start = torch.randn(shape, generator=make_generator(derive_seed(seed, "start")))
        else:
            tiles = self.rows.unflatten(1, (-1, self.decode_factor**2))
            chosen = tiles[classes, positions // spec.num_classes].flatten()
            images = self.dataset.images[chosen.to(self.dataset.images.device)].cpu()
            start = encode(normalise(images, spec), self.decode_factor)
        return Batch(f"batch {number + 1} of {self.num_batches}", start, classes, seed)

    def by_class(self, images: Tensor) -> Tensor:
        """From the order of positions to class by class."""
        in_rounds = images.view(-1, self.dataset.spec.num_classes, *images.shape[1:])
        return in_rounds.transpose(0, 1).flatten(0, 1)

    def labels(self) -> Tensor:
        """Of the images class by class, int64."""
        num_classes = self.dataset.spec.num_classes
        return torch.arange(num_classes).repeat_interleave(self.num_images // num_classes)


class _Keeper:
    """Shows and saves the steps of the batches that are recovered in this process."""

    def __init__(
        self, finished: FinishedImages, context: DistillContext, num_steps: int, total: int
    ) -> None:
        self._finished = finished
        self._context = context
        self._num_steps = num_steps
        self._total = total

    def begin(self, synthetic: SyntheticImages) -> int:
        """Restore the batch that a kill interrupted; returns how many steps it had done."""
        state = self._finished.unfinished
        if not state:
            return 0
        synthetic.restore(state)
        return int(state["num_steps"])

    def keep(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Save the last good state."""
        self._finished.save({"num_steps": torch.tensor(step), **state})

    def after(self, step: int, loss: float, synthetic: SyntheticImages) -> None:
        """Show the loss, and save if it is time to."""
        if step < self._num_steps:  # the finished batch is saved as such
            state = synthetic.state()
            self._finished.save_if_due({"num_steps": torch.tensor(step), **state})
            done = self._finished.num_parts * self._num_steps + step
            self._context.progress(done, self._total, f"loss {loss:.3g}")


def _drawn(members: Tensor, wanted: int, generator: torch.Generator) -> Tensor:
    """Random ones of a class; some twice only if there are too few for all tiles."""
    rounds = -(-wanted // len(members))
    orders = [torch.randperm(len(members), generator=generator) for _ in range(rounds)]
    return members[torch.cat(orders)[:wanted]]


def _will_have_batchnorm(settings: TeacherSettings) -> bool:
    """Whether a network that is still to be trained will have it."""
    if settings.network is not None:
        return (settings.network.norm or NETWORKS[settings.network.name].norm) == "batch"
    with isolated_rng(0):
        if settings.pretrained is not None:
            return has_batchnorm(build_pretrained(settings.pretrained, _ANY_IMAGES))
        space = SEARCH_SPACES.get(settings.space)()
        architecture = space.from_string(required(settings.architecture, "architecture"))
        return has_batchnorm(space.build(architecture, _ANY_IMAGES))


def _without_batchnorm(settings: TeacherSettings) -> ConfigError:
    having = [name for name, entry in NETWORKS.items() if "batch" in entry.norms]
    if settings.network is not None:
        name = describe(settings.network)
    elif settings.pretrained is not None:
        name = f"{settings.pretrained.name} of torchvision"
    else:
        name = settings.checkpoint or f"{settings.space} {settings.architecture}"
    return ConfigError(
        "statistical_matching matches the statistics that batch norm keeps, and the network "
        f"{name} has none; name another, or one of {', '.join(having)} with norm: batch"
    )


def _learning_rate_rule(spec: DatasetSpec) -> LearningRateRule:
    """The authors' training on CIFAR-100 and, for large images, on ImageNet."""
    large = spec.image_shape[1] > _SMALL
    return LearningRateRule(
        optimiser="adamw",
        learning_rate=0.001,
        weight_decay=0.01,
        schedule="cosine",
        num_epochs=300 if large else 400,
        batch_size=1024 if spec.num_classes >= 1000 else 128,
    )


def _augmentation(spec: DatasetSpec) -> Augmentation:
    if spec.image_shape[1] > _SMALL:
        return Augmentation(resized_crop=0.08, flip=True, cutmix=1.0)
    return Augmentation(crop=0.125, flip=True, mixup=0.8)
