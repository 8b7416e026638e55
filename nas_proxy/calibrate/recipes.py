"""A recipe, and the recipes that are raced where a study names none."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from nas_proxy.interfaces import SearchSpace
from nas_proxy.knowledge_distillation.settings import KnowledgeDistillationOption
from nas_proxy.options import Options
from nas_proxy.scores.combine import ScoreSettings
from nas_proxy.scores.signals import higher_is_better, trained_among
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
NUM_DEFAULT = 3 + len(SINGLE_SCORES) + 3 * len(_TRAININGS)  # as many as `default_recipes` gives


@dataclass(frozen=True, kw_only=True)
class Recipe(Options):
    """One way to rank architectures: a data set with its labels, a fidelity, and signals.

    Attributes:
        name: In reports and on the command line.
        train_on: `proxy`: the study's distilled set, with its labels. `full_data`: all
            search-training images. `nothing`: zero-cost signals alone, or no signal at all: labels
            and encoding rank.
        train: How candidates are trained on it, and at which fidelity; None: the section `train`.
        knowledge_distillation: What candidates learn beside the labels; None: nothing.
        score: What is measured, and how it becomes one number.
    """

    name: str
    train_on: Literal["proxy", "full_data", "nothing"] = "proxy"
    train: TrainSettings | None = None
    knowledge_distillation: KnowledgeDistillationOption | None = None
    score: ScoreSettings = field(default_factory=ScoreSettings)

    def __post_init__(self) -> None:
        """Refuse signals, and a distillation, that the recipe's training cannot give."""
        trained = trained_among(self.score.signals)
        if self.train_on == "nothing" and trained:
            raise ValueError(
                f"recipe {self.name!r} trains on nothing, but its signal {trained[0]} needs a "
                "training; set train_on to proxy or full_data"
            )
        if self.train_on != "nothing" and not trained:
            for signal in self.score.signals:
                higher_is_better(signal)  # a misspelt one is named as such
            raise ValueError(
                f"recipe {self.name!r} has no signal of a training; set train_on: nothing"
            )
        if self.knowledge_distillation is not None:
            self.knowledge_distillation.check_for_candidates(self.train_on)


def default_recipes(space: SearchSpace, train: TrainSettings) -> tuple[Recipe, ...]:
    """From cheap to dear: no network, training-free scores, the full data's stream, distilled set.

    `labels_encoding` learns from the calibration sample's labels and the graphs of its networks,
    and measures nothing. Each training-free score stands alone; three of them stand in a rank
    mean, and in a model fitted to the calibration sample.

    Trainings run at the fidelity of the section `train` (image size, precision, augmentation; 2,000
    images validate unless it says how many) with what the space's author recommends to reduce, for
    90 and for 360 steps of 128 images on the stream, and for 360 on the distilled set. Trained
    signals stand alone, in a rank mean with the three training-free scores that needs no labelled
    architecture, and in a model fitted to the calibration sample.

    Args:
        space: Its `reduced_fidelity` is taken unless `train` has one.
        train: The section `train`.
    """
    base = replace(
        train,
        num_steps=1,  # each training says its own
        num_epochs=None,
        batch_size=_BATCH_SIZE,
        num_val_images=train.num_val_images or NUM_VAL_IMAGES,
        norm_statistics="recalibrated",
        space_fidelity=dict(train.space_fidelity or space.reductions),
    )
    combined = ("val_loss", *ZERO_COST)
    scores = {
        "alone": ScoreSettings(signals=("val_loss",)),
        "rank_mean": ScoreSettings(signals=combined, combine="rank_mean"),
        "calibrated": ScoreSettings(signals=combined, combine="calibrated"),
    }
    recipes = _without_training()
    for word, on, num_steps in _TRAININGS:
        settings = replace(base, num_steps=num_steps)
        recipes += [
            Recipe(name=f"{word}_{num_steps}_{kind}", train_on=on, train=settings, score=score)
            for kind, score in scores.items()
        ]
    return tuple(recipes)


def _without_training() -> list[Recipe]:
    scores = {"labels_encoding": ScoreSettings(signals=(), combine="calibrated")}
    scores |= {f"{name}_alone": ScoreSettings(signals=(name,)) for name in SINGLE_SCORES}
    scores["zero_cost"] = ScoreSettings(signals=ZERO_COST, combine="rank_mean")
    scores["zero_cost_calibrated"] = ScoreSettings(signals=ZERO_COST, combine="calibrated")
    return [Recipe(name=name, train_on="nothing", score=score) for name, score in scores.items()]
