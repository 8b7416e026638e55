"""What stages read beside the configuration, each declared once."""

from __future__ import annotations

from pathlib import Path

from nas_proxy.reproducibility import content_hash
from nas_proxy.study.stage import Condition, Section, Source

_RANKS_AS_CONFIGURED = Condition(
    "if the recipe is configured", lambda config: config.recipe == "configured"
)
_RANKS_AS_FOUND = Condition(
    "unless it is configured or written out",
    lambda config: config.recipe in ("calibrated", "trusted"),
)

IMAGES = Source(name="images", identity=lambda study: study.splits.spec.source_hash)
SPACE = Source(name="search space", identity=lambda study: study.config.space.fingerprint())
PROXY_DATASET = Source(
    name="proxy data set", stage="distill", identity=lambda study: study.proxy_dataset.id
)
RECIPE = Source(
    name="calibrated recipe",
    stage="calibrate",
    identity=lambda study: study.recipe.id,
    when=_RANKS_AS_FOUND,
)
SCORE_REFERENCE = Source(
    name="score's reference sample",
    stage="search",
    identity=lambda study: content_hash(
        [e.to_json() for e in study.logs.evaluations(study.layout.score_reference)]
    ),
)
# All of it is set aside, whatever was learned from it.
CALIBRATION_SAMPLE = Source(
    name="calibration sample",
    identity=lambda study: content_hash(
        []
        if study.calibration_sample is None
        else [a.id for a in study.calibration_sample.never_judging]
    ),
    when=Condition("if there is one", lambda config: config.calibration is not None),
)

# What ranks candidates: with `RECIPE`, whichever of the two it is.
RANKED_BY = (
    Section(name="recipe"),
    *(
        Section(name=name, when=_RANKS_AS_CONFIGURED)
        for name in ("train", "knowledge_distillation", "score")
    ),
)


def table_identity(table: str | None) -> str | None:
    """Hash of a truth table's text; None where references are trained."""
    if table is None:
        return None
    path = Path(table)
    return content_hash(path.read_text(errors="replace") if path.is_file() else "")
