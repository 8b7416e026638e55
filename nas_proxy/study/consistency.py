"""Faults of a configuration that show only when its sections are seen together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from nas_proxy.calibrate.recipes import Recipe
from nas_proxy.calibrate.settings import CalibrateSettings
from nas_proxy.core.extras import is_installed, missing_words
from nas_proxy.errors import ConfigError, UserError, did_you_mean
from nas_proxy.evaluate.executors import executor_kind
from nas_proxy.interfaces import Distiller, SearchSpace, TransferSpace
from nas_proxy.knowledge_distillation.settings import KnowledgeDistillationSettings
from nas_proxy.retrain.settings import RetrainSettings
from nas_proxy.scores.calibrated import MIN_CALIBRATION
from nas_proxy.scores.combine import ScoreSettings
from nas_proxy.scores.regressors import check_regressor
from nas_proxy.scores.signals import (
    checkpoint_of,
    higher_is_better,
    own_signal,
    stage_of,
    trained_among,
)
from nas_proxy.search.settings import SearchSettings
from nas_proxy.study.pruning import pruner_faults
from nas_proxy.train.settings import TrainSettings
from nas_proxy.validate.settings import ValidateSettings

RecipeOrigin = Literal["configured", "calibrated", "trusted"]

_LABELS_ITSELF = (
    "stages of which the last one trains and is not calibrated (as recipe: self_labelled has): its "
    "trainings are the labels then"
)


class Checked(Protocol):
    """The sections of a configuration, each of which is right by itself."""

    @property
    def device(self) -> str:
        """Where candidates are trained and timed."""

    @property
    def train(self) -> TrainSettings:
        """How candidates are trained."""

    @property
    def knowledge_distillation(self) -> KnowledgeDistillationSettings | None:
        """What they learn beside the labels."""

    @property
    def score(self) -> ScoreSettings:
        """How they are ranked."""

    @property
    def search(self) -> SearchSettings:
        """How the space is searched."""

    @property
    def calibration(self) -> CalibrateSettings | None:
        """How a recipe is found."""

    @property
    def recipe(self) -> Recipe | str | None:
        """Which recipe counts."""

    @property
    def model_fields_set(self) -> set[str]:
        """Which sections were given, by their names here."""

    @property
    def validation(self) -> ValidateSettings | None:
        """How the ranking is judged."""

    @property
    def retrain(self) -> RetrainSettings | None:
        """How the best are trained for use."""


def contradictions(
    sections: Checked, space: SearchSpace | None, distiller: Distiller | None
) -> list[str]:
    """Faults that show only when sections are seen together."""
    faults = []
    calibration = sections.calibration
    if calibration is None:
        faults += _calibration_missing(sections, distiller)
    elif sections.recipe != "calibrated":
        faults += _calibration_unused(sections)
    faults += _score_unused(sections)
    faults += _distillation_faults(sections)
    recipes = calibration.recipes if calibration is not None else ()
    for index, recipe in enumerate(recipes):
        faults += _recipe_faults(recipe, sections.train, space, f"calibrate.recipes.{index}")
    if isinstance(sections.recipe, Recipe):
        faults += _recipe_faults(sections.recipe, sections.train, space, "recipe")
        faults += _labels_missing(sections.recipe)
    faults += _score_faults(sections.score, {None: sections.train}, "score")
    faults += _fidelity_faults(sections.train, space, "train")
    faults += _retrain_faults(sections, space)
    faults += _validation_faults(sections, space)
    faults += _latency_faults(sections)
    faults += _ray_faults(sections)
    pruner = sections.search.pruner
    if pruner is not None:
        faults += pruner_faults(pruner, sections.recipe, sections.train, sections.score)
    evolves = sections.search.sampler == "regularized_evolution"
    if evolves and space is not None and not space.can_mutate:
        faults.append(
            f"search.sampler: regularized_evolution needs mutate, which the space {space.name!r} "
            "does not implement; implement it, or use tpe"
        )
    return faults


def recipe_words(recipe: Recipe | str | None) -> str:
    """Which recipe counts, for messages."""
    return recipe.name if isinstance(recipe, Recipe) else str(recipe)


def _recipe_faults(
    recipe: Recipe, train: TrainSettings, space: SearchSpace | None, path: str
) -> list[str]:
    faults = []
    trains: dict[int | None, TrainSettings] = {
        number: part.train or train for number, part in enumerate(recipe.parts, start=1)
    }
    for number, part in enumerate(recipe.parts, start=1):
        place = f"{path}.stages.{number - 1}" if recipe.stages else path
        faults += _score_faults(part.score, trains | {None: trains[number]}, f"{place}.score")
        if part.train is not None:  # what is wrong with the section train is said once, there
            faults += _fidelity_faults(part.train, space, f"{place}.train")
    return faults


def _labels_missing(recipe: Recipe) -> list[str]:
    """What a recipe that is not calibrated would have to learn from, and has not."""
    if recipe.needs_labels:
        return [
            f"recipe: {recipe.name} ends with combine: calibrated, which needs architectures whose "
            "full training is known; add a section calibrate with this recipe among its recipes, "
            f"use rank_mean, or give it {_LABELS_ITSELF}"
        ]
    if not recipe.stages:
        return []
    faults = []
    if recipe.stages[-1].train_on == "nothing":
        faults.append(
            f"recipe: the last stage of {recipe.name} trains on nothing, so there are no labels to "
            f"learn from; give it {_LABELS_ITSELF}"
        )
    fits = any(stage.score.combine == "calibrated" for stage in recipe.stages)
    if fits and recipe.num_reference < MIN_CALIBRATION:
        faults.append(
            f"recipe: {recipe.name} labels {recipe.num_reference} architectures itself, and "
            f"combine: calibrated is fitted on at least {MIN_CALIBRATION}; raise num_reference of "
            "the score of a stage"
        )
    return faults


def _latency_faults(sections: Checked) -> list[str]:
    """On a GPU there is no clock that leaves out what other processes do there."""
    search = sections.search
    parallel = executor_kind(search.executor).beside_driver and search.num_workers > 1
    if sections.device == "cpu" or not search.needs_latency or not parallel:
        return []
    return [
        f"search.executor: {search.num_workers} processes that train on {sections.device} disturb "
        "the latency that is measured there; use executor: serial, or leave latency out of "
        "search.objectives and search.constraints"
    ]


def _ray_faults(sections: Checked) -> list[str]:
    """What a cluster cannot do, found before one is looked for."""
    search, device, faults = sections.search, sections.device, []
    if search.executor != "ray":
        return []
    if not is_installed("ray"):
        faults.append(f"search.executor: {missing_words('ray')}, or use processes")
    if device.startswith("cuda:"):
        faults.append(
            f"device: {device} is one GPU of this machine, and a slot of search.ray sees its own "
            "share alone; write device: cuda"
        )
    if (device == "cpu") != (search.ray.num_gpus == 0):
        mend = "search.ray.num_gpus: 1, or a fraction" if device != "cpu" else "device: cuda"
        faults.append(
            f"search.ray: slots have num_gpus {search.ray.num_gpus:g}, but networks are trained on "
            f"device {device}; set {mend}"
        )
    return faults


def _retrain_faults(sections: Checked, space: SearchSpace | None) -> list[str]:
    retrain = sections.retrain
    if retrain is None:
        return []
    faults = _fidelity_faults(retrain.train, space, "retrain.train")
    if retrain.train.num_epochs == "architecture" and "resnet18" in retrain.comparisons:
        faults.append(
            "retrain.train.num_epochs: architecture gives a ResNet-18 no length; give a number of "
            "num_epochs, or leave resnet18 out of retrain.comparisons"
        )
    if retrain.pick is not None and not sections.search.costs:
        faults.append(
            f"retrain.pick: {retrain.pick} is for a Pareto front, but score is the only one of "
            "search.objectives; name another there, or give retrain.num_architectures"
        )
    if "onnx" in retrain.formats and not is_installed("export"):
        faults.append(f"retrain.formats: {missing_words('export')}, or take onnx out")
    if retrain.compress is not None and not is_installed("compress"):
        faults.append(f"retrain.compress: {missing_words('compress')}, or take the section out")
    return faults


def _validation_faults(sections: Checked, space: SearchSpace | None) -> list[str]:
    validation = sections.validation
    if validation is None:
        return []
    faults = _signal_faults(validation.controls, "validate.controls")
    if sections.train.num_epochs == "architecture":
        faults.append(
            "train.num_epochs: architecture gives each candidate its own length, so validate could "
            "train no control for as many steps; give num_steps or a number of num_epochs, which "
            "the phases share, or leave validate out"
        )
    if validation.reference.train is not None:
        faults += _fidelity_faults(validation.reference.train, space, "validate.reference.train")
    return faults


def _calibration_missing(sections: Checked, distiller: Distiller | None) -> list[str]:
    """What needs a section `calibrate` where there is none."""
    hint = "needs architectures whose full training is known; add a section calibrate"
    faults = []
    if sections.search.guard.action == "recalibrate":
        faults.append(f"search.guard.action: recalibrate {hint}, or use stop")
    if sections.recipe == "calibrated":
        faults.append(f"recipe: calibrated {hint}")
    if distiller is not None and distiller.needs_calibration and sections.recipe != "trusted":
        faults.append(f"distill.name: {distiller.name} {hint}")
    return faults


def _calibration_unused(sections: Checked) -> list[str]:
    """What needs the calibrated recipe where another one counts."""
    other = recipe_words(sections.recipe)
    hint = f"needs what calibrate finds, but recipe is {other}; set recipe: calibrated"
    faults = []
    if sections.search.guard.action == "recalibrate":
        faults.append(f"search.guard.action: recalibrate {hint}, or use stop")
    return faults


def _score_unused(sections: Checked) -> list[str]:
    """A section `score` that nobody would read, or that needs what only a recipe has."""
    if sections.recipe != "configured":
        if "score" not in sections.model_fields_set:
            return []
        return [
            f"score: recipe is {recipe_words(sections.recipe)}, so candidates are ranked by that "
            "recipe's own score and not by this section; leave it out, or set recipe: configured"
        ]
    if sections.score.combine == "calibrated":
        return [
            "score.combine: calibrated needs architectures whose full training is known; add a "
            "section calibrate and give this score to one of its recipes, use rank_mean, or write "
            f"a recipe with {_LABELS_ITSELF}"
        ]
    return []


def _distillation_faults(sections: Checked) -> list[str]:
    """A section `knowledge_distillation` that nobody would read, or that candidates cannot use."""
    settings = sections.knowledge_distillation
    if settings is None:
        return []
    if sections.recipe != "configured":
        return [
            f"knowledge_distillation: recipe is {recipe_words(sections.recipe)}, so candidates are "
            "trained as that recipe says and not by this section; give it to recipes of calibrate, "
            "or set recipe: configured"
        ]
    try:
        is_trained = bool(trained_among(sections.score.signals))
        settings.check_for_candidates("proxy" if is_trained else "nothing")
    except ConfigError as error:
        return [f"knowledge_distillation: {error}"]
    return []


def _score_faults(
    score: ScoreSettings, trains: Mapping[int | None, TrainSettings], path: str
) -> list[str]:
    """What is wrong with a score.

    Args:
        score: Of the configuration.
        trains: The training that gives its signals, and those of all stages by number.
        path: Of the score.
    """
    faults = _signal_faults(score.signals, f"{path}.signals")
    for signal in score.signals if not faults else ():
        train = trains.get(stage_of(signal))
        if train is None:
            faults.append(
                f"{path}.signals: {signal!r} is of a stage that is not there; write "
                f"{own_signal(signal)}"
            )
            continue
        percentage = checkpoint_of(signal)
        if percentage is not None and percentage not in train.checkpoints:
            faults.append(
                f"{path}.signals: {signal!r} is read at {percentage} % of the steps, which is not "
                f"among the checkpoints {list(train.checkpoints)} of the training; add it there"
            )
    try:
        check_regressor(score.regressor)
    except UserError as error:
        faults.append(f"{path}.regressor: {error}")
    return faults


def _signal_faults(signals: Sequence[str], path: str) -> list[str]:
    faults = []
    for signal in signals:
        try:
            higher_is_better(signal)
        except UserError as error:
            faults.append(f"{path}: {error}")
    return faults


def _fidelity_faults(train: TrainSettings, space: SearchSpace | None, path: str) -> list[str]:
    if space is None:
        return []
    faults = []
    says_length = isinstance(space, TransferSpace) and space.says_length
    if train.num_epochs == "architecture" and not says_length:
        faults.append(
            f"{path}.num_epochs: architecture takes the epochs that a genotype says, but those of "
            f"the space {space.name!r} say none; give a number"
        )
    return faults + [
        f"{path}.space_fidelity.{option}: not a fidelity of the space {space.name!r}; "
        + did_you_mean(option, space.fidelity_options)
        for option in train.space_fidelity
        if option not in space.fidelity_options
    ]


def images_made_per_class(
    distiller: Distiller | None, images_per_class: int | None, faults: list[str], *, given: bool
) -> int | None:
    """How many images of each class are made: what the distiller has anyway, or what is asked.

    Args:
        distiller: Makes them; None if it is among the faults.
        images_per_class: What the configuration says, or the default; None likewise.
        faults: Gets what is wrong.
        given: Whether the configuration says it.
    """
    if distiller is None or images_per_class is None:
        return images_per_class
    own = distiller.own_images_per_class()
    if given and own not in (None, images_per_class):
        faults.append(
            f"distill.images_per_class: is {images_per_class}, but {distiller.name!r} has "
            f"{own} images of each class; leave it out, or set it to {own}"
        )
    return own or images_per_class
