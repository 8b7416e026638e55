"""What a plug-in implements: a search space, a distiller, or a zero-cost score.

Each is a frozen dataclass whose fields are its options (see `nas_proxy.options`). The contract
tests in `nas_proxy.testing` check what the docstrings here promise.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from nas_proxy.core.costs import CostMeter
from nas_proxy.core.plugin_source import source_hash
from nas_proxy.core.pools import OpenPool
from nas_proxy.errors import UserError
from nas_proxy.options import Options
from nas_proxy.plugin_calls import GuardedCalls
from nas_proxy.reproducibility import content_hash
from nas_proxy.types import (
    Architecture,
    DatasetSpec,
    ImageDataset,
    Progress,
    Splits,
    WeightsRecord,
    no_progress,
)

if TYPE_CHECKING:
    from nas_proxy.data.proxy_dataset import LabelKind, ProxyDataset
    from nas_proxy.train.phases import Phase
    from nas_proxy.train.settings import TrainSettings
    from nas_proxy.train.teacher_settings import TeacherSettings


class Trial(Protocol):
    """The part of Optuna's trial that a search space uses; `optuna.Trial` satisfies it."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of `choices`, which are str, int, float, bool or None."""

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """An integer in [low, high]."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number in [low, high]."""


@dataclass(frozen=True, kw_only=True)
class SearchSpace(GuardedCalls, Options, ABC):
    """A set of architectures. Total: every genotype it can produce builds and trains.

    That holds for images from 8x8 pixels on, with one or three channels. Where genotypes hold
    choices of the training, or networks start from weights, derive from `TransferSpace`.

    Attributes:
        name: The registered name; architectures carry it.
        summary: One line for `nas-proxy list`.
        paper: Where it comes from; empty if from nowhere.
        fidelity_options: Options that make networks cheaper and leave the set of genotypes as it
            is, such as cells per stage. `train.space_fidelity` may reduce these and no others.
        reduced_fidelity: What of these its author recommends for short trainings, such as one
            cell per stage; candidates are trained so unless `train.space_fidelity` says otherwise.

    >>> import nas_proxy as nas
    >>> space = nas.search_space("convnet", options={"depths": [1, 2]})
    >>> architecture = space.sample(torch.Generator().manual_seed(0))
    >>> network = space.build(architecture, nas.load_splits(nas.dataset("digits")).spec)
    >>> network.eval()(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    fidelity_options: ClassVar[tuple[str, ...]] = ()
    reduced_fidelity: ClassVar[Mapping[str, int]] = MappingProxyType({})

    @abstractmethod
    def suggest(self, trial: Trial) -> Architecture:
        """The architecture of an Optuna trial; every choice goes through `trial.suggest_*`.

        `optuna.TrialPruned` here, in `sample` and in `mutate`, rules out what was chosen.
        """

    @abstractmethod
    def sample(self, generator: torch.Generator) -> Architecture:
        """One architecture, uniform over the genotypes.

        A space that is a function draws each of its choices uniformly, one after the other.
        """

    def mutate(self, architecture: Architecture, generator: torch.Generator) -> Architecture:
        """A neighbour that differs from `architecture` in one choice; never the same one.

        Raises:
            UserError: If the space does not implement it; evolution needs it.
        """
        raise UserError(f"search space {self.name!r} does not implement mutate")

    @abstractmethod
    def build(self, architecture: Architecture, spec: DatasetSpec) -> nn.Module:
        """A fresh network that maps images `(n, c, h, w)` to logits `(n, num_classes)`.

        Weights come from torch's global generator, which the caller has seeded.
        """

    def encode(self, architecture: Architecture) -> Tensor:
        """The architecture as float32 features, `(d,)`, with the same d for all of the space.

        Unless a space has its own, those of its networks' graphs (`nas_proxy.graphs`).
        """
        from nas_proxy.graphs.encoding import encode_architecture

        bare = self.without_weights() if isinstance(self, TransferSpace) else self
        return encode_architecture(bare, architecture)

    def features(self, architecture: Architecture) -> Tensor:
        """What calibrated scores learn from: the graph's features, then those of `encode`."""
        graph = SearchSpace.encode(self, architecture)
        has_own = type(self).encode is not SearchSpace.encode
        return torch.cat([graph, self.encode(architecture)]) if has_own else graph

    @property
    def reductions(self) -> dict[str, int]:
        """What `reduced_fidelity` makes smaller than the options of this very space say."""
        options = self.reduced_fidelity.items()
        return {name: least for name, least in options if getattr(self, name, math.inf) > least}

    @property
    def can_mutate(self) -> bool:
        """Whether the space implements `mutate`."""
        return type(self).mutate is not SearchSpace.mutate

    def describe(self, architecture: Architecture) -> str:
        """The architecture in words, on one line, for reports."""
        return architecture.genotype_json

    def to_string(self, architecture: Architecture) -> str:
        """The field's own notation for the architecture.

        Raises:
            UserError: If the space has none; truth tables cannot be read then.
        """
        raise UserError(f"search space {self.name!r} has no string form")

    def from_string(self, text: str) -> Architecture:
        """The inverse of `to_string`.

        Raises:
            ValueError: If `text` is no architecture of this space.
            UserError: If the space has no string form; truth tables cannot be read then.
        """
        raise UserError(f"search space {self.name!r} has no string form")

    def check_images(self, splits: Splits) -> None:  # noqa: B027 - most spaces take any
        """Raise a UserError before a study starts if no candidate could do with its images."""

    def canonical_form(self, architecture: Architecture) -> str:
        """Text that is the same for architectures that are known to compute the same functions.

        Two genotypes may describe one network, such as cells that differ by an edge to nowhere:
        what was learned from one must not be judged on the other. By default each is its own.
        """
        return architecture.genotype_json

    def fingerprint(self) -> str:
        """Hash of name, options and the user's own code: equal ones mean the same networks."""
        return content_hash(self.name, asdict(self), *filter(None, [source_hash(type(self))]))


