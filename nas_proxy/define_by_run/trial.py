"""What a function is handed as its trial, and who chooses for it: Optuna, chance or a genotype."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)

from nas_proxy.errors import PluginError, UserError, did_you_mean, shorten
from nas_proxy.interfaces import Trial

Distribution = CategoricalDistribution | IntDistribution | FloatDistribution
Choose = Callable[[str, Distribution], Any]

_CHOICE_KINDS = (str, int, float, bool, type(None))
_MAX_REDRAWS = 1000  # of one value until it differs from the one that it replaces


class MismatchError(Exception):
    """Choices that were given are not those that the function asks for; the message says how."""


class FunctionTrial:
    """The part of Optuna's trial that a search space may use; it notes what is asked.

    A name that is asked for again gives the same value, as with Optuna.

    Args:
        choose: From a name and its distribution to the value.
        earlier: Distributions of the same names in other trials, to which new names are added;
            Optuna asks for one list of choices for each name, and one kind.

    Attributes:
        asked: The distribution of each name, in the order of the questions.
        params: The value of each, likewise.
    """

    def __init__(self, choose: Choose, earlier: dict[str, Distribution] | None = None) -> None:
        self.asked: dict[str, Distribution] = {}
        self.params: dict[str, Any] = {}
        self._choose = choose
        self._earlier = {} if earlier is None else earlier

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of `choices`, which are str, int, float, bool or None."""
        plain = tuple(_plain_choice(choice) for choice in choices)
        for index, choice in enumerate(plain):
            if any(_same(choice, other) for other in plain[:index]):
                raise UserError(f"the choice {choice!r} stands there twice; leave one out")
        return self._answer(name, CategoricalDistribution(plain))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """An integer in [low, high]."""
        return int(self._answer(name, IntDistribution(low, high, log=log, step=step)))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number in [low, high]."""
        return float(self._answer(name, FloatDistribution(low, high, log=log, step=step)))

    def __getattr__(self, name: str) -> Any:
        """Whatever else a trial of Optuna has.

        Raises:
            AttributeError: Always; in words, for the author of the function.
        """
        raise AttributeError(
            f"a search space chooses by trial.suggest_categorical, suggest_int and suggest_float "
            f"alone, so that equal choices are equal networks; it has no trial.{name}"
        )

    def _answer(self, name: str, distribution: Distribution) -> Any:
        if not isinstance(name, str):
            raise UserError(f"a choice is named by a text, not by {name!r}")
        if name in self.asked:
            if self.asked[name] != distribution:
                raise UserError(
                    f"it is asked for twice with different choices, {in_words(self.asked[name])} "
                    f"and {in_words(distribution)}; give each question a name of its own"
                )
            return self.params[name]
        check_distribution_compatibility(self._earlier.setdefault(name, distribution), distribution)
        value = self._choose(name, distribution)
        if not _contains(distribution, value):
            raise MismatchError(f"{name!r} cannot be {value!r}: it is {in_words(distribution)}")
        self.params[name] = float(value) if isinstance(distribution, FloatDistribution) else value
        self.asked[name] = distribution
        return self.params[name]


def from_trial(trial: Trial) -> Choose:
    """Choices of a trial of Optuna's, which has to know each question as it is asked."""

    def choose(name: str, distribution: Distribution) -> Any:
        if isinstance(distribution, CategoricalDistribution):
            return trial.suggest_categorical(name, distribution.choices)
        low, high, log = distribution.low, distribution.high, distribution.log
        if isinstance(distribution, IntDistribution):
            return trial.suggest_int(name, int(low), int(high), step=distribution.step, log=log)
        return trial.suggest_float(name, low, high, step=distribution.step, log=log)

    return choose


def by_chance(generator: torch.Generator) -> Choose:
    """Uniform draws from each distribution; those with `log` are uniform in the logarithm."""
    return lambda name, distribution: draw(distribution, generator)


def by_genotype(genotype: Mapping[str, Any], otherwise: Choose | None = None) -> Choose:
    """The values of a genotype.

    Args:
        genotype: From names to values.
        otherwise: Chooses what the genotype lacks, or has a value for that may not be chosen;
            None: that is a `MismatchError`.
    """

    def choose(name: str, distribution: Distribution) -> Any:
        if otherwise is not None and not (
            name in genotype and _contains(distribution, genotype[name])
        ):
            return otherwise(name, distribution)
        if name not in genotype:
            raise MismatchError(f"{name!r} is missing, which is {in_words(distribution)}")
        return genotype[name]

    return choose


