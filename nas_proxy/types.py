"""The values that everything else speaks of. All are immutable; none holds a network.

What a stage leaves behind is in the file `result.py` of its package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Protocol

from torch import Tensor

from nas_proxy.core.packed_floats import PackedFloats
from nas_proxy.errors import shorten
from nas_proxy.reproducibility import canonical_json, content_hash


@dataclass(frozen=True)
class DatasetSpec:
    """What a network must know of a data set, and what identifies it.

    Attributes:
        name: The data set's name in the configuration, such as `cifar10`.
        class_names: One name per class, in label order.
        image_shape: Channels, height and width, `(c, h, w)`.
        mean: Per-channel mean of the search-training images, scaled to [0, 1].
        std: Per-channel standard deviation of the same, scaled alike; never zero.
        licence: The terms under which the images may be used, in words.
        source_hash: Hash of the search-training images and labels. A proxy data set made from
            another split has another hash: it may have seen what judges it.

    >>> import nas_proxy as nas
    >>> from nas_proxy.data import load_splits
    >>> spec = load_splits(nas.dataset("digits")).spec
    >>> spec.image_shape, spec.num_classes
    ((1, 8, 8), 10)
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence: str
    source_hash: str

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def with_image_size(self, image_size: int) -> DatasetSpec:
        """The same data set with square images of `image_size` pixels."""
        return replace(self, image_shape=(self.image_shape[0], image_size, image_size))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DatasetSpec:
        """From a mapping of the attributes, in which lists stand for tuples."""
        fields: dict[str, Any] = {
            name: tuple(each) if isinstance(each, list) else each for name, each in value.items()
        }
        return cls(**fields)


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Real images and their classes.

    Attributes:
        images: uint8, `(n, c, h, w)`.
        labels: int64, `(n,)`, in `[0, num_classes)`.
        spec: The data set they belong to.

    >>> import nas_proxy as nas
    >>> from nas_proxy.data import load_splits
    >>> images = load_splits(nas.dataset("digits", images_per_class=20)).search_train
    >>> len(images), images.images.dtype
    (160, torch.uint8)
    """

    images: Tensor
    labels: Tensor
    spec: DatasetSpec

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> ImageDataset:
        """The images at `indices`, in that order."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])


@dataclass(frozen=True, eq=False)
class Splits:
    """One data set in three parts that share no image.

    Attributes:
        search_train: What the distiller sees and candidates train on.
        search_val: What measures candidates during the search.
        test: What measures networks that nothing is chosen by any more: the validation's full-data
            reference, retrained networks, those of `evaluate_proxy`. Leaks are looked for in it.
        left_out: What of the data was not read, a sentence; empty if nothing was left out.

    >>> import nas_proxy as nas
    >>> from nas_proxy.data import load_splits
    >>> splits = load_splits(nas.dataset("digits", images_per_class=20))
    >>> {name: len(part) for name, part in splits.parts.items()}
    {'search_train': 160, 'search_val': 40, 'test': 359}
    """

    search_train: ImageDataset
    search_val: ImageDataset
    test: ImageDataset
    left_out: str = ""

    @property
    def parts(self) -> dict[str, ImageDataset]:
        """The three by their names."""
        names = ("search_train", "search_val", "test")
        return {name: getattr(self, name) for name in names}

    @property
    def spec(self) -> DatasetSpec:
        """The specification that the three parts share."""
        return self.search_train.spec


@dataclass(frozen=True, init=False)
class Architecture:
    """One point of a search space: hashable, without weights, the same in every process.

    Attributes:
        space: Name of the search space.
        genotype_json: The genotype as canonical JSON text.

    >>> import nas_proxy as nas
    >>> nas.Architecture("mine", {"width": 32}) == nas.Architecture("mine", {"width": 32})
    True
    >>> nas.Architecture("mine", {"width": 32}).id
    'ce3c51d0e5ea'
    """

    space: str
    genotype_json: str

    def __init__(self, space: str, genotype: Any) -> None:
        """Store `genotype`, any JSON value; tuples are read back as lists.

        Single numbers of numpy or torch count as the plain ones.

        Raises:
            TypeError: If it holds what JSON cannot, such as an array.
            ValueError: If a number is not finite.
        """
        object.__setattr__(self, "space", space)
        object.__setattr__(self, "genotype_json", canonical_json(genotype, plain=_plain_number))

    @property
    def genotype(self) -> Any:
        """The genotype; a fresh copy each time."""
        return json.loads(self.genotype_json)

    @cached_property
    def id(self) -> str:
        """Twelve hexadecimal digits that depend on the space's name and the genotype alone."""
        return content_hash(self.space, self.genotype_json, length=12)

    def to_json(self) -> dict[str, Any]:
        """A JSON mapping; `from_json` reads it back to an equal architecture."""
        return {"space": self.space, "genotype": self.genotype}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Architecture:
        """The inverse of `to_json`."""
        return cls(value["space"], value["genotype"])

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Within a stored result it is written and read as `to_json` and `from_json` say."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls.from_json,
            serialization=core_schema.plain_serializer_function_ser_schema(cls.to_json),
        )


