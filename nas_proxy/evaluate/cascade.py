"""Evaluations in stages, which end where an architecture does not reach the next one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nas_proxy.evaluate.factory import NetworkEvaluatorFactory
from nas_proxy.evaluate.network import NetworkEvaluator
from nas_proxy.knowledge_distillation.prepared import KnowledgeDistillation
from nas_proxy.scores.cascade import CascadeScore
from nas_proxy.scores.signals import signal_in_stage
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status

_TRAINING = "training"  # among the seconds of signals


@dataclass(frozen=True)
class CascadeFactory:
    """Builds a `CascadeEvaluator`; equal ones give equal evaluations.

    Attributes:
        stages: What measures in each stage, in order; a later one leaves out what an earlier one
            has measured.
        score: Decides who goes on; None: everything goes through all stages.
    """

    stages: tuple[NetworkEvaluatorFactory, ...]
    score: CascadeScore | None = None

    @property
    def fidelity(self) -> Fidelity:
        """What an evaluation costs that goes through all stages; another score makes another."""
        last = self.stages[-1].fidelity
        return last if self.score is None else replace(last, cascade=self.score.id)

    @property
    def knowledge_distillation(self) -> KnowledgeDistillation | None:
        """What networks learn beside the labels in the last stage that has any of it."""
        found = [stage.knowledge_distillation for stage in self.stages]
        return next((each for each in reversed(found) if each is not None), None)

    def build(self) -> CascadeEvaluator:
        """Build the evaluators of all stages; images on the disk are shared."""
        evaluators = tuple(stage.build() for stage in self.stages)
        return CascadeEvaluator(evaluators, self.fidelity, self.score)


@dataclass(frozen=True, eq=False)
class CascadeEvaluator:
    """Measures an architecture stage by stage.

    Attributes:
        stages: What measures in each.
        fidelity: See `CascadeFactory`.
        score: See there.
    """

    stages: tuple[NetworkEvaluator, ...]
    fidelity: Fidelity
    score: CascadeScore | None

    def evaluate(self, architecture: Architecture, seed: int) -> Evaluation:
        """Measure until the architecture does not go on; a failure names its stage.

        Raises:
            StudyError: If the model of a calibrated stage fails.
        """
        started, worked = time.perf_counter(), time.process_time()
        parts: list[Evaluation] = []
        for stage in self.stages:
            parts.append(stage.evaluate(architecture, seed))
            evaluation = replace(in_stages(parts), fidelity=self.fidelity)
            if not self._goes_on(evaluation):
                break
        return replace(
            evaluation,  # there are stages
            seconds=time.perf_counter() - started,
            core_seconds=time.process_time() - worked,
        )

    def _goes_on(self, evaluation: Evaluation) -> bool:
        if not evaluation.complete:
            return False
        return self.score is None or self.score.goes_on(evaluation)


def in_stages(parts: Sequence[Evaluation]) -> Evaluation:
    """One evaluation of what was measured in stages; where one failed, the whole did, and says so.

    Signals of trainings get the number of their stage before them. Losses, phases and what is known
    of each seed are those of the last training, the fidelity that of the last stage.

    Args:
        parts: Of one architecture, one for each stage that was begun, in order.
    """
    trained = [part for part in parts if part.train_losses] or [parts[-1]]
    staged = replace(
        trained[-1],
        fidelity=parts[-1].fidelity,
        status=Status.COMPLETE,
        reason="",
        signals={},
        signal_seconds={
            _name(name, number, part): seconds
            for number, part in enumerate(parts, start=1)
            for name, seconds in part.signal_seconds.items()
        },
        seconds=sum(part.seconds for part in parts),
        core_seconds=sum(part.core_seconds for part in parts),
        build_seconds=sum(part.build_seconds for part in parts),
        stage_seconds=tuple(part.seconds for part in parts),
        stage_core_seconds=tuple(part.core_seconds for part in parts),
    )
    failed = next((n for n, part in enumerate(parts, start=1) if not part.complete), None)
    if failed is not None:
        reason = f"in stage {failed}: {parts[failed - 1].reason}"
        return replace(staged, status=Status.FAILED, reason=reason)
    signals = {
        _name(name, number, part): value
        for number, part in enumerate(parts, start=1)
        for name, value in part.signals.items()
    }
    return replace(staged, signals=signals)


def cost_until(evaluation: Evaluation, num_stages: int) -> Evaluation:
    """The same with the cost of its first stages alone, as if it had ended there."""
    kept = slice(num_stages)
    return replace(
        evaluation,
        seconds=sum(evaluation.stage_seconds[kept]),
        core_seconds=sum(evaluation.stage_core_seconds[kept]),
        stage_seconds=evaluation.stage_seconds[kept],
        stage_core_seconds=evaluation.stage_core_seconds[kept],
    )


def _name(name: str, number: int, part: Evaluation) -> str:
    """Zero-cost signals, whose seconds are known one by one, are the same in all stages."""
    is_zero_cost = name in part.signal_seconds and name != _TRAINING
    return name if is_zero_cost else signal_in_stage(name, number)