def check_all_asked(genotype: Mapping[str, Any], trial: FunctionTrial) -> None:
    """Refuse values that nobody asked for.

    Raises:
        MismatchError: If there is one; the message names the nearest that is asked for.
    """
    for name in genotype:
        if name not in trial.asked:
            raise MismatchError(
                f"{name!r} is not asked for beside the others; {did_you_mean(name, trial.asked)}"
            )


def difference(first: Mapping[str, Distribution], second: Mapping[str, Distribution]) -> str:
    """The first parameter that is asked for otherwise, in words; empty if none is."""
    for name in [*first, *second]:
        one, other = first.get(name), second.get(name)
        if one != other:
            said = ["nothing" if each is None else in_words(each) for each in (one, other)]
            return f"{name!r} is {said[0]} the one time and {said[1]} the other"
    return ""


def draw(distribution: Distribution, generator: torch.Generator) -> Any:
    """One value, uniform over the choices; over the logarithm where the distribution says so."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[_below(len(distribution.choices), generator)]
    low, high, step = distribution.low, distribution.high, distribution.step
    if distribution.log:
        # As Optuna does: each integer has the room of half a unit on either side.
        room = 0.5 if isinstance(distribution, IntDistribution) else 0.0
        value = math.exp(_uniform(math.log(low - room), math.log(high + room), generator))
        return min(max(round(value) if room else value, low), high)
    if step is None:
        return _uniform(low, high, generator)
    return min(low + step * _below(_num_steps(low, high, step) + 1, generator), high)


def redraw(distribution: Distribution, value: Any, generator: torch.Generator) -> Any:
    """Another value than `value`, of a distribution that has more than one."""
    for _ in range(_MAX_REDRAWS):
        drawn = draw(distribution, generator)
        if not _same(drawn, value):
            return drawn
    raise PluginError(
        f"no other value than {value!r} is found where it is {in_words(distribution)}"
    )


def in_words(distribution: Distribution) -> str:
    """Such as "one of 16, 32", "a whole number from 1 to 4", "a number from 0.1 to 1 (log)"."""
    if isinstance(distribution, CategoricalDistribution):
        return f"one of {shorten(tuple(map(repr, distribution.choices)))}"
    kind = "a whole number" if isinstance(distribution, IntDistribution) else "a number"
    step = f" in steps of {distribution.step:g}" if distribution.step not in (None, 1) else ""
    log = " (log)" if distribution.log else ""
    return f"{kind} from {distribution.low:g} to {distribution.high:g}{step}{log}"


def _contains(distribution: Distribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return any(_same(value, choice) for choice in distribution.choices)
    kinds = int if isinstance(distribution, IntDistribution) else int | float
    if isinstance(value, bool) or not isinstance(value, kinds):
        return False
    low, high, step = distribution.low, distribution.high, distribution.step
    if not low <= value <= high:
        return False
    return step is None or math.isclose(
        value, low + step * _num_steps(low, value, step), rel_tol=1e-9, abs_tol=1e-9 * step
    )


def _plain_choice(choice: Any) -> Any:
    """A choice as JSON and Optuna hold it."""
    plain = choice.item() if getattr(choice, "ndim", None) == 0 else choice  # of numpy or torch
    if type(plain) not in _CHOICE_KINDS:  # exactly: an Enum's members would come back as others
        raise UserError(
            f"the choice {shorten(choice)} is a {type(choice).__name__}, and choices are texts, "
            "numbers, True, False or None; name it by a text and look that up in a dict"
        )
    if isinstance(plain, float) and not math.isfinite(plain):
        raise UserError(f"the choice {plain} is not finite")
    return plain


def _same(one: Any, other: Any) -> bool:
    """Equal and of one kind: 1 is neither True nor 1.0, which are other networks perhaps."""
    return type(one) is type(other) and bool(one == other)


def _num_steps(low: float, high: float, step: float) -> int:
    return round((high - low) / step)


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    share = float(torch.rand((), generator=generator, dtype=torch.float64))
    return low + (high - low) * share


def _below(number: int, generator: torch.Generator) -> int:
    return int(torch.randint(number, (), generator=generator))
