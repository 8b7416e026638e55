"""What `nas-proxy list` says of each data set. Nothing here imports torch, which takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nas_proxy.data._torchvision_table import DESCRIBED_SETS


@dataclass(frozen=True)
class DatasetWords:
    """One data set in words.

    Attributes:
        summary: One line for `nas-proxy list datasets`.
        licence: The terms under which the images may be used.
        needs_size: Whether its images have no size in common, so that `data.image_size` is needed.
    """

    summary: str
    licence: str
    needs_size: bool = False


_CIFAR_LICENCE = (
    "No formal licence; collected from the web, for research. Cite Krizhevsky, Learning Multiple "
    "Layers of Features from Tiny Images, 2009."
)

DATASET_WORDS: Mapping[str, DatasetWords] = {
    "digits": DatasetWords(
        "1,797 grey 8x8 handwritten digits; comes with scikit-learn, needs no file",
        "CC BY 4.0: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.",
    ),
    "cifar10": DatasetWords("60,000 colour 32x32 photographs of 10 things", _CIFAR_LICENCE),
    "cifar100": DatasetWords("60,000 colour 32x32 photographs of 100 things", _CIFAR_LICENCE),
    "imagenette": DatasetWords(
        "13,394 photographs of 10 easy ImageNet classes, shorter side 160; needs image_size",
        "ImageNet's terms of access: non-commercial research and education only. Cite Russakovsky "
        "et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015; Howard, Imagenette.",
        needs_size=True,
    ),
    "image_folder": DatasetWords(
        "your own: root/train/<class>/* with root/val or root/test, or root/<class>/*",
        "That of the folder's images, which nas_proxy does not know.",
        needs_size=True,
    ),
    "arrays": DatasetWords(
        "your own, in memory: root is an .npz file with images and labels (nas_proxy.arrays)",
        "That of the images, which nas_proxy does not know.",
    ),
    **{
        name: DatasetWords(
            described.summary, described.licence, needs_size=described.image_size is None
        )
        for name, described in DESCRIBED_SETS.items()
    },
}
"""By the names that `data.name` may take."""
