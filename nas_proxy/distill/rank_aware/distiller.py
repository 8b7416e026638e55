"""Rank-aware selection: the real images on which short trainings rank architectures best."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch

from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.data.augment import Augmentation
from nas_proxy.data.multi_formation import encode
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.splits import members_of_classes
from nas_proxy.data.transforms import normalise
from nas_proxy.distill.common.recording import Recording
from nas_proxy.distill.rank_aware.images import Composition
from nas_proxy.distill.rank_aware.state import TrainingState
from nas_proxy.distill.rank_aware.work import MIN_ARCHITECTURES, RANDOM, STREAM, RankAwareWork
from nas_proxy.errors import ConfigError, did_you_mean
from nas_proxy.interfaces import CalibrationSample, DistillContext, Distiller, DistillTask
from nas_proxy.options import PositiveInt
from nas_proxy.registry import DISTILLERS
from nas_proxy.reproducibility import content_hash
from nas_proxy.scores.signals import TRAINED_SIGNALS, base_signal, checkpoint_of, higher_is_better
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import ImageDataset

COMPOSITIONS = (
    Composition(name="telling", agreement=30.0),
    Composition(name="mostly telling", agreement=4.0),
    Composition(name="easy", difficulty=-4.0),
    Composition(name="middling", extremity=-4.0),
    Composition(name="easy and telling", agreement=4.0, difficulty=-4.0),
)


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
        recording = Recording(self, task)
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
            recording=recording,
        )
        work.observe(state)
        chosen, findings = work.race(state)
        made = recording.proxy_dataset(
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


def _identity(sample: CalibrationSample) -> dict[str, Any]:
    """The architectures that had a part in the set, which must not judge it."""
    return {
        "space": sample.space.fingerprint(),
        "architectures": [architecture.id for architecture in sample.architectures],
    }
