"""The stage `search`: candidates are trained on the proxy data set, and Optuna learns from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nas_proxy.core.files import write_atomically
from nas_proxy.evaluate.sample import draw_architectures
from nas_proxy.interfaces import EvaluatorFactory
from nas_proxy.knowledge_distillation.prepared import KnowledgeDistillation
from nas_proxy.reproducibility import derive_seed, make_generator
from nas_proxy.scores.combine import Score
from nas_proxy.search.guard import GUARD_FILE, GUARD_LOG, Guard, GuardCheck, TrialRecord
from nas_proxy.search.pareto import SCORE, knee, pareto_front
from nas_proxy.search.resources import LATENCIES, Resources
from nas_proxy.search.storage import open_storage
from nas_proxy.search.study import SearchOutcome, SearchTask, run_search
from nas_proxy.study.config import StudyConfig, dump_options
from nas_proxy.study.context import StudyContext
from nas_proxy.study.evaluators import zero_cost_scores
from nas_proxy.study.recipe import ActiveRecipe
from nas_proxy.study.sources import IMAGES, PROXY_DATASET, RANKED_BY, RECIPE, SPACE
from nas_proxy.study.stage import Section, Stage
from nas_proxy.study.student_training import distillation_record, recipe_factory
from nas_proxy.types import Evaluation

_CURVE_POINTS = 50  # of a trial's training loss in MLflow; the log keeps every step


class Search(Stage):
    """Writes `search.json`, every trial and the best first, beside the log of the evaluations."""

    name = "search"
    reads = (
        Section(name="seed"),
        Section(name="space"),
        *RANKED_BY,
        Section(name="search", free=("executor", "num_workers"), growing="n_trials"),
    )
    sources = (IMAGES, SPACE, PROXY_DATASET, RECIPE)
    writes = ("search.json",)

    def run(self, study: StudyContext, folder: Path) -> None:
        """Search, or go on with a search that ended before."""
        config, active = study.config, study.recipe
        factory = recipe_factory(study, active.recipe)
        score = active.score(config.space, _reference_sample(study, active, factory))
        resources = _resources(study, folder)
        with study.display.progress(f"searching: {config.search.sampler}") as progress:
            task = SearchTask(
                space=config.space,
                factory=factory,
                score=score,
                settings=config.search,
                study_name=_optuna_name(config, active),
                seed=config.seed,
                sizes=resources,
                on_trial=lambda *trial: _log_trial(study, resources, trial),
                progress=progress,
                guard=_guard(study, folder),
            )
            storage = open_storage(config.search.storage, folder)
            outcome = run_search(
                task, study.executor, study.logs.evaluations(study.layout.trials), storage
            )
        _finish(study, folder, score, outcome, resources, factory.knowledge_distillation)


def _optuna_name(config: StudyConfig, active: ActiveRecipe) -> str:
    """The study's name; with a recipe that was found, that recipe's id behind it.

    A database outlives the folder: scores by another recipe stay there, under another name.
    """
    name = config.study_name
    return name if config.recipe == "configured" else f"{name}-{active.id}"


def _reference_sample(
    study: StudyContext, active: ActiveRecipe, factory: EvaluatorFactory
) -> list[Evaluation]:
    """The evaluations among which `rank_mean` ranks; none for a single signal.

    A calibrated recipe has its own, the calibration sample.
    """
    config, settings = study.config, active.recipe.score
    if settings.combine == "single" or active.calibrated_on:
        return []
    generator = make_generator(derive_seed("score reference", config.seed))
    architectures = draw_architectures(config.space, settings.num_reference, generator)
    title = "evaluating the score's reference sample"
    return study.runner.run(title, factory, architectures, study.layout.score_reference)


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
        study.logs.evaluations(folder / GUARD_LOG),
        folder / GUARD_FILE,
        seed=study.config.seed,
        on_check=on_check,
    )


def _resources(study: StudyContext, folder: Path) -> Resources:
    return Resources(
        study.config.space,
        study.splits.spec,
        zero_cost_scores(("num_params", "flops")),
        study.config.search,
        study.logs.latencies(folder / LATENCIES),
        study.device,
    )


def _objectives(study: StudyContext, resources: Resources, trial: TrialRecord) -> dict[str, float]:
    """Value of each objective of a trial; none if it failed."""
    _, evaluation, score = trial
    if score is None:
        return {}
    settings = study.config.search
    values = {SCORE: score, **(resources(evaluation.architecture) if settings.costs else {})}
    return {name: values[name] for name in settings.objectives}


def _log_trial(study: StudyContext, resources: Resources, trial: TrialRecord) -> None:
    """One child run; logging it again changes nothing."""
    (number, evaluation, score), space = trial, study.config.space
    run = study.tracker.trial(number, f"trial {number:04d}")
    architecture = evaluation.architecture
    genotype = architecture.genotype
    choices = genotype if isinstance(genotype, dict) else dict(enumerate(genotype))
    run.params(
        {
            "architecture": space.describe(architecture),
            "architecture_id": architecture.id,
            **{f"choice.{name}": value for name, value in choices.items()},
        }
    )
    run.description(space.describe(architecture))
    run.metrics({**evaluation.signals, "seconds": evaluation.seconds})
    stride = max(1, len(evaluation.train_losses) // _CURVE_POINTS)
    steps = range(0, len(evaluation.train_losses), stride)
    run.curve("train_loss", [evaluation.train_losses[step] for step in steps], list(steps))
    if score is None:
        run.finish("FAILED", evaluation.reason)
        return
    objectives = _objectives(study, resources, trial)
    run.metrics(objectives)
    run.finish()
    study.tracker.study.metrics(objectives, step=number)


def _row(study: StudyContext, resources: Resources, trial: TrialRecord) -> dict[str, Any]:
    """A trial as `search.json` holds it."""
    number, evaluation, score = trial
    latency = resources.latency(evaluation.architecture)
    return {
        "trial": number,
        "score": score,
        "objectives": _objectives(study, resources, trial),
        "latency": None if latency is None else latency.to_json(),
        "architecture_id": evaluation.architecture.id,
        "genotype": evaluation.architecture.genotype,
        "description": study.config.space.describe(evaluation.architecture),
        "signals": dict(evaluation.signals),
        "seconds": evaluation.seconds,
        "reason": evaluation.reason,
    }


def _finish(
    study: StudyContext,
    folder: Path,
    score: Score,
    outcome: SearchOutcome,
    resources: Resources,
    knowledge_distillation: KnowledgeDistillation | None,
) -> None:
    recipe = study.recipe.recipe
    for trial in outcome.trials:  # a kill may have come between a trial and its logging
        _log_trial(study, resources, trial)
    trials = [_row(study, resources, trial) for trial in outcome.trials]
    best = sorted((t for t in trials if t["score"] is not None), key=lambda t: -t["score"])
    front = pareto_front(best)
    guard = folder / GUARD_FILE
    result = {
        "recipe": recipe.name,
        "recipe_settings": dump_options(recipe),
        "knowledge_distillation": None
        if knowledge_distillation is None
        else distillation_record(knowledge_distillation),
        "signals": list(score.signals),
        "trials": trials,
        "best": best[:10],
        "best_training": _best_training(outcome, best),
        "pareto_front": front,
        "knee": knee(front)["trial"] if front else None,
        "num_failed": len(trials) - len(best),
        "num_duplicates": outcome.num_duplicates,
        "num_infeasible": outcome.num_infeasible,
        "stopped": outcome.stopped,
        "guard": json.loads(guard.read_text()) if guard.is_file() else None,
    }
    write_atomically(study.layout.search_result, json.dumps(result, indent=1))
    best_so_far = float("-inf")
    for number, _, value in outcome.trials:
        if value is not None and value > best_so_far:
            best_so_far = value
            study.tracker.study.metrics({"best_score": value}, step=number)
    study.tracker.study.metrics({"pareto_front_size": len(front)})
    _say(study, outcome, best, front)


def _best_training(outcome: SearchOutcome, best: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Losses and phases of the best candidate; None where nothing was trained."""
    if not best:
        return None
    found = next(e for number, e, _ in outcome.trials if number == best[0]["trial"])
    if not found.train_losses:
        return None
    return {
        "description": best[0]["description"],
        "train_losses": list(found.train_losses),
        "phases": [list(phase) for phase in found.phases],
    }


def _say(
    study: StudyContext,
    outcome: SearchOutcome,
    best: Sequence[Mapping[str, Any]],
    front: Sequence[Mapping[str, Any]],
) -> None:
    num_trials = len(outcome.trials)
    if outcome.stopped:
        study.display.say(
            f"search: the guard ended it after {num_trials} of {study.config.search.n_trials} "
            "architectures; another score or other training settings may rank better"
        )
    if best:
        study.display.say(
            f"search: {num_trials} architectures, {num_trials - len(best)} failed; "
            f"best score {best[0]['score']:.4g}: {best[0]['description']}"
        )
    if study.config.search.costs and front:
        study.display.say(
            f"search: Pareto front of {', '.join(study.config.search.objectives)}: "
            f"{len(front)} of {num_trials} architectures; its knee: {knee(front)['description']}"
        )