@dataclass(frozen=True, kw_only=True)
class TransferSpace(SearchSpace):
    """A search space that says how its networks are trained, or what weights they start from.

    Everything here may be left as it is; then the space is trained and judged as any other.

    Attributes:
        says_length: Whether genotypes hold how many epochs they are trained for, which
            `train.num_epochs: architecture` then takes.
    """

    says_length: ClassVar[bool] = False

    def training_phases(
        self, architecture: Architecture, settings: TrainSettings
    ) -> tuple[Phase, ...]:
        """How the architecture's network is trained: in one go, unless the space says otherwise.

        A space whose genotypes hold choices of the training, such as what is frozen at first,
        turns them into phases here.

        Args:
            architecture: Of this space.
            settings: What the configuration says of the training.
        """
        from nas_proxy.train.phases import Phase

        return (Phase("training", settings),)

    def weights_record(self, architecture: Architecture) -> WeightsRecord:
        """Where the weights that `build` fills in come from, and under which licence."""
        return WeightsRecord("random weights")

    def without_weights(self) -> SearchSpace:
        """The same space with random weights: what trained networks are built from again."""
        return self

    def notices(self) -> tuple[str, ...]:
        """What a user should be told before a study starts, such as the terms of weights."""
        return ()


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

    >>> import nas_proxy as nas
    >>> nas.DistillContext(num_workers=2).device
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

    >>> import nas_proxy as nas
    >>> images = nas.load_splits(nas.dataset("digits")).search_train
    >>> task = nas.DistillTask(dataset=images, images_per_class=1, generator=torch.Generator())
    >>> len(nas.DISTILLERS.get("random_subset")().distill(task))
    10
    """

    dataset: ImageDataset
    images_per_class: int
    generator: torch.Generator
    context: DistillContext = DistillContext()


@dataclass(frozen=True, kw_only=True)
class Distiller(Options, ABC):
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

    >>> import nas_proxy as nas
    >>> nas.DISTILLERS.get("distribution_matching")(num_steps=50).num_steps
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


@dataclass(frozen=True, kw_only=True)
class ZeroCostScore(Options, ABC):
    """A number that ranks an untrained network in seconds: one signal.

    Attributes:
        name: The registered name, which is also the signal's.
        higher_is_better: The direction in which good architectures are found.
        summary: One line for `nas-proxy list`.
        paper: What it implements; empty when it is folklore.
        implement_one_of: Methods of which a score implements at least one.

    >>> import nas_proxy as nas
    >>> score = nas.SCORES.get("num_params")()
    >>> score.measure(nn.Linear(3, 4), torch.zeros(1, 3))
    16.0
    """

    implement_one_of: ClassVar[tuple[str, ...]] = ("measure", "measure_labelled")

    name: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""

    def measure(self, network: nn.Module, images: Tensor) -> float:
        """Score a freshly initialised network, which may be altered: nobody uses it afterwards.

        Torch's global generator is seeded by the caller and may be drawn from.

        Args:
            network: At the search space's full size, on the device of `images`.
            images: Normalised images, `(n, c, h, w)`.

        Raises:
            EvaluationError: If the score is not defined for this network, with the reason.
        """
        raise NotImplementedError(f"{type(self).__name__} implements measure_labelled alone")

    def measure_labelled(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        """The same for a score that looks at the classes too, int64 `(n,)`; this is what is called.

        Implement this one or `measure`; by default the labels are left aside.
        """
        return self.measure(network, images)


class Builder(Protocol):
    """Makes networks of architectures; every search space is one."""

    def build(self, architecture: Architecture, spec: DatasetSpec) -> nn.Module:
        """A fresh network; see `SearchSpace.build`."""


__all__ = ["Builder", "CalibrationSample", "DistillContext", "DistillTask", "Distiller"]
__all__ += ["SearchSpace", "TransferSpace", "Trial", "ZeroCostScore"]
