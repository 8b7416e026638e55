"""Short trainings of calibration architectures, on the stream and on sets, and what they gave."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.evaluate.network import NetworkEvaluator
from nas_proxy.evaluate.trained_signals import EvaluationData
from nas_proxy.interfaces import Builder
from nas_proxy.scores.signals import higher_is_better
from nas_proxy.train.measuring import num_parts
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import Architecture, DatasetSpec, Fidelity


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one short training gave.

    Attributes:
        signal: What it says of the architecture, higher is better; NaN if the training failed.
        losses: Of each image that was asked for, float32 on the CPU; NaN if it failed.
        reason: Why it failed; empty if it did not.
    """

    signal: float
    losses: Tensor
    reason: str


@dataclass(frozen=True, eq=False)
class ShortTraining:
    """Trains an architecture as the search trains its candidates.

    Attributes:
        builder: The space at the fidelity of the training.
        settings: How long, and how; its `space_fidelity` has been applied already.
        signal: What is read after the training.
        seed: Of weights, batches and augmentation: the same for all, so that sets and
            architectures are compared under the same luck, as candidates of a search are.
        held_out: Images that measure the trained network.
    """

    builder: Builder
    settings: TrainSettings
    signal: str
    seed: int
    held_out: TrainingSet

    def train(
        self, architecture: Architecture, training_set: TrainingSet, observed: TrainingSet | None
    ) -> Outcome:
        """Train on `training_set`; the mean loss over seeds of each image of `observed`."""
        builder = _RememberingBuilder(self.builder)
        evaluator = NetworkEvaluator(
            space=builder,
            scores={},
            score_images=(training_set.images[:1], training_set.labels[:1]),
            spec=self.held_out.spec,
            settings=self.settings,
            fidelity=self._fidelity(training_set),
            evaluation_data=EvaluationData(
                measured_on=self.held_out, split="val", training_set=training_set
            ),
        )
        evaluation = evaluator.evaluate(architecture, self.seed)
        num_observed = 0 if observed is None else len(observed)
        if not evaluation.complete:
            return Outcome(math.nan, torch.full((num_observed,), math.nan), evaluation.reason)
        value = evaluation.signals[self.signal]
        losses = torch.empty(0)
        if observed is not None:
            each = [image_losses(n, observed, self.settings) for n in builder.networks]
            losses = torch.stack(each).mean(dim=0)
        return Outcome(value if higher_is_better(self.signal) else -value, losses, "")

    def _fidelity(self, training_set: TrainingSet) -> Fidelity:
        return Fidelity(
            dataset_id="",
            num_steps=self.settings.steps_for(len(training_set)),
            batch_size=min(self.settings.batch_size, len(training_set)),
            image_size=training_set.spec.image_shape[1],
            num_seeds=self.settings.num_seeds,
        )


@dataclass(frozen=True, eq=False)
class StreamTraining:
    """Trains on the stream and looks at the pool; can be sent to another process.

    Attributes:
        training: How.
        stream: What is trained on.
        pool: What the trained networks are asked about.
    """

    training: ShortTraining
    stream: TrainingSet
    pool: TrainingSet

    def __call__(self, architecture: Architecture) -> Outcome:
        """Train one architecture; `losses` are those of the pool, `(len(pool),)`."""
        return self.training.train(architecture, self.stream, self.pool)


@dataclass(frozen=True, eq=False)
class SetTraining:
    """Trains on sets chosen from the pool; can be sent to another process.

    Attributes:
        training: How.
        pool: What the sets are chosen from.
    """

    training: ShortTraining
    pool: TrainingSet

    def __call__(self, entry: Entry) -> Outcome:
        """Train one architecture on one set."""
        chosen = entry.chosen.to(self.pool.images.device)
        return self.training.train(entry.architecture, replace(self.pool, order=chosen), None)


