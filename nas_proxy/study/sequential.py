"""A validation that trains its references look by look, and stops when the verdict is settled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nas_proxy.study.config import StudyConfig
from nas_proxy.study.context import StudyContext
from nas_proxy.study.history import add_look
from nas_proxy.study.looks import look_of_validation
from nas_proxy.types import Architecture
from nas_proxy.validate.rank_report import judged_row
from nas_proxy.validate.settings import TRUSTED_FROM, ValidateSettings
from nas_proxy.validate.stopping import look_in_words, planned_looks, stopped, with_saving
from nas_proxy.validate.values import Ranking, Sample, Stopping


@dataclass(frozen=True)
class Measured:
    """What is known of some architectures when a look at them is due.

    Attributes:
        judged: The judged ranking.
        reference: Higher is better; failed ones are missing.
        reference_name: In words.
        reference_seconds: Mean cost of one; 0 of a table.
    """

    judged: Ranking
    reference: Mapping[Architecture, float]
    reference_name: str
    reference_seconds: float


def trust_threshold(config: StudyConfig) -> float:
    """What Spearman has to reach so that the ranking is called trusted.

    That of the verdict's words; where a recipe was calibrated for a higher one, which the alias
    `trusted` goes by, that.
    """
    calibration = config.calibration if config.recipe == "calibrated" else None
    return TRUSTED_FROM if calibration is None else max(TRUSTED_FROM, calibration.threshold)


def settle(
    study: StudyContext,
    settings: ValidateSettings,
    drawn: Sequence[Architecture],
    measure: Callable[[Sequence[Architecture]], Measured],
) -> tuple[list[Architecture], Stopping]:
    """Measure architectures in the order of drawing until the verdict is settled.

    What is on disk is not measured again, so a killed validation passes the looks that it has made
    and goes on. Each look stays in the study's history.

    Args:
        study: Whose validation.
        settings: Its section `validate`.
        drawn: All that may be used.
        measure: Evaluates and trains references of the first ones.

    Returns:
        The architectures that were used, and why no more.
    """
    threshold, looks = trust_threshold(study.config), planned_looks(len(drawn))
    for look in looks:
        architectures = list(drawn[: look.size])
        found = measure(architectures)
        sample = Sample(architectures, found.reference)
        row = judged_row(found.judged, sample, settings, look.confidence)
        stopping = stopped(look, looks, row, threshold)
        if stopping.outcome != "open" or look is looks[-1]:
            break
        words = look_in_words(look, looks, row.spearman)
        study.display.say(f"validate: {words}")
        known = [a.id for a in architectures if a in found.reference]
        add_look(
            study.layout,
            look_of_validation(study, found.judged.name, found.reference_name, known, words),
        )
    return architectures, with_saving(stopping, found.reference_seconds)
