"""What a configuration means that leaves sections out: which recipe, and which distilled set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from nas_proxy.calibrate.recipes import (
    LABEL_STEPS,
    REPLACED,
    Measuring,
    Recipe,
    recipes_by_name,
    self_labelled,
    stream_alone,
)
from nas_proxy.calibrate.settings import CalibrateSettings
from nas_proxy.errors import did_you_mean, required
from nas_proxy.evaluate.sample import count_architectures
from nas_proxy.interfaces import SearchSpace
from nas_proxy.reproducibility import derive_seed, make_generator
from nas_proxy.scores.combine import ScoreSettings
from nas_proxy.scores.signals import trained_among, zero_cost_among
from nas_proxy.study.consistency import RecipeOrigin, recipe_words
from nas_proxy.train.settings import TrainSettings

# A space of fewer networks is not worth a model: training each of them costs as little.
_FEWEST_NETWORKS, _ENOUGH_NETWORKS = 40, 64
_MEASURED_SET: dict[str, Any] = {
    "name": "distribution_matching",
    "images_per_class": 10,
    "num_steps": 200,
    "network_width": 64,
    "real_batch_size": 64,
    # No flip: whether a mirrored picture is of the same class depends on the pictures.
    "augment": "color_crop_cutout_scale_rotate",
}
_STAND_IN: dict[str, Any] = {"name": "random_subset", "images_per_class": 1}


@dataclass(frozen=True)
class Given:
    """What a configuration file says of sections that it may leave out.

    Attributes:
        mapping: The file's content.
    """

    mapping: Mapping[str, Any]

    def __contains__(self, section: str) -> bool:
        """Whether a section is there; one that is empty is none."""
        return self.mapping.get(section) is not None

    @property
    def train(self) -> tuple[str, ...]:
        """The options of the section `train` that are there."""
        section = self.mapping.get("train")
        return tuple(map(str, section)) if isinstance(section, Mapping) else ()


def with_length(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration with a length in a section `train` that says none."""
    train = mapping.get("train")
    if not isinstance(train, Mapping) or train.keys() & {"num_steps", "num_epochs"}:
        return mapping
    return {**mapping, "train": {**train, "num_steps": LABEL_STEPS}}


def default_train() -> TrainSettings:
    """The section `train` where there is none: as the recipes that ship train."""
    return TrainSettings(
        num_steps=LABEL_STEPS, batch_size=128, num_val_images=2000, norm_statistics="recalibrated"
    )


def find_recipe(
    recipe: Recipe | str | None,
    given: Given,
    space: SearchSpace | None,
    train: TrainSettings,
    faults: list[str],
) -> Recipe | RecipeOrigin:
    """The recipe that counts.

    Args:
        recipe: The section `recipe`; None if there is none.
        given: The other sections.
        space: What is searched; None if it is among the faults.
        train: The section `train`.
        faults: Gets what is wrong.
    """
    meant = _meant(given)
    if isinstance(recipe, Recipe) or recipe in get_args(RecipeOrigin):
        return recipe  # type: ignore[return-value]  # one of the words
    if space is None:  # without it there are no recipes to name
        return meant or "configured"
    if recipe is None:
        return meant or _without_labels(space, train, given.train)
    named = recipes_by_name(space, train, given.train)
    if recipe not in named:
        known = [*get_args(RecipeOrigin), *named]
        faults.append(f"recipe: there is no recipe {recipe!r}; {did_you_mean(recipe, known)}")
    return named.get(recipe, meant or "configured")


def _meant(given: Given) -> RecipeOrigin | None:
    """The recipe that other sections ask for; None where nothing says how to rank."""
    if "calibrate" in given:
        return "calibrated"
    return "configured" if "score" in given or "knowledge_distillation" in given else None


