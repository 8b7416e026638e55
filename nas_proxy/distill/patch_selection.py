"""Patch selection: the real crops that a trained network finds easiest, several to an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.crops import cut, random_boxes
from nas_proxy.data.proxy_dataset import LearningRateRule, ProxyDataset
from nas_proxy.data.splits import members_of_classes
from nas_proxy.data.transforms import denormalise, normalise
from nas_proxy.distill.common.finished import as_normalised, finished_images
from nas_proxy.distill.common.recording import map_in_workers, recorded
from nas_proxy.errors import ConfigError, DataError
from nas_proxy.interfaces import Distiller, DistillTask
from nas_proxy.networks.catalogue import NetworkSettings
from nas_proxy.options import PositiveInt
from nas_proxy.processes import MadeItems
from nas_proxy.registry import DISTILLERS
from nas_proxy.reproducibility import derive_seed, make_generator
from nas_proxy.teachers.teacher import Teacher
from nas_proxy.teachers.training import obtain_teachers
from nas_proxy.train.measuring import num_parts
from nas_proxy.train.teacher_settings import TeacherOption, TeacherSettings
from nas_proxy.types import DatasetSpec, ImageDataset

_SMALLEST_AREA = 0.08  # of a crop, as published
_MANY_PIXELS = 128  # from this size on the authors put four patches into an image


@DISTILLERS.register("patch_selection")
@dataclass(frozen=True, kw_only=True)
class PatchSelection(Distiller):
    """RDED: of some crops of each image the most realistic, of these the best, tiled.

    The defaults are the published ones; how the network is trained was not published. The
    authors' figures are those of labels by the same network for each view, `labels: {kind: soft,
    per: view, temperature: 20}` and a `teachers` that names it; their ConvNets were taught by one
    with batch norm.

    While networks train the authors also shuffle the patches of an image, lower the learning rate
    to half instead of zero, and spare biases and norms the weight decay; these are left out.

    Of each class its candidates alone are read, and of these a batch is in memory as float.

    Attributes:
        network: Scores the crops by its cross-entropy to their class: a name, a file, or a section.
        candidates_per_class: Random images of each class to take crops of; a class with fewer
            gives all.
        num_crops: Random square crops of each, of 8 to 100 % of its area.
        factor: Patches along each side of an image, reduced so that they fit; None: as published,
            1 below 128 pixels, else 2.
        augmentation: What the set asks for when a network trains on it; None: as published.
    """

    family = "patch selection"
    typical_cost = "seconds on a GPU, minutes on one CPU core; and its network"
    summary = "the real crops that a trained network finds easiest, tiled (RDED)"
    paper = "Sun et al., On the Diversity and Realism of Distilled Dataset, CVPR 2024"

    network: TeacherOption = TeacherSettings(network=NetworkSettings(name="resnet18", norm="batch"))
    candidates_per_class: PositiveInt = 300
    num_crops: PositiveInt = 5
    factor: PositiveInt | None = None
    augmentation: Augmentation | None = None

    @property
    def teachers(self) -> tuple[TeacherSettings, ...]:
        """The network that scores."""
        return (self.network,)

    def distill(self, task: DistillTask) -> ProxyDataset:
        """Select class after class, or several side by side; see `Distiller.distill`.

        Raises:
            ConfigError: If there are fewer candidates than patches.
            StudyError: If a worker process dies.
        """
        dataset, images_per_class, context = task.dataset, task.images_per_class, task.context
        factor = self.factor_at(dataset.spec.image_shape[1])
        source = _Source(
            dataset=dataset,
            members=self._members(dataset, images_per_class, factor),
            num_candidates=self.candidates_per_class,
            seed=int(torch.randint(2**62, (1,), generator=task.generator)),
        )
        (teacher,) = obtain_teachers(self.teachers, dataset, context)
        finished = finished_images(self, task, [teacher])
        num_classes = dataset.spec.num_classes
        selector = Selector(teacher, dataset.spec, images_per_class, self.num_crops, factor)
        classes = MadeItems(source.candidates, range(finished.num_parts, num_classes))
        for images in map_in_workers(selector, classes, context):
            finished.add(images)
            context.progress(finished.num_parts, num_classes, "classes")
        made = recorded(
            self,
            task,
            as_normalised(finished.all(), dataset.spec, context.device),
            torch.arange(num_classes, device=context.device).repeat_interleave(images_per_class),
            augmentation=self.augmentation or _augmentation(factor),
            networks=[teacher],
        )
        return replace(made, learning_rate_rule=_learning_rate_rule(images_per_class, num_classes))

    def factor_at(self, image_size: int) -> int:
        """Patches along each side of an image of so many pixels."""
        return self.factor or (2 if image_size >= _MANY_PIXELS else 1)

    def _members(self, dataset: ImageDataset, images_per_class: int, factor: int) -> list[Tensor]:
        """Indices of each class, which has an image for every patch."""
        members = members_of_classes(dataset, images_per_class)
        wanted = images_per_class * factor**2
        takes = (
            f"{images_per_class} images_per_class of {factor}x{factor} patches take {wanted} "
            "crops, each of another image"
        )
        for name, each in zip(dataset.spec.class_names, members, strict=True):
            if len(each) < wanted:
                raise DataError(
                    f"{takes}, but class {name!r} of {dataset.spec.name} has {len(each)} in the "
                    "search-training split; ask for fewer, or set distill.factor to 1"
                )
        if self.candidates_per_class < wanted:
            raise ConfigError(
                f"{takes}, but distill.candidates_per_class is {self.candidates_per_class}; "
                f"set it to at least {wanted}"
            )
        return members


@dataclass(frozen=True, eq=False, kw_only=True)
class _Source:
    """Where the candidates come from: a class of the real images at a time.

    Attributes:
        dataset: The real images.
        members: Indices of each class.
        num_candidates: Of each class, at most.
        seed: From which those of the classes come.
    """

    dataset: ImageDataset
    members: Sequence[Tensor]
    num_candidates: int
    seed: int

    def candidates(self, label: int) -> Candidates:
        """Random images of class `label`."""
        seed, members = derive_seed(self.seed, label), self.members[label]
        order = torch.randperm(len(members), generator=make_generator(seed))
        chosen = members[order[: self.num_candidates]].to(self.dataset.images.device)
        return Candidates(self.dataset.images[chosen].cpu(), label, seed)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Images of one class to take crops of.

    Attributes:
        images: uint8, `(m, c, h, w)`.
        label: Their class.
        seed: Of the crops.
    """

    images: Tensor
    label: int
    seed: int


@dataclass(frozen=True, eq=False)
class Selector:
    """From the candidates of a class to its images; can be sent to another process.

    Attributes:
        teacher: Scores crops.
        spec: Of the images.
        num_images: To make.
        num_crops: Of each candidate.
        factor: Patches along each side of an image.
    """

    teacher: Teacher
    spec: DatasetSpec
    num_images: int
    num_crops: int
    factor: int

    def __call__(self, candidates: Candidates) -> Tensor:
        """uint8 on the CPU, `(num_images, c, h, w)`."""
        images, num = candidates.images, len(candidates.images)
        _, height, width = self.spec.image_shape
        boxes = random_boxes(
            num * self.num_crops,
            (height, width),
            _SMALLEST_AREA,
            make_generator(derive_seed(candidates.seed, "crops")),
            largest_aspect=1.0,
        ).view(num, self.num_crops, 4)
        losses = self.losses(images, boxes, candidates.label)
        realistic, crops = losses.min(dim=1)
        best = realistic.argsort(stable=True)[: self.num_images * self.factor**2]
        patches = self.patches(images[best], boxes[best, crops[best]].unsqueeze(1))
        return denormalise(tile(patches, self.factor, height), self.spec).cpu()

    @torch.no_grad()
    def losses(self, images: Tensor, boxes: Tensor, label: int) -> Tensor:
        """Cross-entropy of each crop to the class.

        A reduced patch is scored in the middle of an image of zeros, the mean colour.

        Args:
            images: uint8, `(m, c, h, w)`.
            boxes: int64, `(m, num_crops, 4)`.
            label: The class.

        Returns:
            float32 `(m, num_crops)`, on the CPU.
        """
        parts = min(len(images), num_parts(len(images) * self.num_crops, images.shape))
        losses = []
        for some, their_boxes in zip(
            images.tensor_split(parts), boxes.tensor_split(parts), strict=True
        ):
            patches = self.patches(some, their_boxes)
            logits = self.teacher.logits(_in_the_middle(patches, images.shape[-1])).float()
            target = torch.full((len(logits),), label, device=logits.device)
            losses.append(F.cross_entropy(logits, target, reduction="none").cpu())
        return torch.cat(losses).view(len(images), self.num_crops)

    def patches(self, images: Tensor, boxes: Tensor) -> Tensor:
        """The crops of the first image, then of the second: normalised, `(m * k, c, s, s)`.

        Args:
            images: uint8, `(m, c, h, w)`.
            boxes: int64, `(m, k, 4)`.
        """
        size = images.shape[-1] // self.factor
        patches = []
        for image, own_boxes in zip(
            images.to(self.teacher.device).split(1), boxes.tolist(), strict=True
        ):
            image = normalise(image, self.spec)
            patches += [cut(image, box, size) for box in own_boxes]
        return torch.cat(patches)


def tile(patches: Tensor, factor: int, image_size: int) -> Tensor:
    """Images of `factor` by `factor` patches.

    Args:
        patches: `(n * factor ** 2, c, s, s)`: the first n become the top left of each image, the
            next n what is right of that, and so on, row by row.
        factor: 1 returns `patches` themselves where they have the size.
        image_size: Height and width of the result; what `factor` does not divide makes the first
            rows and columns one pixel larger.

    Returns:
        `(n, c, image_size, image_size)`.
    """
    lengths = [
        image_size // factor + (1 if index < image_size % factor else 0) for index in range(factor)
    ]
    groups = iter(patches.chunk(factor**2))
    rows = []
    for height in lengths:
        row = [F.interpolate(next(groups), size=(height, width)) for width in lengths]
        rows.append(torch.cat(row, dim=3))
    return torch.cat(rows, dim=2)


def _in_the_middle(patches: Tensor, image_size: int) -> Tensor:
    missing = image_size - patches.shape[-1]
    before, after = missing // 2, missing - missing // 2
    return F.pad(patches, (before, after, before, after))


def _learning_rate_rule(images_per_class: int, num_classes: int) -> LearningRateRule:
    """The authors' for ConvNets and ResNets; they have others for other networks."""
    batch_size = 10 if images_per_class < 10 else 50 if images_per_class < 50 else 100
    return LearningRateRule(
        optimiser="adamw",
        learning_rate=0.001,
        weight_decay=0.01,
        schedule="cosine",
        num_epochs=300,
        batch_size=batch_size * (2 if num_classes >= 100 else 1),
    )


def _augmentation(factor: int) -> Augmentation:
    """Crops that may hold a single patch; of an image of one patch nothing is cropped."""
    crop = 1 / factor if factor > 1 else 0.0
    return Augmentation(resized_crop=crop, flip=True, cutmix=1.0)
