"""Recipes in the model registry: this study's own, and one that it trusts."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from nas_proxy.calibrate.result import CalibrationResult
from nas_proxy.core.environment import hardware, versions
from nas_proxy.core.files import write_atomically
from nas_proxy.errors import StudyError, required
from nas_proxy.plugin_sources import sources_named
from nas_proxy.statistics.ranks import Estimate
from nas_proxy.study.context import StudyContext
from nas_proxy.study.layout import StudyLayout
from nas_proxy.study.ledger import one_off_seconds
from nas_proxy.study.plain_values import dump_options
from nas_proxy.study.recipe import PROXY
from nas_proxy.study.taken import write_set_aside
from nas_proxy.teachers.labelling import copy_teachers
from nas_proxy.tracking.registry.rank_card import RankCard
from nas_proxy.tracking.registry.recipes import RecipeRegistry
from nas_proxy.validate.values import RankReport

logger = logging.getLogger("nas_proxy")


def fetch_trusted(study: StudyContext) -> None:
    """Get the trusted recipe for the study's space and images, with its proxy data set.

    Raises:
        StudyError: If there is none, it is damaged, or it was calibrated for another space or
            other images.
    """
    config = study.config
    registry = RecipeRegistry(config.tracking, config.results)
    folder, proxy_file = study.layout.trusted_recipe, study.layout.proxy_dataset
    found = registry.load("trusted", folder, space=config.space, spec=study.splits.spec)
    write_atomically(proxy_file, (folder / PROXY).read_bytes())
    copy_teachers(folder / PROXY, proxy_file)
    card = found.card
    study.display.say(
        f"recipe: {card.recipe_name}, version {found.version} of {found.model}, calibrated on "
        f"{card.created[:10]}: Spearman {card.spearman} at n = {card.n}"
    )


def register_recipe(study: StudyContext) -> None:
    """Register what the study calibrated, with what it is worth; the same again changes nothing."""
    if study.config.recipe != "calibrated":
        return
    card = _card(study)
    folder = study.layout.recipe
    write_set_aside(study.layout)
    files = {path.name: path for path in folder.iterdir() if path.is_file()}
    del files[PROXY]
    registry = RecipeRegistry(study.config.tracking, study.config.results)
    found = registry.register(card, files, proxy_file=folder / PROXY)
    if found is not None:
        alias = ", alias trusted" if card.trusted else ", not trusted"
        if card.judged_by == "calibration":
            alias += (
                ": it takes a section validate, on architectures that did not choose the recipe"
            )
        study.display.say(f"recipe: registered as {found.model}, version {found.version}{alias}")


def _card(study: StudyContext) -> RankCard:
    """The same card as long as what it says is the same, but for the time."""
    config, spec = study.config, study.splits.spec
    recipe = study.recipe.recipe
    found = _evidence(study.layout)
    card = RankCard(
        recipe=dump_options(recipe),
        recipe_name=recipe.name,
        space=config.space.name,
        space_options=json.loads(json.dumps(asdict(config.space))),
        space_fingerprint=config.space.fingerprint(),
        dataset=spec.name,
        class_names=spec.class_names,
        image_shape=spec.image_shape,
        source_hash=spec.source_hash,
        proxy_dataset_id=study.proxy_dataset.id,
        reference_name=found.reference_name,
        judged_by=found.judged_by,
        spearman=found.spearman,
        n=found.n,
        threshold=found.threshold,
        trusted=found.is_trusted,
        core_seconds_per_architecture=found.seconds_per_architecture,
        one_off_seconds=one_off_seconds(study),
        hardware=hardware(study.device),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        code=sources_named(dump_options(recipe)),
    )
    before = _written_before(study.layout.rank_card)
    if before and {**before.to_json(), "created": ""} == {**card.to_json(), "created": ""}:
        return before
    write_atomically(study.layout.rank_card, json.dumps(card.to_json(), indent=1))
    return card


def _written_before(path: Path) -> RankCard | None:
    """The card on disk; None where there is none that can be read: it is made from the results."""
    if not path.is_file():
        return None
    try:
        return RankCard.from_json(json.loads(path.read_text()))
    except (ValueError, TypeError, StudyError) as error:
        logger.warning("%s cannot be read (%s); it is written anew", path, error)
        return None


@dataclass(frozen=True)
class _Evidence:
    """What is known of the recipe's ranking.

    Attributes:
        judged_by: See `RankCard`.
        spearman: Correlation with the reference.
        n: On how many architectures.
        reference_name: In words.
        seconds_per_architecture: What one costs by the calibration.
        threshold: What the calibration asked for.
    """

    judged_by: Literal["validation", "calibration"]
    spearman: Estimate
    n: int
    reference_name: str
    seconds_per_architecture: float
    threshold: float

    @property
    def is_trusted(self) -> bool:
        """Whether a validation has shown the threshold to be reached."""
        low = self.spearman.low
        return self.judged_by == "validation" and low is not None and low >= self.threshold


def _evidence(layout: StudyLayout) -> _Evidence:
    """The figures of the validation, whose architectures had no part in the recipe.

    Where nothing was validated: those of the calibration, which chose by them and so makes nothing
    trusted.

    Raises:
        StudyError: If the recipe ranks nothing.
    """
    calibration = CalibrationResult.read(layout.calibration)
    chosen = required(calibration.chosen_standing, "the recipe that the calibration chose")
    judged_by: Literal["validation", "calibration"] = "calibration"
    spearman, n = chosen.spearman, chosen.n
    name = f"{calibration.reference_name} (calibration sample)"
    if layout.rank_report.is_file():
        judged, judged_by = RankReport.read(layout.rank_report), "validation"
        name = judged.reference_name
        spearman, n = judged.judged.worst_case
    if spearman is None:
        raise StudyError("the calibrated recipe ranks nothing on the validation's architectures")
    seconds, threshold = chosen.seconds_per_architecture, calibration.threshold
    return _Evidence(judged_by, spearman, n, name, seconds, threshold)
