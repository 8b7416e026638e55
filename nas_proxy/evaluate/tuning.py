"""Short trainings of an architecture that choose the `auto` options of its distillation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nas_proxy.errors import required
from nas_proxy.evaluate.executors import Executor, evaluate_jobs
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.knowledge_distillation.settings import KnowledgeDistillationSettings
from nas_proxy.knowledge_distillation.tuning import Measured, Tuned, num_trials, tune
from nas_proxy.types import Architecture, Progress, no_progress

_PART = 10  # a short training has this part of the steps unless the settings say how many


def tune_distillation(
    executor: Executor,
    factory: NetworkEvaluatorFactory,
    job: tuple[Architecture, int],
    folder: Path,
    progress: Progress = no_progress,
) -> Tuned:
    """Choose what is `auto` in a factory's knowledge distillation, on the search-validation images.

    Args:
        executor: Where the short trainings run.
        factory: Of the trainings that are to come; networks learn from teachers in them, and
            `search_val` measures them.
        job: The architecture whose trainings choose, and the seed of all of them.
        folder: Where finished trainings are kept, for a choice that continues after a kill.
        progress: Told of each of a term's trainings.

    Raises:
        StudyError: If every training with a term failed.
        ValueError: If `search_val` is not what measures the networks.
    """
    knowledge_distillation = required(factory.knowledge_distillation, "knowledge_distillation")
    if factory.judged_by != "search_val":
        raise ValueError(f"judged_by is {factory.judged_by}, but the test images choose nothing")
    num_steps = knowledge_distillation.settings.auto_num_steps or max(
        1, factory.fidelity.num_steps // _PART
    )
    short = replace(
        factory,
        settings=replace(
            factory.settings, num_steps=num_steps, num_epochs=None, num_seeds=1, checkpoints=()
        ),
        fidelity=replace(factory.fidelity, num_steps=num_steps, num_seeds=1),
        keep=None,
    )

    def measure(candidates: Sequence[KnowledgeDistillationSettings]) -> list[Measured]:
        found: list[Measured] = []
        for number, settings in enumerate(candidates):
            progress(
                number,
                len(candidates),
                f"choosing among {num_trials(knowledge_distillation.settings)}",
            )
            tried = replace(knowledge_distillation, settings=settings)
            log = EvaluationLog(folder / f"{tried.identity}.jsonl")
            (done,) = evaluate_jobs(
                executor, replace(short, knowledge_distillation=tried), [job], log
            )
            signals = done.signals
            found.append(
                (signals["val_accuracy"], signals["val_loss"]) if done.complete else done.reason
            )
        return found

    return tune(knowledge_distillation.settings, measure)
