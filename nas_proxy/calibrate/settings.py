"""The configuration section `calibrate`: recipes, and when one of them may be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import count
from statistics import NormalDist
from typing import Annotated, Literal

from nas_proxy.calibrate.recipes import NUM_DEFAULT, Recipe, default_recipes
from nas_proxy.interfaces import SearchSpace
from nas_proxy.options import Bound, Options, PositiveFloat, Shorthand
from nas_proxy.train.settings import TrainSettings
from nas_proxy.validate.settings import MIN_FOR_INTERVAL, Reference

# One seed of a full training against another, on NAS-Bench-201. Both sides are noisy: a ranking
# without any noise would reach the square root (Spearman's correction for attenuation, 1904).
_REPEATED = 0.986
_LIMIT = math.sqrt(_REPEATED)
_FIRST_ROUND = 12  # architectures before anything is dropped


@dataclass(frozen=True, kw_only=True)
class CalibrationReference(Reference):
    """A reference that earlier studies may have paid for.

    Attributes:
        studies: Names of studies in the same results folder, whose calibration samples were trained
            in the same way on the same images and space. What they have is not trained again, and
            nothing that they looked at judges this study.
        registered: The same of recipes in the model registry, each an alias such as `trusted` or a
            version, of this space and these images.
    """

    studies: tuple[str, ...] = ()
    registered: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse studies where there is nothing to pay for."""
        super().__post_init__()
        for option, names in (("studies", self.studies), ("registered", self.registered)):
            if names and self.table is not None:
                raise ValueError(
                    f"{option} gives trained references; with a table, leave {option} out"
                )
            if len(set(names)) < len(names):
                raise ValueError(f"{option} names one twice: {', '.join(names)}")


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings(Options):
    """How a recipe is found whose ranking can be trusted.

    Attributes:
        reference: What recipes are held against: a benchmark's table, or full-data trainings,
            which are measured on the search-validation images and never on the test split.
        num_architectures: Full-data references to use at most, those of other studies first. They
            are drawn for this purpose and never judge the study.
        budget_seconds: Wall-clock seconds of one process that the stage may spend on references
            and recipes; what is running is finished. None: no limit.
        recipes: What is raced; `default`: see `nas_proxy.calibrate.recipes`.
        threshold: What the lower bound of Spearman's rho must reach, at a confidence that allows
            for the number of recipes and of looks at them; see `bound_confidence`.
        when_none: What follows if none does. `stop`: the study ends with the frontier. `best`: it
            goes on with the recipe whose interval has the highest lower end, untrusted.
    """

    reference: CalibrationReference
    num_architectures: Annotated[int, Bound(ge=MIN_FOR_INTERVAL)] = 48
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
        needed = architectures_needed(self.threshold, len(self.recipes) or NUM_DEFAULT)
        if self.num_architectures < needed:
            raise ValueError(
                f"num_architectures is {self.num_architectures}, but a lower bound of "
                f"{self.threshold:g} takes at least {needed} architectures even for a ranking "
                f"without any noise (about {_LIMIT:.3f}); raise num_architectures or lower "
                "threshold"
            )


def round_sizes(num_architectures: int) -> tuple[int, ...]:
    """Sizes of the sample at which recipes are compared: 12, then twice as many each time."""
    sizes = [min(_FIRST_ROUND, num_architectures)]
    while sizes[-1] < num_architectures:
        sizes.append(min(2 * sizes[-1], num_architectures))
    return tuple(sizes)


def bound_confidence(num_recipes: int, num_rounds: int) -> float:
    """Of the bound that is held against the threshold: Bonferroni's over all looks at all recipes.

    Both sides together, as for the interval that is shown, so that half of what is left to 1 is
    the chance that any recipe below the threshold passes.
    """
    return 1 - 0.05 / max(1, num_recipes * num_rounds)


def architectures_needed(threshold: float, num_recipes: int) -> int:
    """The smallest sample on which a ranking without any noise has its lower bound there.

    By Fisher's z with the variance 1.06 / (n - 3) of Spearman's rho (Fieller et al., "Tests for
    rank correlation coefficients", Biometrika 1957).

    Args:
        threshold: See `CalibrateSettings`.
        num_recipes: How many are raced.

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
    return next(
        n
        for n in count(MIN_FOR_INTERVAL)
        if _students_quantile(bound_confidence(num_recipes, len(round_sizes(n))), n - 2)
        * math.sqrt(1.06 / (n - 3))
        <= reach
    )


def _students_quantile(confidence: float, freedom: int) -> float:
    """By Cornish and Fisher's expansion, for reading a configuration must not load SciPy."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2


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
