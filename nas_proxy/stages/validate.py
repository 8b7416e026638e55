"""The third stage: does the proxy rank architectures as full training does?

The architectures are drawn for this purpose and none of them had a part in the score. Nothing that
is measured here goes back into the search.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nas_proxy.config import StudyConfig
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.distill.random_subset import random_control
from nas_proxy.errors import DataError
from nas_proxy.evaluate.executors import evaluate_all
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory
from nas_proxy.evaluate.log import EvaluationLog, merged
from nas_proxy.evaluate.sample import draw_architectures, stratify
from nas_proxy.evaluate.table import TruthTable, read_table
from nas_proxy.files import write_atomically
from nas_proxy.interfaces import DistillContext
from nas_proxy.reproducibility import content_hash, derive_seed, make_generator
from nas_proxy.scores.calibrated import MIN_CALIBRATION
from nas_proxy.scores.combine import RankMean, Score, ScoreSettings, SingleSignal, make_score
from nas_proxy.scores.signals import is_trained, trained_among, zero_cost_among
from nas_proxy.stages.calibration_sample import SampleReferences
from nas_proxy.stages.context import StudyContext
from nas_proxy.stages.folder import StageFolder
from nas_proxy.stages.recipe import ActiveRecipe, active_recipe, ranked_by, recipe_factory
from nas_proxy.teach.labelling import copy_teachers, labels_like
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture, Evaluation
from nas_proxy.validate.rank_report import Kind, Ranking, RankReport, Sample, judge
from nas_proxy.validate.settings import ValidateSettings

VERSION = 2
_POOL_FACTOR = 3  # architectures scored for each stratified one that is chosen
_REFERENCE_SIGNAL = "test_accuracy"

Evaluations = Mapping[Architecture, Evaluation]


def run_validate(study: StudyContext, *, force: bool) -> None:
    """Write `rank_report.json` and `points.json`: every architecture's scores and reference."""
    settings = study.config.validation
    if settings is None:
        study.display.say("validate: the config has no section validate; the ranking is not judged")
        return
    validation = _Validation(study, settings)
    if not validation.folder.open(force=force):
        study.display.say("validate: finished already")
        return
    report, points = validation.run()
    write_atomically(
        validation.folder.path / "points.json", json.dumps(points, indent=1, allow_nan=False)
    )
    write_atomically(
        validation.folder.path / "rank_report.json",
        json.dumps(report.to_json(), indent=1, allow_nan=False),
    )
    validation.folder.finish()
    study.display.say(f"validate: {report.verdict}")


def check_reference(config: StudyConfig) -> None:
    """Find out before hours are spent whether the truth table can be used.

    Raises:
        DataError: If it is missing, unreadable, or smaller than what is drawn from it.
    """
    settings = config.validation
    if settings is None or settings.reference.table is None:
        return
    table = _read_reference_table(config, settings)
    num_drawn = settings.num_architectures + settings.num_stratified * _POOL_FACTOR
    if len(table.values) < num_drawn:
        raise DataError(
            f"the truth table {settings.reference.table} holds {len(table.values)} architectures, "
            f"but validate.num_architectures and num_stratified need {num_drawn}; ask for fewer"
        )


def _read_reference_table(config: StudyConfig, settings: ValidateSettings) -> TruthTable:
    reference = settings.reference
    return read_table(
        Path(reference.table or ""), config.space, reference.architecture, reference.value
    )


