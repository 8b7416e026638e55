"""A recipe, alone or in stages, and the recipes that ship."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from nas_proxy.interfaces import SearchSpace
from nas_proxy.knowledge_distillation.settings import KnowledgeDistillationOption
from nas_proxy.options import Bound, Options, OrAuto
from nas_proxy.scores.cascade import CascadeSettings
from nas_proxy.scores.combine import ScoreSettings
from nas_proxy.scores.signals import (
    higher_is_better,
    own_signal,
    stage_of,
    trained_among,
    zero_cost_among,
)
from nas_proxy.train.settings import TrainSettings

ZERO_COST = ("naswot", "log_synflow", "meco")
# Every score that ships is raced alone too, the cheap ones first.
SINGLE_SCORES = (
    *("num_params", "num_layers", "synflow", "log_synflow", "flops", "meco", "naswot", "zen"),
    *("jacobian_covariance", "grad_norm", "snip", "fisher", "zico", "grasp"),
)
_BATCH_SIZE = 128
# So many rank architectures as all images do (Spearman .98 and more), and measuring takes less than
# a tenth of the shortest training: benchmarks/validation_images.py.
NUM_VAL_IMAGES = 2000
_TRAININGS: tuple[tuple[str, Literal["full_data", "proxy"], int], ...] = (
    ("stream", "full_data", 90),
    ("stream", "full_data", 360),
    ("distilled", "proxy", 360),
)
# What reads a kind of set: validation loss is for the stream; after many passes over few images it
# ranks backwards, and how fast networks learn these ranks: benchmarks/signals_by_data.py.
_READS: dict[Literal["full_data", "proxy"], str] = {
    "full_data": "val_loss",
    "proxy": "train_loss_mean",
}
_UNSAID = ScoreSettings()  # told from the same score written out by being this very object
NUM_DEFAULT = 4 + len(SINGLE_SCORES) + 3 * len(_TRAININGS)  # as many as `default_recipes` gives
_CASCADE_STEPS = (90, 360)
LABEL_STEPS = 360  # of the trainings whose ranks label the others in `self_labelled`
_NUM_LABELLED = 32
_KEEP = 0.9
# Options of the section `train` that recipes which ship say themselves.
REPLACED = ("num_steps", "num_epochs", "batch_size", "norm_statistics")

TrainOn = Literal["proxy", "full_data", "nothing"]


@dataclass(frozen=True, kw_only=True)
class Measuring(Options):
    """What is measured on architectures, and how it becomes one number.

    Attributes:
        train_on: `proxy`: the study's distilled set, with its labels. `full_data`: all
            search-training images. `nothing`: zero-cost signals alone, or no signal at all: labels
            and encoding rank.
        train: How candidates are trained on it, and at which fidelity; None: the section `train`.
        knowledge_distillation: What candidates learn beside the labels; None: nothing.
        score: What is measured, and how it becomes one number. Where it is left out, what reads the
            kind of set that is trained on: `val_loss` the full data's stream, `train_loss_mean`
            a distilled one.
        warm_up: Steps on the distilled set that come before those on the full data, with a
            schedule of their own; 0: none.
    """

    train_on: TrainOn = "proxy"
    train: TrainSettings | None = None
    knowledge_distillation: KnowledgeDistillationOption | None = None
    score: ScoreSettings = _UNSAID
    warm_up: Annotated[int, Bound(ge=0)] = 0

    def __post_init__(self) -> None:
        """Spell out a score that was left out: options are frozen for whoever reads them."""
        if self.score is _UNSAID and self.train_on == "full_data":
            read = ScoreSettings(signals=(_READS[self.train_on],))
            object.__setattr__(self, "score", read)

    @property
    def uses_distilled_set(self) -> bool:
        """Whether it trains on it, or looks at its images."""
        looks = bool(zero_cost_among(self.score.signals)) and self.score.score_images == "distilled"
        return self.train_on == "proxy" or self.warm_up > 0 or looks

    @property
    def trained_signals(self) -> tuple[str, ...]:
        """Those of its own training."""
        return tuple(s for s in trained_among(self.score.signals) if stage_of(s) is None)

    def check(self, called: str) -> None:
        """Refuse signals, and a distillation, that the training cannot give.

        Args:
            called: In messages.
        """
        trained = self.trained_signals
        if self.train_on == "nothing" and trained:
            raise ValueError(
                f"{called} trains on nothing, but its signal {trained[0]} needs a "
                "training; set train_on to proxy or full_data"
            )
        if self.train_on != "nothing" and not trained:
            for signal in self.score.signals:
                higher_is_better(signal)  # a misspelt one is named as such
            raise ValueError(f"{called} has no signal of a training; set train_on: nothing")
        if self.warm_up and (self.train_on != "full_data" or self.knowledge_distillation):
            raise ValueError(
                f"{called}: warm_up is for train_on: full_data without knowledge_distillation; "
                "leave it out"
            )
        if self.knowledge_distillation is not None:
            self.knowledge_distillation.check_for_candidates(self.train_on)


@dataclass(frozen=True, kw_only=True)
class RecipeStage(Measuring):
    """A stage of a cascade.

    Attributes:
        share: Upper part of all architectures, by the score of the stage before, that goes on to
            this one, in (0, 1]. `auto`, which None means too: it follows from the sample. Not of
            the first stage.
    """

    share: Annotated[float | str, OrAuto(Bound(gt=0, le=1))] | None = None

    def __post_init__(self) -> None:
        """See `check`."""
        super().__post_init__()
        self.check("the stage")


@dataclass(frozen=True, kw_only=True)
class Recipe(Measuring):
    """One way to rank architectures: a data set with its labels, a fidelity, and signals.

    With `stages` it is a cascade: an architecture goes on to a stage if its score of the stage
    before reaches that stage's cut, and what does not go on ranks below everything that does.
    Then the rest stands in the stages, and none of it here.

    Attributes:
        name: In reports and on the command line.
        stages: From cheap to dear; empty: the recipe is a single one. A stage may read what earlier
            ones measured: zero-cost signals by their names, those of trainings as
            `stage_2.val_loss`.
        keep: Of a cascade: the part of the true best tenth that the cuts whose share is `auto` may
            be expected to keep, all together.
    """

    name: str
    stages: tuple[RecipeStage, ...] = ()
    keep: Annotated[float, Bound(gt=0, lt=1)] = _KEEP

    def __post_init__(self) -> None:
        """Refuse what the trainings cannot give, and stages that do not fit together."""
        super().__post_init__()
        called = f"recipe {self.name!r}"
        if not self.stages:
            self._check_single(called)
            return
        own = (self.train_on, self.train, self.knowledge_distillation, self.score, self.warm_up)
        if own != ("proxy", None, None, ScoreSettings(), 0):
            raise ValueError(
                f"{called} has stages, so train_on, train, knowledge_distillation, score and "
                "warm_up stand in each of them; move them there"
            )
        if len(self.stages) == 1:
            raise ValueError(
                f"{called} has one stage only; add another, or write its keys without stages"
            )
        if self.stages[0].share is not None:
            raise ValueError(
                f"{called}: all architectures go through stage 1, so its share cuts nothing; take "
                "it out"
            )
        if len({s.score.score_images for s in self.stages if zero_cost_among(s.score.signals)}) > 1:
            raise ValueError(
                f"{called}: the zero-cost signals of its stages look at different score_images, "
                "but are measured once; set the same in all stages"
            )
        for number, stage in enumerate(self.stages, start=1):
            for signal in stage.score.signals:
                self._check_known(called, signal, number)

    def _check_single(self, called: str) -> None:
        foreign = [s for s in self.score.signals if stage_of(s) is not None]
        if foreign:
            raise ValueError(
                f"{called} has no stages, but its signal {foreign[0]} is of one; write "
                f"{own_signal(foreign[0])}"
            )
        self.check(called)
        if self.keep != _KEEP:
            raise ValueError(f"{called} has no stages, so keep means nothing; take it out")

    def _check_known(self, called: str, signal: str, number: int) -> None:
        """Refuse a signal that no stage before this one measures."""
        of = stage_of(signal)
        if of is None or (of < number and self.stages[of - 1].train_on != "nothing"):
            return
        when = "trains on nothing" if of < number else "comes no earlier"
        raise ValueError(
            f"{called}: stage {number} reads {signal}, but stage {of} {when}; name a stage before "
            f"it that trains, or {own_signal(signal)} of its own training"
        )

    @property
    def parts(self) -> tuple[Measuring, ...]:
        """Its stages; itself if it has none."""
        return self.stages or (self,)

    @property
    def measured(self) -> tuple[tuple[str, ...], ...]:
        """For each part the signals that it measures, what later ones read of it included."""
        found: list[tuple[str, ...]] = []
        for number, part in enumerate(self.parts, start=1):
            later = [
                own_signal(signal)
                for other in self.parts[number:]
                for signal in other.score.signals
                if stage_of(signal) == number
            ]
            known = {signal for signals in found for signal in zero_cost_among(signals)}
            own = [s for s in part.score.signals if stage_of(s) is None and s not in known]
            found.append(tuple(dict.fromkeys([*own, *later])))
        return tuple(found)

    @property
    def cascade(self) -> CascadeSettings:
        """Of its stages, for the score of a cascade."""
        shares = (None if s.share in (None, "auto") else float(s.share) for s in self.stages)
        scores = tuple(stage.score for stage in self.stages)
        return CascadeSettings(scores, tuple(shares), self.keep)

    @property
    def score_images(self) -> Literal["real", "distilled"]:
        """What its zero-cost signals look at."""
        looking = (p.score for p in self.parts if zero_cost_among(p.score.signals))
        return next((score.score_images for score in looking), "real")

    @property
    def needs_labels(self) -> bool:
        """Whether it learns from labels that its own last stage cannot give."""
        return self.parts[-1].score.combine == "calibrated"

    @property
    def num_reference(self) -> int:
        """Size of the sample that it needs without calibration; 0: none."""
        if self.stages:
            return max(stage.score.num_reference for stage in self.stages)
        return 0 if self.score.combine == "single" else self.score.num_reference


def default_recipes(
    space: SearchSpace, train: TrainSettings, given: Container[str] = ()
) -> tuple[Recipe, ...]:
    """From cheap to dear: no network, training-free scores, the full data's stream, distilled set.

    `labels_encoding` learns from the calibration sample's labels and the graphs of its networks,
    and measures nothing. Each training-free score stands alone; three of them stand in a rank
    mean, and in a model fitted to the calibration sample.

    Trainings run at the fidelity of the section `train` (image size, precision, augmentation; 2,000
    images validate unless it says how many) with what the space's author recommends to reduce, for
    90 and for 360 steps of 128 images on the stream, and for 360 on the distilled set. Trained
    signals stand alone, in a rank mean with the three training-free scores that needs no labelled
    architecture, and in a model fitted to the calibration sample. `cascade` goes from the three
    training-free scores over 90 to 360 steps of the stream, each fitted, with shares that follow
    from the sample.

    Args:
        space: Its `reduced_fidelity` is taken unless `train` has one.
        train: The section `train`.
        given: Names of its options that the user wrote; where `space_fidelity` is one of them, it
            counts if it is empty, too.
    """
    recipes = _without_training()
    for word, on, num_steps in _TRAININGS:
        settings = _short(space, train, num_steps, given)
        recipes += [
            Recipe(name=f"{word}_{num_steps}_{kind}", train_on=on, train=settings, score=score)
            for kind, score in _readings(_READS[on]).items()
        ]
    fitted = _readings(_READS["full_data"])["calibrated"]
    later = (_stream(_short(space, train, steps, given), fitted) for steps in _CASCADE_STEPS)
    return (*recipes, Recipe(name="cascade", stages=(_zero_cost_stage(), *later)))


def recipes_by_name(
    space: SearchSpace, train: TrainSettings, given: Container[str] = ()
) -> dict[str, Recipe]:
    """The default recipes, and `self_labelled`.

    Args:
        space: As for `default_recipes`.
        train: Likewise.
        given: See `self_labelled`.
    """
    labelled = self_labelled(space, train, given)
    return {recipe.name: recipe for recipe in (*default_recipes(space, train, given), labelled)}


def self_labelled(
    space: SearchSpace,
    train: TrainSettings,
    given: Container[str] = (),
    *,
    num_reference: int = _NUM_LABELLED,
) -> Recipe:
    """The default where nothing else is said, which needs no full training.

    Its sample is trained for 360 steps of the stream; the mean rank of their losses and of the
    training-free scores is the label from which a model of these scores and of the networks'
    graphs learns, and from which it follows who goes on to such a training.

    Args:
        space: Its `reduced_fidelity` is taken unless `train` has one.
        train: The section `train`.
        given: Names of its options that the user wrote, which count as they are, the length too.
        num_reference: Size of the sample.
    """
    score = ScoreSettings(
        signals=("val_loss", *ZERO_COST), combine="rank_mean", num_reference=num_reference
    )
    first = replace(_zero_cost_stage().score, num_reference=num_reference)
    stages = (
        RecipeStage(train_on="nothing", score=first),
        _stream(short_stream(space, train, given), score),
    )
    return Recipe(name="self_labelled", stages=stages)


def stream_alone(space: SearchSpace, train: TrainSettings, given: Container[str] = ()) -> Recipe:
    """The same trainings ranked by their validation loss alone, for which no sample is drawn."""
    settings = short_stream(space, train, given)
    return Recipe(name="stream_alone", train_on="full_data", train=settings)


def short_stream(
    space: SearchSpace, train: TrainSettings, given: Container[str] = ()
) -> TrainSettings:
    """How recipes train on the stream that respect all that the section `train` says."""
    short = _short(space, train, LABEL_STEPS, given)
    kept = {name: getattr(train, name) for name in REPLACED if name in given}
    if kept.keys() & {"num_steps", "num_epochs"}:
        kept |= {"num_steps": train.num_steps, "num_epochs": train.num_epochs}
    return replace(short, **kept)


def spelt_out(recipe: Recipe, train: TrainSettings) -> Recipe:
    """The recipe with the training that it, or a stage, leaves to the study's section `train`."""
    if not recipe.stages:
        return replace(recipe, train=recipe.train or train)
    stages = tuple(replace(stage, train=stage.train or train) for stage in recipe.stages)
    return replace(recipe, stages=stages)


