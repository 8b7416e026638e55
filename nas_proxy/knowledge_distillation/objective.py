"""Everything that a student learns, as what its training minimises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor, nn

from nas_proxy.errors import ConfigError, required
from nas_proxy.knowledge_distillation._attention import Attention
from nas_proxy.knowledge_distillation._multi_teacher import (
    MultiTeacher,
    accuracy_weights,
    loss_weights,
)
from nas_proxy.knowledge_distillation._relational import Relational
from nas_proxy.knowledge_distillation._response import DecoupledResponse, Response
from nas_proxy.knowledge_distillation._self_distillation import Exits
from nas_proxy.knowledge_distillation._term import (
    UNLABELLED,
    NetworkOutput,
    Term,
    TermInputs,
    labels_loss,
)
from nas_proxy.knowledge_distillation.feature_maps import (
    FeatureLayout,
    FeatureMap,
    Recorder,
    examine,
    match_feature_maps,
)
from nas_proxy.knowledge_distillation.settings import KnowledgeDistillationSettings, TermSettings
from nas_proxy.knowledge_distillation.teachers import TeacherNetwork, Teachers, ask
from nas_proxy.reproducibility import isolated_rng
from nas_proxy.train.objective import Batch, Objective
from nas_proxy.train.phases import Phase, num_steps_of
from nas_proxy.train.training_set import TrainingSet


@dataclass(frozen=True, eq=False)
class WeightedTerm:
    """A term with its place in the sum.

    Attributes:
        term: The loss.
        weight: It is multiplied by it.
        num_warm_up_steps: Over which the weight rises from zero.
        teachers: Positions of its teachers among the objective's.
    """

    term: Term
    weight: float
    num_warm_up_steps: float
    teachers: tuple[int, ...]


class KnowledgeObjective(Objective):
    """The labels' cross-entropy and the terms of a distillation, each with its weight.

    Student and teachers carry hooks until `close`, or the end of a with statement. Each teacher
    answers once for each batch, however many terms look at it.

    Args:
        student: In training.
        teachers: Whose answers the terms use.
        labels_weight: Of the cross-entropy.
        terms: The others.
        layouts: Of the student first, then of the teachers.
        phases: Of the training: their precision is the teachers' too.
        partly_labelled: Whether there are images without a label.

    Raises:
        ConfigError: If a term needs an embedding where there is none.
    """

    num_steps_done: Tensor

    def __init__(
        self,
        student: nn.Module,
        teachers: Sequence[TeacherNetwork],
        terms: Sequence[WeightedTerm],
        layouts: Sequence[FeatureLayout],
        phases: Sequence[Phase],
        *,
        labels_weight: float,
        partly_labelled: bool,
    ) -> None:
        super().__init__()
        self.terms = nn.ModuleList(weighted.term for weighted in terms)
        # For the warm-up; a buffer, so that a training that continues knows it.
        self.register_buffer("num_steps_done", torch.zeros((), dtype=torch.int64))
        self._weighted = tuple(terms)
        self._teachers = tuple(teachers)
        self._labels_weight = labels_weight
        self._partly_labelled = partly_labelled
        self._settings = phases[0].settings
        ours, *theirs = layouts
        feature_maps = [
            feature_map for weighted in terms for feature_map in weighted.term.student_maps
        ]
        needed = any(weighted.term.needs_embedding for weighted in terms)
        recorders = [_recorder(student, ours, feature_maps, embedding=needed, training=True)]
        for position, (teacher, layout) in enumerate(zip(teachers, theirs, strict=True)):
            asking = [weighted.term for weighted in terms if position in weighted.teachers]
            feature_maps = [feature_map for term in asking for feature_map in term.teacher_maps]
            needed = any(term.needs_embedding for term in asking)
            recorders.append(
                _recorder(teacher.network, layout, feature_maps, embedding=needed, training=False)
            )
        self._recorders = tuple(recorders)

    def forward(self, batch: Batch) -> Tensor:
        """The weighted sum; the student has just answered `batch`."""
        student = NetworkOutput(batch.logits, self._recorders[0].take())
        answers = [
            NetworkOutput(ask(teacher, batch.images, self._settings), recorder.take())
            for teacher, recorder in zip(self._teachers, self._recorders[1:], strict=True)
        ]
        loss = batch.logits.new_zeros(())
        if self._labels_weight:
            hard = labels_loss(batch, partly_labelled=self._partly_labelled)
            loss = loss + self._labels_weight * hard
        for weighted in self._weighted:
            inputs = TermInputs(batch, student, tuple(answers[each] for each in weighted.teachers))
            loss = loss + self._weight_now(weighted) * weighted.term(inputs)
        self.num_steps_done += 1
        return loss

    def _weight_now(self, weighted: WeightedTerm) -> Tensor | float:
        if not weighted.num_warm_up_steps:
            return weighted.weight
        return weighted.weight * (self.num_steps_done / weighted.num_warm_up_steps).clamp_max(1.0)

    def close(self) -> None:
        """Remove all hooks from student and teachers."""
        for recorder in self._recorders:
            recorder.close()

    def __enter__(self) -> KnowledgeObjective:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def make_objective(
    settings: KnowledgeDistillationSettings,
    student: nn.Module,
    teachers: Teachers,
    training_set: TrainingSet,
    phases: Sequence[Phase],
    generator: torch.Generator,
) -> KnowledgeObjective:
    """What a training minimises in which `student` learns from `teachers` too.

    Use it in a with statement: it watches student and teachers through hooks. Its own parameters
    (of exits) are trained along, and are no part of the student.

    Args:
        settings: Which terms; nothing is `auto` any more (`knowledge_distillation.tuning` chooses).
        student: Any network, on the device of the images.
        teachers: Those of `settings`, on the same device.
        training_set: What it trains on.
        phases: How.
        generator: For the weights of exits; one number is drawn.

    Raises:
        ConfigError: If a term cannot be had with this student, teacher or kind of labels; the
            message says which, and lists the feature maps where it is about these.
        DataError: If a teacher knows other classes.
    """
    teachers.check_classes(training_set.spec.class_names)
    _check_labels(settings, training_set, phases)
    maker = _TermMaker(settings, student, teachers, training_set)
    seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
    with isolated_rng(seed):
        terms = [
            maker.make(term, num_steps_of(phases, len(training_set))) for term in settings.terms
        ]
    objective = KnowledgeObjective(
        student,
        maker.networks,
        terms,
        [maker.student, *maker.layouts],
        phases,
        labels_weight=settings.labels_weight,
        partly_labelled=maker.partly_labelled,
    )
    return objective.to(training_set.images.device)


class _TermMaker:
    """From the settings of a term to the term."""

    def __init__(
        self,
        settings: KnowledgeDistillationSettings,
        student: nn.Module,
        teachers: Teachers,
        training_set: TrainingSet,
    ) -> None:
        self._settings = settings
        self._teachers = teachers
        self._num_classes = training_set.spec.num_classes
        self.partly_labelled = is_partly_labelled(training_set)
        height, width = training_set.images.shape[2:]
        shape = (training_set.images.shape[1], height, width)
        self.student = examine(student, shape, "the student")
        earlier = [] if teachers.earlier is None else [teachers.earlier]
        self.networks: tuple[TeacherNetwork, ...] = (*teachers.trained, *earlier)
        self.layouts = [
            examine(t.network, t.input_shape, f"the teacher {t.description}") for t in self.networks
        ]

    def make(self, term: TermSettings, num_steps: int) -> WeightedTerm:
        """The term of its settings, in a training of so many steps."""
        makers = {
            "response": self._response,
            "self": self._self,
            "multi_teacher": self._multi_teacher,
            "attention": self._attention,
            "relational": self._relational,
        }
        positions = self._positions(term)
        made = makers[term.kind](term, positions)
        warm_up = term.number("warm_up") * num_steps
        return WeightedTerm(made, term.number("weight"), warm_up, positions)

    def _positions(self, term: TermSettings) -> tuple[int, ...]:
        if term.variant == "generations":
            required(self._teachers.earlier, "the earlier generation")
            return (len(self.networks) - 1,)
        if term.kind == "self":
            return ()
        known = self._settings.all_teachers
        return tuple(known.index(teacher) for teacher in self._settings.teachers_of(term))

    def _response(self, term: TermSettings, positions: Sequence[int]) -> Term:
        temperature = term.number("temperature")
        if term.variant == "hinton":
            return Response(temperature)
        return DecoupledResponse(
            temperature, term.number("target_weight"), term.number("non_target_weight")
        )

    def _self(self, term: TermSettings, positions: Sequence[int]) -> Term:
        if term.variant == "generations":
            return Response(term.number("temperature"))
        return Exits(
            self.student,
            self._num_classes,
            temperature=term.number("temperature"),
            soft_share=term.number("soft_share"),
            feature_weight=term.number("feature_weight"),
            partly_labelled=self.partly_labelled,
        )

    def _multi_teacher(self, term: TermSettings, positions: Sequence[int]) -> Term:
        weights: list[float] | None = [1 / len(positions)] * len(positions)
        if term.variant == "confidence":
            weights = None
        elif term.variant == "val_accuracy":
            weights = accuracy_weights([self._teachers.val_accuracies[each] for each in positions])
        elif term.variant == "val_loss":
            weights = loss_weights([self._teachers.val_losses[each] for each in positions])
        return MultiTeacher(term.number("temperature"), weights)

    def _attention(self, term: TermSettings, positions: Sequence[int]) -> Term:
        return Attention(match_feature_maps(self.student, self.layouts[positions[0]]))

    def _relational(self, term: TermSettings, positions: Sequence[int]) -> Term:
        return Relational(term.number("distance_weight"), term.number("angle_weight"))


def is_partly_labelled(training_set: TrainingSet) -> bool:
    """Whether some of the images have no label."""
    return training_set.labels.ndim == 1 and bool((training_set.labels == UNLABELLED).any())


def _recorder(
    network: nn.Module,
    layout: FeatureLayout,
    feature_maps: Sequence[FeatureMap],
    *,
    embedding: bool,
    training: bool,
) -> Recorder:
    if embedding and layout.embedding is None:
        raise ConfigError(
            f"{layout.name} does not end in a linear layer or a convolution, so it has no "
            "embedding; choose another kind of distillation, or another network"
        )
    return Recorder(
        network, feature_maps, layout.embedding if embedding else None, training=training
    )


def _check_labels(
    settings: KnowledgeDistillationSettings, training_set: TrainingSet, phases: Sequence[Phase]
) -> None:
    """Refuse labels that a term cannot use, or that would be used wrongly."""
    augmentations = [p.settings.augmentation or training_set.augmentation for p in phases]
    mixes = any(augmentation.mixes for augmentation in augmentations)
    decoupled = any(term.variant == "decoupled" for term in settings.terms)
    if decoupled and (mixes or not training_set.has_hard_labels):
        what = "mixup and cutmix leave" if mixes else "this training set has"
        raise ConfigError(
            f"response (decoupled) tells the true class from the others, but {what} soft labels; "
            "choose variant: hinton, or train on hard labels without mixing"
        )
    if mixes and is_partly_labelled(training_set):
        raise ConfigError(
            "mixup and cutmix mix labels, which unlabelled images do not have; set them to 0 in "
            "train.augmentation, or leave knowledge_distillation.unlabelled out"
        )
