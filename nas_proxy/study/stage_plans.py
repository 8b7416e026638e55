"""The tasks of the stages that have many: calibrating, validating, retraining."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nas_proxy.calibrate.recipes import Recipe
from nas_proxy.calibrate.settings import (
    CalibrateSettings,
    architectures_needed,
    bound_confidence,
    round_sizes,
)
from nas_proxy.errors import shorten
from nas_proxy.networks.catalogue import FixedNetworks
from nas_proxy.retrain.settings import RetrainSettings
from nas_proxy.scores.signals import trained_among, zero_cost_among
from nas_proxy.statistics.expected import ExpectedStop, chance_above, expected_stop
from nas_proxy.statistics.intervals import CONFIDENCE
from nas_proxy.statistics.words import decimal
from nas_proxy.study.context import StudyContext
from nas_proxy.study.controls import DISTILLED_READINGS, SAME_STEPS, has_distilled_control
from nas_proxy.study.measured_recipes import MeasuredLog
from nas_proxy.study.plan import (
    GOOD_RHO,
    EvaluationUnit,
    ProxyFacts,
    Saving,
    StagePlan,
    Task,
    fewer_architectures,
    sample_words,
    shorter_training,
    teacher_tasks,
    training_unit,
    trust_words,
)
from nas_proxy.study.recipe_units import (
    candidate_units,
    part_unit,
    possible_recipes,
    recipe_notes,
)
from nas_proxy.study.samples import SampleReferences
from nas_proxy.study.sequential import trust_threshold
from nas_proxy.train.settings import TrainSettings
from nas_proxy.validate.settings import FIRST_LOOK, TRUSTED_FROM, ValidateSettings
from nas_proxy.validate.stopping import planned_looks

REFERENCES = "full-data references"


def calibration_plan(
    study: StudyContext,
    settings: CalibrateSettings,
    sample: SampleReferences,
    measured: Sequence[MeasuredLog],
) -> StagePlan:
    """References and what recipes measure, of all that a race may ask for."""
    n = len(sample.architectures)
    sizes = round_sizes(n)
    tasks = []
    if sample.training is not None:
        unit = training_unit(study, sample.training)
        tasks.append(
            Task(what=REFERENCES, units=(unit,), total=n, done=sample.num_known, least=sizes[0])
        )
    for each in measured:
        done = len(study.logs.evaluations(study.layout.stage_log("calibrate", each.log)))
        what = f"trainings of {shorten(each.recipes)}" if each.recipes else each.log
        tasks.append(
            Task(what=what, units=(each.unit,), total=n, done=min(done, n), least=sizes[0])
        )
    confidence = bound_confidence(len(settings.recipes), len(sizes))
    budget = settings.budget_seconds
    ends = () if budget is None else (f"calibrate.budget_seconds ends it after {budget:.0f} s",)
    return StagePlan(
        stage="calibrate",
        tasks=tuple(tasks),
        buys=(*sample_words(n), trust_words(n, settings.threshold, confidence)),
        savings=_smaller_sample(settings, n),
        notes=(
            f"at most: the race may be decided after {sizes[0]} architectures",
            *ends,
            *(words.rstrip(".") for words in sample.taken_words(n)),
        ),
    )


def _smaller_sample(settings: CalibrateSettings, n: int) -> tuple[Saving, ...]:
    """Fewer architectures, as far as the threshold allows."""
    threshold, num_recipes = settings.threshold, len(settings.recipes)
    fewest = architectures_needed(threshold, num_recipes)
    if fewest >= n:
        return ()
    confidence = bound_confidence(num_recipes, len(round_sizes(fewest)))
    chance = chance_above(GOOD_RHO, fewest, threshold, confidence)
    words = (
        f"the fewest for this threshold; a ranking of {decimal(GOOD_RHO)} passes with a "
        f"probability of {100 * chance:.0f} %"
    )
    return (Saving(f"calibrate.num_architectures={fewest}", fewest / n, words),)


def validation_plan(
    study: StudyContext, settings: ValidateSettings, sizes: Sequence[str]
) -> StagePlan:
    """The judged ranking, what it is compared with, and the references.

    Args:
        study: The study.
        settings: Its section `validate`.
        sizes: Signals of what bigger is.
    """
    n, recipes = settings.max_architectures, possible_recipes(study)
    end = _expected_end(study, settings)
    tasks = [
        *_judged(study, recipes, n),
        _zero_cost(study, recipes, dict.fromkeys((*settings.controls, *sizes)), n),
        *_trained_controls(study, recipes, n),
        *(_distilled_controls(study, recipes, n) if settings.distilled_set else ()),
    ]
    savings: list[Saving] = []
    if end is None:
        savings += fewer_architectures("validate.num_architectures", n, TRUSTED_FROM)
    train = settings.reference.train
    if train is not None:
        unit = training_unit(study, train, split="test")
        done = _num_done(study, "reference", n)
        references = Task(what=REFERENCES, units=(unit,), total=n, done=done)
        again = settings.ceiling_architectures
        tasks.append(references)
        if again:
            done = _num_done(study, "reference_second_seed", again)
            what = "references with another seed"
            tasks.append(Task(what=what, units=(unit,), total=again, done=done))
        option = "validate.reference.train"
        savings += shorter_training(option, references, "references are noisier")
    wanted = [task for task in tasks if task.units]
    buys: tuple[str, ...] = (*sample_words(n), trust_words(n, TRUSTED_FROM, CONFIDENCE))
    if end is not None:
        wanted = [_may_end(task, end.size) for task in wanted]
        buys = (*sample_words(end.size), _stop_words(study, n, end))
    return StagePlan(
        stage="validate",
        tasks=tuple(wanted),
        buys=buys,
        savings=tuple(savings),
        notes=recipe_notes(study, recipes),
    )


def _expected_end(study: StudyContext, settings: ValidateSettings) -> ExpectedStop | None:
    """Where a sequential validation of a good ranking is expected to end; None of another one."""
    if not settings.is_sequential:
        return None
    looks = planned_looks(settings.max_architectures)
    sizes, confidences = [look.size for look in looks], [look.confidence for look in looks]
    return expected_stop(GOOD_RHO, trust_threshold(study.config), sizes, confidences)


def _may_end(task: Task, likely: int) -> Task:
    """The task of a validation that may end at its first look."""
    least = FIRST_LOOK if task.least is None else min(task.least, FIRST_LOOK)
    return replace(task, least=least, likely=likely)


def _stop_words(study: StudyContext, most: int, end: ExpectedStop) -> str:
    threshold = decimal(trust_threshold(study.config))
    return (
        f"at most {most} references, from {FIRST_LOOK} on as many as settle the verdict: a ranking "
        f"of {decimal(GOOD_RHO)} is expected to take {end.size} and is declared trusted (above "
        f"{threshold}) with a probability of {100 * end.chance:.0f} %"
    )


def _judged(study: StudyContext, recipes: Sequence[Recipe], n: int) -> list[Task]:
    units = candidate_units(study, recipes)
    return [Task(what="by the recipe", units=units, total=n, done=_num_done(study, "proxy", n))]


def _zero_cost(
    study: StudyContext, recipes: Sequence[Recipe], controls: dict[str, None], n: int
) -> Task:
    """The zero-cost signals that the recipe does not measure itself."""
    own: set[str] = set()
    if len(recipes) == 1 and recipes[0].score_images == "real":  # all go through the first stage
        own.update(zero_cost_among(recipes[0].measured[0]))
        controls |= dict.fromkeys(s for m in recipes[0].measured[1:] for s in zero_cost_among(m))
    units = EvaluationUnit(scores=tuple(name for name in controls if name not in own))
    done = min((_num_done(study, name, n) for name in units.scores), default=n)
    return Task(what="zero-cost controls", units=(units,), total=n, done=done)


def _trained_controls(study: StudyContext, recipes: Sequence[Recipe], n: int) -> list[Task]:
    """The same steps on random images and on the full data; see `controls.trained_controls`."""
    judged = [
        recipe
        for recipe in recipes
        if not recipe.stages and recipe.train_on == "proxy" and recipe.trained_signals
    ]
    on_random = tuple(
        dict.fromkeys(part_unit(study, recipe, recipe.trained_signals) for recipe in judged)
    )
    begun = [r for r in recipes if not r.stages and r.warm_up]
    on_full = tuple(
        dict.fromkeys(
            [_on_full_data(study, r) for r in judged]
            + [part_unit(study, r, r.trained_signals) for r in begun]
        )
    )
    least = None if len(judged) + len(begun) == len(recipes) else 0
    return [
        Task(what=what, units=units, total=n, done=_num_done(study, log, n), least=least)
        for what, log, units in (
            ("control: a random subset", "random_subset", on_random),
            (f"control: {SAME_STEPS}", "same_steps_full_data", on_full),
        )
        if units
    ]


def _distilled_controls(study: StudyContext, recipes: Sequence[Recipe], n: int) -> list[Task]:
    """The same training on the distilled set; see `controls.distilled_control`."""
    judged = [recipe for recipe in recipes if has_distilled_control(recipe)]
    units = []
    for recipe in judged:
        train = recipe.train or study.config.train
        num_steps = train.steps_for(len(study.splits.search_train))
        settings = replace(train, num_steps=num_steps, num_epochs=None)
        signals = tuple(DISTILLED_READINGS)
        units.append(training_unit(study, settings, train_on="proxy", signals=signals))
    if not units:
        return []
    least = None if len(judged) == len(recipes) else 0
    what, done = "control: the distilled set", _num_done(study, "distilled_set", n)
    return [Task(what=what, units=tuple(units), total=n, done=done, least=least)]


def _on_full_data(study: StudyContext, recipe: Recipe) -> EvaluationUnit:
    train, facts = recipe.train or study.config.train, ProxyFacts.of(study)
    settings: TrainSettings = replace(
        train,
        num_steps=train.steps_for(facts.num_images),
        num_epochs=None,
        batch_size=min(train.batch_size, facts.num_images),
        augmentation=train.augmentation or facts.augmentation,
    )
    signals, is_taught = trained_among(recipe.score.signals), recipe.knowledge_distillation
    return training_unit(study, settings, signals=signals, is_taught=is_taught is not None)


def _num_done(study: StudyContext, log: str, most: int) -> int:
    return min(most, len(study.logs.evaluations(study.layout.stage_log("validate", log))))


def retraining_plan(study: StudyContext, settings: RetrainSettings) -> StagePlan:
    """Every full training, with the one look at the test images, and smaller versions."""
    num_best, seeds = settings.num_architectures or 1, settings.num_seeds
    num_space = num_best + ("median" in settings.comparisons)
    unit = training_unit(
        study, settings.train, is_taught=settings.knowledge_distillation is not None
    )
    tested = replace(unit, num_measured=unit.num_measured + len(study.splits.test))
    log = study.logs.evaluations(study.layout.stage_log("retrain", "training"))
    num_fixed = sum(e.architecture.space == FixedNetworks.name for e in log)
    found = Task(
        what="full trainings",
        units=(tested,),
        total=num_space * seeds,
        done=min(len(log) - num_fixed, num_space * seeds),
    )
    tasks = [found]
    if "resnet18" in settings.comparisons:
        by_hand = replace(tested, network="resnet18")
        what, done = "full trainings of a ResNet-18 of that size", min(num_fixed, seeds)
        tasks.append(Task(what=what, units=(by_hand,), total=seeds, done=done))
    if settings.knowledge_distillation is not None:
        tasks += teacher_tasks(study, settings.knowledge_distillation.all_teachers)
    tasks += _compressing(study, settings)
    notes = ["which architectures these are is not known yet: counted are average ones"]
    if settings.pick in ("all", "max_accuracy", "knee"):
        notes.append("of the Pareto front one is counted; there may be more")
    savings = []
    if seeds > 1:
        consequence = "no interval over seeds"
        savings.append(Saving("retrain.num_seeds=1", 1 / seeds, consequence))
    return StagePlan(
        stage="retrain",
        tasks=tuple(tasks),
        buys=(f"{_count(num_best, 'model')}, {_count(seeds, 'seed')} each",),
        savings=tuple(savings),
        notes=tuple(notes),
    )


def _compressing(study: StudyContext, settings: RetrainSettings) -> list[Task]:
    """Fine-tuning after each change of a smaller version; quantising after training has none."""
    if settings.compress is None or study.layout.compression.is_file():
        return []
    compress = settings.compress.after(settings.train)
    changes = [
        method
        for variant in compress.variants
        for method in variant
        if method not in ("post_training_quantisation", "distillation")
    ]
    if compress.fine_tuning is None or not changes:
        return []
    unit = training_unit(study, compress.fine_tuning)
    what = "fine-tunings of smaller versions"
    return [Task(what=what, units=(unit,), total=len(changes), in_driver=True)]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"
