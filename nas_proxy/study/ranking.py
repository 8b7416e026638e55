"""Ranking architectures by a recipe without a search: those that are given, or random ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nas_proxy.calibrate.recipes import Recipe
from nas_proxy.errors import ConfigError, UserError, instance_of
from nas_proxy.evaluate.log import Failures
from nas_proxy.evaluate.sample import draw_architectures
from nas_proxy.plugin_sources import sources_named
from nas_proxy.reproducibility import content_hash, derive_seed, make_generator
from nas_proxy.scores.cascade import CascadeScore
from nas_proxy.study.all_stages import STAGES
from nas_proxy.study.cascades import Factory, candidates_factory, sample_factory, score_sample
from nas_proxy.study.config import StudyConfig
from nas_proxy.study.context import StudyContext
from nas_proxy.study.defaults import reads_distilled_set
from nas_proxy.study.display import Display
from nas_proxy.study.pipeline import open_study, say_notices
from nas_proxy.study.recipe import ActiveRecipe
from nas_proxy.study.samples import named_options
from nas_proxy.study.stage import run_stage
from nas_proxy.types import Architecture, Evaluation

_FEWEST = 4  # among which ranks have a mean


@dataclass(frozen=True)
class Ranked:
    """An architecture with what was measured.

    Attributes:
        evaluation: Of it.
        score: Higher is better; None if the evaluation failed.
    """

    evaluation: Evaluation
    score: float | None


def rank_architectures(
    config: StudyConfig, architectures: int | Sequence[Architecture], display: Display
) -> list[Ranked]:
    """Evaluate architectures as the recipe of a configuration says, and order them.

    Evaluations are kept in the folder of the study, so that a killed call continues.

    Args:
        config: Its recipe is one that is written out.
        architectures: Different ones of its space, or how many are drawn at random.
        display: Shows progress.

    Returns:
        The best first, equal ones as they were given; failed ones at the end.

    Raises:
        UserError: If something is wrong that the user can mend.
    """
    recipe = instance_of(config.recipe, Recipe)
    chosen = _drawn(config, architectures) if isinstance(architectures, int) else architectures
    among_themselves = recipe.score.combine == "rank_mean" and not recipe.stages
    if among_themselves and len(chosen) < _FEWEST:
        raise ConfigError(
            f"{recipe.name} is a mean of ranks among the architectures, of which {_FEWEST} are the "
            f"fewest, got {len(chosen)}; give more, or rank by one score alone"
        )
    with open_study(config, display) as study:
        say_notices(study)
        for notice in config.notices:
            if not notice.startswith("distill:"):  # nothing is distilled here anyway
                display.say(notice)
        if reads_distilled_set(recipe, None, config.score):
            run_stage(STAGES[0], study, force=False)
        return _rank(study, recipe, chosen)


def ranking_id(config: StudyConfig, proxy_id: str | None) -> str:
    """Hash of all but the images that evaluations by the configuration's recipe depend on.

    Args:
        config: With the recipe.
        proxy_id: Of the proxy data set that it reads; None: none.
    """
    read = {name: config.resolved[name] for name in ("space", "recipe", "data", "seed", "device")}
    return content_hash(read, config.space.fingerprint(), sources_named(read), proxy_id, length=12)


def _drawn(config: StudyConfig, num: int) -> list[Architecture]:
    if num < 1:
        raise UserError(f"architectures must be at least 1, got {num}")
    with named_options("architectures"):
        generator = make_generator(derive_seed("ranking", config.seed))
        return draw_architectures(config.space, num, generator)


def _rank(study: StudyContext, recipe: Recipe, chosen: Sequence[Architecture]) -> list[Ranked]:
    words = f"{len(chosen)} architectures of {study.config.space.name} by {recipe.name}"
    study.display.say(f"rank: {words}")
    active, space = ActiveRecipe(recipe), study.config.space
    if recipe.stages:
        log = study.layout.ranking("sample", study.splits.spec.source_hash)
        score = active.score(space, score_sample(study, active, log))
        if isinstance(score, CascadeScore):
            study.display.say(f"rank: {score.words}")
        factory = candidates_factory(study, recipe, score)
        done = _evaluated(study, factory, chosen)
    else:
        done = _evaluated(study, sample_factory(study, recipe), chosen)
        score = active.score(space, done)
    failures = Failures.among(done)
    if failures.num:
        study.display.say(f"rank: {failures}")
    ranked = [Ranked(each, score.of(each) if each.complete else None) for each in done]
    return sorted(ranked, key=lambda each: (each.score is None, -(each.score or 0.0)))


def _evaluated(
    study: StudyContext, factory: Factory, architectures: Sequence[Architecture]
) -> list[Evaluation]:
    log = study.layout.ranking("ranked", study.splits.spec.source_hash)
    return study.runner.run("ranking architectures", factory, architectures, log)