def _plain_number(value: Any) -> Any:
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value.item()
    raise TypeError(
        f"a genotype holds a {type(value).__name__} ({shorten(value)}); it may hold numbers, "
        "texts, true and false, None, lists and mappings of these"
    )


@dataclass(frozen=True)
class Fidelity:
    """What an evaluation costs.

    Attributes:
        dataset_id: Content hash of the images trained on; empty when nothing is trained.
        num_steps: Optimiser steps per seed; 0 where each architecture has a length of its own.
        batch_size: Images per step.
        image_size: Height and width in pixels of the images trained on.
        space_fidelity: Options of the search space that were reduced, such as `num_cells`.
        num_seeds: Trainings whose signals are averaged.
        cascade: What decides who goes on to a cascade's next stage, and what that was learned from
            (`nas_proxy.scores.cascade`); empty without one. The rest is then of its last stage.

    >>> Fidelity("", num_steps=100, batch_size=64, image_size=32).length
    '100 steps'
    """

    dataset_id: str
    num_steps: int
    batch_size: int
    image_size: int
    space_fidelity: Mapping[str, int] = field(default_factory=dict)
    num_seeds: int = 1
    cascade: str = ""

    @property
    def length(self) -> str:
        """The length of a training in words."""
        return f"{self.num_steps} steps" if self.num_steps else "each architecture's own length"

    def to_json(self) -> dict[str, Any]:
        """A JSON mapping with the attributes' names; without `cascade` where there is none."""
        plain = {**vars(self), "space_fidelity": dict(self.space_fidelity)}
        return plain if self.cascade else _without(plain, "cascade")


@dataclass(frozen=True)
class WeightsRecord:
    """Where the weights that a training starts from come from.

    Attributes:
        source: In words.
        licence: The terms of their use, in words; empty for random ones.
    """

    source: str
    licence: str = ""

    @property
    def is_non_commercial(self) -> bool:
        """Whether their terms say so."""
        return "non-commercial" in self.licence.lower()


class Status(StrEnum):
    """How an evaluation ended."""

    COMPLETE = "complete"
    FAILED = "failed"
    PARTIAL = "partial"  # it ended at a rung, or waits there


