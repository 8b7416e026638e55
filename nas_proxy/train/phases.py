"""A training in several phases, such as feature extraction and then fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.train.loop import Observer, TrainResult, train
from nas_proxy.train.objective import Objective, ParameterGroup
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet


@dataclass(frozen=True, eq=False)
class Phase:
    """A part of a training with its own length, schedule and learning rates.

    Attributes:
        name: In words, such as `fine-tuning`.
        settings: How long and how.
        groups: What of a network is trained, and at which rates; None: all that requires a
            gradient, at the settings' rate.
        training_set: What this phase learns; None: what the training learns.
    """

    name: str
    settings: TrainSettings
    groups: Callable[[nn.Module], Sequence[ParameterGroup]] | None = None
    training_set: TrainingSet | None = None

    def num_steps(self, num_images: int) -> int:
        """Its optimiser steps in a training on `num_images` images."""
        own = self.training_set
        return self.settings.steps_for(num_images if own is None else len(own))


def num_steps_of(phases: Sequence[Phase], num_images: int) -> int:
    """Optimiser steps of all phases together when training on `num_images` images."""
    return sum(phase.num_steps(num_images) for phase in phases)


def train_phases(
    network: nn.Module,
    training_set: TrainingSet,
    phases: Sequence[Phase],
    generator: torch.Generator,
    observer: Observer | None = None,
    *,
    objective: Objective | None = None,
    checkpoint: Checkpointer | None = None,
    until: int | None = None,
    graphed: bool = False,
) -> TrainResult:
    """Train `network` in place, one phase after the other; otherwise as `train`.

    Args:
        network: Maps `(n, c, h, w)` to logits; on the device of the images.
        training_set: What it learns, but in phases that have a set of their own.
        phases: At least one.
        generator: On the device of the images.
        observer: Told after each step; steps count on from phase to phase.
        objective: What is minimised in all of them; None: cross-entropy with the labels.
        checkpoint: Where a killed training continues, in whichever phase it was.
        until: Pause after so many steps of all phases together; None: at the end.
        graphed: See `train`.

    Returns:
        The losses of all phases that were begun, in order, with the length of each.

    Raises:
        DivergedError: If the loss is not finite.
        StudyError: If the checkpoint is damaged or belongs to other work.
    """
    results: list[TrainResult] = []
    for number, phase in enumerate(phases):
        done = sum(len(result.losses) for result in results)
        results.append(
            train(
                network,
                training_set if phase.training_set is None else phase.training_set,
                phase.settings,
                generator,
                None if observer is None else _Later(observer, done),
                objective=objective,
                groups=None if phase.groups is None else phase.groups(network),
                checkpoint=None if checkpoint is None else checkpoint.part(str(number)),
                until=None if until is None else until - done,
                graphed=graphed,
            )
        )
        if until is not None and done + len(results[-1].losses) >= until:
            break
    return TrainResult(
        losses=tuple(loss for result in results for loss in result.losses),
        train_seconds=sum(result.train_seconds for result in results),
        images_seen=sum(result.images_seen for result in results),
        phases=tuple(
            (phase.name, len(result.losses)) for phase, result in zip(phases, results, strict=False)
        ),
        num_graphed_steps=sum(result.num_graphed_steps for result in results),
    )


@dataclass(frozen=True)
class _Later:
    """Tells an observer of a phase before which `done` steps were done."""

    observer: Observer
    done: int

    def __call__(self, step: int, indices: Tensor, logits: Tensor) -> None:
        self.observer(self.done + step, indices, logits)
