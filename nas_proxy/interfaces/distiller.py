"""What a distiller implements, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from nas_proxy.core.costs import CostMeter
from nas_proxy.core.pools import OpenPool
from nas_proxy.interfaces.search_space import SearchSpace
from nas_proxy.options import Options
from nas_proxy.plugin_calls import GuardedCalls
from nas_proxy.types import Architecture, ImageDataset, Progress, no_progress

if TYPE_CHECKING:
    from nas_proxy.data.proxy_dataset import LabelKind, ProxyDataset
    from nas_proxy.train.teacher_settings import TeacherSettings


@dataclass(frozen=True, eq=False, kw_only=True)
class CalibrationSample:
    """Architectures whose full training is known, from which a proxy may be learned.

    They never judge what was learned from them: the validation leaves them out.

    Attributes:
        space: Builds their networks, at full size.
        architectures: All different.
        references: Of full training, by search-validation images or a table; higher is better.
    """

    space: SearchSpace
    architectures: tuple[Architecture, ...]
    references: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class DistillContext:
    """Where a distillation runs and where it may leave its state.

    Attributes:
        device: Where the work is done; images arrive there.
        progress: Told after every step.
        checkpoint: File from which a killed run continues; None keeps no checkpoint.
        cache: Folder of trained networks and trajectories, by content; None trains them anew.
        labels: What labels are wanted; what a method leaves hard is labelled after it.
        num_workers: Processes that work side by side, which changes no result.
        calibration: Architectures with known references, for a method that `needs_calibration`.
        space: The one that is searched, for a method that `draws_from_space`.
        fetch_model: From `models:/...` to the model's file; None where there is no registry.
        costs: Counts what the set costs; a method may name a part with `costs.measure`.
        open_pool: Opens the workers; None: processes of this machine.

    >>> DistillContext(num_workers=2).device
    device(type='cpu')
    """

    device: torch.device = torch.device("cpu")
    progress: Progress = no_progress
    checkpoint: Path | None = None
    cache: Path | None = None
    labels: LabelKind = "hard"
    num_workers: int = 1
    calibration: CalibrationSample | None = None
    space: SearchSpace | None = None
    fetch_model: Callable[[str], Path] | None = None
    costs: CostMeter = field(default_factory=CostMeter, compare=False)
    open_pool: OpenPool | None = field(default=None, compare=False)


@dataclass(frozen=True, eq=False, kw_only=True)
class DistillTask:
    """What a distiller is to make, from what, and where.

    Attributes:
        dataset: The search-training images, on `context.device`.
        images_per_class: Images to make for each class.
        generator: On the CPU; the only source of randomness. The same seed gives the same images
            on the same machine, also across a kill and a continuation.
        context: Device, progress and checkpoint.

    >>> from nas_proxy.data import DataSettings, load_splits
    >>> from nas_proxy.registry import DISTILLERS
    >>> images = load_splits(DataSettings(name="digits")).search_train
    >>> task = DistillTask(dataset=images, images_per_class=1, generator=torch.Generator())
    >>> len(DISTILLERS.get("random_subset")().distill(task))
    10
    """

    dataset: ImageDataset
    images_per_class: int
    generator: torch.Generator
    context: DistillContext = DistillContext()


@dataclass(frozen=True, kw_only=True)
class Distiller(GuardedCalls, Options, ABC, role="distiller"):
    """Condenses real images into a few.

    A distiller need not say what it costs: whoever calls it through
    `nas_proxy.distill.measured.distill_and_label`, as the stage does, measures seconds and memory.

    Attributes:
        name: The registered name; the proxy data set records it.
        summary: One line for `nas-proxy list`.
        paper: What it implements, "Author et al., title, venue year"; empty for a control.
        family: What is matched or chosen, such as "distribution matching"; empty if neither.
        typical_cost: How long it takes, in words.
        needs_calibration: Whether it learns from the sample in `DistillContext.calibration`.

    >>> from nas_proxy.registry import DISTILLERS
    >>> DISTILLERS.get("distribution_matching")(num_steps=50).num_steps
    50
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    family: ClassVar[str] = ""
    typical_cost: ClassVar[str] = ""
    needs_calibration: ClassVar[bool] = False

    @property
    def teachers(self) -> tuple[TeacherSettings, ...]:
        """The trained networks that the method looks at; none unless a method says so."""
        return ()

    @property
    def draws_from_space(self) -> bool:
        """Whether it draws networks of the searched space, which `DistillContext.space` holds."""
        return False

    def own_images_per_class(self) -> int | None:
        """How many images of each class it makes whatever is asked; None if it does as asked."""
        return None

    def initialise(
        self, dataset: ImageDataset, images_per_class: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The images that distilling starts from: real ones, drawn at random from each class.

        Returns:
            Normalised float32 images `(num_classes * images_per_class, c, h, w)`, class by class,
            and their labels, int64.

        Raises:
            DataError: If a class has fewer than `images_per_class` images.
        """
        from nas_proxy.data.splits import draw_per_class
        from nas_proxy.data.transforms import normalise

        indices = draw_per_class(dataset, images_per_class, generator)
        return normalise(dataset.images[indices], dataset.spec), dataset.labels[indices]

    @abstractmethod
    def distill(self, task: DistillTask) -> ProxyDataset:
        """Condense `task.dataset` into `task.images_per_class` images for each class.

        Costs, memory, hardware and versions of the result are filled in by the caller. A set that
        was made earlier by another method, such as one from a file, keeps those that it has.

        Raises:
            DataError: If a class has fewer images than that.
        """