def _without_labels(space: SearchSpace, train: TrainSettings, given: Iterable[str]) -> Recipe:
    """The default, with a sample that leaves at least half of a small space to be judged."""
    kept = tuple(given)
    generator = make_generator(derive_seed("size of the space", 0))
    num_networks = count_architectures(space, _ENOUGH_NETWORKS, generator)
    if num_networks < _FEWEST_NETWORKS:
        return stream_alone(space, train, kept)
    return self_labelled(space, train, kept, num_reference=num_networks // 2)


def default_distiller(
    recipe: Recipe | str | None, calibration: CalibrateSettings | None, score: ScoreSettings
) -> dict[str, Any]:
    """The section `distill` where there is none.

    Args:
        recipe: Which one counts.
        calibration: The section `calibrate`.
        score: The section `score`.

    Returns:
        A set of the size that was measured; where nothing reads one, an image of each class that
        costs nothing.
    """
    is_read = reads_distilled_set(recipe, calibration, score)
    return dict(_MEASURED_SET if is_read else _STAND_IN)


def reads_distilled_set(
    recipe: Recipe | str | None, calibration: CalibrateSettings | None, score: ScoreSettings
) -> bool:
    """Whether anything ranks by images that the study distils; see `default_distiller`."""
    if isinstance(recipe, Recipe):
        return any(part.uses_distilled_set for part in recipe.parts)
    if recipe == "calibrated":
        recipes = () if calibration is None else calibration.recipes
        return not recipes or any(p.uses_distilled_set for each in recipes for p in each.parts)
    if recipe == "configured":
        looks = bool(zero_cost_among(score.signals)) and score.score_images == "distilled"
        return bool(trained_among(score.signals)) or looks
    return False  # the set comes with a recipe that was found elsewhere


# What is said of all that


def notices(
    given: Given,
    recipe: Recipe | str | None,
    calibration: CalibrateSettings | None,
    score: ScoreSettings,
    train: TrainSettings,
) -> tuple[str, ...]:
    """What a configuration that leaves sections out, or says what is not used, comes to.

    Args:
        given: What it says.
        recipe: Which one counts.
        calibration: The section `calibrate`.
        score: The section `score`.
        train: The section `train`.

    Returns:
        Sentences, each with the section it is about.
    """
    found = []
    says_nothing = "recipe" not in given and _meant(given) is None
    if says_nothing and isinstance(recipe, Recipe):
        found.append(f"recipe: {_default_words(recipe)}")
    if isinstance(recipe, Recipe) or recipe == "calibrated":
        found += _replaced_words(given, recipe, calibration, train)
    if recipe != "trusted" and not reads_distilled_set(recipe, calibration, score):
        found.append(f"distill: {_unread_words(given)}")
    return tuple(found)


def _default_words(recipe: Recipe) -> str:
    if recipe.stages:
        (length, num) = _length_words(recipe.stages[-1]), recipe.num_reference
        return (
            "no score, calibrate or recipe is given, so self_labelled ranks: training-free scores "
            f"and graphs, fitted to trainings of {num} architectures on the full data ({length}); "
            "a section calibrate buys labels of full trainings"
        )
    return (
        "no score, calibrate or recipe is given, and the space holds fewer than "
        f"{_FEWEST_NETWORKS} networks, too few for self_labelled: validation loss ranks, after a "
        f"training on the full data ({_length_words(recipe)})"
    )


def _length_words(part: Measuring) -> str:
    """Such as `num_steps: 360`, which is the section's own where it says one."""
    train = required(part.train, "a training")
    name = "num_epochs" if train.num_steps is None else "num_steps"
    return f"{name}: {getattr(train, name)}"


def _replaced_words(
    given: Given,
    recipe: Recipe | str,
    calibration: CalibrateSettings | None,
    train: TrainSettings,
) -> list[str]:
    """What the section `train` says and no training of a recipe that ships does."""
    asked = [name for name in REPLACED if name in given.train]
    recipes = [recipe] if isinstance(recipe, Recipe) else calibration.recipes if calibration else ()
    trained = [part.train for each in recipes for part in each.parts if part.train_on != "nothing"]
    own = [settings for settings in trained if settings is not None]
    unused = [
        name
        for name in asked
        if own
        and len(own) == len(trained)
        and all(getattr(settings, name) != getattr(train, name) for settings in own)
    ]
    if not unused:
        return []
    shown = " and ".join(f"{name}: {getattr(train, name)}" for name in unused)
    return [
        f"train: {shown} of the section is not used, for {_whose(recipe)} its own; to train "
        "candidates so, write a recipe without train, or set recipe: self_labelled"
    ]


def _whose(recipe: Recipe | str) -> str:
    if isinstance(recipe, Recipe):
        return f"the recipe {recipe_words(recipe)} says"
    return "each recipe of calibrate says"


def _unread_words(given: Given) -> str:
    if "distill" in given:
        return "nothing ranks by the distilled set; it is made because the section asks for it"
    return (
        "nothing reads a distilled set, so none is made: one random image of each class, which "
        "costs nothing, stands in its place"
    )
