"""Fitting a study to its budget: a few steps are timed, and the largest sizes that fit are kept.

What was chosen lies in the study's folder. A run that goes on with the study takes it from there,
however fast the machine is by then, so that one study has one size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from nas_proxy.core.environment import hardware, num_cores
from nas_proxy.core.locks import sole_user
from nas_proxy.core.results import StoredResult
from nas_proxy.errors import ConfigError
from nas_proxy.evaluate.sample import count_architectures
from nas_proxy.reproducibility import derive_seed, make_generator
from nas_proxy.statistics.words import duration, duration_seconds
from nas_proxy.study.all_stages import STAGES
from nas_proxy.study.budget import COUNTED, LEVELS, Sizes, with_values
from nas_proxy.study.config import StudyConfig, check_config
from nas_proxy.study.context import StudyContext
from nas_proxy.study.display import Display
from nas_proxy.study.estimate import Price, StageEstimate, TaskEstimate, Timed, estimate_stages
from nas_proxy.study.logs import StudyLogs
from nas_proxy.study.looking import idle_study
from nas_proxy.study.plan import DistillUnit, SingleUnit
from nas_proxy.study.stage import plan_stages
from nas_proxy.study.timekeeping import Timekeeper
from nas_proxy.types import Progress

_AIM = 0.9  # of the budget: what a search likes best is seldom what is cheapest
_OVERHEAD = 30.0  # seconds by the clock for what is not timed: processes, figures, model files
_TIMING_SHARE, _TIMING_SECONDS = 0.06, (8.0, 60.0)
_CALIBRATES_FROM = LEVELS // 2  # full trainings to learn from must not starve the rest


@dataclass(frozen=True, kw_only=True)
class ChosenSizes(StoredResult):
    """What a study with a budget does of everything.

    Attributes:
        budget: As the configuration says it.
        values: What was chosen, by option.
        level: How large, from 0, the least, to `LEVELS`.
        expected_seconds: By the clock, of all that was planned.
        timing_seconds: By the clock, that the timing took; they count.
        hardware: What was timed on.
        words: The same for people, a sentence each.
    """

    FORMAT: ClassVar[int] = 1

    budget: str
    values: dict[str, Any]
    level: int
    expected_seconds: float
    timing_seconds: float
    hardware: str
    words: tuple[str, ...]


def within_budget(
    config: StudyConfig, display: Display, *, write: bool = True, anew: bool = False
) -> StudyConfig:
    """The configuration with sizes that fit its budget; the same if it has none.

    Args:
        config: What the user wrote.
        display: Told what was chosen, and shows progress.
        write: Whether the study's folder keeps it; otherwise the next run chooses again.
        anew: Whether to choose again, though the study has sizes.

    Raises:
        ConfigError: If the least honest study takes longer, or the study has another budget.
        UserError: If something is wrong that the user can mend.
    """
    if config.budget is None:
        return config
    file = config.layout.budget
    if file.is_file() and not anew:
        chosen = ChosenSizes.read(file)
        _refuse_other_budget(config, chosen)
    else:
        chosen = _choose(config, display)
        if write:
            with sole_user(config.layout.folder):
                chosen.write(file)
    for sentence in chosen.words:
        display.say(f"budget: {sentence}")
    return check_config(with_values(config.given, chosen.values))


def _refuse_other_budget(config: StudyConfig, chosen: ChosenSizes) -> None:
    if duration_seconds(chosen.budget) == duration_seconds(str(config.budget)):
        return
    raise ConfigError(
        f"budget: this study was begun with {chosen.budget}, and its sizes stay; raise single ones "
        "(such as search.n_trials) with that budget, choose another study_name, or pass --force to "
        "nas-proxy run, which repeats everything"
    )


# Choosing


@dataclass(frozen=True)
class Fit:
    """Sizes that a study could have.

    Attributes:
        level: See `nas_proxy.study.budget.Sizes.at`.
        calibrates: Likewise.
    """

    level: int
    calibrates: bool = False


def largest_that_fits(
    seconds: Callable[[Fit], float], available: float, smallest: Fit = Fit(0)
) -> Fit | None:
    """The largest sizes that take no longer than is available; None if the smallest do.

    Args:
        seconds: What sizes take; more for a higher level.
        available: Seconds.
        smallest: Where to begin.
    """
    if seconds(smallest) > available:
        return None
    low, high = smallest.level, LEVELS
    while low < high:
        middle = (low + high + 1) // 2
        if seconds(replace(smallest, level=middle)) <= available:
            low = middle
        else:
            high = middle - 1
    return replace(smallest, level=low)


def _choose(config: StudyConfig, display: Display) -> ChosenSizes:
    started, budget = time.monotonic(), duration_seconds(str(config.budget))
    base = idle_study(config, _Silent(display), StudyLogs(look_only=True))
    generator = make_generator(derive_seed("size of the space", 0))
    sizes = Sizes(
        config=config,
        spec=base.splits.spec,
        num_images=len(base.splits.search_train),
        num_cores=num_cores(),
        num_networks=count_architectures(config.space, COUNTED, generator),
    )
    estimator = _Estimator(base, sizes, display)

    def available() -> float:
        return _AIM * budget - _OVERHEAD - (time.monotonic() - started)

    estimator.time(Fit(0))
    fit = largest_that_fits(estimator.seconds, available())
    if fit is None:
        raise _too_short(config, estimator, time.monotonic() - started)
    if fit.level == LEVELS and sizes.may_calibrate:  # there is time for labels of full trainings
        learning = Fit(_CALIBRATES_FROM, calibrates=True)
        estimator.time(learning)
        fit = largest_that_fits(estimator.seconds, available(), learning) or fit
    return estimator.chosen(fit, time.monotonic() - started)


class _Estimator:
    """What sizes take on this machine, by candidates that are timed once."""

    def __init__(self, base: StudyContext, sizes: Sizes, display: Display) -> None:
        self._base = base
        self._sizes = sizes
        self._display = display
        self._stages: dict[Fit, list[StageEstimate]] = {}
        self._timed: list[Timekeeper] = []

    def time(self, fit: Fit) -> None:
        """Time what sizes consist of, longer where a busy machine had no time for all of it.

        Of another level the pieces are the same, only more of them, and longer.

        Raises:
            ConfigError: If something cannot be timed.
        """
        study = self._study(fit)
        plans = plan_stages(STAGES, study)
        least, most = _TIMING_SECONDS
        budget = duration_seconds(str(self._base.config.budget))
        allowed = min(most, max(least, _TIMING_SHARE * budget))
        for seconds in (allowed, 3 * allowed, 9 * allowed):
            self._display.say(
                f"budget: {self._base.config.budget}: a few steps of random candidates are timed "
                f"first, for up to {seconds:.0f} s, which count"
            )
            with self._display.progress("timing") as progress:
                timed = Timekeeper(study, seconds, study.executor.num_workers, progress)
                timed.measure(plans)
            self._timed.append(timed)
            unknown = self._unknown(fit)
            if not unknown:
                return
            self._stages.pop(fit)
        raise ConfigError(
            f"budget: what {unknown[0].what} will take could not be timed ({unknown[0].unknown}); "
            "mend that, or leave budget out and give the sizes"
        )

    def _unknown(self, fit: Fit) -> list[TaskEstimate]:
        tasks = [task for stage in self.stages(fit) for task in stage.tasks]
        return [task for task in tasks if task.total and task.core_seconds is None]

    def seconds(self, fit: Fit) -> float:
        """By the clock, if everything that is planned is done."""
        return sum(_most_seconds(task) for stage in self.stages(fit) for task in stage.tasks)

    def stages(self, fit: Fit) -> list[StageEstimate]:
        """The estimates that this rests on."""
        if fit not in self._stages:
            study = self._study(fit)
            plans, workers = plan_stages(STAGES, study), study.executor.num_workers
            fresh = [plan.from_the_beginning() for plan in plans]
            self._stages[fit] = estimate_stages(fresh, self._price(study.config), workers)
        return self._stages[fit]

    def chosen(self, fit: Fit, timing_seconds: float) -> ChosenSizes:
        """What is kept."""
        config = self._base.config
        expected = self.seconds(fit)
        values = self._sizes.at(fit.level, calibrates=fit.calibrates)
        beside = timing_seconds + _OVERHEAD
        return ChosenSizes(
            budget=str(config.budget),
            values=values,
            level=fit.level,
            expected_seconds=expected,
            timing_seconds=timing_seconds,
            hardware=hardware(self._base.device),
            words=(
                f"{config.budget}: at most {duration(expected)} of it are planned beside "
                f"{duration(beside)} for timing and what is not timed",
                *(words for stage in self.stages(fit) for words in _stage_words(stage)),
                *_value_words(values),
            ),
        )

    def _study(self, fit: Fit) -> StudyContext:
        """The study as it would be, of which everything is only looked at."""
        values = self._sizes.at(fit.level, calibrates=fit.calibrates)
        config = check_config(with_values(self._base.config.given, values))
        is_serial = config.search.executor == "serial"
        workers = 1 if is_serial else config.search.num_workers
        idle = replace(self._base.executor, num_workers=workers)  # type: ignore[type-var]
        return replace(self._base, config=config, executor=idle)

    def _price(self, config: StudyConfig) -> Price:
        """What a unit costs, by whoever has timed it."""

        def price(unit: SingleUnit) -> Timed | str:
            found: Timed | str = "it was not timed"
            for timed in reversed(self._timed):
                found = timed.price(unit)
                if isinstance(found, Timed):
                    is_distilling = isinstance(unit, DistillUnit)
                    return _for_steps(found, timed.study.config, config) if is_distilling else found
            return found

        return price


def _for_steps(found: Timed, timed: StudyConfig, config: StudyConfig) -> Timed:
    """What a distillation takes, by one of the same method with another number of steps."""
    steps, before = (getattr(each.distiller, "num_steps", None) for each in (config, timed))
    if not steps or not before:
        return found
    return replace(found, seconds=tuple(each * steps / before for each in found.seconds))


def _most_seconds(task: TaskEstimate) -> float:
    """By the clock, of all that a task may come to: a proof need not end early."""
    if task.wall_seconds is None or not task.likely_left:
        return 0.0
    return task.wall_seconds.expected * (task.total - task.done) / task.likely_left


def _too_short(config: StudyConfig, estimator: _Estimator, spent: float) -> ConfigError:
    least = (estimator.seconds(Fit(0)) + _OVERHEAD + spent) / _AIM
    enough = math.ceil(least / 60)
    return ConfigError(
        f"budget: {config.budget} is too short for a result that says something; the least takes "
        f"about {duration(least)} here; set budget to {enough}min or more, or give smaller sizes "
        "yourself, such as search.n_trials, validate.num_architectures or train.image_size"
    )


# Words


def _stage_words(stage: StageEstimate) -> list[str]:
    wall = sum(map(_most_seconds, stage.tasks))
    if wall < 1:
        return []
    done = ", ".join(f"{task.total} {task.what}" for task in stage.tasks if task.total)
    buys = f"; buys {stage.buys[0]}" if stage.buys else ""
    return [f"{stage.stage}: {done}: at most {duration(wall)}{buys}"]


def _value_words(values: Mapping[str, Any]) -> list[str]:
    words = ", ".join(_spelt(option, value) for option, value in values.items())
    return [f"chosen: {words}"] if words else ["everything is fixed, so nothing was chosen"]


def _spelt(option: str, value: Any) -> str:
    """A value that was chosen, without what is not a size of it."""
    if option == "recipe":
        return f"recipe: {value['name']}"
    if isinstance(value, Mapping):
        train = value.get("train", value)
        length = train.get("num_epochs")
        inner = f"{length} epochs" if length else f"at most {value.get('max')}"
        return f"{option}: {inner}"
    return f"{option}: {value}"


class _Silent:
    """A display that shows progress and says nothing: the run will."""

    def __init__(self, display: Display) -> None:
        self._display = display

    def say(self, message: str) -> None:
        """Nothing."""

    @contextmanager
    def progress(self, title: str) -> Iterator[Progress]:
        """As ever."""
        with self._display.progress(title) as progress:
            yield progress
