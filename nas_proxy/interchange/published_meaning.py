"""What the numbers of a published set mean.

What the files do not say is found out where it can be, taken from the user's word or from the
field's habits otherwise, and noted. What stays open is refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nas_proxy.data.proxy_dataset import Labelling
from nas_proxy.data.transforms import Statistics, renormalise
from nas_proxy.errors import ConfigError, ProxyFileError
from nas_proxy.interchange.published_formats import FormatName, PublishedSet
from nas_proxy.types import DatasetSpec

Pixels = Literal["unit", "normalised", "whitened"]

_CIFAR10: Statistics = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_CIFAR100: Statistics = ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762))
_IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_FIELD = {
    "cifar10": _CIFAR10,
    "cifar100": _CIFAR100,
    "imagenette": _IMAGENET,
    "image_folder": _IMAGENET,
}
"""With what mean and deviation the field normalises, which need not be those of the images."""

_PUBLISHED_ZCA = 0.1  # of MTT, TESLA and DATM alike
_UNIT_TOLERANCE = 0.25  # optimised pixels leave [0, 1] a little
_MAX_CHANNEL_MEAN = 1.5  # of images that pass for normalised
_MIN_CHANNEL_STD, _MAX_CHANNEL_STD = 0.1, 4.0  # of the same
_MAX_SUM_ERROR = 1e-3  # of a soft label: half precision rounds a hundred classes to less


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What the user knows of a set and its files do not say.

    Attributes:
        decode_factor: Tiles along each side of an image; None: 1, or for IDC what the folder's
            name says.
        normalised: True: by mean and deviation, and not whitened; False: pixels in [0, 1]; None
            finds out.
        mean: Of each channel, that the images were normalised with; None takes the field's.
        std: The same for the deviation.
        zca: The images were whitened, with this regularisation in the authors' sense: added to
            the variances of pixels in [0, 1].
        soft_labels: What labels with a number for each class are; None finds out.
        temperature: At which soft labels were made: logits are divided by it.
        learning_rate: At which the images teach best; None takes the file's or the field's.
    """

    decode_factor: int | None = None
    normalised: bool | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    zca: float | None = None
    soft_labels: Literal["probabilities", "logits"] | None = None
    temperature: float = 1.0
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        """Refuse words that contradict each other, and numbers that are none."""
        for name in ("zca", "temperature", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"--{name.replace('_', '-')} must be above 0, not {value}")
        if self.zca is not None and self.normalised is not None:
            raise ConfigError(
                "--zca says that the images are whitened, --normalised that they are not; "
                "leave one out"
            )
        if (self.mean is None) != (self.std is None):
            raise ConfigError("give both --mean and --std, or neither")
        if self.std is not None and not all(0 < value < math.inf for value in self.std):
            raise ConfigError(f"--std must be above 0 for each channel, not {self.std}")

    @property
    def speaks_of_pixels(self) -> bool:
        """Whether anything is said of how the images were prepared."""
        said = (self.decode_factor, self.normalised, self.mean, self.zca)
        return any(value is not None for value in said)


