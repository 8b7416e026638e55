"""What a calibration and a validation have seen of which architectures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nas_proxy.calibrate.result import CalibrationResult
from nas_proxy.errors import required
from nas_proxy.reproducibility import canonical_json, content_hash
from nas_proxy.study.context import StudyContext
from nas_proxy.study.history import now
from nas_proxy.study.plain_values import dump_options
from nas_proxy.study.sources import table_identity
from nas_proxy.validate.looks import Look
from nas_proxy.validate.settings import Reference
from nas_proxy.validate.values import Points, RankReport


def look_of_calibration(study: StudyContext, result: CalibrationResult) -> Look:
    """All recipes of a race, on the sample that it used."""
    names = ", ".join(sorted(standing.recipe for standing in result.standings))
    settings = required(study.config.calibration, "the section calibrate")
    return Look(
        stage="calibrate",
        created=now(),
        ranking=f"the recipes {names}",
        ranking_id=_ranking_id(
            study,
            sorted((s.recipe, canonical_json(s.settings)) for s in result.standings),
            result.threshold,
        ),
        reference=result.reference_name,
        reference_id=_reference_id(settings.reference),
        architectures=tuple(point.architecture_id for point in result.points),
        verdict=result.verdict,
    )


def look_of_validation(
    study: StudyContext,
    ranking: str,
    reference: str,
    architectures: Sequence[str],
    verdict: str,
) -> Look:
    """The judged ranking, on every architecture whose reference is known.

    Args:
        study: Whose validation.
        ranking: What is judged, in words.
        reference: What it is compared with, in words.
        architectures: Their ids.
        verdict: What came out.
    """
    active = study.recipe
    settings = required(study.config.validation, "the section validate")
    return Look(
        stage="validate",
        created=now(),
        ranking=ranking,
        # Not the recipe's own id, which tells apart what took another time.
        ranking_id=_ranking_id(
            study,
            dump_options(active.recipe),
            [evaluation.architecture.id for evaluation in active.calibrated_on],
        ),
        reference=reference,
        reference_id=_reference_id(settings.reference),
        architectures=tuple(architectures),
        verdict=verdict,
        sequential=settings.is_sequential,
    )


def look_of_report(study: StudyContext, report: RankReport, points: Points) -> Look:
    """The last look of a validation."""
    known = [p.architecture_id for p in points.points if p.reference is not None]
    name = report.judged.name
    return look_of_validation(study, name, report.reference_name, known, report.verdict)


def _ranking_id(study: StudyContext, *recipe: object) -> str:
    space = study.config.space.fingerprint()
    return content_hash(*recipe, study.proxy_dataset.id, space, length=16)


def _reference_id(reference: Reference) -> str:
    """Of what the table holds, not of where it lies."""
    content = table_identity(reference.table)
    named = reference if content is None else replace(reference, table=content)
    return content_hash(dump_options(named), length=16)
