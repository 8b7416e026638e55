"""The configuration section `calibrate`: recipes, and when one of them may be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from nas_proxy.interfaces import SearchSpace
from nas_proxy.knowledge.settings import DistillationOption
from nas_proxy.options import Bound, Options, PositiveFloat, Shorthand
from nas_proxy.scores.combine import ScoreSettings
from nas_proxy.scores.signals import higher_is_better, trained_among
from nas_proxy.train.settings import TrainSettings
from nas_proxy.validate.settings import Reference

# One seed of a full training against another, on NAS-Bench-201. Both sides are noisy: a ranking
# without any noise would reach the square root (Spearman's correction for attenuation, 1904).
_REPEATED = 0.986
_LIMIT = math.sqrt(_REPEATED)


@dataclass(frozen=True, kw_only=True)
class Recipe(Options):
    """One way to rank architectures: a data set with its labels, a fidelity, and signals.

    Attributes:
        name: In reports and on the command line.
        train_on: `proxy`: the study's distilled set, with its labels. `full_data`: all
            search-training images. `nothing`: zero-cost signals alone.
        train: How candidates are trained on it, and at which fidelity; None: the section `train`.
        distillation: What candidates learn beside the labels; None: nothing.
        score: What is measured, and how it becomes one number.
    """

    name: str
    train_on: Literal["proxy", "full_data", "nothing"] = "proxy"
    train: TrainSettings | None = None
    distillation: DistillationOption | None = None
    score: ScoreSettings = field(default_factory=ScoreSettings)

    def __post_init__(self) -> None:
        """Refuse signals, and a distillation, that the recipe's training cannot give."""
        trained = trained_among(self.score.signals)
        if self.train_on == "nothing" and trained:
            raise ValueError(
                f"recipe {self.name!r} trains on nothing, but its signal {trained[0]} needs a "
                "training; set train_on to proxy or full_data"
            )
        if self.train_on != "nothing" and not trained:
            for signal in self.score.signals:
                higher_is_better(signal)  # a misspelt one is named as such
            raise ValueError(
                f"recipe {self.name!r} has no signal of a training; set train_on: nothing"
            )
        if self.distillation is not None:
            self.distillation.check_for_candidates(self.train_on)

    @property
    def uses_proxy(self) -> bool:
        """Whether it looks at the distilled set or at its teachers."""
        return (
            self.train_on == "proxy"
            or self.score.score_images == "distilled"
            or any(signal.startswith("teacher_agreement") for signal in self.score.signals)
        )


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings(Options):
    """How a recipe is found whose ranking can be trusted.

    Attributes:
        reference: What recipes are held against: a benchmark's table, or full-data trainings,
            which are measured on the search-validation images and never on the test split.
        num_architectures: Full-data references to pay for at most. They are drawn for this purpose
            and never judge the study.
        budget_seconds: Wall-clock seconds of one process that the stage may spend on references
            and recipes; what is running is finished. None: no limit.
        recipes: What is raced; `default`: see `nas_proxy.calibrate.recipes`.
        threshold: The lower end of the 95 % interval of Spearman's rho that a recipe must reach.
        when_none: What follows if none does. `stop`: the study ends with the frontier. `best`: it
            goes on with the recipe whose interval has the highest lower end, untrusted.
    """

    reference: Reference
    num_architectures: Annotated[int, Bound(ge=6)] = 48
    budget_seconds: PositiveFloat | None = None
    recipes: Annotated[tuple[Recipe, ...], Shorthand(lambda word: _named_list(word))] = ()
    threshold: Annotated[float, Bound(gt=-1, lt=1)] = 0.7
    when_none: Literal["stop", "best"] = "stop"

    def __post_init__(self) -> None:
        """Refuse a sample that no correlation could lift above the threshold."""
        names = [recipe.name for recipe in self.recipes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two recipes have the name {twice[0]!r}; name them apart")
        needed = architectures_needed(self.threshold)
        if self.num_architectures < needed:
            raise ValueError(
                f"num_architectures is {self.num_architectures}, but a lower bound of "
                f"{self.threshold:g} takes at least {needed} architectures even for a ranking "
                f"without any noise (about {_LIMIT:.3f}); raise num_architectures or lower "
                "threshold"
            )


def architectures_needed(threshold: float) -> int:
    """The smallest sample on which a ranking without any noise has its lower 95 % bound there.

    By Fisher's z with the variance 1.06 / (n - 3) of Spearman's rho (Fieller et al., "Tests for
    rank correlation coefficients", Biometrika 1957).

    Raises:
        ValueError: If not even such a ranking could be expected to reach the threshold.
    """
    if threshold >= _LIMIT:
        raise ValueError(
            f"threshold is {threshold:g}, but even a ranking without any noise would agree with "
            f"one full training by about {_LIMIT:.3f} (one full training agrees with another by "
            f"{_REPEATED}); lower it"
        )
    reach = math.atanh(_LIMIT) - math.atanh(threshold)
    return max(6, math.ceil(3 + 1.06 * (1.96 / reach) ** 2))


def _named_list(word: str) -> tuple[Recipe, ...]:
    if word != "default":
        raise ValueError(f"recipes is {word!r}; write default, or list recipes")
    return ()  # empty until the space is known: see `with_default_recipes`


def with_default_recipes(
    settings: CalibrateSettings, space: SearchSpace, train: TrainSettings
) -> CalibrateSettings:
    """The settings with the list that ships where none was given."""
    from nas_proxy.calibrate.recipes import default_recipes

    if settings.recipes:
        return settings
    return replace(settings, recipes=default_recipes(space, train))
