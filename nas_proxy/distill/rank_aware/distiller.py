"""Rank-aware selection: the real images on which short trainings rank architectures best."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.data.augment import Augmentation
from nas_proxy.data.multi_formation import encode
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.splits import members_of_classes
from nas_proxy.data.transforms import normalise, resize
from nas_proxy.distill.common.recording import map_in_workers, recorded
from nas_proxy.distill.rank_aware._images import Composition, Parts, choose, divide, rate
from nas_proxy.distill.rank_aware._race import CONTROL, NUM_FOLDS, Plan, Race, make_plan
from nas_proxy.distill.rank_aware._training import (
    Entry,
    SetTraining,
    ShortTraining,
    StreamTraining,
    TrainingState,
)
from nas_proxy.errors import ConfigError, StudyError, did_you_mean
from nas_proxy.interfaces import CalibrationSample, DistillContext, Distiller, DistillTask
from nas_proxy.options import PositiveInt
from nas_proxy.registry import DISTILLERS
from nas_proxy.reproducibility import content_hash, derive_seed
from nas_proxy.scores.signals import TRAINED_SIGNALS, base_signal, checkpoint_of, higher_is_better
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import ImageDataset

MIN_ARCHITECTURES = 12  # below it the race is decided by chance
RANDOM = Composition(name="random")
STREAM = "full stream"
COMPOSITIONS = (
    Composition(name="telling", agreement=30.0),
    Composition(name="mostly telling", agreement=4.0),
    Composition(name="easy", difficulty=-4.0),
    Composition(name="middling", extremity=-4.0),
    Composition(name="easy and telling", agreement=4.0, difficulty=-4.0),
)
_LOG = logging.getLogger(__name__)


@DISTILLERS.register("rank_aware")
@dataclass(frozen=True, kw_only=True)
class RankAware(Distiller):
    """Races sets of real images by how well short trainings on them rank known architectures.

    1. Every calibration architecture is trained shortly on the stream of the real images, and asked
       about a pool that it has not seen. That gives each image of the pool a difficulty, and how
       well its losses agree with what full training reached.
    2. Sets are chosen from the pool: random images, and one for each of `compositions`.
    3. The architectures are trained on these as candidates of a search are. The set whose `signal`
       ranks them best wins; on the way, sets that are beaten leave. What the choice for one half of
       the architectures knows comes from the other half, so the correlations are cross-validated.

    Random images run to the end, so by this measurement the result is never worse than they are;
    the set's parameters hold the whole table under `race`, with `full stream` for comparison. The
    winner's figure is the best of several and therefore flattered: architectures that had no part
    decide what the set is worth.

    Only search-training images are read. `train` should say what the study's own `train` says, for
    a set that ranks well in one training may not in another.

    Attributes:
        train: The short trainings; give `num_steps`.
        signal: What ranks the architectures after a training; measured on search-training images
            that no network trains on.
        candidates_per_class: Images of each class to choose among.
        judge_images_per_class: Images of each class that measure trained networks.
        decode_factor: Reduced images along each side of a stored one, as in IDC: 2 stores four
            times as many images, which costs little where networks train at half the size.
        compositions: Kinds of sets that race against random images.
        num_rounds: Steps in which architectures join the race.
        augmentation: What the set asks for when a network trains on it.
    """

    needs_calibration: ClassVar[bool] = True
    family = "rank-aware selection"
    typical_cost = "about 150 short trainings: a quarter of an hour on one CPU core"
    summary = "the real images on which short trainings rank known architectures best"

    train: TrainSettings = TrainSettings(num_steps=300)
    signal: str = "val_loss"
    candidates_per_class: PositiveInt = 1500
    judge_images_per_class: PositiveInt = 100
    decode_factor: PositiveInt = 1
    compositions: tuple[Composition, ...] = COMPOSITIONS
    num_rounds: PositiveInt = 2
    augmentation: Augmentation = Augmentation()

    def __post_init__(self) -> None:
        """Refuse what would make the race unfair or empty."""
        if self.train.num_steps is None:
            raise ConfigError(
                "rank_aware trains on the stream and on sets for equally many steps; give "
                "train.num_steps instead of num_epochs"
            )
        if self.train.num_val_images is not None:
            raise ConfigError(
                "rank_aware measures on judge_images_per_class images of each class; leave "
                "train.num_val_images out"
            )
        names = [RANDOM.name, STREAM, *(each.name for each in self.compositions)]
        if not self.compositions or len(set(names)) < len(names):
            raise ConfigError(
                "compositions of rank_aware must hold at least one, each with a name of its own "
                f"that is neither {RANDOM.name!r} nor {STREAM!r}; got {names[2:]}"
            )
        self._check_signal()

    def distill(self, task: DistillTask) -> ProxyDataset:
        """Observe, choose, race; see `Distiller.distill`.

        Raises:
            ConfigError: If the context holds no calibration sample, one that is too small or has
                no ranking, or if the options leave nothing to choose.
            StudyError: If too many trainings fail, or a worker process dies.
        """
        dataset, images_per_class, context = task.dataset, task.images_per_class, task.context
        sample = self._checked_sample(context)
        self._check_images(dataset, images_per_class)
        work = RankAwareWork(
            distiller=self,
            dataset=dataset,
            sample=sample,
            num_per_class=images_per_class * self.decode_factor**2,
            seed=int(torch.randint(2**62, (1,), generator=task.generator)),
            context=context,
        )
        key = content_hash(
            self.name, asdict(self), dataset.spec.source_hash, images_per_class,
            task.generator.initial_seed(), _identity(sample), list(sample.references),
        )  # fmt: skip
        state = TrainingState(
            len(sample.references),
            len(work.compositions),
            num_candidates=len(work.parts.pool),
            checkpointer=Checkpointer(context.checkpoint, key),
        )
        work.observe(state)
        chosen, findings = work.race(state)
        made = recorded(
            self,
            task,
            encode(normalise(dataset.images[chosen], dataset.spec), self.decode_factor),
            dataset.labels[chosen],
            augmentation=self.augmentation,
        )
        state.forget()
        parameters = {**made.parameters, **findings, "calibrated_on": _identity(sample)}
        return replace(made, decode_factor=self.decode_factor, parameters=parameters)

    def _check_signal(self) -> None:
        known = [name for name, signal in TRAINED_SIGNALS.items() if not signal.on_request]
        base = base_signal(self.signal)
        if base not in known:
            raise ConfigError(
                f"rank_aware cannot read the signal {self.signal!r}; {did_you_mean(base, known)}"
            )
        higher_is_better(self.signal)  # refuses what is no checkpoint
        checkpoint = checkpoint_of(self.signal)
        if checkpoint is not None and checkpoint not in self.train.checkpoints:
            raise ConfigError(
                f"the signal {self.signal!r} of rank_aware is read at {checkpoint} % of the steps; "
                f"add {checkpoint} to distill.train.checkpoints"
            )

    def _checked_sample(self, context: DistillContext) -> CalibrationSample:
        sample = context.calibration
        if sample is None:
            raise ConfigError(
                "rank_aware learns from architectures whose full training is known, and there are "
                "none; add a section calibrate to the configuration, or choose another distill.name"
            )
        if len(sample.architectures) < MIN_ARCHITECTURES:
            raise ConfigError(
                f"the calibration sample holds {len(sample.architectures)} architectures, but "
                f"rank_aware needs at least {MIN_ARCHITECTURES}; ask for more in the section "
                "calibrate"
            )
        if len(set(sample.references)) == 1:
            raise ConfigError(
                f"all {len(sample.references)} references of the calibration sample are "
                f"{sample.references[0]:g}, which ranks nothing; choose another reference in the "
                "section calibrate"
            )
        for option in self.train.space_fidelity:
            if option not in sample.space.fidelity_options:
                raise ConfigError(
                    f"distill.train.space_fidelity.{option} is not a fidelity of the space "
                    f"{sample.space.name!r}; " + did_you_mean(option, sample.space.fidelity_options)
                )
        return sample

    def _check_images(self, dataset: ImageDataset, images_per_class: int) -> None:
        members_of_classes(dataset, images_per_class)
        wanted = images_per_class * self.decode_factor**2
        if wanted >= self.candidates_per_class:
            raise ConfigError(
                f"rank_aware is to choose {wanted} images of each class among "
                f"{self.candidates_per_class}; set distill.candidates_per_class to more than "
                f"{wanted}, better to three times that"
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class RankAwareWork:
    """One distillation.

    Attributes:
        distiller: Its options.
        dataset: The search-training images.
        sample: What is known of architectures.
        num_per_class: Images to choose of each class.
        seed: From which all others come.
        context: Where the work is done.
    """

    distiller: RankAware
    dataset: ImageDataset
    sample: CalibrationSample
    num_per_class: int
    seed: int
    context: DistillContext

    @cached_property
    def compositions(self) -> tuple[Composition, ...]:
        """What races; the control first."""
        return (RANDOM, *self.distiller.compositions)

    @cached_property
    def parts(self) -> Parts:
        """Images that judge, images to choose from, and the others."""
        return divide(
            self.dataset,
            self.distiller.judge_images_per_class,
            self.distiller.candidates_per_class,
            derive_seed(self.seed, "parts"),
        )

    @cached_property
    def references(self) -> Tensor:
        """What full training reached, float64 `(n,)`."""
        return torch.tensor(self.sample.references, dtype=torch.float64)

    @cached_property
    def pool(self) -> TrainingSet:
        """What sets are chosen from, as networks will see it."""
        return self._images_of(self.parts.pool, self.distiller.decode_factor)

    @cached_property
    def training(self) -> ShortTraining:
        """How architectures are trained."""
        settings = self.distiller.train
        return ShortTraining(
            builder=replace(self.sample.space, **dict(settings.space_fidelity)),
            settings=replace(settings, space_fidelity={}),
            signal=self.distiller.signal,
            seed=derive_seed(self.seed, "training"),
            held_out=self._images_of(self.parts.held_out),
        )

    @cached_property
    def most_trainings(self) -> int:
        """Trainings at most."""
        everybody = range(len(self.references))
        return len(everybody) + self._plan(everybody).most_trainings(len(self.compositions))

    def observe(self, state: TrainingState) -> None:
        """Train every architecture on the stream and look at the pool.

        Raises:
            StudyError: If this fails for too many.
        """
        function = StreamTraining(self.training, self._images_of(self.parts.stream), self.pool)
        missing = [a for a in range(len(self.references)) if not state.observed[a]]
        architectures = [self.sample.architectures[a] for a in missing]
        outcomes = map_in_workers(function, architectures, self.context)
        for architecture, outcome in zip(missing, outcomes, strict=True):
            state.enter_stream(architecture, outcome)
            self._tell(state, architecture, outcome.reason, "observing images")
        self._require(len(state.usable), "the stream of real images")

    def race(self, state: TrainingState) -> tuple[Tensor, dict[str, Any]]:
        """The images of the winning set, and what the race found out.

        Returns:
            Positions in the data set, int64 `(num_classes * num_per_class,)`, class by class, and
            JSON values for the set's parameters.

        Raises:
            StudyError: If too many trainings on random images fail.
        """
        plan = self._plan(state.usable)
        names = [each.name for each in self.compositions]
        seed = derive_seed(self.seed, "race")
        race = Race(names, self.references, plan, state.signals, seed)
        # For the architectures of each fold, what those of the other folds know.
        sets = [
            self._sets(state, [a for a in state.usable if int(plan.folds[a]) != fold])
            for fold in range(NUM_FOLDS)
        ]
        winner = race.run(
            lambda pairs: self._train(
                state, [(e, a, sets[int(plan.folds[a])][e]) for e, a in pairs]
            )
        )
        failed = state.raced[CONTROL] & ~state.signals[CONTROL].isfinite()
        self._require(len(state.usable) - int(failed.sum()), "random images")
        chosen = self.parts.pool[self._sets(state, state.usable)[winner]]
        findings = {
            "chosen": names[winner],
            "num_trainings": state.num_done,
            "race": self._table(race, state),
        }
        self.context.progress(self.most_trainings, self.most_trainings, f"{names[winner]} images")
        return chosen.to(self.dataset.images.device), findings

    def _plan(self, taking_part: Sequence[int]) -> Plan:
        seed = derive_seed(self.seed, "plan")
        return make_plan(self.references, taking_part, self.distiller.num_rounds, seed)

    def _train(self, state: TrainingState, wanted: Sequence[tuple[int, int, Tensor]]) -> None:
        """Train pairs of a set and an architecture that have not been trained yet.

        Args:
            state: Where the signals are entered.
            wanted: Number of the set, architecture, and the set's positions in the pool.
        """
        missing = [each for each in wanted if not state.raced[each[0], each[1]]]
        entries = [Entry(self.sample.architectures[a], chosen) for _, a, chosen in missing]
        function = SetTraining(self.training, self.pool)
        outcomes = map_in_workers(function, entries, self.context)
        for (number, architecture, _), outcome in zip(missing, outcomes, strict=True):
            state.enter_race(number, architecture, outcome)
            note = f"racing {self.compositions[number].name} images"
            self._tell(state, architecture, outcome.reason, note)

    def _sets(self, state: TrainingState, known: Sequence[int]) -> list[Tensor]:
        """A set of each composition, chosen by what these architectures know."""
        losses = state.losses[known].unflatten(1, (self.dataset.spec.num_classes, -1))
        ratings = rate(losses, self.references[known])
        seed = derive_seed(self.seed, "sets")
        return [choose(ratings, each, self.num_per_class, seed) for each in self.compositions]

    def _table(self, race: Race, state: TrainingState) -> dict[str, dict[str, Any]]:
        """The race's table with the stream, which did not compete: it is no set."""
        signals = torch.cat([state.signals, state.stream_signals.unsqueeze(0)])
        return replace(race, names=[*race.names, STREAM], signals=signals).table()

    def _images_of(self, positions: Tensor, decode_factor: int = 1) -> TrainingSet:
        """Images at the size of the training; reduced before, as a set stores them."""
        chosen = positions.to(self.dataset.images.device)
        images, full_size = self.dataset.images[chosen], self.dataset.spec.image_shape[1]
        if decode_factor > 1:
            images = resize(resize(images, -(-full_size // decode_factor)), full_size)
        size = self.distiller.train.image_size or full_size
        return TrainingSet(
            images=resize(images, size),
            labels=self.dataset.labels[chosen],
            spec=self.dataset.spec.with_image_size(size),
            augmentation=self.distiller.augmentation,
        )

    def _tell(self, state: TrainingState, architecture: int, reason: str, note: str) -> None:
        if reason:
            described = self.sample.space.describe(self.sample.architectures[architecture])
            _LOG.warning("rank_aware: the training of %s failed: %s", described, reason)
        self.context.progress(state.num_done, self.most_trainings, note)

    def _require(self, num_usable: int, trained_on: str) -> None:
        if num_usable < MIN_ARCHITECTURES:
            raise StudyError(
                f"only {num_usable} of {len(self.references)} calibration architectures could be "
                f"trained on {trained_on}, and rank_aware needs {MIN_ARCHITECTURES}; lower "
                f"distill.train.learning_rate (now {self.distiller.train.learning_rate:g})"
            )


def _identity(sample: CalibrationSample) -> dict[str, Any]:
    """The architectures that had a part in the set, which must not judge it."""
    return {
        "space": sample.space.fingerprint(),
        "architectures": [architecture.id for architecture in sample.architectures],
    }