@dataclass(frozen=True)
class _Validation:
    """One validation at work."""

    study: StudyContext
    settings: ValidateSettings

    @cached_property
    def proxy_dataset(self) -> ProxyDataset:
        return self.study.load_proxy_dataset()

    @cached_property
    def score_reference(self) -> list[Evaluation]:
        return list(EvaluationLog(self.study.config.folder / "search" / "score_reference.jsonl"))

    @cached_property
    def active(self) -> ActiveRecipe:
        return active_recipe(self.study)

    @cached_property
    def train(self) -> TrainSettings:
        return self.active.recipe.train or self.study.config.train

    @cached_property
    def score(self) -> Score:
        return self.active.score(self.study, self.score_reference)

    @cached_property
    def folder(self) -> StageFolder:
        config = self.study.config
        table = self.settings.reference.table
        return StageFolder(
            config.folder / "validate",
            VERSION,
            {
                "proxy_dataset": self.proxy_dataset.id,
                "space": config.space.fingerprint(),
                **ranked_by(self.study, self.active),
                "score_reference": content_hash([e.to_json() for e in self.score_reference]),
                "validate": config.resolved["validate"],
                "truth_table": content_hash(_text(Path(table))) if table else None,
                "data": self.study.splits.spec.source_hash,
                "seed": config.seed,
            },
        )

    @cached_property
    def table(self) -> TruthTable | None:
        if self.settings.reference.table is None:
            return None
        return _read_reference_table(self.study.config, self.settings)

    @cached_property
    def trained_signals(self) -> tuple[str, ...]:
        """The signals of the score that need a training."""
        return trained_among(self.score.signals)

    @cached_property
    def zero_cost_signals(self) -> tuple[str, ...]:
        """The zero-cost signals of the score and of the controls."""
        return zero_cost_among(tuple(dict.fromkeys((*self.score.signals, *self.settings.controls))))

    def run(self) -> tuple[RankReport, list[dict[str, Any]]]:
        uniform, pool = self._draw()
        proxy = self._evaluate("proxy", self._proxy_factory(), [*uniform, *pool])
        stratified = self._choose(pool, proxy)
        architectures = [*uniform, *stratified]
        zero_cost = {
            name: self._evaluate(name, self.study.zero_cost_factory((name,)), architectures)
            for name in self.zero_cost_signals
        }
        rankings = [self._proxy_ranking(proxy, architectures)]
        rankings += self._zero_cost_rankings(zero_cost)
        rankings += self._trained_controls(architectures, zero_cost)
        rankings += self._other_combinations(proxy, architectures)
        rankings += self._single_signals(proxy, architectures)
        reference, reference_name, reference_seconds = self._reference(architectures)
        sample = Sample(uniform, stratified, reference)
        rng = np.random.default_rng(derive_seed("bootstrap", self.study.seed))
        report = judge(
            rankings,
            sample,
            self.settings,
            reference_name=reference_name,
            reference_seconds=reference_seconds,
            rng=rng,
        )
        return report, self._points(sample, rankings)

    def _draw(self) -> tuple[list[Architecture], list[Architecture]]:
        """The uniform sample, and the pool from which the stratified one is chosen."""
        num_pool = self.settings.num_stratified * _POOL_FACTOR
        drawn = draw_architectures(
            self.study.config.space,
            self.settings.num_architectures + num_pool,
            make_generator(derive_seed("validation", self.study.seed)),
            among=None if self.table is None else list(self.table.values),
            # They are part of the score: it would be judged on what made it.
            excluded=[*(e.architecture for e in self.score_reference), *self._calibration_sample()],
        )
        return drawn[: self.settings.num_architectures], drawn[self.settings.num_architectures :]

    def _calibration_sample(self) -> list[Architecture]:
        """All of it, whatever was learned from it: the distilled set may have been, too."""
        settings = self.study.config.calibration
        own = SampleReferences(self.study, settings).architectures if settings is not None else []
        return [*own, *self.active.learned_from]

    def _choose(self, pool: Sequence[Architecture], proxy: Evaluations) -> list[Architecture]:
        scored = [a for a in pool if proxy[a].complete]
        scores = [self.score.of(proxy[a]) for a in scored]
        generator = make_generator(derive_seed("strata", self.study.seed))
        chosen = stratify(scores, self.settings.num_stratified, generator)
        return [scored[index] for index in chosen]

    def _evaluate(
        self, name: str, factory: NetworkEvaluatorFactory, architectures: Sequence[Architecture]
    ) -> Evaluations:
        file_name = f"{name.replace('/', '_').replace(':', '_')}.jsonl"
        log = EvaluationLog(self.folder.path / file_name)
        with self.study.display.progress(f"validating: {name}") as progress:
            done = evaluate_all(
                self.study.executor, factory, architectures, self.study.seed, log, progress
            )
        return dict(zip(architectures, done, strict=True))

    def _proxy_factory(self) -> NetworkEvaluatorFactory:
        return recipe_factory(self.study, self.active.recipe)

    def _proxy_ranking(
        self, evaluations: Evaluations, architectures: Sequence[Architecture]
    ) -> Ranking:
        used = {a: evaluations[a] for a in architectures}
        reference_seconds = sum(evaluation.seconds for evaluation in self.score_reference)
        return self._ranking(
            self._proxy_name(),
            "proxy",
            used,
            self.score,
            one_off_seconds=self.proxy_dataset.cost_seconds + reference_seconds,
        )

    def _proxy_name(self) -> str:
        recipe = self.active.recipe
        if self.study.config.recipe == "configured":
            return f"the proxy ({_in_words(self.score.signals)})"
        return f"the recipe {recipe.name}"

    def _zero_cost_rankings(self, zero_cost: Mapping[str, Evaluations]) -> list[Ranking]:
        """Each alone, and those of the score together, if it combines several with a training."""
        rankings = [
            self._ranking(name, "control", evaluations, SingleSignal(name))
            for name, evaluations in zero_cost.items()
        ]
        own = tuple(name for name in self.score.signals if name in zero_cost)
        if self.trained_signals and len(own) > 1:
            merged = _merge([zero_cost[name] for name in own])
            rankings.append(self._combined(f"zero-cost alone ({_in_words(own)})", own, merged))
        return rankings

    def _trained_controls(
        self, architectures: Sequence[Architecture], zero_cost: Mapping[str, Evaluations]
    ) -> list[Ranking]:
        """What the same training steps on other images would have ranked."""
        if not self.trained_signals:
            return []
        own = [zero_cost[name] for name in self.score.signals if name in zero_cost]
        rankings = []
        for name, file_name, factory in self._trained_control_factories():
            trained = self._evaluate(file_name, factory, architectures)
            rankings.append(self._combined(name, self.score.signals, _merge([trained, *own])))
        return rankings

    def _trained_control_factories(self) -> list[tuple[str, str, NetworkEvaluatorFactory]]:
        """The same steps at the same fidelity on the full data, and on random images.

        A recipe that trains on the full data has no such controls: it is one of them.
        """
        proxy_dataset, train, study = self.proxy_dataset, self.train, self.study
        requested = self.trained_signals
        if self.active.recipe.train_on != "proxy":
            return []
        num_images = len(proxy_dataset.labels)
        settings = replace(
            train,
            num_steps=train.steps_for(num_images),
            num_epochs=None,
            batch_size=min(train.batch_size, num_images),
            augmentation=train.augmentation or proxy_dataset.augmentation,
        )
        full_data = study.factory(train_on="full_data", settings=settings, signals=requested)
        file, subset = self._random_subset()
        random = replace(
            study.proxy_factory(file, subset, self.train),
            requested=full_data.requested,
            teachers=full_data.teachers,
        )
        name = f"a random subset of the same size, {subset.labelling.kind} labels"
        return [
            (name, "random_subset", random),
            ("the same steps on the full data", "same_steps_full_data", full_data),
        ]

    def _random_subset(self) -> tuple[Path, ProxyDataset]:
        """As many random images as the proxy has for training, labelled as the proxy is."""
        file = self.folder.path / "random_subset.safetensors"
        study = self.study
        subset = random_control(
            self.proxy_dataset,
            labels_like(self.proxy_dataset, study.proxy_file, study.config.labels),
            study.splits.search_train,
            seed=derive_seed("random subset control", study.seed),
            context=DistillContext(cache=study.cache_folder),
        )
        if subset.labelling.per == "view":
            copy_teachers(study.proxy_file, file)
        subset.save(file)
        return file, subset

    def _combined(self, name: str, signals: tuple[str, ...], evaluations: Evaluations) -> Ranking:
        """A control that ranks as the score does; without calibration the sample is its reference.

        Where the recipe is a fitted model, zero-cost signals get a model too, fitted to the same
        calibration sample; other trainings were not run on that sample and are averaged by rank.
        """
        complete = [evaluation for evaluation in evaluations.values() if evaluation.complete]
        if len(signals) == 1 or len(complete) < 4:
            return self._ranking(name, "control", evaluations, SingleSignal(signals[0]))
        if self.active.recipe.score.combine == "calibrated" and not trained_among(signals):
            settings = replace(self.active.recipe.score, signals=signals)
            return self._ranking(
                f"{name}, calibrated alike", "control", evaluations, self._fitted(settings)
            )
        return self._ranking(name, "control", evaluations, RankMean(signals, complete))

    def _fitted(self, settings: ScoreSettings) -> Score:
        space = self.study.config.space
        return make_score(
            settings,
            self.active.calibrated_on,
            self.active.references,
            space.encode if space.can_encode else None,
        )

    def _other_combinations(
        self, proxy: Evaluations, architectures: Sequence[Architecture]
    ) -> list[Ranking]:
        """A calibrated recipe's signals, combined in the ways that it does not combine them."""
        settings, known = self.active.recipe.score, self.active.calibrated_on
        if len(settings.signals) == 1 or not known:
            return []
        others = {"the same signals, rank mean": replace(settings, combine="rank_mean")}
        if sum(e.complete for e in known) >= MIN_CALIBRATION:
            others["the same signals, calibrated"] = replace(settings, combine="calibrated")
        used = {a: proxy[a] for a in architectures}
        return [
            self._ranking(name, "signal", used, self._fitted(other))
            for name, other in others.items()
            if other != settings
        ]

    def _single_signals(
        self, proxy: Evaluations, architectures: Sequence[Architecture]
    ) -> list[Ranking]:
        """Every trained signal of the proxy's own trainings, which cost nothing more."""
        if not self.trained_signals:
            return []
        used = {a: proxy[a] for a in architectures}
        return [
            self._ranking(f"{name} on the proxy", "signal", used, SingleSignal(name))
            for name in self._measured_signals(used)
            if self.score.signals != (name,)
        ]

    @staticmethod
    def _measured_signals(evaluations: Evaluations) -> list[str]:
        """Trained signals, those of checkpoints too, that every complete evaluation has."""
        complete = [e.signals for e in evaluations.values() if e.complete]
        return [n for n in (complete[0] if complete else ()) if is_trained(n)]

    def _reference(
        self, architectures: Sequence[Architecture]
    ) -> tuple[dict[Architecture, float], str, float]:
        settings = self.settings.reference
        if self.table is not None:
            values = {a: self.table.values[a] for a in architectures}
            return values, f"{settings.value} of {Path(settings.table or '').name}", 0.0
        assert settings.train is not None
        factory = self.study.full_data_factory(settings.train, "test")
        done = self._evaluate("reference", factory, architectures)
        values = {
            a: evaluation.signals[_REFERENCE_SIGNAL]
            for a, evaluation in done.items()
            if evaluation.complete
        }
        name = f"test accuracy after full-data training ({factory.fidelity.num_steps} steps)"
        return values, name, self._mean_seconds(done)

    def _ranking(
        self,
        name: str,
        kind: Kind,
        evaluations: Evaluations,
        score: Score,
        *,
        one_off_seconds: float = 0.0,
    ) -> Ranking:
        return Ranking(
            name=name,
            kind=kind,
            scores={a: score.of(e) for a, e in evaluations.items() if e.complete},
            seconds_per_architecture=self._mean_seconds(evaluations),
            one_off_seconds=one_off_seconds,
            failures=Counter(e.reason for e in evaluations.values() if not e.complete),
        )

    def _mean_seconds(self, evaluations: Evaluations) -> float:
        return sum(map(self.study.cost, evaluations.values())) / len(evaluations)

    def _points(self, sample: Sample, rankings: Sequence[Ranking]) -> list[dict[str, Any]]:
        """One entry for each architecture, for the figures and for whoever wants to recompute."""
        return [
            {
                "architecture_id": architecture.id,
                "genotype": architecture.genotype,
                "description": self.study.config.space.describe(architecture),
                "drawn": "uniform" if position < len(sample.uniform) else "stratified",
                "reference": sample.reference.get(architecture),
                "scores": {r.name: r.scores.get(architecture) for r in rankings},
            }
            for position, architecture in enumerate([*sample.uniform, *sample.stratified])
        ]


def _merge(parts: Sequence[Evaluations]) -> Evaluations:
    """One evaluation for each architecture with the signals of all parts; complete if all are."""
    return {a: merged([part[a] for part in parts]) for a in parts[0]}


def _in_words(signals: Sequence[str]) -> str:
    return " + ".join(signals)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""
