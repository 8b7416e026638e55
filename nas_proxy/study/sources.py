"""What several stages read, each declared once."""

from __future__ import annotations

from pathlib import Path

from nas_proxy.reproducibility import content_hash
from nas_proxy.study.config import StudyConfig
from nas_proxy.study.stage import Section, Source


def ranks_as_configured(config: StudyConfig) -> bool:
    """A study whose own sections are the recipe; another ranks by one that was found."""
    return config.recipe == "configured"


IMAGES = Source(name="images", identity=lambda study: study.splits.spec.source_hash)
SPACE = Source(name="search space", identity=lambda study: study.config.space.fingerprint())
PROXY_DATASET = Source(
    name="proxy data set", stage="distill", identity=lambda study: study.proxy_dataset.id
)
RECIPE = Source(
    name="calibrated recipe",
    stage="calibrate",
    identity=lambda study: study.recipe.id,
    when=lambda config: not ranks_as_configured(config),
)

# What ranks candidates: with `RECIPE`, whichever of the two it is.
RANKED_BY = (
    Section(name="recipe"),
    *(Section(name=name, when=ranks_as_configured) for name in ("train", "distillation", "score")),
)


def table_identity(table: str | None) -> str | None:
    """Hash of a truth table's text; None where references are trained."""
    if table is None:
        return None
    path = Path(table)
    return content_hash(path.read_text(errors="replace") if path.is_file() else "")