def _readings(signal: str) -> dict[str, ScoreSettings]:
    """A trained signal alone, in a rank mean with training-free scores, and in a fitted model."""
    combined = (signal, *ZERO_COST)
    return {
        "alone": ScoreSettings(signals=(signal,)),
        "rank_mean": ScoreSettings(signals=combined, combine="rank_mean"),
        "calibrated": ScoreSettings(signals=combined, combine="calibrated"),
    }


def _short(
    space: SearchSpace, train: TrainSettings, num_steps: int, given: Container[str]
) -> TrainSettings:
    reduced = train.space_fidelity
    if "space_fidelity" not in given:
        reduced = reduced or space.reductions
    return replace(
        train,
        num_steps=num_steps,
        num_epochs=None,
        batch_size=_BATCH_SIZE,
        num_val_images=train.num_val_images or NUM_VAL_IMAGES,
        norm_statistics="recalibrated",
        space_fidelity=dict(reduced),
    )


def _zero_cost_stage() -> RecipeStage:
    score = ScoreSettings(signals=ZERO_COST, combine="calibrated")
    return RecipeStage(train_on="nothing", score=score)


def _stream(train: TrainSettings, score: ScoreSettings) -> RecipeStage:
    return RecipeStage(train_on="full_data", train=train, score=score)


def _without_training() -> list[Recipe]:
    scores = {"labels_encoding": ScoreSettings(signals=(), combine="calibrated")}
    scores |= {f"{name}_alone": ScoreSettings(signals=(name,)) for name in SINGLE_SCORES}
    scores["zero_cost"] = ScoreSettings(signals=ZERO_COST, combine="rank_mean")
    scores["zero_cost_calibrated"] = ScoreSettings(signals=ZERO_COST, combine="calibrated")
    return [Recipe(name=name, train_on="nothing", score=score) for name, score in scores.items()]
