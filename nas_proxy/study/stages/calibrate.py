"""The stage `calibrate`: which recipe ranks as full training does, and what is the cheapest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_proxy.calibrate.race import Race, Standing, best_standing
from nas_proxy.calibrate.recipes import spelt_out
from nas_proxy.calibrate.result import CalibrationResult, StandingRow
from nas_proxy.calibrate.settings import CalibrateSettings
from nas_proxy.errors import StudyError, required
from nas_proxy.evaluate.log import Failures
from nas_proxy.interfaces import Distiller
from nas_proxy.report.frontier_figure import write_frontier
from nas_proxy.statistics.needed import to_reach
from nas_proxy.statistics.ranks import Estimate
from nas_proxy.statistics.words import decimal
from nas_proxy.study.config import StudyConfig
from nas_proxy.study.context import StudyContext
from nas_proxy.study.history import add_look
from nas_proxy.study.layout import StudyLayout
from nas_proxy.study.looks import look_of_calibration
from nas_proxy.study.measured_recipes import RecipeMeasurements
from nas_proxy.study.plain_values import dump_options
from nas_proxy.study.plan import StagePlan
from nas_proxy.study.recipe import ActiveRecipe
from nas_proxy.study.samples import SampleReferences
from nas_proxy.study.sources import IMAGES, PROXY_DATASET, SPACE, table_identity
from nas_proxy.study.stage import Section, Source, Stage
from nas_proxy.study.stage_plans import calibration_plan
from nas_proxy.types import Architecture


class Calibrate(Stage):
    """Writes `calibration.json`, the frontier as a figure, and the folder `recipe`.

    The evaluations of a race stay: a changed threshold, sample, budget or list of recipes is
    answered by another race on the same logs.
    """

    name = "calibrate"
    version = 4
    reads = (
        Section(name="seed"),
        Section(name="space"),
        Section(name="train"),
        Section(name="recipe"),
        Section(
            name="calibrate",
            free=("when_none",),
            continued=(
                "threshold",
                "num_architectures",
                "budget_seconds",
                "recipes",
                "reference.studies",
                "reference.registered",
            ),
        ),
    )
    sources = (
        IMAGES,
        SPACE,
        PROXY_DATASET,
        Source(
            name="truth table",
            identity=lambda study: table_identity(_settings(study.config).reference.table),
        ),
    )

    def writes(self, layout: StudyLayout) -> Iterable[Path]:
        """What the race found, and the recipe."""
        return (layout.calibration, layout.frontier, *layout.recipe.glob("*"))

    def is_wanted(self, config: StudyConfig) -> bool:
        """Whether a recipe is looked for."""
        return config.calibration is not None and config.recipe == "calibrated"

    def asked(self, study: StudyContext) -> Mapping[str, Any]:
        """The sample, which grows by what the guard of a search has checked."""
        return {"sample": [architecture.id for architecture in _sample(study).architectures]}

    def plan(self, study: StudyContext) -> StagePlan:
        """References and what recipes measure, of all that the race may ask for."""
        return _Calibration(study, _settings(study.config)).plan()

    def run(self, study: StudyContext, folder: Path) -> None:
        """Race the recipes."""
        result = _Calibration(study, _settings(study.config)).run()
        add_look(study.layout, look_of_calibration(study, result))
        study.display.say(f"calibrate: {result.verdict}")

    def check(self, study: StudyContext) -> None:
        """Refuse a recipe that does not reach the threshold, if `when_none` is `stop`."""
        result = CalibrationResult.read(study.layout.calibration)
        _refuse_untrusted(study.config, result)


def _settings(config: StudyConfig) -> CalibrateSettings:
    """The section `calibrate`, of a study that has one."""
    return required(config.calibration, "the section calibrate")


def _sample(study: StudyContext) -> SampleReferences:
    """The calibration sample, of a study that has one."""
    return required(study.calibration_sample, "the section calibrate")


def _refuse_untrusted(config: StudyConfig, result: CalibrationResult) -> None:
    if not result.trusted and _settings(config).when_none == "stop":
        raise StudyError(
            f"{result.verdict} {_more_architectures(config.distiller, result)} Otherwise lower "
            "calibrate.threshold, offer other recipes, or set calibrate.when_none to best to go on "
            "with it untrusted; the study continues with what is measured. The frontier: "
            f"{result.frontier}"
        )


def _more_architectures(distiller: Distiller, result: CalibrationResult) -> str:
    """Whether more of them could help, and how many."""
    if result.num_architectures < result.num_asked:
        way = "Raise calibrate.budget_seconds"
    elif distiller.needs_calibration:
        # The distilled set rests on that sample, so the distill stage refuses another one.
        way = "Raise calibrate.num_architectures under another study_name"
    else:
        way = "Raise calibrate.num_architectures"
    undecided = [
        (Estimate(standing.spearman.value, standing.bound, 1.0), standing)
        for standing in result.standings
        if standing.outcome == "open" and standing.spearman is not None
    ]
    found, nearest = max(undecided, key=lambda each: each[0].value, default=(None, None))
    if found is not None and nearest is not None and found.value > result.threshold:
        needed = to_reach(found, nearest.n, result.threshold, nearest.bound_confidence)
        many = f"about {needed.even} to {needed.likely}" if needed else "more"
        return (
            f"{way}: the correlation of {nearest.recipe} itself lies above the threshold, and "
            f"{many} architectures would show it if it stays there (with a probability of 50 to "
            "80 %)."
        )
    for standing in result.standings:
        if standing.outcome == "failed":
            return f"{way} if too few are why {standing.recipe} failed ({standing.reason})."
    would = "would not" if nearest is None else "are not likely to"
    return f"No recipe's correlation itself reaches it: more architectures {would} help."


class _Calibration:
    """One calibration at work."""

    def __init__(self, study: StudyContext, settings: CalibrateSettings) -> None:
        self._study = study
        self._settings = settings
        self._sample = _sample(study)
        self._measurements = RecipeMeasurements(study, settings.recipes)
        self._failures: dict[str, Failures] = {}
        self._race = Race(
            settings,
            len(self._sample.architectures),
            study.config.space.features,
            study.cost,
        )

    def run(self) -> CalibrationResult:
        """Race, and write what was found."""
        num_used, spent, references = 0, 0.0, {}
        for size in self._race.rounds():
            if num_used and not self._affordable(spent, size / num_used):
                break
            sample = self._sample.architectures[:size]
            references = self._sample.of(sample)
            evaluations = {
                recipe.name: self._measurements.of(recipe, sample) for recipe in self._race.running
            }
            for name, found in evaluations.items():
                self._failures[name] = Failures.among(found.values())
            # What a killed run did beyond this round is no reason to stop before it.
            num_used, spent = size, self._spent(sample)
            if self._race.judge(references, evaluations):
                break
        standings = self._race.standings()
        best = best_standing(standings)
        result = self._result(standings, best, num_used)
        self._write(result, standings, best, references)
        return result

    def plan(self) -> StagePlan:
        """See `Calibrate.plan`."""
        return calibration_plan(
            self._study, self._settings, self._sample, self._measurements.logs()
        )

    def _affordable(self, spent: float, growth: float) -> bool:
        """Whether the next round is likely to stay within the budget."""
        budget = self._settings.budget_seconds
        return budget is None or spent * growth <= budget

    def _spent(self, sample: Sequence[Architecture]) -> float:
        """Seconds of one process on references and recipes of `sample`, earlier runs included."""
        among = set(sample)
        layout, logs = self._study.layout, self._study.logs
        paths = [*layout.stage_logs("calibrate"), *layout.sample_logs()]
        found = (e for path in paths for e in logs.evaluations(path) if e.architecture in among)
        return sum(evaluation.seconds for evaluation in found)

    def _result(
        self,
        standings: Sequence[Standing],
        best: Standing | None,
        num_used: int,
    ) -> CalibrationResult:
        trusted = best is not None and best.outcome == "chosen"
        return CalibrationResult(
            verdict=" ".join(
                (
                    _verdict(self._settings, best, num_used, trusted=trusted),
                    *self._sample.taken_words(num_used),
                    *_failure_words(self._failures),
                )
            ),
            trusted=trusted,
            chosen=best.recipe.name if best else None,
            threshold=self._settings.threshold,
            reference_name=self._sample.name,
            num_architectures=num_used,
            num_asked=len(self._sample.architectures),
            seconds=self._spent(self._sample.architectures),
            frontier=str(self._study.layout.frontier),
            standings=tuple(map(_row, standings)),
            points=self._race.points(),
        )

    def _write(
        self,
        result: CalibrationResult,
        standings: Sequence[Standing],
        best: Standing | None,
        references: Mapping[Architecture, float],
    ) -> None:
        if best is None:
            raise StudyError("no recipe could be judged: " + "; ".join(s.reason for s in standings))
        used = self._sample.architectures[: result.num_architectures]
        evaluations = self._measurements.of(best.recipe, used)
        found = ActiveRecipe(
            spelt_out(best.recipe, self._study.config.train),
            [evaluations[a] for a in used],
            {a: references[a] for a in used if a in references},
            # A distiller may have learned from all of it; what studies that it took from looked at
            # had a part in whatever was chosen since.
            [*self._sample.architectures, *self._sample.set_aside],
        )
        layout = self._study.layout
        found.save(layout.recipe, layout.proxy_dataset)
        self._sample.save(layout.recipe, used)
        write_frontier(result, layout.frontier)
        result.write(layout.calibration)


def _row(standing: Standing) -> StandingRow:
    return StandingRow(
        recipe=standing.recipe.name,
        settings=dump_options(standing.recipe),
        outcome=standing.outcome,
        reason=standing.reason,
        n=standing.n,
        spearman=standing.spearman,
        seconds_per_architecture=standing.seconds_per_architecture,
        num_failed=standing.num_failed,
        bound=standing.bound,
        bound_confidence=standing.bound_confidence,
        difference=standing.difference,
    )


def _failure_words(failures: Mapping[str, Failures]) -> list[str]:
    """Of which recipes most evaluations failed, by their names: one sentence for each reason.

    A recipe that needs no training may be all that is left, for a reason that has to be known.
    """
    recipes: dict[Failures, list[str]] = {}
    for name, found in failures.items():
        if found.most:
            recipes.setdefault(found, []).append(name)
    return [f"Of {', '.join(names)} {found}." for found, names in recipes.items()]


def _verdict(
    settings: CalibrateSettings, best: Standing | None, num_used: int, *, trusted: bool
) -> str:
    threshold = decimal(settings.threshold)
    if best is None:
        return "No recipe could be judged."
    shown = (
        f"Spearman {best.spearman} at n = {best.n}, {best.seconds_per_architecture:.2g} s for each "
        "architecture"
    )
    bound = (
        f"the bound that {len(settings.recipes)} recipes and several looks ask for "
        f"({100 * best.bound_confidence:.4g} % confidence) is "
        f"{'missing' if best.bound is None else decimal(best.bound)}, which"
    )
    if trusted:
        return (
            f"The ranking of the recipe {best.recipe.name} can be trusted, and of those that can "
            f"and cost little more than the cheapest it ranks best: {shown}; {bound} reaches "
            f"{threshold}."
        )
    return (
        f"No recipe reaches a lower bound of {threshold} with the {num_used} full-data references "
        f"that were paid for; the nearest is {best.recipe.name}: {shown}; {bound} does not."
    )
