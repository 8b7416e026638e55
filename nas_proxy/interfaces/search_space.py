"""What a search space implements."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from nas_proxy.core.plugin_source import source_hash
from nas_proxy.errors import UserError
from nas_proxy.options import Options
from nas_proxy.plugin_calls import GuardedCalls
from nas_proxy.reproducibility import content_hash
from nas_proxy.types import Architecture, DatasetSpec, Splits, WeightsRecord

if TYPE_CHECKING:
    from nas_proxy.train.phases import Phase
    from nas_proxy.train.settings import TrainSettings


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
class SearchSpace(GuardedCalls, Options, ABC, role="search space"):
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
    >>> from nas_proxy.data import load_splits
    >>> space = nas.search_space("convnet", options={"depths": [1, 2]})
    >>> architecture = space.sample(torch.Generator().manual_seed(0))
    >>> network = space.build(architecture, load_splits(nas.dataset("digits")).spec)
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


class Builder(Protocol):
    """Makes networks of architectures; every search space is one."""

    def build(self, architecture: Architecture, spec: DatasetSpec) -> nn.Module:
        """A fresh network; see `SearchSpace.build`."""
