"""What networks learn beside the labels: teachers made ready, `auto` chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from nas_proxy.calibrate.recipes import Measuring
from nas_proxy.core.files import write_atomically
from nas_proxy.errors import DivergedError, StudyError
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory
from nas_proxy.evaluate.tuning import tune_distillation
from nas_proxy.interfaces import DistillContext
from nas_proxy.knowledge_distillation.prepared import KnowledgeDistillation, prepare_distillation
from nas_proxy.knowledge_distillation.record import DistillationRecord
from nas_proxy.knowledge_distillation.settings import KnowledgeDistillationSettings
from nas_proxy.reproducibility import content_hash
from nas_proxy.study.context import StudyContext
from nas_proxy.teachers.training import read_teacher
from nas_proxy.tracking.registry.fetched_models import fetch_model
from nas_proxy.types import Architecture


@dataclass(frozen=True)
class PreparedDistillation:
    """What the networks of a study learn beside the labels, ready to be used.

    Attributes:
        knowledge_distillation: Nothing in it is `auto`; None: the labels alone are learned.
        record: For the report: teachers, their terms, what they have seen, what was chosen.
        licences: Terms of the teachers' weights, by their names.
    """

    knowledge_distillation: KnowledgeDistillation | None = None
    record: DistillationRecord | None = None
    licences: Mapping[str, str] = field(default_factory=dict)


def recipe_factory(
    study: StudyContext, recipe: Measuring, signals: Sequence[str] | None = None
) -> NetworkEvaluatorFactory:
    """Measures the recipe's signals on candidates, which learn from its teachers if it has any.

    Args:
        study: The study.
        recipe: One without stages, or a stage; its own training, else the study's section `train`,
            is used.
        signals: Some of the recipe's signals; None: all. Where none of them needs a training,
            nothing is trained.

    Raises:
        UserError: If a teacher cannot be had, does not fit, or has seen what judges its students.
    """
    factory = study.factories.measuring(
        recipe.score.signals if signals is None else signals,
        train_on=recipe.train_on,
        settings=recipe.train or study.config.train,
        score_images=recipe.score.score_images,
        warm_up=recipe.warm_up,
    )
    is_trained = factory.train_on is not None
    return replace(
        factory,
        knowledge_distillation=candidates_distillation(study, recipe) if is_trained else None,
    )


def candidates_distillation(study: StudyContext, recipe: Measuring) -> KnowledgeDistillation | None:
    """What the candidates of a recipe learn beside the labels; None: nothing.

    Raises:
        UserError: As `retraining_distillation`.
        StudyError: If the distilled images are whitened, which teachers of real ones cannot read.
    """
    settings = recipe.knowledge_distillation
    if settings is None:
        return None
    is_whitened = recipe.train_on == "proxy" and study.proxy_dataset.zca is not None
    if is_whitened and settings.all_teachers:
        raise StudyError(
            "the distilled images are ZCA-whitened, and teachers know images as they are; leave "
            "knowledge_distillation out, use the kind self, or distil with zca: null"
        )
    return _with_teachers(
        study, settings, study.layout.candidates_teachers, "knowledge_distillation"
    )


def retraining_distillation(
    study: StudyContext,
    settings: KnowledgeDistillationSettings,
    folder: Path,
    factory: NetworkEvaluatorFactory,
    job: tuple[Architecture, int],
) -> PreparedDistillation:
    """Train or fetch the teachers, and choose what is `auto` on the search-validation images.

    Args:
        study: The study.
        settings: Which terms.
        folder: Where teachers and short trainings are kept.
        factory: Of the trainings to come.
        job: The architecture whose short trainings choose, and their seed.

    Raises:
        UserError: If a teacher cannot be had, does not fit, or has seen what judges its students.
    """
    knowledge_distillation = _with_teachers(
        study, settings, folder, "retrain.knowledge_distillation"
    )
    record = distillation_record(knowledge_distillation)
    if settings.is_auto:
        with study.display.progress("choosing temperature and weight") as progress:
            taught = replace(factory, knowledge_distillation=knowledge_distillation)
            tuned = tune_distillation(study.executor, taught, job, folder / "auto", progress)
        knowledge_distillation = replace(knowledge_distillation, settings=tuned.settings)
        record = replace(record, auto=tuned.record())
    licences = {
        f"teacher {each.description}": each.licence or "no terms but those of its images"
        for each in record.teachers
    }
    return PreparedDistillation(knowledge_distillation, record, licences)


def distillation_record(knowledge_distillation: KnowledgeDistillation) -> DistillationRecord:
    """For the report: which terms, whose answers, what the teachers have seen, what they cost."""
    return DistillationRecord(
        terms=tuple(term.title for term in knowledge_distillation.settings.terms),
        teachers=tuple(read_teacher(path).record() for path in knowledge_distillation.files),
        num_leaked_images=knowledge_distillation.num_leaked_images,
        num_unlabelled=knowledge_distillation.num_unlabelled,
        teaching_seconds=knowledge_distillation.teaching_seconds,
    )


def _with_teachers(
    study: StudyContext, settings: KnowledgeDistillationSettings, folder: Path, section: str
) -> KnowledgeDistillation:
    with study.display.progress("teachers") as progress:
        context = DistillContext(
            device=study.device,
            progress=progress,
            cache=study.layout.cache,
            fetch_model=partial(
                fetch_model,
                settings=study.config.tracking,
                results=study.config.results,
                folder=study.layout.cache / "models",
            ),
        )
        try:
            knowledge_distillation = prepare_distillation(
                settings, study.splits, context, folder, section=section
            )
        except DivergedError as error:  # its sentence says what to change
            raise StudyError(str(error)) from error
    _check_unchanged(knowledge_distillation, folder, section)
    return knowledge_distillation


def _check_unchanged(
    knowledge_distillation: KnowledgeDistillation, folder: Path, section: str
) -> None:
    """Refuse to go on with other teachers than the study's earlier trainings had.

    A file may be replaced, and a registered alias moved, while the configuration stays the same.

    Raises:
        StudyError: If the teachers or the unlabelled images are others than those on record.
    """
    path = folder / f"{content_hash(asdict(knowledge_distillation.settings))}.json"
    if not path.is_file():
        write_atomically(path, json.dumps(knowledge_distillation.sources, indent=1))
    elif json.loads(path.read_text()) != knowledge_distillation.sources:
        raise StudyError(
            f"the teachers or the unlabelled images that {section} names are not what they were "
            "when this study began to learn from them; put the earlier ones back, choose another "
            f"study_name, or delete {path} and pass --force to repeat the stage"
        )
