"""How backbones are pre-trained: the configuration section `pretrain`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nas_proxy.data.augment import Augmentation
from nas_proxy.errors import ConfigError
from nas_proxy.options import Options, PositiveFloat, PositiveInt
from nas_proxy.train.settings import TrainSettings

_TRAIN = TrainSettings(
    num_epochs=100,
    batch_size=256,
    optimiser="adam",
    learning_rate=1e-3,
    weight_decay=1e-6,
    augmentation=Augmentation(resized_crop=0.2, flip=True, colour_jitter=0.5),
)

# Of `train`: what is about measuring candidates, or about their fidelity.
_NOT_READ = (
    "num_seeds",
    "image_size",
    "space_fidelity",
    "num_val_images",
    "checkpoints",
    "norm_statistics",
)


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(Options):
    """How `nas-proxy pretrain` makes weights.

    Attributes:
        method: `simclr`: without labels, two augmented views of an image are to be told from
            those of other images. `supervised`: with the labels of the search-training images.
        backbones: Names of torchvision's networks; None: those of the search space.
        images: Folder of unlabelled images, at any depth, for `simclr`; None: the search-training
            images. They must not be those that judge: files that are among them are refused.
        folder: Where `<backbone>.safetensors` is written.
        image_size: In pixels, that images are resized to for the backbone; None as in the space
            `torchvision_backbones`.
        temperature: Of `simclr`: divides similarities; smaller looks at the hardest images more.
        projection_size: Of `simclr`: width of the embedding that similarities are taken in.
        train: Length, rate and augmentation. Written characters must not be flipped.
    """

    method: Literal["simclr", "supervised"] = "simclr"
    backbones: tuple[str, ...] | None = None
    images: str | None = None
    folder: str = "weights"
    image_size: PositiveInt | None = None
    temperature: PositiveFloat = 0.5
    projection_size: PositiveInt = 128
    train: TrainSettings = _TRAIN

    def __post_init__(self) -> None:
        """Refuse what would be left aside silently, or could not be learned from."""
        if self.method == "supervised" and self.images is not None:
            raise ConfigError(
                "pretrain.images are without labels, which method: supervised needs; leave images "
                "out, or use simclr"
            )
        if self.backbones is not None and not self.backbones:
            raise ConfigError("pretrain.backbones is empty; name some, or leave it out")
        self._check_train()
        augmentation = self.train.augmentation
        if self.method == "simclr" and augmentation in (None, Augmentation()):
            raise ConfigError(
                "simclr learns what augmentation leaves as it is, but pretrain.train.augmentation "
                "changes nothing; give it some, such as {resized_crop: 0.2, colour_jitter: 0.5}"
            )
        if self.method == "simclr" and augmentation is not None and augmentation.mixes:
            raise ConfigError("simclr has no labels to mix; leave mixup and cutmix out of pretrain")

    def _check_train(self) -> None:
        if self.train.num_epochs == "architecture":
            raise ConfigError("pretrain.train.num_epochs must be a number: there is no genotype")
        if self.train.batch_size == 1:
            raise ConfigError(
                "pretrain.train.batch_size is 1, but images are learned from beside others; make "
                "it larger"
            )
        default = TrainSettings(num_steps=1)
        for name in _NOT_READ:
            if getattr(self.train, name) != getattr(default, name):
                raise ConfigError(
                    f"pretrain.train.{name} is not read: nothing is measured, and "
                    "pretrain.image_size says the size; leave it out"
                )
