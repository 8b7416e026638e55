"""A rank-aware distillation at work: its trainings in order, and what is made of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nas_proxy.data.transforms import resize
from nas_proxy.distill.parallel import map_in_processes
from nas_proxy.distill.rank_aware.images import Composition, Parts, choose, divide, rate
from nas_proxy.distill.rank_aware.race import CONTROL, NUM_FOLDS, Plan, Race, make_plan
from nas_proxy.distill.rank_aware.state import TrainingState
from nas_proxy.distill.rank_aware.training import Entry, SetTraining, ShortTraining, StreamTraining
from nas_proxy.errors import StudyError
from nas_proxy.interfaces import CalibrationSample, DistillContext
from nas_proxy.reproducibility import derive_seed
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import ImageDataset

if TYPE_CHECKING:
    from nas_proxy.distill.rank_aware.distiller import RankAware

MIN_ARCHITECTURES = 12  # below it the race is decided by chance
RANDOM = Composition(name="random")
STREAM = "full stream"
_LOG = logging.getLogger(__name__)


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
        outcomes = map_in_processes(function, architectures, self.context.num_workers)
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
        outcomes = map_in_processes(function, entries, self.context.num_workers)
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
