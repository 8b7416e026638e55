"""How large a study is that has to fit a budget: its sizes, from the least honest ones upwards.

All sizes grow together, along `LEVELS` levels. What the configuration says itself stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from nas_proxy.calibrate.recipes import Recipe
from nas_proxy.interfaces import TransferSpace
from nas_proxy.study.config import StudyConfig, check_config
from nas_proxy.study.defaults import default_train
from nas_proxy.study.plain_values import dump_options
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import DatasetSpec
from nas_proxy.validate.settings import FIRST_LOOK

LEVELS = 48
_THRESHOLD = 0.7
_SMALL_IMAGES = 32  # to which candidates' images are reduced: steps buy more ranking than pixels
_BATCHES_PER_EPOCH = 4  # at least, as far as images go
_SMALLEST_BATCH, _FULL_BATCH = 16, 64
_COMPARES_FROM = LEVELS // 4  # a hand-made network is dearer than those of small spaces


@dataclass(frozen=True)
class Amount:
    """A number that grows with the level, by the same factor from each level to the next.

    Attributes:
        least: At level 0: with less, a result says nothing.
        most: At the last level: beyond it, more changes little.
    """

    least: int
    most: int

    def at(self, level: int) -> int:
        """The number, in [`least`, `most`]."""
        growth: float = (self.most / self.least) ** (level / LEVELS)
        return round(self.least * growth)


TRIALS = Amount(12, 200)
SHORT_STEPS = Amount(40, 360)  # fewer say nothing of the best; more were not measured
LABELLED = Amount(20, 32)
VALIDATED = Amount(20, 72)
FULL_EPOCHS = Amount(3, 40)
SEEDS = Amount(1, 3)
CALIBRATED = Amount(24, 48)
_LEAST_DISTILLING = 50
COUNTED = 128  # networks of a space, beyond which its size changes nothing here


@dataclass(frozen=True)
class Sizes:
    """What a study with a budget could do.

    Attributes:
        config: What the user wrote.
        spec: Of its images.
        num_images: To train on.
        num_cores: That candidates may be trained on.
        num_networks: Of the space, counted as far as sizes depend on it.
    """

    config: StudyConfig
    spec: DatasetSpec
    num_images: int
    num_cores: int
    num_networks: int

    @property
    def may_calibrate(self) -> bool:
        """Whether full trainings could be bought to learn from."""
        return self._is_free("calibrate", "recipe", "score", "knowledge_distillation")

    def at(self, level: int, *, calibrates: bool) -> dict[str, Any]:
        """The values that the configuration does not fix, by option.

        Args:
            level: From 0, the least, to `LEVELS`.
            calibrates: Whether full trainings are bought to learn from; see `may_calibrate`.
        """
        values = self._training(level)
        given = with_values(self.config.given, values)
        full = self._full(level, check_config(given).train)
        values |= self._ranking(level, given, full, calibrates=calibrates)
        if self._is_free("search.n_trials"):
            values["search.n_trials"] = TRIALS.at(level)
        if self.config.device == "cpu" and self.num_cores > 1 and self._is_free("search.executor"):
            values["search.executor"] = "processes"
            if self._is_free("search.num_workers"):
                values["search.num_workers"] = self.num_cores
        if self._is_free("distill.num_steps") and self._distils_in_steps:
            published = self.config.distiller.num_steps  # type: ignore[attr-defined]
            steps = Amount(min(_LEAST_DISTILLING, published), published)
            values["distill.num_steps"] = steps.at(level)
        learned_from = CALIBRATED.most if calibrates else LABELLED.most
        values |= self._proving(level, full, self.num_networks - learned_from)
        return values | self._retraining(level, full)

    def _is_free(self, *options: str) -> bool:
        """Whether the configuration says nothing of any of these."""
        return not any(is_given(self.config.given, option) for option in options)

    @property
    def _distils_in_steps(self) -> bool:
        """Whether a section asks for a method whose steps it leaves to us."""
        section = self.config.given.get("distill")
        steps = getattr(self.config.distiller, "num_steps", None)
        is_published = isinstance(section, Mapping) and section.get("preset") == "published"
        return isinstance(section, Mapping) and isinstance(steps, int) and not is_published

    def _training(self, level: int) -> dict[str, Any]:
        """How long candidates are trained, and how large their images are."""
        recipe = self.config.recipe
        is_said = isinstance(recipe, Recipe) and is_given(self.config.given, "recipe")
        if is_said or recipe in ("calibrated", "trusted"):
            return {}
        values: dict[str, Any] = {}
        if self._is_free("train"):
            plain = dump_options(default_train())
            values |= {f"train.{n}": plain[n] for n in ("num_val_images", "norm_statistics")}
        if self._is_free("train.batch_size"):
            values["train.batch_size"] = self._batch(default_train().batch_size)
        if self._is_free("train.num_steps", "train.num_epochs"):
            values["train.num_steps"] = SHORT_STEPS.at(level)
        height = self.spec.image_shape[1]
        is_transfer = isinstance(self.config.space, TransferSpace)
        if height > _SMALL_IMAGES and self._is_free("train.image_size") and not is_transfer:
            values["train.image_size"] = _SMALL_IMAGES
        return values

    def _batch(self, most: int) -> int:
        """Images of each step, so that a small set makes several steps."""
        return min(most, max(_SMALLEST_BATCH, self.num_images // _BATCHES_PER_EPOCH))

    def _full(self, level: int, train: TrainSettings) -> dict[str, Any]:
        """A full training: longer than that of a candidate, whatever the number of images."""
        short = train.num_steps or SHORT_STEPS.most
        batch = self._batch(_FULL_BATCH)
        epochs = max(FULL_EPOCHS.at(level), math.ceil(2 * short * batch / self.num_images))
        plain = dump_options(replace(train, num_epochs=epochs, num_steps=None, batch_size=batch))
        names = ("num_epochs", "batch_size", "norm_statistics", "learning_rate", "augmentation")
        chosen = {name: plain[name] for name in names}
        section = self.config.given.get("train")
        said = section if isinstance(section, Mapping) else {}
        kept = ("optimiser", "schedule", "momentum", "nesterov", "weight_decay", "precision")
        return chosen | {name: said[name] for name in kept if name in said}

    def _ranking(
        self, level: int, given: Mapping[str, Any], full: Mapping[str, Any], *, calibrates: bool
    ) -> dict[str, Any]:
        """Where labels come from: full trainings, or the study's own."""
        if calibrates:
            section = {
                "num_architectures": CALIBRATED.at(level),
                "threshold": _THRESHOLD,
                "reference": {"train": dict(full)},
                "when_none": "best",  # what is left to us must not end the study
            }
            return {"calibrate": section}
        if self.config.recipe == "calibrated":
            free = self._is_free("calibrate.num_architectures", "calibrate.threshold")
            return {"calibrate.num_architectures": CALIBRATED.at(level)} if free else {}
        recipe = check_config(given).recipe
        if not self._is_free("recipe") or not isinstance(recipe, Recipe):
            return {}
        return {"recipe": dump_options(_with_sample(recipe, LABELLED.at(level)))}

    def _proving(self, level: int, full: Mapping[str, Any], most: int) -> dict[str, Any]:
        if "validate" in self.config.given and self.config.validation is None:
            return {}  # not wanted
        values: dict[str, Any] = {}
        if self._is_free("validate.num_architectures", "validate.stop"):
            number = max(
                FIRST_LOOK, min(VALIDATED.at(level), most)
            )  # of a small space what is left
            values["validate.num_architectures"] = {"max": number}
        if self._is_free("validate.reference"):
            values["validate.reference"] = {"train": dict(full)}
        return values

    def _retraining(self, level: int, full: Mapping[str, Any]) -> dict[str, Any]:
        if "retrain" in self.config.given and self.config.retrain is None:
            return {}  # not wanted
        values: dict[str, Any] = {}
        if self._is_free("retrain.train"):
            values["retrain.train"] = {**full, "num_epochs": 2 * full["num_epochs"]}
        if self._is_free("retrain.num_seeds"):
            values["retrain.num_seeds"] = SEEDS.at(level)
        if self._is_free("retrain.comparisons") and level < _COMPARES_FROM:
            values["retrain.comparisons"] = ["median"]
        return values


def _with_sample(recipe: Recipe, num: int) -> Recipe:
    """The same with a sample of at most `num` that it learns from."""
    stages = tuple(
        replace(
            stage,
            score=replace(stage.score, num_reference=min(num, stage.score.num_reference)),
        )
        for stage in recipe.stages
    )
    return replace(recipe, stages=stages)


def is_given(mapping: Mapping[str, Any], option: str) -> bool:
    """Whether a configuration says something of an option, or puts no section in its way."""
    inner: Any = mapping
    for key in option.split("."):
        if not isinstance(inner, Mapping):
            return inner is not None
        if key not in inner:
            return False
        inner = inner[key]
    return inner is not None


def with_values(mapping: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with values for what it does not say itself."""
    found: dict[str, Any] = deepcopy(dict(mapping))
    for option, value in values.items():
        if is_given(mapping, option):
            continue
        *sections, last = option.split(".")
        inner = found
        for section in sections:
            if inner.get(section) is None:
                inner[section] = {}
            inner = inner[section]
        inner[last] = deepcopy(value)
    return found
