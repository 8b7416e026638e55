"""What labels a proxy data set gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from nas_proxy.data.proxy_dataset import LabelKind
from nas_proxy.errors import ConfigError
from nas_proxy.options import Options, PositiveFloat, Shorthand
from nas_proxy.train.teacher_settings import DEFAULT_TEACHER, TeacherOption


@dataclass(frozen=True, kw_only=True)
class LabelSettings(Options):
    """What labels a proxy data set gets: the key `labels` of the section `distill`.

    Attributes:
        kind: `hard`: the classes; a set that is read from a file keeps the labels it has. `soft`:
            the mean of what the teachers say. `learned`: optimised by the method where it can;
            otherwise the labels from which kernel ridge regression on the teachers' embeddings
            predicts the real classes best, in closed form.
        teachers: Networks, each by name, file, or as a section; a word alone is one of them. Not
            used for hard labels.
        temperature: Divides the logits of teachers and students; 1 leaves them. For `soft`.
        per: `image`: one label for each image, kept with it. `view`: the teachers label each
            augmented view during training. For `soft`.
        allow_leakage: Go on although a teacher has seen images that judge its students; the
            report says so.
    """

    kind: LabelKind = "hard"
    teachers: Annotated[tuple[TeacherOption, ...], Shorthand(lambda word: [word])] = (
        DEFAULT_TEACHER,
    )
    temperature: PositiveFloat = 1.0
    per: Literal["image", "view"] = "image"
    allow_leakage: bool = False

    def __post_init__(self) -> None:
        """Refuse combinations that mean nothing."""
        if not self.teachers:
            raise ConfigError("labels need at least one teacher; leave teachers out for a ConvNet")
        if self.kind != "soft" and (self.per == "view" or self.temperature != 1.0):
            raise ConfigError(
                f"per and temperature are for soft labels, but kind is {self.kind!r}; "
                "set kind: soft, or leave them out"
            )


def labels_from_word(word: str) -> dict[str, Any]:
    """`labels: soft` stands for `labels: {kind: soft}`."""
    return {"kind": word}


LabelOption = Annotated[LabelSettings, Shorthand(labels_from_word)]
