"""What a study will do, before anything is spent: the tasks of each stage, and what they buy.

A stage says in its method `plan` what it has to do, next to where it does it; the words that they
share are here. What the tasks cost is for `nas_proxy.study.estimate`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.scores.signals import MAX_FIT_IMAGES, base_signal, zero_cost_among
from nas_proxy.statistics.expected import (
    chance_above,
    expected_interval,
    needed_above,
    smallest_difference,
)
from nas_proxy.statistics.words import decimal
from nas_proxy.study.context import StudyContext
from nas_proxy.study.evaluators import Split, TrainOn
from nas_proxy.teachers.training import is_trained
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.teacher_settings import TeacherSettings

ASSUMED_RHOS = (0.8, 0.93)  # of a ranking, for what a sample is expected to say of it
GOOD_RHO = ASSUMED_RHOS[-1]
_FIT_SIGNALS = ("fit_loss", "fit_accuracy", "generalisation_gap")


@dataclass(frozen=True, kw_only=True)
class EvaluationUnit:
    """One evaluation: zero-cost scores, then a training, as far as there are any.

    Attributes:
        train: How a network is trained, with the augmentation that it gets; None: not at all.
        num_images: How many are trained on.
        num_measured: Images that the network is measured on, each time.
        scores: Zero-cost signals.
        network: `space`: of the study's space. `resnet18`: one made by hand, of a candidate's size.
            A teacher's settings: that teacher.
        is_taught: Whether a teacher answers in each step, which is not timed.
    """

    train: TrainSettings | None = None
    num_images: int = 0
    num_measured: int = 0
    scores: tuple[str, ...] = ()
    network: Literal["space", "resnet18"] | TeacherSettings = "space"
    is_taught: bool = False


@dataclass(frozen=True)
class DistillUnit:
    """The distillation that the study's section `distill` describes."""


@dataclass(frozen=True)
class StagedUnit:
    """One evaluation in stages, of which it need not reach the last.

    Attributes:
        parts: From the first stage to the last.
        shares: Of all candidates, what reaches each of them, in [0, 1].
    """

    parts: tuple[EvaluationUnit, ...]
    shares: tuple[float, ...]


SingleUnit = EvaluationUnit | DistillUnit
Unit = SingleUnit | StagedUnit


@dataclass(frozen=True, kw_only=True)
class Task:
    """Some pieces of work that cost the same but for the architecture.

    Attributes:
        what: In words, such as `full-data references`.
        units: What one piece is; several where it is not known yet which of them it will be.
        total: How many pieces.
        done: How many of these an earlier run has finished.
        least: How many may be enough, where a race may be decided early; None: all are done.
        likely: How many are expected to be enough; None: all.
        in_driver: Whether the study's own process does them, one after the other.
    """

    what: str
    units: tuple[Unit, ...]
    total: int
    done: int = 0
    least: int | None = None
    likely: int | None = None
    in_driver: bool = False

    @property
    def left(self) -> int:
        """How many are still to be done, at most."""
        return max(0, self.total - self.done)

    @property
    def least_left(self) -> int:
        """How many are still to be done, at least."""
        return self.left if self.least is None else max(0, min(self.total, self.least) - self.done)

    @property
    def likely_left(self) -> int:
        """How many are expected to be left; all, where more are done than were expected."""
        if self.likely is None or self.done >= self.likely:
            return self.left
        return min(self.total, self.likely) - self.done

    @property
    def single_units(self) -> tuple[SingleUnit, ...]:
        """What can be timed of its units: stages by themselves, as far as any go there."""
        return tuple(
            dict.fromkeys(
                single
                for unit in self.units
                for single in (
                    [p for p, share in zip(unit.parts, unit.shares, strict=True) if share]
                    if isinstance(unit, StagedUnit)
                    else [unit]
                )
            )
        )


@dataclass(frozen=True)
class Saving:
    """An option that would make a stage cheaper.

    Attributes:
        option: As it is written on the command line, such as `validate.num_architectures=24`.
        share: Of the work, what would be left.
        consequence: What that gives up, or keeps.
        of: Whose pieces become fewer or cheaper, by `Task.what`; empty: all of the stage's.
        unit: What one of the pieces would be instead; None: what it is.
    """

    option: str
    share: float
    consequence: str
    of: tuple[str, ...] = ()
    unit: EvaluationUnit | None = None


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """What a stage has to do.

    Attributes:
        stage: Its name.
        tasks: In their order.
        buys: What they buy, a sentence each.
        savings: What would be cheaper.
        notes: What a reader of the figures must know, a sentence each.
        is_finished: Whether nothing is left.
    """

    stage: str
    tasks: tuple[Task, ...] = ()
    buys: tuple[str, ...] = ()
    savings: tuple[Saving, ...] = ()
    notes: tuple[str, ...] = ()
    is_finished: bool = False

    def from_the_beginning(self) -> StagePlan:
        """The same with nothing done yet."""
        return replace(self, tasks=tuple(replace(task, done=0) for task in self.tasks))


# What stages have in common