@dataclass(frozen=True)
class Evaluation:
    """What was measured on one architecture at one fidelity.

    Attributes:
        architecture: What was evaluated.
        fidelity: What it was evaluated with.
        seed: Seed of weights, batches and augmentation.
        status: `FAILED` evaluations carry a reason and no signals, `PARTIAL` ones the signals until
            the rung where they ended, or wait to be continued.
        signals: Name to value; averaged over the fidelity's seeds; every value is finite.
        seed_signals: The same for each seed, in order; empty for signals that need no training.
        train_losses: Mean loss over seeds at each step, `(num_steps,)`; empty without training.
            Kept packed, for a search holds very many of them; equal to the tuple of the same.
        phases: Name and steps of each phase of a training, in order; empty without training, and
            in evaluations from before there were phases.
        confusion: Images of each class (rows) that were taken for each class (columns), over all
            seeds; empty unless it was asked for.
        signal_seconds: What each zero-cost signal cost, and `training` for all trained ones. What
            zero-cost signals did together is divided equally among them.
        seconds: Wall-clock seconds of one process for the whole evaluation.
        core_seconds: Seconds that processor cores worked on it; other processes do not count.
        reason: Why it failed, in words; empty when it did not.
        build_seconds: Of loading what the evaluator needs, in no other figure; with the first
            evaluation after that, 0 with all others.
        started_unix_seconds: When it began, by the clock of the machine that it ran on; 0 if that
            is not known, as of evaluations from before it was kept.
        stage_seconds: Those of each stage of a cascade that was begun, in order, so that their
            number is the stage reached; empty without a cascade.
        stage_core_seconds: `core_seconds` likewise.
        rung: Of a `PARTIAL` evaluation, how far it got: percentage of the steps, or trainings of
            the fidelity's seeds; 0 of all others.
        same_as: Id of the architecture that is known to be the same network and was evaluated in
            its place; nothing was paid. Empty where it was evaluated itself.
        node: Of a cluster, where it was evaluated; empty on the driver's own machine.

    >>> fidelity = Fidelity("", num_steps=100, batch_size=64, image_size=32)
    >>> Evaluation(Architecture("mine", 32), fidelity, 0, Status.FAILED).complete
    False
    """

    architecture: Architecture
    fidelity: Fidelity
    seed: int
    status: Status
    signals: Mapping[str, float] = field(default_factory=dict)
    seed_signals: tuple[Mapping[str, float], ...] = ()
    train_losses: Sequence[float] = ()
    phases: tuple[tuple[str, int], ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    signal_seconds: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    core_seconds: float = 0.0
    reason: str = ""
    build_seconds: float = field(default=0.0, compare=False)
    started_unix_seconds: float = field(default=0.0, compare=False)
    stage_seconds: tuple[float, ...] = ()
    stage_core_seconds: tuple[float, ...] = ()
    rung: int = 0
    same_as: str = ""
    node: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.train_losses, PackedFloats):
            object.__setattr__(self, "train_losses", PackedFloats(self.train_losses))

    @property
    def complete(self) -> bool:
        """Whether all signals are there to be read."""
        return self.status is Status.COMPLETE

    @property
    def num_stages(self) -> int:
        """The stage of a cascade that was reached, from 1; 0 without a cascade."""
        return len(self.stage_seconds)

    def taken_by(self, architecture: Architecture) -> Evaluation:
        """What it says of another architecture that is the same network: all of it, for nothing."""
        return replace(
            self,
            architecture=architecture,
            signal_seconds=dict.fromkeys(self.signal_seconds, 0.0),
            seconds=0.0,
            core_seconds=0.0,
            build_seconds=0.0,
            started_unix_seconds=0.0,
            stage_seconds=(0.0,) * len(self.stage_seconds),
            stage_core_seconds=(0.0,) * len(self.stage_core_seconds),
            same_as=self.same_as or self.architecture.id,
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON mapping; `from_json` reads it back to an equal evaluation."""
        own = vars(self)
        staged = {name: list(own[name]) for name in _OF_CASCADES if own[name]}
        return {
            **_without(own, *_OF_CASCADES, *(name for name in _SELDOM if not own[name])),
            **staged,
            "architecture": self.architecture.to_json(),
            "fidelity": self.fidelity.to_json(),
            "status": str(self.status),
            "signals": dict(self.signals),
            "seed_signals": [dict(signals) for signals in self.seed_signals],
            "train_losses": list(self.train_losses),
            "phases": [list(phase) for phase in self.phases],
            "confusion": [list(row) for row in self.confusion],
            "signal_seconds": dict(self.signal_seconds),
        }

    def to_line(self) -> str:
        """JSON text of one line, in which the losses are packed (`PackedFloats.to_text`)."""
        packed = PackedFloats(self.train_losses).to_text() if self.train_losses else []
        return canonical_json({**self.to_json(), "train_losses": packed})

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Evaluation:
        """The inverse of `to_json` and of `to_line`."""
        losses = value["train_losses"]
        return cls(
            **{
                **value,
                "architecture": Architecture.from_json(value["architecture"]),
                "fidelity": Fidelity(**value["fidelity"]),
                "status": Status(value["status"]),
                "seed_signals": tuple(value["seed_signals"]),
                "train_losses": PackedFloats.from_text(losses)
                if isinstance(losses, str)
                else PackedFloats(losses),
                "phases": tuple((name, steps) for name, steps in value.get("phases", ())),
                "confusion": tuple(map(tuple, value.get("confusion", ()))),
                **{name: tuple(value.get(name, ())) for name in _OF_CASCADES},
            }
        )


_OF_CASCADES = ("stage_seconds", "stage_core_seconds")
_SELDOM = ("rung", "same_as", "node")


def _without(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


class Progress(Protocol):
    """Receives how far long work has come; shows it, or does nothing."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total` units are finished; `note` is a figure worth showing."""


def no_progress(done: int, total: int, note: str = "") -> None:
    """Show nothing."""