@dataclass
class Findings:
    """What was found out, for the set's `parameters`.

    Attributes:
        facts: By name.
        assumed: What was taken for granted, one sentence each.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)


def decode_factor(found: PublishedSet, path: Path, said: Assumptions) -> int:
    """Tiles along each side of an image.

    Raises:
        ProxyFileError: If it cannot be told, or there are tiles of several sizes.
    """
    if found.format == "tensors" and found.record is not None:
        return found.record.decode_factor
    if said.decode_factor is not None or found.format != "idc":
        return said.decode_factor or 1
    name = "/".join(path.absolute().parts[-2:])
    if re.search(r"factor\d+_(multi|bound)", name):
        raise ProxyFileError(
            f"{name} was made with tiles of several sizes (decode type multi or bound), which "
            "cannot be read; only the decode type single can"
        )
    factor = re.search(r"factor(\d+)", name)
    if factor is None:
        raise ProxyFileError(
            f"{path} is an IDC set, whose number of tiles is not in the file; say "
            "--decode-factor 2 (3 for ImageNet, 1 for IDC-I)"
        )
    return max(1, int(factor[1]))


def normalised_images(
    found: PublishedSet, spec: DatasetSpec, said: Assumptions, findings: Findings
) -> tuple[Tensor, float | None]:
    """The images as this program keeps them, and the regularisation if they are whitened.

    Raises:
        ProxyFileError: If it cannot be told how they were prepared; the message shows their range.
    """
    if found.format == "tensors" and found.record is not None:
        if said.speaks_of_pixels:
            raise ProxyFileError(
                "what export-proxy wrote beside the images says how they were prepared; leave "
                "--decode-factor, --normalised, --mean, --std and --zca out"
            )
        kind: Pixels = "normalised" if found.record.zca is None else "whitened"
        statistics: Statistics = (found.record.mean, found.record.std)
    else:
        kind = _kind_of_pixels(found, said, findings)
        statistics = _statistics(found, kind, spec, said, findings)
    findings.facts["pixels"] = kind
    if kind == "whitened":
        return found.images.float(), _regularisation(found, spec, said, findings)
    if kind == "normalised":
        findings.facts.update(published_mean=statistics[0], published_std=statistics[1])
    scale = 255 if found.images.dtype == torch.uint8 else 1
    return renormalise(found.images.float() / scale, statistics, (spec.mean, spec.std)), None


def meant_labels(
    found: PublishedSet, spec: DatasetSpec, said: Assumptions, findings: Findings
) -> tuple[Tensor, Labelling]:
    """Classes int64 `(m,)` or probabilities float32 `(m, num_classes)`, and what these are.

    Raises:
        ProxyFileError: If they are neither, or of another number of classes.
    """
    labels = found.labels
    if labels.ndim == 1:
        if said.soft_labels is not None or said.temperature != 1:
            raise ProxyFileError(
                "--soft-labels and --temperature are for labels with a number for each class, "
                "but here each image has one class"
            )
        if bool((labels != labels.long()).any()):
            raise ProxyFileError("the labels are fractions where whole numbers name classes")
        findings.facts["labels"] = "classes"
        return labels.long(), Labelling()
    if labels.ndim != 2 or labels.shape[1] != spec.num_classes:
        raise ProxyFileError(
            f"the labels have shape {tuple(labels.shape)}, but soft labels of {spec.name} need "
            f"(number, {spec.num_classes}); are its classes those of this configuration?"
        )
    values = labels.float()
    if not bool(values.isfinite().all()):
        raise ProxyFileError("some labels are not finite")
    kind = said.soft_labels or _kind_of_soft_labels(values, found.format, findings)
    findings.facts["labels"] = kind
    if kind == "logits":
        values = (values / said.temperature).softmax(dim=1)
    if found.record is not None:
        return values, found.record.labelling
    learned = found.format != "folder"
    return values, Labelling(kind="learned" if learned else "soft", temperature=said.temperature)


def _kind_of_pixels(found: PublishedSet, said: Assumptions, findings: Findings) -> Pixels:
    if found.images.dtype == torch.uint8:
        if said.zca is not None or said.normalised:
            raise ProxyFileError(
                "the pixels are bytes, which are neither normalised nor whitened; leave "
                "--normalised and --zca out"
            )
        return "unit"
    if said.zca is not None:
        return "whitened"
    if said.normalised is not None:
        return "normalised" if said.normalised else "unit"
    if found.name_says_whitened:
        findings.assumed.append(
            f"whitened with {_PUBLISHED_ZCA}, as a name says; --normalised denies it"
        )
        return "whitened"
    pixels = found.images.float()
    low, high = float(pixels.min()), float(pixels.max())
    shown = f"pixels range from {low:.3g} to {high:.3g}"
    if low >= -_UNIT_TOLERANCE and high <= 1 + _UNIT_TOLERANCE:
        findings.assumed.append(f"not normalised, as {shown}; --normalised yes denies it")
        return "unit"
    mean, deviations = float(pixels.mean(dim=(0, 2, 3)).abs().max()), pixels.std(dim=(0, 2, 3))
    smallest, largest = float(deviations.min()), float(deviations.max())
    if (
        low >= 0
        or mean > _MAX_CHANNEL_MEAN
        or not _MIN_CHANNEL_STD <= smallest <= largest <= _MAX_CHANNEL_STD
    ):
        raise ProxyFileError(
            f"the {shown}: neither in [0, 1] nor like normalised images (channel means up to "
            f"{mean:.3g}, deviations {smallest:.3g} to {largest:.3g}); say --normalised yes or "
            "no, or --zca"
        )
    if found.format == "mtt":
        raise ProxyFileError(
            f"the {shown}: normalised or whitened, which cannot be told apart; say --normalised "
            f"yes, or --zca {_PUBLISHED_ZCA} for images that were distilled with ZCA"
        )
    findings.assumed.append(f"normalised and not whitened, as {shown}; --zca denies it")
    return "normalised"


def _statistics(
    found: PublishedSet, kind: Pixels, spec: DatasetSpec, said: Assumptions, findings: Findings
) -> Statistics:
    """Mean and deviation that the images were normalised with."""
    channels = spec.image_shape[0]
    if kind != "normalised":
        if said.mean is not None:
            raise ProxyFileError(
                f"--mean and --std are for normalised images, but these are taken for {kind}"
            )
        return (0.0,) * channels, (1.0,) * channels
    if said.mean is not None and said.std is not None:
        if (len(said.mean), len(said.std)) != (channels, channels):
            raise ProxyFileError(
                f"--mean and --std need {channels} number(s) each for {spec.name}; got "
                f"{said.mean} and {said.std}"
            )
        return said.mean, said.std
    if spec.name not in _FIELD or channels != 3:
        raise ProxyFileError(
            "the images are normalised, but with what is not in the file, and the field has no "
            f"habit for {spec.name}; say --mean and --std"
        )
    # MTT and its descendants normalise CIFAR-100 with the figures of CIFAR-10.
    is_mtt_cifar100 = found.format == "mtt" and spec.name == "cifar100"
    mean, std = _CIFAR10 if is_mtt_cifar100 else _FIELD[spec.name]
    findings.assumed.append(
        f"normalised with mean {mean} and deviation {std}, as is usual for {spec.name}; "
        "--mean and --std say otherwise"
    )
    return mean, std


def _regularisation(
    found: PublishedSet, spec: DatasetSpec, said: Assumptions, findings: Findings
) -> float:
    """That of `nas_proxy.data.whitening`, which whitens normalised images."""
    if found.record is not None and found.record.zca is not None:
        return found.record.zca
    published = _PUBLISHED_ZCA if said.zca is None else said.zca
    findings.facts["published_zca"] = published
    # To whiten pixels in [0, 1] is to whiten normalised ones, but for the unit of the
    # regularisation and, by a few per cent, for channels whose deviations differ.
    return published / (sum(std**2 for std in spec.std) / len(spec.std))


def _kind_of_soft_labels(
    values: Tensor, form: FormatName, findings: Findings
) -> Literal["probabilities", "logits"]:
    wrong = (values < 0).any(dim=1) | ((values.sum(dim=1) - 1).abs() > _MAX_SUM_ERROR)
    if not bool(wrong.any()):
        return "probabilities"
    if form == "mtt" and bool((values < 0).any()):
        findings.assumed.append("labels are logits, as DATM keeps them; their softmax is taken")
        return "logits"
    first = int(wrong.nonzero()[0])
    raise ProxyFileError(
        f"label {first} sums to {float(values[first].sum()):.6g} instead of 1, or has negative "
        "values; if the labels are logits, say --soft-labels logits"
    )
