"""The configuration section `knowledge_distillation`: which kinds, whose answers, weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Annotated, Any

from nas_proxy.errors import ConfigError, did_you_mean
from nas_proxy.options import (
    Bound,
    Fraction,
    NonNegativeFloat,
    Options,
    OrAuto,
    PositiveInt,
    Shorthand,
)
from nas_proxy.train.teacher_settings import TeacherOption, TeacherSettings

AUTO = "auto"

PUBLISHED: Mapping[str, Mapping[str, Mapping[str, float | int]]] = MappingProxyType(
    {
        "response": {
            "hinton": {"temperature": 4.0, "weight": 0.9, "warm_up": 0.0},
            "decoupled": {
                "temperature": 4.0,
                "weight": 1.0,
                "warm_up": 1 / 12,
                "target_weight": 1.0,
                "non_target_weight": 8.0,
            },
        },
        "self": {
            "generations": {
                "temperature": 1.0,
                "weight": 0.5,
                "warm_up": 0.0,
                "num_generations": 1,
            },
            "exits": {
                "temperature": 3.0,
                "weight": 1.0,
                "warm_up": 0.0,
                "soft_share": 0.3,
                "feature_weight": 0.03,
            },
        },
        "multi_teacher": {
            variant: {"temperature": 4.0, "weight": 0.9, "warm_up": 0.0}
            for variant in ("mean", "val_accuracy", "val_loss", "confidence")
        },
        "attention": {"": {"weight": 1000.0, "warm_up": 0.0}},
        "relational": {
            "": {"weight": 1.0, "warm_up": 0.0, "distance_weight": 25.0, "angle_weight": 50.0}
        },
    }
)
"""By kind and variant, the options that it has and their published values.

