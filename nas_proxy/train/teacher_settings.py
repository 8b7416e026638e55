"""Which networks teach, and how they are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from nas_proxy.data.augment import Augmentation
from nas_proxy.errors import ConfigError
from nas_proxy.networks.catalogue import NetworkSettings
from nas_proxy.options import NonNegativeInt, Options, PositiveInt, Shorthand
from nas_proxy.train.settings import TrainSettings

_FILE_ENDING = ".safetensors"
_TORCHVISION = "torchvision:"
MODEL_URI = "models:/"
"""With what the address of a model in MLflow's registry begins."""
_TRAIN = TrainSettings(
    num_epochs=20,
    batch_size=128,
    learning_rate=0.05,
    augmentation=Augmentation(crop=0.125, flip=True),
)


@dataclass(frozen=True, kw_only=True)
class PretrainedSettings(Options):
    """A network of torchvision with weights that others trained.

    Attributes:
        name: Such as `resnet50`.
        weights: `DEFAULT` or another name of torchvision's weights, which it downloads; or a
            local file with the same content.
        image_size: Images are enlarged to this size in pixels for it.
        train: `head` trains a new last layer and leaves the others as they were published; `all`
            trains every weight.
    """

    name: str
    weights: str = "DEFAULT"
    image_size: PositiveInt = 224
    train: Literal["head", "all"] = "head"


@dataclass(frozen=True, kw_only=True)
class TeacherSettings(Options):
    """One trained network: exactly one of the first four says which.

    Attributes:
        network: One of the fixed networks.
        architecture: Of the search space `space`, in its string form.
        pretrained: A network of torchvision; its classes are replaced by those of the data set.
        checkpoint: File of a teacher that an earlier study trained, `model.safetensors` of a winner
            that one retrained, or such a model in MLflow's registry, as `models:/name@champion`;
            `train` and `seed` are its own.
        space: The search space that `architecture` belongs to, with its default options.
        train: How it is trained on the search-training images.
        compile: Train it through `torch.compile`, which needs a C++ compiler and about a minute
            first: a ConvNet's steps take half of their time on a CPU then, those of a ResNet-18
            nine tenths (`benchmarks/compiling.py`).
        seed: Of its weights, batches and augmentation.
    """

    network: NetworkSettings | None = None
    architecture: str | None = None
    pretrained: PretrainedSettings | None = None
    checkpoint: str | None = None
    space: str = "nasbench201"
    train: TrainSettings = _TRAIN
    compile: bool = False
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        """Refuse a network that is missing or said twice."""
        named = ("network", "architecture", "pretrained", "checkpoint")
        given = [name for name in named if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(
                f"a teacher needs exactly one of {', '.join(named)}; got {' and '.join(given)}"
                if given
                else f"a teacher needs exactly one of {', '.join(named)}; got none of them"
            )
        self._check_train()

    def _check_train(self) -> None:
        """Refuse what would be left aside silently."""
        if self.train.num_seeds != 1 or self.train.num_val_images is not None:
            raise ConfigError(
                "a teacher is trained once and nothing validates it; leave train.num_seeds and "
                "train.num_val_images out"
            )
        if self.train.space_fidelity and self.architecture is None:
            raise ConfigError(
                "train.space_fidelity reduces an architecture of a search space, but this teacher "
                "has none; leave it out"
            )
        told = (self.train, self.compile, self.seed)
        if self.checkpoint is not None and told != (_TRAIN, False, 0):
            raise ConfigError(
                f"the teacher {self.checkpoint} is trained already; leave train, compile and seed "
                "out"
            )


def teacher_from_word(word: str) -> dict[str, Any]:
    """What a word in a list of teachers stands for: a file, torchvision's network, or a fixed one.

    `path/to/file.safetensors`, `models:/name@champion`, `torchvision:resnet50`, or a name such as
    `resnet18`.
    """
    if word.endswith(_FILE_ENDING) or word.startswith(MODEL_URI):
        return {"checkpoint": word}
    if word.startswith(_TORCHVISION):
        return {"pretrained": {"name": word.removeprefix(_TORCHVISION)}}
    return {"network": {"name": word}}


TeacherOption = Annotated[TeacherSettings, Shorthand(teacher_from_word)]

DEFAULT_TEACHER = TeacherSettings(network=NetworkSettings(name="convnet"))
