"""The stage `search`: candidates are trained on the proxy data set, and Optuna learns from them."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from nas_proxy.calibrate.recipes import Recipe
from nas_proxy.evaluate.cascade import CascadeFactory
from nas_proxy.evaluate.executors import EvaluatorFactory
from nas_proxy.knowledge_distillation.prepared import KnowledgeDistillation
from nas_proxy.knowledge_distillation.record import DistillationRecord
from nas_proxy.scores.cascade import CascadeScore
from nas_proxy.scores.combine import Score
from nas_proxy.search.guard import (
    Guard,
    GuardCheck,
    GuardResult,
    TrialRecord,
)
from nas_proxy.search.pareto import SCORE, knee, pareto_front
from nas_proxy.search.resources import Resources
from nas_proxy.search.result import BestTraining, SearchResult, TrialRow
from nas_proxy.search.settings import SearchSettings
from nas_proxy.search.storage import driver_id, open_storage
from nas_proxy.search.study import run_search
from nas_proxy.search.task import Pruning, SearchOutcome, SearchTask, TrialLog
from nas_proxy.study.cascades import Factory, candidates_factory, refuse_other_cuts, score_sample
from nas_proxy.study.context import StudyContext
from nas_proxy.study.display import Display
from nas_proxy.study.evaluators import zero_cost_scores
from nas_proxy.study.in_flight import in_flight
from nas_proxy.study.knowledge_distillation import distillation_record
from nas_proxy.study.layout import StudyLayout
from nas_proxy.study.logged_datasets import logged_datasets
from nas_proxy.study.logged_trials import log_trial, trial_facts
from nas_proxy.study.plain_values import dump_options
from nas_proxy.study.plan import (
    StagePlan,
    Task,
    shorter_training,
    training_unit,
)
from nas_proxy.study.pruning import divided, pruned_words
from nas_proxy.study.recipe import optuna_name
from nas_proxy.study.recipe_units import (
    candidate_units,
    possible_recipes,
    recipe_notes,
    sample_task,
)
from nas_proxy.study.sizes import SIZES
from nas_proxy.study.sources import IMAGES, PROXY_DATASET, RANKED_BY, RECIPE, SPACE
from nas_proxy.study.stage import Section, Stage
from nas_proxy.types import Evaluation


class Search(Stage):
    """Writes `search.json`, every trial and the best first, beside the log of the evaluations."""

    name = "search"
    version = 4
    reads = (
        Section(name="seed"),
        Section(name="space"),
        *RANKED_BY,
        Section(name="search", free=("executor", "num_workers", "ray"), growing="n_trials"),
    )
    sources = (IMAGES, SPACE, PROXY_DATASET, RECIPE)

    def writes(self, layout: StudyLayout) -> Iterable[Path]:
        """Every trial."""
        return (layout.search_result,)

    def plan(self, study: StudyContext) -> StagePlan:
        """The trials, what the score ranks them among, and the guard's full trainings."""
        settings, layout = study.config.search, study.layout
        recipes, n = possible_recipes(study), settings.n_trials
        units = candidate_units(study, recipes)
        tasks = []
        # A recipe that was found has the calibration sample.
        if study.config.recipe not in ("calibrated", "trusted"):
            (own,) = recipes
            tasks.append(sample_task(study, own, layout.score_reference))
        done = min(n, len(study.logs.evaluations(layout.trials)))
        if units:
            tasks.append(Task(what="candidates", units=units, total=n, done=done))
        guard = settings.guard
        if guard.every is not None and guard.train is not None and n // guard.every:
            most = (n // guard.every) * (guard.num_best + guard.num_random)
            unit = training_unit(study, guard.train)
            done = len(study.logs.evaluations(layout.guard_log()))
            what = "full trainings of the guard"
            tasks.append(Task(what=what, units=(unit,), total=most, done=done, least=0))
        halved = [
            saving
            for task in tasks
            if task.what == "candidates" and len(units) == 1 and study.config.recipe == "configured"
            for saving in shorter_training("train", task, "candidates are told apart less well")
        ]
        return StagePlan(
            stage=self.name,
            tasks=tuple(task for task in tasks if task.total),
            savings=tuple(halved),
            notes=(*recipe_notes(study, recipes), *_pruner_notes(settings)),
        )

    def run(self, study: StudyContext, folder: Path) -> None:
        """Search, or go on with a search that ended before."""
        config, active = study.config, study.recipe
        sample = score_sample(study, active, study.layout.score_reference)
        ranking = active.score(config.space, sample)
        if isinstance(ranking, CascadeScore):
            study.display.say(f"search: {ranking.words}")
        whole = candidates_factory(study, active.recipe, ranking)
        factory, pruning = _divided(study, whole, sample, folder)
        resources = _resources(study, folder)
        # Once for each trial: Optuna keeps them, and a search that is continued finds them there.
        facts = partial(trial_facts, config.space, study.splits.spec)

        with study.display.progress(f"searching: {config.search.sampler}") as progress:
            task = SearchTask(
                space=config.space,
                factory=factory,
                score=ranking,
                settings=config.search,
                study_name=optuna_name(config, active),
                seed=config.seed,
                sizes=resources,
                facts=facts,
                on_trial=_trial_log(study, resources),
                progress=progress,
                guard=_guard(study, folder),
                pruning=pruning,
                driver=driver_id(config.search.storage, folder),
            )
            storage = open_storage(config.search.storage, folder)
            log = study.logs.evaluations(study.layout.trials)
            refuse_other_cuts(log, whole)
            logs = [log, study.logs.evaluations(study.layout.guard_log())]
            workers = study.executor.num_workers
            with in_flight(study.layout.in_flight, "searching", logs, workers):
                outcome = run_search(task, study.executor, log, storage)
        _finish(study, ranking, outcome, resources, whole.knowledge_distillation)


def _trial_log(study: StudyContext, resources: Resources) -> TrialLog:
    """Logs each trial as a run of its own."""
    config, datasets = study.config, logged_datasets(study)
    num_stages = study.recipe.num_stages

    def log(trial: TrialRecord, attributes: Mapping[str, Any]) -> None:
        log_trial(
            study.tracker,
            config.space,
            trial,
            _objectives(config.search, resources, trial),
            facts={name: attributes[name] for name in SIZES if name in attributes},
            datasets=datasets,
            num_stages=num_stages,
            pruner=config.search.pruner,
        )

    return log


def _divided(
    study: StudyContext, whole: Factory, sample: Sequence[Evaluation], folder: Path
) -> tuple[EvaluatorFactory, Pruning | None]:
    """What evaluates candidates, and where a pruner may end them; None without one."""
    pruner = study.config.search.pruner
    if pruner is None or isinstance(whole, CascadeFactory):
        return whole, None
    return divided(whole, pruner, study.recipe.recipe, sample, folder)


def _guard(study: StudyContext, folder: Path) -> Guard | None:
    """Watches the ranking as `search.guard` asks for; None if it does not."""
    settings = study.config.search.guard
    if settings.every is None or settings.train is None:
        return None

    def on_check(check: GuardCheck, is_new: bool) -> None:
        for end, value in asdict(check.found).items() if check.found is not None else ():
            name = "guard_spearman" if end == "value" else f"guard_spearman_{end}"
            if value is not None:
                study.tracker.study.metrics({name: value}, step=check.num_trials)
        if is_new:
            study.display.say(check.sentence)

    return Guard(
        settings,
        study.factories.on_full_data(settings.train, "search_val"),
        study.executor,
        study.logs.evaluations(study.layout.guard_log()),
        study.layout.guard,
        seed=study.config.seed,
        on_check=on_check,
    )


def _resources(study: StudyContext, folder: Path) -> Resources:
    settings = study.config.search
    wanted = {*settings.costs, *settings.constraints.limits}  # others may not be countable
    return Resources(
        study.config.space,
        study.splits.spec,
        zero_cost_scores(tuple(n for n in ("num_params", "flops") if n in wanted)),
        settings,
        study.logs.latencies(study.layout.latencies()),
        study.device,
    )


def _objectives(
    settings: SearchSettings, resources: Resources, trial: TrialRecord
) -> dict[str, float]:
    """Value of each objective of a trial; none if it failed."""
    _, evaluation, score = trial
    if score is None:
        return {}
    values = {SCORE: score, **(resources(evaluation.architecture) if settings.costs else {})}
    return {name: values[name] for name in settings.objectives}


def _pruner_notes(settings: SearchSettings) -> tuple[str, ...]:
    if settings.pruner is None:
        return ()
    return (f"the pruner {settings.pruner.name} ends some early: counted is that it ends none",)


def _row(
    study: StudyContext, resources: Resources, trial: TrialRecord, outcome: SearchOutcome
) -> TrialRow:
    space, settings = study.config.space, study.config.search
    number, evaluation, score = trial
    architecture, attributes = evaluation.architecture, outcome.attributes[number]
    return TrialRow(
        trial=number,
        score=score,
        objectives=_objectives(settings, resources, trial),
        latency=resources.latency(architecture),
        architecture=architecture,
        architecture_id=architecture.id,
        description=space.describe(architecture),
        signals=dict(evaluation.signals),
        seconds=evaluation.seconds,
        reason=evaluation.reason,
        stage_seconds=evaluation.stage_seconds,
        num_params=attributes.get("num_params"),
        flops=attributes.get("flops"),
        started_unix_seconds=evaluation.started_unix_seconds or None,
        choices=outcome.choices[number],
        pruned_after=pruned_words(evaluation, settings.pruner),
        same_as=evaluation.same_as,
    )


def _finish(
    study: StudyContext,
    score: Score,
    outcome: SearchOutcome,
    resources: Resources,
    knowledge_distillation: KnowledgeDistillation | None,
) -> None:
    rows = []
    log = _trial_log(study, resources)
    for trial in sorted(outcome.trials, key=lambda trial: trial[0]):
        # Again, for a kill may have come between a trial and its logging.
        log(trial, outcome.attributes[trial[0]])
        rows.append(_row(study, resources, trial, outcome))
    shutil.rmtree(study.layout.unfinished_trials, ignore_errors=True)
    guard = study.layout.guard
    result = _result(
        study.recipe.recipe,
        outcome,
        rows,
        signals=score.signals,
        knowledge_distillation=None
        if knowledge_distillation is None
        else distillation_record(knowledge_distillation),
        guard=GuardResult.read(guard) if guard.is_file() else None,
    )
    result.write(study.layout.search_result)
    best_so_far = float("-inf")
    for row in rows:
        if row.score is not None and row.score > best_so_far:
            best_so_far = row.score
            study.tracker.study.metrics({"best_score": row.score}, step=row.trial)
    study.tracker.study.metrics({"pareto_front_size": len(result.pareto_front)})
    _say(study.display, study.config.search, result)


def _result(
    recipe: Recipe,
    outcome: SearchOutcome,
    rows: Sequence[TrialRow],
    *,
    signals: Sequence[str],
    knowledge_distillation: DistillationRecord | None,
    guard: GuardResult | None,
) -> SearchResult:
    scored = [(row.score, row) for row in rows if row.score is not None]
    num_pruned = sum(bool(row.pruned_after) for row in rows)
    best = [row for _, row in sorted(scored, key=lambda each: -each[0])]
    front = pareto_front(best)
    return SearchResult(
        recipe=recipe.name,
        recipe_settings=dump_options(recipe),
        knowledge_distillation=knowledge_distillation,
        signals=tuple(signals),
        trials=tuple(rows),
        best=tuple([row for row in best if not row.same_as][:10]),
        best_training=_best_training(outcome, best[0]) if best else None,
        pareto_front=tuple(front),
        knee=knee(front).trial if front else None,
        num_failed=len(rows) - len(best) - num_pruned,
        num_pruned=num_pruned,
        num_same=sum(bool(row.same_as) for row in rows),
        num_duplicates=outcome.num_duplicates,
        num_infeasible=outcome.num_infeasible,
        stopped=outcome.stopped,
        importances=outcome.importances,
        guard=guard,
    )


def _best_training(outcome: SearchOutcome, best: TrialRow) -> BestTraining | None:
    """Losses and phases of the best candidate; None where nothing was trained."""
    found = next(e for number, e, _ in outcome.trials if number == best.trial)
    if not found.train_losses:
        return None
    return BestTraining(best.description, tuple(found.train_losses), found.phases)


def _say(display: Display, settings: SearchSettings, result: SearchResult) -> None:
    num_trials, front = len(result.trials), result.pareto_front
    if result.stopped:
        display.say(
            f"search: the guard ended it after {num_trials} of {settings.n_trials} "
            "architectures; another score or other training settings may rank better"
        )
    reasons = Counter(row.reason for row in result.trials if row.failed)
    why = "".join(f" ({reason})" for reason, _ in reasons.most_common(1) if reason)
    ruled_out = result.num_infeasible
    before = f", {result.num_pruned} pruned" if settings.pruner is not None else ""
    before += f", {ruled_out} ruled out before training" if ruled_out else ""
    before += f", {result.num_same} the same network as another" if result.num_same else ""
    if result.best:
        display.say(
            f"search: {num_trials} architectures, {result.num_failed} failed{why}{before}; "
            f"best score {result.best[0].score:.4g}: {result.best[0].description}"
        )
    if settings.costs and front:
        display.say(
            f"search: Pareto front of {', '.join(settings.objectives)}: "
            f"{len(front)} of {num_trials} architectures; its knee: {knee(front).description}"
        )