The first variant is the one that is meant where none is named. Sources: RepDistiller for Hinton's,
attention and relational; mdistiller for decoupled (20 of 240 epochs of warm-up); the authors' code
for exits. Born-again networks are published without temperature; the label and the earlier
generation count the same.
"""

_ANSWERS = (("response", "hinton"), ("self", "generations"))


@dataclass(frozen=True, kw_only=True)
class TermSettings(Options):
    """One term of the loss. What is left out, or None, takes the published value of the kind.

    Attributes:
        kind: `response`, `self`, `multi_teacher`, `attention` or `relational`.
        variant: Of `response`: `hinton` or `decoupled`. Of `self`: `generations`, in which an
            earlier generation of the same architecture teaches, or `exits`, in which the deeper
            part of the network teaches exits of its shallower stages. Of `multi_teacher`, how the
            teachers are weighted: `mean`, `val_accuracy`, `val_loss` or, for each image by itself,
            `confidence`.
        teachers: Each by name, file, registered model, or as a section; a word alone is one. Empty:
            those of the whole section.
        temperature: Divides the logits of teacher and student, at most 1000: beyond, the losses are
            rounding errors; `auto` chooses it.
        weight: The term is multiplied by it; `auto` chooses it.
        warm_up: Share of the steps over which the weight rises from zero, linearly.
        target_weight: Of the true class against all others; for `decoupled`.
        non_target_weight: Of the other classes among themselves; for `decoupled`.
        num_generations: How many generations are trained before the one that counts.
        soft_share: Of an exit's loss that comes from the deepest answer, the rest being the
            labels'; for `exits`.
        feature_weight: Of the distance between the exits' embeddings and the network's own.
        distance_weight: Of the pairwise distances; for `relational`.
        angle_weight: Of the angles between triples; for `relational`.

    Raises:
        ConfigError: If there is no such kind or variant, or it has no such option or no teachers.
    """

    kind: str
    variant: str | None = None
    teachers: Annotated[tuple[TeacherOption, ...], Shorthand(lambda word: [word])] = ()
    temperature: Annotated[float | str, OrAuto(Bound(gt=0, le=1000))] | None = None
    weight: Annotated[float | str, OrAuto(Bound(ge=0))] | None = None
    warm_up: Fraction | None = None
    target_weight: NonNegativeFloat | None = None
    non_target_weight: NonNegativeFloat | None = None
    num_generations: PositiveInt | None = None
    soft_share: Fraction | None = None
    feature_weight: NonNegativeFloat | None = None
    distance_weight: NonNegativeFloat | None = None
    angle_weight: NonNegativeFloat | None = None

    def __post_init__(self) -> None:
        """Refuse what does not belong to the kind, and fill in what was published."""
        if self.kind not in PUBLISHED:
            raise ConfigError(
                f"there is no kind of distillation {self.kind!r}; "
                f"{did_you_mean(self.kind, PUBLISHED)}"
            )
        variants = PUBLISHED[self.kind]
        variant = next(iter(variants)) if self.variant is None else self.variant
        if variant not in variants:
            raise ConfigError(
                f"{self.kind} has no variant {variant!r}; "
                + (did_you_mean(variant, variants) if any(variants) else "leave it out")
            )
        known = variants[variant]
        for option in _numbers():
            if getattr(self, option) is not None and option not in known:
                raise ConfigError(
                    f"{self.title_of(self.kind, variant)} has no {option}; leave it out "
                    f"(it has {', '.join(known)})"
                )
        if self.kind == "self" and self.teachers:
            raise ConfigError(
                "a network that teaches itself has no other teachers; leave teachers out, or add "
                "a term of another kind"
            )
        object.__setattr__(self, "variant", variant)
        for option, value in known.items():
            if getattr(self, option) is None:
                object.__setattr__(self, option, value)

    @staticmethod
    def title_of(kind: str, variant: str) -> str:
        """Such as `response (decoupled)`."""
        return f"{kind} ({variant})" if variant else kind

    @property
    def title(self) -> str:
        """Kind and variant, such as `response (decoupled)`."""
        return self.title_of(self.kind, self.variant or "")

    @property
    def is_answers(self) -> bool:
        """Whether it replaces a share of the labels' loss by that of one distribution of classes.

        Of these, weight and the labels' weight add up to one unless that is said otherwise.
        """
        return self.kind == "multi_teacher" or (self.kind, self.variant) in _ANSWERS

    @property
    def autos(self) -> tuple[str, ...]:
        """Which options are to be chosen."""
        return tuple(name for name in ("temperature", "weight") if getattr(self, name) == AUTO)

    @property
    def is_nothing(self) -> bool:
        """Whether it is weighted so that nothing is learned from it."""
        parts = (self.target_weight, self.non_target_weight)
        relations = (self.distance_weight, self.angle_weight)
        return self.weight == 0 or parts == (0, 0) or relations == (0, 0)

    def number(self, option: str) -> float:
        """An option that is a number by now.

        Raises:
            ValueError: If it is not: `auto` has not been chosen, or the kind lacks the option.
        """
        value = getattr(self, option)
        if value is None or isinstance(value, str):
            raise ValueError(f"{option} of {self.title} is {value}, and not a number yet")
        return float(value)


def _numbers() -> tuple[str, ...]:
    named = ("kind", "variant", "teachers")
    return tuple(field.name for field in fields(TermSettings) if field.name not in named)


@dataclass(frozen=True, kw_only=True)
class KnowledgeDistillationSettings(Options):
    """What a network learns beside the labels: a weighted sum of terms.

    Attributes:
        terms: At least one.
        teachers: Of all terms that name none.
        hard_weight: Of the cross-entropy with the labels. None: 1, but 1 less the weight where the
            only term is `response` in Hinton's form, `multi_teacher`, or `self` by generations.
        unlabelled: Folder of further images, without classes: teachers' answers are all that is
            learned from them.
        auto_num_steps: Steps of each short training by which `auto` is chosen; None: a tenth of
            the training's.
        allow_leakage: Go on although a teacher, or the unlabelled images, have seen images that
            judge the student; the report says so.

    Raises:
        ConfigError: If a term's teachers are missing or too many, or terms do not go together.
    """

    terms: tuple[TermSettings, ...]
    teachers: Annotated[tuple[TeacherOption, ...], Shorthand(lambda word: [word])] = ()
    hard_weight: NonNegativeFloat | None = None
    unlabelled: str | None = None
    auto_num_steps: PositiveInt | None = None
    allow_leakage: bool = False

    def __post_init__(self) -> None:
        """Refuse terms that mean nothing, or not what their author may think."""
        if not self.terms:
            raise ConfigError("a distillation needs at least one term; leave the section out")
        for term in self.terms:
            self._check_teachers(term)
        titles = [term.title for term in self.terms]
        if titles.count("self (generations)") > 1:
            raise ConfigError("self (generations) can be one term only; set num_generations")
        if self.auto_num_steps is not None and not self.is_auto:
            raise ConfigError(
                "auto_num_steps is for temperature: auto and weight: auto, but nothing is auto; "
                "leave it out"
            )
        if self.unlabelled is not None:
            self._check_unlabelled()
        self._check_hard_weight()
        if self.teachers and all(term.kind == "self" or term.teachers for term in self.terms):
            raise ConfigError(
                "teachers of the whole are for terms that name none, but every term here names its "
                "own, or teaches itself and has no other teachers; leave them out"
            )
        if self.num_generations:
            self.first_generation()  # refused now, not after the candidates

    def _check_teachers(self, term: TermSettings) -> None:
        if term.kind == "self":
            return
        named = self.teachers_of(term)
        number = len(named)
        if any(teacher in named[:index] for index, teacher in enumerate(named)):
            raise ConfigError(
                f"{term.title} names the same teacher twice, which would say the same twice; give "
                "one of them another seed, or name another"
            )
        if term.kind == "multi_teacher" and number < 2:
            raise ConfigError(
                f"multi_teacher needs two teachers or more, got {number}; name them under "
                "teachers, or use response"
            )
        if term.kind != "multi_teacher" and number != 1:
            raise ConfigError(
                f"{term.title} needs one teacher, got {number}; "
                + (
                    "name it under teachers"
                    if number == 0
                    else "use multi_teacher, or one term each"
                )
            )

    def _check_unlabelled(self) -> None:
        if not self.unlabelled:
            raise ConfigError("unlabelled names no folder; name one, or leave it out")
        kinds = {term.kind for term in self.terms}
        if kinds == {"self"}:
            raise ConfigError(
                "unlabelled images teach nothing to a network that has no teacher but itself; "
                "leave unlabelled out, or add a term with teachers"
            )
        for term in self.terms:
            if term.variant in ("decoupled", "confidence"):
                raise ConfigError(
                    f"{term.title} looks at the true class, which unlabelled images do not have; "
                    "leave unlabelled out, or choose another variant"
                )

    def _check_hard_weight(self) -> None:
        term = self.terms[0]
        if self.hard_weight == 0 and all(term.is_nothing for term in self.terms):
            raise ConfigError(
                "hard_weight is 0 and so are the weights of all terms, so nothing would be "
                "learned; give one of them a weight"
            )
        if self.hard_weight is not None or len(self.terms) > 1 or not term.is_answers:
            return
        if term.weight != AUTO and term.number("weight") > 1:
            raise ConfigError(
                f"the weight of {term.title} is {term.weight}, and 1 less it would weigh the "
                "labels; set hard_weight too, or a weight of at most 1"
            )

    def teachers_of(self, term: TermSettings) -> tuple[TeacherSettings, ...]:
        """The teachers of one term."""
        return term.teachers or self.teachers

    @property
    def all_teachers(self) -> tuple[TeacherSettings, ...]:
        """The teachers of all terms, each once."""
        needed = [t for term in self.terms if term.kind != "self" for t in self.teachers_of(term)]
        return tuple(t for index, t in enumerate(needed) if t not in needed[:index])

    @property
    def labels_weight(self) -> float:
        """What the cross-entropy with the labels is multiplied by."""
        if self.hard_weight is not None:
            return self.hard_weight
        if len(self.terms) == 1 and self.terms[0].is_answers:
            return 1.0 - self.terms[0].number("weight")
        return 1.0

    @property
    def is_auto(self) -> bool:
        """Whether anything is still to be chosen."""
        return any(term.autos for term in self.terms)

    @property
    def num_generations(self) -> int:
        """How many generations of the student are trained before the one that counts."""
        return max(
            (t.num_generations or 0 for t in self.terms if t.variant == "generations"), default=0
        )

    def check_for_candidates(self, train_on: str) -> None:
        """Refuse what cannot be taught to the many candidates of a search.

        Args:
            train_on: What they are trained on: `proxy`, `full_data` or `nothing`.

        Raises:
            ConfigError: If they are not trained, something is `auto`, or unlabelled images would
                be mixed among distilled ones.
        """
        if train_on == "nothing":
            raise ConfigError(
                "nothing is trained here, so nothing can be distilled; leave "
                "knowledge_distillation out, or rank by a signal of a training"
            )
        if self.is_auto:
            raise ConfigError(
                "auto is chosen by short trainings of one network, which the section retrain has "
                "and candidates have not; give temperature and weight as numbers"
            )
        if self.unlabelled is not None and train_on == "proxy":
            raise ConfigError(
                "unlabelled images can be mixed among real ones alone, and candidates train on "
                "distilled ones; leave unlabelled out"
            )

    def first_generation(self) -> KnowledgeDistillationSettings | None:
        """What the first generation learns, which has no earlier one; None: the labels alone."""
        terms = tuple(term for term in self.terms if term.variant != "generations")
        return replace(self, terms=terms, auto_num_steps=None) if terms else None


_OF_THE_WHOLE = tuple(f.name for f in fields(KnowledgeDistillationSettings))


def distillation_from(value: Any) -> Any:
    """What a word, a list of terms, or one term stands for.

    `self` is `{terms: [{kind: self}]}`; `{kind: response, teachers: [...], hard_weight: 1}` is one
    term, whose keys may stand beside those of the whole.
    """
    if isinstance(value, str):
        return {"terms": [{"kind": value}]}
    if isinstance(value, list):
        return {"terms": value}
    if "terms" in value:
        return value
    whole = {key: each for key, each in value.items() if key in _OF_THE_WHOLE}
    return {"terms": [{k: v for k, v in value.items() if k not in whole}], **whole}


KnowledgeDistillationOption = Annotated[
    KnowledgeDistillationSettings, Shorthand(distillation_from, of=(str, list, dict))
]
"""The section, one of its terms with the section's other keys, or a list of terms."""
