"""Evaluations in several jobs, between which somebody decides whether they go on.

The rungs of one training are its checkpoints: each job trains up to the next one and leaves the
exact state on the disk, so that a training in several jobs gives the signals of one in one go. The
rungs of an evaluation with several seeds are its trainings: each job is one of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from nas_proxy.evaluate._kept import KeptTraining
from nas_proxy.evaluate.executors import Evaluator
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory
from nas_proxy.evaluate.network import NetworkEvaluator, Pause
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status


@dataclass(frozen=True)
class CheckpointFactory:
    """Trains on from where the job before stopped; a `PartFactory`.

    Attributes:
        whole: What all jobs together do.
        folder: Where the state of the trainings lies between them.
        percentage: Of the steps, up to which is trained: a checkpoint; None: the end.
        is_first: Whether no job comes before; zero-cost signals are measured in the first.
    """

    whole: NetworkEvaluatorFactory
    folder: Path
    percentage: int | None
    is_first: bool

    @property
    def fidelity(self) -> Fidelity:
        """What all jobs together cost."""
        return self.whole.fidelity

    @property
    def state_folder(self) -> Path | None:
        """Where files of its evaluations lie."""
        return self.folder

    def with_state_in(self, folder: Path) -> CheckpointFactory:
        """The same with these files in another folder."""
        return replace(self, folder=folder)

    def build(self) -> NetworkEvaluator:
        """Load the images, and stop trainings where they pause."""
        return self.part_of(self.whole.build())

    def part_of(self, evaluator: Evaluator) -> NetworkEvaluator:
        """The same from an evaluator of the whole."""
        network_evaluator = cast(NetworkEvaluator, evaluator)
        return replace(
            network_evaluator,
            scores=network_evaluator.scores if self.is_first else {},
            pause=Pause(self.folder, self.percentage),
        )


@dataclass(frozen=True)
class SeedFactory:
    """Does one of the trainings of an evaluation with several seeds; a `PartFactory`.

    Attributes:
        whole: What all jobs together do.
        index: Of the training among these; zero-cost signals are measured with the first.
    """

    whole: NetworkEvaluatorFactory
    index: int

    @property
    def fidelity(self) -> Fidelity:
        """What all jobs together cost."""
        return self.whole.fidelity

    def build(self) -> SeedEvaluator:
        """Load the images."""
        return self.part_of(self.whole.build())

    def part_of(self, evaluator: Evaluator) -> SeedEvaluator:
        """The same from an evaluator of the whole."""
        network_evaluator = cast(NetworkEvaluator, evaluator)
        scores = {} if self.index else network_evaluator.scores
        return SeedEvaluator(replace(network_evaluator, scores=scores, only_seed=self.index))


@dataclass(frozen=True, eq=False)
class SeedEvaluator:
    """One training of several; only with the last is an evaluation complete.

    Attributes:
        training: What does it.
    """

    training: NetworkEvaluator

    @property
    def fidelity(self) -> Fidelity:
        """What all trainings together cost."""
        return self.training.fidelity

    def evaluate(self, architecture: Architecture, seed: int) -> Evaluation:
        """Train; otherwise as `NetworkEvaluator.evaluate`."""
        found = self.training.evaluate(architecture, seed)
        num_done = (self.training.only_seed or 0) + 1
        if not found.complete or num_done == self.fidelity.num_seeds:
            return found
        return replace(found, status=Status.PARTIAL, rung=num_done)


def continued(earlier: Evaluation, later: Evaluation) -> Evaluation:
    """An evaluation with what the job before measured and cost.

    Args:
        earlier: Everything until then.
        later: What trained on, and so knows the signals of all checkpoints; it may have failed.
    """
    together = _paid_together(earlier, later)
    if later.status is Status.FAILED:
        return together
    return replace(together, signals={**earlier.signals, **later.signals})


def with_next_seed(earlier: Evaluation, later: Evaluation) -> Evaluation:
    """The same for an evaluation that is one more of the trainings with different seeds."""
    together = _paid_together(earlier, later)
    if later.status is Status.FAILED:
        return together
    of_seeds = (*earlier.seed_signals, *later.seed_signals)
    n = len(of_seeds)
    means = {name: sum(each[name] for each in of_seeds) / n for name in of_seeds[0]}
    return replace(
        together,
        signals={**earlier.signals, **means},
        seed_signals=of_seeds,
        train_losses=tuple(
            ((n - 1) * before + now) / n
            for before, now in zip(earlier.train_losses, later.train_losses, strict=True)
        ),
    )


def discard_state(folder: Path, architecture: Architecture) -> None:
    """Forget where the trainings of an architecture stopped, which do not go on.

    Raises:
        OSError: If a file cannot be removed.
    """
    for file in KeptTraining.state_files(folder, architecture):
        file.unlink(missing_ok=True)


def _paid_together(earlier: Evaluation, later: Evaluation) -> Evaluation:
    """The later evaluation at what both cost."""
    names = dict.fromkeys([*earlier.signal_seconds, *later.signal_seconds])
    return replace(
        later,
        signal_seconds={
            name: earlier.signal_seconds.get(name, 0.0) + later.signal_seconds.get(name, 0.0)
            for name in names
        },
        seconds=earlier.seconds + later.seconds,
        core_seconds=earlier.core_seconds + later.core_seconds,
        build_seconds=earlier.build_seconds + later.build_seconds,
    )