@dataclass(frozen=True)
class ProxyFacts:
    """What trainings on the proxy data set depend on, known or foreseen.

    Attributes:
        num_images: To train on.
        augmentation: What they get where settings do not say.
        is_taught: Whether a teacher labels each augmented view.
    """

    num_images: int
    augmentation: Augmentation
    is_taught: bool

    @classmethod
    def of(cls, study: StudyContext) -> ProxyFacts:
        """Of the set that is there, or of the one that the distiller will make."""
        config, labels = study.config, study.config.labels
        is_taught = labels.kind == "soft" and labels.per == "view"
        file = study.layout.proxy_dataset
        if file.is_file():
            made = ProxyDataset.load(file)
            return cls(len(made.labels), made.augmentation, made.labelling.per == "view")
        # Those that ship say it in one of two ways; another method's is seen when it is there.
        asks = getattr(config.distiller, "training_augmentation", None)
        told = asks() if callable(asks) else getattr(config.distiller, "augmentation", None)
        decoded = getattr(config.distiller, "decode_factor", 1)
        num_images = config.images_per_class * study.splits.spec.num_classes * decoded**2
        return cls(
            num_images, told if isinstance(told, Augmentation) else Augmentation(), is_taught
        )


def training_unit(
    study: StudyContext,
    train: TrainSettings,
    *,
    train_on: TrainOn = "full_data",
    split: Split = "search_val",
    signals: Sequence[str] = (),
    is_taught: bool = False,
) -> EvaluationUnit:
    """One training, and what is measured of it.

    Args:
        study: Whose images.
        train: How.
        train_on: What.
        split: That measures.
        signals: All that are measured; those without a training come first.
        is_taught: Whether a teacher answers in each step.
    """
    splits = study.splits
    num_measured = len(splits.test if split == "test" else splits.search_val)
    if split == "search_val" and train.num_val_images is not None:
        num_measured = min(num_measured, train.num_val_images)
    num_images = len(splits.search_train)
    if train_on == "proxy":
        facts = ProxyFacts.of(study)
        num_images, is_taught = facts.num_images, is_taught or facts.is_taught
        train = replace(train, augmentation=train.augmentation or facts.augmentation)
    if any(base_signal(signal) in _FIT_SIGNALS for signal in signals):
        num_measured += min(MAX_FIT_IMAGES, num_images)
    return EvaluationUnit(
        train=train,
        num_images=num_images,
        num_measured=num_measured,
        scores=zero_cost_among(tuple(signals)),
        is_taught=is_taught,
    )


def teacher_tasks(study: StudyContext, teachers: Iterable[TeacherSettings]) -> list[Task]:
    """The trainings of teachers; those that an earlier study trained are done."""
    spec, cache = study.splits.spec, study.layout.cache
    num_images = len(study.splits.search_train)
    return [
        Task(
            what="teacher",
            units=(EvaluationUnit(train=each.train, num_images=num_images, network=each),),
            total=1,
            done=int(is_trained(each, spec, cache)),
            in_driver=True,
        )
        for each in dict.fromkeys(teachers)
        if each.checkpoint is None
    ]


def sample_words(n: int) -> tuple[str, ...]:
    """What n architectures with references are expected to say, in sentences."""
    if (smallest := smallest_difference(GOOD_RHO, n)) is None:
        shown = "no interval and no difference can be shown: that takes 10 architectures"
        return (f"n = {n}: {shown}",)
    ends = [(rho, expected_interval(rho, n)) for rho in ASSUMED_RHOS]
    shown = " and ".join(
        f"{decimal(rho)} [{decimal(low)}, {decimal(high)}]" for rho, (low, high) in ends
    )
    others = [smallest_difference(rho, n) for rho in ASSUMED_RHOS[:-1]]
    beside = "".join(
        f" ({decimal(other)} from {decimal(rho)})"
        for rho, other in zip(ASSUMED_RHOS, others, strict=False)
        if other is not None
    )
    return (
        f"n = {n}: 95 % intervals of Spearman about {shown}",
        f"shows with 80 % probability that a ranking is worse than one of {decimal(GOOD_RHO)} if "
        f"it is by {decimal(smallest)} or more{beside}",
    )


def trust_words(n: int, threshold: float, confidence: float) -> str:
    """With which probability a good ranking will be called trusted."""
    chance = chance_above(GOOD_RHO, n, threshold, confidence)
    return (
        f"a ranking of {decimal(GOOD_RHO)} is declared trusted (above {decimal(threshold)}) with "
        f"a probability of {100 * chance:.0f} %"
    )


def fewer_architectures(option: str, n: int, threshold: float) -> tuple[Saving, ...]:
    """Fewer architectures, if so many are more than a good ranking needs to be trusted."""
    enough = needed_above(GOOD_RHO, threshold)
    if enough is None or enough >= n:
        return ()
    low, high = expected_interval(GOOD_RHO, enough)
    return (
        Saving(
            f"{option}={enough}",
            enough / n,
            f"a ranking of {decimal(GOOD_RHO)} is still declared trusted with 80 % probability; "
            f"its interval becomes [{decimal(low)}, {decimal(high)}]",
        ),
    )


def shorter_training(option: str, task: Task, consequence: str) -> tuple[Saving, ...]:
    """Half as long a training, where one length is known that can be halved.

    Args:
        option: The section that says the length.
        task: The trainings.
        consequence: See `Saving`.
    """
    unit = task.units[0]
    if not isinstance(unit, EvaluationUnit) or unit.train is None:
        return ()
    for name in ("num_epochs", "num_steps"):
        length = getattr(unit.train, name)
        if isinstance(length, int) and length >= 2:
            shorter: dict[str, Any] = {name: length // 2}
            half = replace(unit, train=replace(unit.train, **shorter))
            option = f"{option}.{name}={length // 2}"
            return (Saving(option, 1.0, consequence, (task.what,), half),)
    return ()
