"""`temperature: auto` and `weight: auto`: chosen by short trainings on the validation images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from nas_proxy.errors import StudyError
from nas_proxy.knowledge_distillation.settings import (
    AUTO,
    PUBLISHED,
    KnowledgeDistillationSettings,
    TermSettings,
)

TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
"""Tried for `temperature: auto`."""

ANSWER_WEIGHTS = (0.1, 0.5, 0.9)
"""Tried for `weight: auto` of the terms whose weight is a share of one."""

FACTORS = (0.1, 1.0, 10.0)
"""By these the published weight of the other terms is multiplied for `weight: auto`."""


@dataclass(frozen=True)
class Trial:
    """One short training.

    Attributes:
        term: Position of the term whose options were tried.
        options: What they were set to.
        val_accuracy: Reached on the search-validation images; None if the training failed.
        val_loss: The same for the cross-entropy.
        reason: Why it failed; empty if it did not.
    """

    term: int
    options: dict[str, Any]
    val_accuracy: float | None = None
    val_loss: float | None = None
    reason: str = ""

    @property
    def rank_key(self) -> tuple[float, float]:
        """Grows with how good it is: by accuracy, of equal ones by loss."""
        if self.val_accuracy is None or self.val_loss is None:
            return (float("-inf"), 0.0)
        return (self.val_accuracy, -self.val_loss)


@dataclass(frozen=True)
class Tuned:
    """What was chosen, and on which grounds.

    Attributes:
        settings: Nothing is `auto` any more.
        trials: All short trainings, in order.
    """

    settings: KnowledgeDistillationSettings
    trials: tuple[Trial, ...]

    def to_json(self) -> dict[str, Any]:
        """The chosen options of each term, and the trials, as JSON values."""
        chosen = [
            {"term": term.title, "temperature": term.temperature, "weight": term.weight}
            for term in self.settings.terms
        ]
        return {"chosen": chosen, "trials": [vars(trial) for trial in self.trials]}


Measured = tuple[float, float] | str
"""Accuracy and cross-entropy on the search-validation images, or why the training failed."""


def tune(
    settings: KnowledgeDistillationSettings,
    measure: Callable[[Sequence[KnowledgeDistillationSettings]], Sequence[Measured]],
) -> Tuned:
    """Choose what is `auto`, term by term; a term not yet chosen has its published values.

    Args:
        settings: Something in it is `auto`.
        measure: Trains shortly with each of some settings, in which nothing is `auto`.

    Raises:
        StudyError: If every training with a term failed.
    """
    trials: list[Trial] = []
    for position, term in enumerate(settings.terms):
        if not term.autos:
            continue
        grid = _grid(term)
        found = measure([without_auto(_with(settings, position, each)) for each in grid])
        tried = [
            Trial(position, options, reason=measured)
            if isinstance(measured, str)
            else Trial(position, options, *measured)
            for options, measured in zip(grid, found, strict=True)
        ]
        best = max(tried, key=lambda trial: trial.rank_key)
        if best.val_accuracy is None:
            raise StudyError(
                f"no short training succeeded, so {' and '.join(term.autos)} of {term.title} "
                f"cannot be chosen ({best.reason}); change what is distilled, or retrain.train"
            )
        trials += tried
        settings = _with(settings, position, best.options)
    return Tuned(without_auto(settings), tuple(trials))


def num_trials(settings: KnowledgeDistillationSettings) -> int:
    """How many short trainings `tune` asks for."""
    return sum(len(_grid(term)) for term in settings.terms if term.autos)


def without_auto(settings: KnowledgeDistillationSettings) -> KnowledgeDistillationSettings:
    """The same with published values for what is `auto`."""
    terms = tuple(
        replace(term, **{name: _published(term)[name] for name in term.autos})
        for term in settings.terms
    )
    return replace(settings, terms=terms, auto_num_steps=None)


def _published(term: TermSettings) -> Any:
    return PUBLISHED[term.kind][term.variant or ""]


def _grid(term: TermSettings) -> list[dict[str, Any]]:
    """All combinations of what is tried for the options of a term that are `auto`."""
    weights = ANSWER_WEIGHTS
    if not term.is_answers:
        weights = tuple(factor * _published(term)["weight"] for factor in FACTORS)
    values = {"temperature": TEMPERATURES, "weight": weights}
    return [
        dict(zip(term.autos, each, strict=True))
        for each in product(*(values[name] for name in term.autos))
    ]


def _with(
    settings: KnowledgeDistillationSettings, position: int, options: dict[str, Any]
) -> KnowledgeDistillationSettings:
    """The same with options of one term set; the number of steps goes when nothing needs it."""
    terms = list(settings.terms)
    terms[position] = replace(terms[position], **options)
    left = any(AUTO in (term.temperature, term.weight) for term in terms)
    return replace(
        settings, terms=tuple(terms), auto_num_steps=settings.auto_num_steps if left else None
    )
