"""The stage `validate`: does the proxy rank architectures as full training does?

The architectures are drawn for this purpose and none of them had a part in the score. Nothing that
is measured here goes back into the search.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nas_proxy.errors import required
from nas_proxy.evaluate.cascade import cost_until
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory
from nas_proxy.evaluate.log import alone, merged_each
from nas_proxy.evaluate.table import TruthTable, read_references, values_of
from nas_proxy.reproducibility import derive_seed
from nas_proxy.scores.calibrated import CalibratedScore
from nas_proxy.scores.cascade import CascadeScore, FirstStage
from nas_proxy.scores.combine import Score, SingleSignal
from nas_proxy.scores.signals import trained_among, zero_cost_among
from nas_proxy.study.cascades import (
    Factory,
    candidates_factory,
    cascade_words,
    refuse_other_cuts,
    score_sample,
)
from nas_proxy.study.config import StudyConfig
from nas_proxy.study.context import StudyContext
from nas_proxy.study.controls import (
    DISTILLED_READINGS,
    control_score,
    distilled_control,
    has_distilled_control,
    labels_alone,
    scores_of_same,
    trained_controls,
)
from nas_proxy.study.history import add_look
from nas_proxy.study.layout import StudyLayout
from nas_proxy.study.ledger import one_off_seconds
from nas_proxy.study.looks import look_of_report
from nas_proxy.study.plan import StagePlan
from nas_proxy.study.rankings import Evaluations, failures, mean_cost, ranking_by
from nas_proxy.study.recipe import ActiveRecipe
from nas_proxy.study.recipe_units import sample_task
from nas_proxy.study.samples import draw_validation
from nas_proxy.study.sequential import Measured, settle, trust_threshold
from nas_proxy.study.sources import (
    CALIBRATION_SAMPLE,
    IMAGES,
    PROXY_DATASET,
    RANKED_BY,
    RECIPE,
    SCORE_REFERENCE,
    SPACE,
    table_identity,
)
from nas_proxy.study.stage import Section, Source, Stage
from nas_proxy.study.stage_plans import validation_plan
from nas_proxy.types import Architecture, Evaluation
from nas_proxy.validate.combination import best_combination
from nas_proxy.validate.looks import look_words
from nas_proxy.validate.rank_report import judge, points_of
from nas_proxy.validate.settings import ValidateSettings
from nas_proxy.validate.values import Points, Ranking, RankReport, Sample, Stopping

_REFERENCE_SIGNAL = "test_accuracy"
_SIZES = {"parameters": "num_params", "FLOPs": "flops"}  # what bigger is, and its signals

_COLUMNS = tuple(f"reference.{key}" for key in ("table", "architecture", "value", "second_value"))


class Validate(Stage):
    """Writes `rank_report.json` and `points.json`: every architecture's scores and reference.

    Args:
        after_search: Whether a search has evaluated the score's reference sample before.
    """

    name = "validate"
    version = 4
    reads = (
        Section(name="seed"),
        Section(name="space"),
        *RANKED_BY,
        # The evaluations of a proxy stay when another column or more architectures are to judge
        # them; see `study/history`.
        Section(name="validate", continued=("num_architectures", "stop", *_COLUMNS)),
    )
    sources = (
        IMAGES,
        SPACE,
        PROXY_DATASET,
        RECIPE,
        SCORE_REFERENCE,
        CALIBRATION_SAMPLE,
        Source(
            name="truth table",
            identity=lambda study: table_identity(_settings(study.config).reference.table),
            continued=True,
        ),
    )
    not_wanted = "the config has no section validate; the ranking is not judged"

    def __init__(self, *, after_search: bool = True) -> None:
        self._after_search = after_search

    def writes(self, layout: StudyLayout) -> Iterable[Path]:
        """The judgement, and what it rests on."""
        return (layout.points, layout.rank_report)

    def is_wanted(self, config: StudyConfig) -> bool:
        """Whether the ranking is to be judged."""
        return config.validation is not None

    def asked(self, study: StudyContext) -> Mapping[str, Any]:
        """What settles a verdict: a calibration may come to ask for more."""
        is_sequential = _settings(study.config).is_sequential
        return {"threshold": trust_threshold(study.config)} if is_sequential else {}

    def plan(self, study: StudyContext) -> StagePlan:
        """The judged ranking, its controls, and the references."""
        plan = validation_plan(study, _settings(study.config), tuple(_SIZES.values()))
        if self._after_search or not study.recipe.recipe.num_reference:
            return plan
        sample = sample_task(study, study.recipe.recipe, study.layout.judged_score_reference)
        return replace(plan, tasks=(sample, *plan.tasks))

    def run(self, study: StudyContext, folder: Path) -> None:
        """Judge the ranking."""
        sample = list(study.logs.evaluations(study.layout.score_reference))
        if not self._after_search:
            sample = score_sample(study, study.recipe, study.layout.judged_score_reference)
        report, points = _Validation(study, _settings(study.config), sample).run()
        look = look_of_report(study, report, points)
        words = look_words(look, add_look(study.layout, look))
        report = replace(report, verdict=" ".join(filter(None, (report.verdict, words))))
        points.write(study.layout.points)
        report.write(study.layout.rank_report)
        study.display.say(f"validate: {report.verdict}")


def _settings(config: StudyConfig) -> ValidateSettings:
    """The section `validate`, of a study that has one."""
    return required(config.validation, "the section validate")


@dataclass(frozen=True)
class _Validation:
    """One validation at work."""

    study: StudyContext
    settings: ValidateSettings
    score_reference: Sequence[Evaluation]

    @cached_property
    def active(self) -> ActiveRecipe:
        return self.study.recipe.labelled(self.score_reference)

    @cached_property
    def score(self) -> Score:
        return self.active.score(self.study.config.space, self.score_reference)

    @cached_property
    def tables(self) -> tuple[TruthTable | None, TruthTable | None]:
        """The reference's, and that of another seed."""
        reference = self.settings.reference
        if reference.table is None:
            return None, None
        columns = (reference.architecture, reference.value, reference.second_value)
        return read_references(Path(reference.table), self.study.config.space, *columns)

    @cached_property
    def trained_signals(self) -> tuple[str, ...]:
        """The signals of the score that need a training."""
        return trained_among(self.score.signals)

    @cached_property
    def zero_cost_signals(self) -> tuple[str, ...]:
        """The zero-cost signals of the score and of the controls."""
        return zero_cost_among(tuple(dict.fromkeys((*self.score.signals, *self.settings.controls))))

    def run(self) -> tuple[RankReport, Points]:
        architectures, stopping = self._used()
        proxy = self._evaluate("proxy", self._proxy_factory(), architectures)
        zero_cost = {
            name: self._zero_cost(name, proxy, architectures)
            for name in dict.fromkeys((*self.zero_cost_signals, *_SIZES.values()))
        }
        judged = self._proxy_ranking(proxy, architectures)
        rankings = self._zero_cost_rankings(zero_cost)
        rankings += labels_alone(self.active, self.study.config.space, architectures)
        rankings += self._trained_controls(architectures, zero_cost)
        rankings += self._first_stage(proxy)
        reference, reference_name, reference_seconds = self._reference(architectures)
        sizes = {words: values_of(name, zero_cost[name]) for words, name in _SIZES.items()}
        sample = Sample(architectures, reference, sizes)
        rankings += self._best_zero_cost(rankings, sample)
        rankings += self._same_evaluations(proxy, architectures)
        rankings += self._reference_again(architectures)
        report = judge(
            judged,
            rankings,
            sample,
            self.settings,
            reference_name=reference_name,
            reference_seconds=reference_seconds,
            stopping=stopping,
        )
        words = cascade_words(self.active, self.score, proxy, reference, self.settings)
        report = replace(report, verdict=" ".join((report.verdict, *words)))
        return report, points_of(self.study.config.space, sample, judged, rankings)

    def _used(self) -> tuple[list[Architecture], Stopping | None]:
        """The architectures that judge: all that are drawn, or as many as settle the verdict."""
        drawn = draw_validation(
            self.study.config, self.settings, self.tables[0], excluded=self._set_aside()
        )
        if not self.settings.is_sequential:
            return drawn, None
        return settle(self.study, self.settings, drawn, self._measured)

    def _proxy_factory(self) -> Factory:
        return candidates_factory(self.study, self.active.recipe, self.score)

    def _measured(self, architectures: Sequence[Architecture]) -> Measured:
        proxy = self._evaluate("proxy", self._proxy_factory(), architectures)
        return Measured(self._proxy_ranking(proxy, architectures), *self._reference(architectures))

    def _set_aside(self) -> list[Architecture]:
        """What is part of the score: it would be judged on what made it."""
        return [*(e.architecture for e in self.score_reference), *self._calibration_sample()]

    def _calibration_sample(self) -> list[Architecture]:
        """All of it, whatever was learned from it: the distilled set may have been, too."""
        sample = self.study.calibration_sample
        own = [] if sample is None else sample.never_judging
        return [*own, *self.active.learned_from]

    def _evaluate(
        self,
        name: str,
        factory: Factory,
        architectures: Sequence[Architecture],
        seed: int | None = None,
    ) -> Evaluations:
        log = self.study.layout.stage_log("validate", name)
        refuse_other_cuts(self.study.logs.evaluations(log), factory)
        done = self.study.runner.run(f"validating: {name}", factory, architectures, log, seed=seed)
        return dict(zip(architectures, done, strict=True))

    def _zero_cost(
        self, signal: str, proxy: Evaluations, architectures: Sequence[Architecture]
    ) -> Evaluations:
        """A zero-cost signal, taken from the recipe's own evaluations where they hold it.

        Those are of the same networks, weights and images. Where one failed, it may have been for
        another signal.
        """
        own = signal in self.score.signals and self.active.recipe.score_images == "real"
        found = [a for a in architectures if own and signal in proxy[a].signals]
        known = {a: alone(proxy[a], signal) for a in found}
        missing = [a for a in architectures if a not in known]
        if missing:
            train = self.study.config.train
            factory = self.study.factories.measuring((signal,), train_on="nothing", settings=train)
            known |= self._evaluate(signal, factory, missing)
        return {a: known[a] for a in architectures}

    def _proxy_ranking(
        self, evaluations: Evaluations, architectures: Sequence[Architecture]
    ) -> Ranking:
        used = {a: evaluations[a] for a in architectures}
        ranking = ranking_by(
            self.study,
            self._proxy_name(),
            "proxy",
            used,
            self.score,
            one_off_seconds=one_off_seconds(self.study),
        )
        if not isinstance(self.score, CalibratedScore):
            return ranking
        predictions = {a: self.score.predict(e) for a, e in used.items() if e.complete}
        return replace(
            ranking,
            predictions={a: prediction.mean for a, prediction in predictions.items()},
            deviations={a: prediction.deviation for a, prediction in predictions.items()},
            to_unit=self.score.normal_score,
        )

    def _proxy_name(self) -> str:
        recipe = self.active.recipe
        if self.study.config.recipe == "configured":
            return f"the proxy ({' + '.join(self.score.signals)})"
        return f"the recipe {recipe.name}"

    def _zero_cost_rankings(self, zero_cost: Mapping[str, Evaluations]) -> list[Ranking]:
        """Each alone, and those of the score together, if it combines several with a training."""
        rankings = [
            ranking_by(self.study, name, "control", zero_cost[name], SingleSignal(name))
            for name in self.zero_cost_signals
        ]
        own = tuple(name for name in self.score.signals if name in zero_cost)
        in_one = not self.active.recipe.stages  # else the first stage stands for them
        if in_one and self.trained_signals and len(own) > 1:
            merged = merged_each([zero_cost[name] for name in own])
            rankings.append(self._combined(f"zero-cost alone ({' + '.join(own)})", own, merged))
        return rankings

    def _first_stage(self, proxy: Evaluations) -> list[Ranking]:
        """What a cascade would rank if nothing went on, unless that is a signal's row already."""
        if not isinstance(self.score, CascadeScore) or not self.score.combines_in_first:
            return []
        alone_in_it = {a: cost_until(e, 1) for a, e in proxy.items()}
        score = FirstStage(self.score)
        return [ranking_by(self.study, "its first stage alone", "control", alone_in_it, score)]

    def _best_zero_cost(self, rankings: Sequence[Ranking], sample: Sample) -> list[Ranking]:
        """What the scores that need no training know together, if that is more than one knows."""
        if not self.trained_signals:
            return []
        alone = [ranking for ranking in rankings if ranking.name in self.zero_cost_signals]
        found = best_combination(alone, sample.architectures, sample.reference)
        return [] if found is None else [found]

    def _trained_controls(
        self, architectures: Sequence[Architecture], zero_cost: Mapping[str, Evaluations]
    ) -> list[Ranking]:
        """What the same training steps on other images would have ranked."""
        if not self.trained_signals:
            return []
        own = [zero_cost[name] for name in self.score.signals if name in zero_cost]
        rankings = []
        controls = trained_controls(self.study, self.trained_signals)
        for name, file_name, factory in controls:
            trained = self._evaluate(file_name, factory, architectures)
            rankings.append(self._combined(name, self.score.signals, merged_each([trained, *own])))
        return rankings + self._distilled_set(architectures)

    def _distilled_set(self, architectures: Sequence[Architecture]) -> list[Ranking]:
        """What a recipe of the full data would have ranked by the distilled set, if asked for."""
        if not self.settings.distilled_set or not has_distilled_control(self.active.recipe):
            return []
        factory = distilled_control(self.study)
        trained = self._evaluate("distilled_set", factory, architectures)
        return [
            ranking_by(self.study, name, "control", trained, SingleSignal(signal))
            for signal, name in DISTILLED_READINGS.items()
        ]

    def _combined(self, name: str, signals: tuple[str, ...], evaluations: Evaluations) -> Ranking:
        found = list(evaluations.values())
        suffix, score = control_score(self.active, self.study.config.space, signals, found)
        return ranking_by(self.study, name + suffix, "control", evaluations, score)

    def _same_evaluations(
        self, proxy: Evaluations, architectures: Sequence[Architecture]
    ) -> list[Ranking]:
        """Other combinations of the recipe's signals, and each alone: they cost nothing more."""
        used = {a: proxy[a] for a in architectures}
        scores = scores_of_same(self.active, self.study.config.space, self.score, used.values())
        return [
            ranking_by(self.study, name, "signal", used, score) for name, score in scores.items()
        ]

    def _reference(
        self, architectures: Sequence[Architecture]
    ) -> tuple[dict[Architecture, float], str, float]:
        table, _ = self.tables
        if table is not None:
            return {a: table.values[a] for a in architectures}, table.name, 0.0
        factory = self._reference_factory()
        done = self._evaluate("reference", factory, architectures)
        name = f"test accuracy after full-data training ({factory.fidelity.length})"
        return values_of(_REFERENCE_SIGNAL, done), name, mean_cost(self.study, done)

    def _reference_again(self, architectures: Sequence[Architecture]) -> list[Ranking]:
        """Another seed of the reference as a ranking, if there is one: the noise ceiling."""
        name, (_, table) = "the reference with another seed", self.tables
        if table is not None:
            found = {a: table.values[a] for a in architectures if a in table.values}
            return [Ranking(name, "ceiling", found, 0.0)]
        again = architectures[: self.settings.ceiling_architectures]
        if not again:
            return []
        seed = derive_seed("second reference", self.study.config.seed)
        done = self._evaluate("reference_second_seed", self._reference_factory(), again, seed)
        values, lost = values_of(_REFERENCE_SIGNAL, done), failures(done)
        return [Ranking(name, "ceiling", values, mean_cost(self.study, done), failures=lost)]

    def _reference_factory(self) -> NetworkEvaluatorFactory:
        train = required(self.settings.reference.train, "validate.reference.train")
        return self.study.factories.on_full_data(train, "test")