@dataclass(frozen=True, eq=False)
class Entry:
    """An architecture and the set that it is to be trained on.

    Attributes:
        architecture: Which.
        chosen: Positions in the pool.
    """

    architecture: Architecture
    chosen: Tensor


class TrainingState:
    """The results of all short trainings, entered one by one.

    Args:
        num_architectures: In the calibration sample, n.
        num_sets: That are raced.
        num_candidates: Images of the pool.
        checkpointer: Where results are kept; what it holds is taken up again.

    Attributes:
        losses: Of each image of the pool after a training on the stream, float32
            `(n, num_candidates)`; NaN until it has ended, and where it failed.
        stream_signals: What these trainings say of the architectures, float64 `(n,)`.
        observed: Which of them have ended, bool `(n,)`.
        signals: What trainings on the sets say, float64 `(num_sets, n)`.
        raced: Which of these have ended, bool `(num_sets, n)`.
    """

    def __init__(
        self,
        num_architectures: int,
        num_sets: int,
        *,
        num_candidates: int,
        checkpointer: Checkpointer,
    ) -> None:
        race = (num_sets, num_architectures)
        self.losses = torch.full((num_architectures, num_candidates), torch.nan)
        self.stream_signals = torch.full((num_architectures,), torch.nan, dtype=torch.float64)
        self.observed = torch.zeros(num_architectures, dtype=torch.bool)
        self.signals = torch.full(race, torch.nan, dtype=torch.float64)
        self.raced = torch.zeros(race, dtype=torch.bool)
        self._checkpointer = checkpointer
        found = checkpointer.load()
        if found is not None:
            for name, tensor in found.tensors.items():
                setattr(self, name, tensor)

    @property
    def num_done(self) -> int:
        """Trainings that have ended."""
        return int(self.observed.sum()) + int(self.raced.sum())

    @property
    def usable(self) -> list[int]:
        """Architectures whose training on the stream ended well."""
        good = self.losses.isfinite().all(dim=1) & self.stream_signals.isfinite()
        return torch.nonzero(good).flatten().tolist()

    def enter_stream(self, architecture: int, outcome: Outcome) -> None:
        """Enter a training on the stream, and save if it is time to."""
        self.losses[architecture] = outcome.losses
        self.stream_signals[architecture] = outcome.signal
        self.observed[architecture] = True
        self._save_if_due()

    def enter_race(self, number: int, architecture: int, outcome: Outcome) -> None:
        """Enter a training on set `number`, and save if it is time to."""
        self.signals[number, architecture] = outcome.signal
        self.raced[number, architecture] = True
        self._save_if_due()

    def forget(self) -> None:
        """Remove the checkpoint: the set is made."""
        self._checkpointer.remove()

    def _save_if_due(self) -> None:
        names = ("losses", "stream_signals", "observed", "signals", "raced")
        self._checkpointer.save_if_due(self.num_done, {name: getattr(self, name) for name in names})


@torch.no_grad()
def image_losses(network: nn.Module, images: TrainingSet, settings: TrainSettings) -> Tensor:
    """Cross-entropy of each image by itself, float32 `(n,)` on the CPU.

    Args:
        network: In evaluation mode, on the device of the images.
        images: With hard labels.
        settings: Precision of the forward pass.
    """
    device = images.images.device
    losses = []
    everything = torch.arange(len(images), device=device)
    for indices in everything.tensor_split(num_parts(len(images), images.images.shape)):
        batch, labels = images.batch(indices)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.uses_bfloat16(device)):
            logits = network(batch)
        losses.append(F.cross_entropy(logits.float(), labels, reduction="none").cpu())
    return torch.cat(losses)


class _RememberingBuilder:
    """Keeps the networks that it builds: what a training made of them is looked at afterwards."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self.networks: list[nn.Module] = []

    def build(self, architecture: Architecture, spec: DatasetSpec) -> nn.Module:
        network = self._builder.build(architecture, spec)
        self.networks.append(network)
        return network
