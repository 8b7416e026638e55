"""The configuration section `calibrate`: recipes, and when one of them may be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from nas_proxy.calibrate.recipes import Recipe, default_recipes
from nas_proxy.interfaces import SearchSpace
from nas_proxy.options import Bound, Options, PositiveFloat, Shorthand
from nas_proxy.train.settings import TrainSettings
from nas_proxy.validate.settings import Reference

# One seed of a full training against another, on NAS-Bench-201. Both sides are noisy: a ranking
# without any noise would reach the square root (Spearman's correction for attenuation, 1904).
_REPEATED = 0.986
_LIMIT = math.sqrt(_REPEATED)


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
    num_architectures: Annotated[int, Bound(ge=10)] = 48
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
    if settings.recipes:
        return settings
    return replace(settings, recipes=default_recipes(space, train))
