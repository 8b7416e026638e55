"""The distilled set and its portable file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.transforms import denormalise
from nas_proxy.errors import ProxyFileError
from nas_proxy.files import write_atomically
from nas_proxy.reproducibility import canonical_json, content_hash
from nas_proxy.types import DatasetSpec

FORMAT = "nas_proxy.proxy_dataset/1"
_METADATA_KEY = "nas_proxy"  # the one entry of the file's header
_TUPLES = ("class_names", "image_shape", "mean", "std")


@dataclass(frozen=True)
class LearningRateRule:
    """How the method's authors train on their images; the search may choose otherwise.

    Attributes:
        learning_rate: Of stochastic gradient descent.
        momentum: Not Nesterov's.
        weight_decay: L2 penalty.
        batch_size: Images per step; smaller sets are used whole.
        schedule: In words.
    """

    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 256
    schedule: str = "times 0.1 at half of the epochs"


@dataclass(frozen=True, eq=False)
class ProxyDataset:
    """A few images that stand for a data set, with everything needed to use them elsewhere.

    Attributes:
        images: Normalised float32, `(n, c, h, w)`.
        labels: int64 `(n,)` if hard, float32 `(n, num_classes)` with rows that sum to 1 if soft.
        spec: Of the data set that was distilled: classes, mean and deviation, licence, hash of
            the search-training split that the distiller saw.
        method: Name of the distiller.
        parameters: Its options.
        images_per_class: How many images were made for each class.
        seed: Of the distiller's generator.
        augmentation: What to apply when training on the images.
        learning_rate_rule: How the method's authors train on them.
        batchnorm_policy: `running`: statistics gathered while training on these images are used
            at evaluation.
        zca: Whether the images are whitened; no distiller here does so yet.
        cost_seconds: Wall-clock seconds of distilling; 0 for an imported set.
        hardware: What `cost_seconds` was measured on.
        versions: Libraries that made it.
    """

    images: Tensor
    labels: Tensor
    spec: DatasetSpec
    method: str
    parameters: Mapping[str, Any]
    images_per_class: int
    seed: int
    augmentation: Augmentation = Augmentation()
    learning_rate_rule: LearningRateRule = LearningRateRule()
    batchnorm_policy: str = "running"
    zca: bool = False
    cost_seconds: float = 0.0
    hardware: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ProxyDataset)
            and self._metadata() == other._metadata()
            and self.id == other.id
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def id(self) -> str:
        """Hash of all that shapes training on it; not of what it cost or where it was made."""
        metadata = self._metadata()
        for name in ("cost_seconds", "hardware", "versions"):
            del metadata[name]
        return content_hash(self.images, self.labels, metadata)

    @property
    def has_soft_labels(self) -> bool:
        """Whether each label is a distribution over the classes."""
        return self.labels.ndim == 2

    @property
    def hard_labels(self) -> Tensor:
        """The most probable class of each image, int64 `(n,)`."""
        return self.labels.argmax(dim=1) if self.has_soft_labels else self.labels

    def pixels(self) -> Tensor:
        """The images as a person sees them: uint8, `(n, c, h, w)`."""
        return denormalise(self.images, self.spec)

    def to(self, device: torch.device) -> ProxyDataset:
        """The same set on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def card(self) -> dict[str, Any]:
        """All that is known about it, except the pixels, for a person to read."""
        labels = "soft" if self.has_soft_labels else "hard"
        metadata = self._metadata()
        spec = metadata.pop("spec")
        shape = tuple(self.images.shape[1:])
        return {
            "id": self.id,
            "images": f"{len(self)} images of shape {shape}, {labels} labels",
            **metadata,
            **{f"source {name}": value for name, value in spec.items()},
        }

    def check_source(self, spec: DatasetSpec) -> None:
        """Make sure that the set was made from the very images that `spec` describes.

        Raises:
            ProxyFileError: If it was not; the message says what differs.
        """
        for name, asked, made in (
            ("classes", spec.class_names, self.spec.class_names),
            ("image shape", spec.image_shape, self.spec.image_shape),
            ("search-training split", spec.source_hash, self.spec.source_hash),
        ):
            if asked != made:
                raise ProxyFileError(
                    f"the proxy data set {self.id} was made from {self.spec.name}, whose {name} "
                    f"is {_short(made)}, but the study uses {spec.name} with {_short(asked)}; "
                    "distil this data set, or set the data section as it was then"
                )

    def save(self, path: Path) -> None:
        """Write the file, atomically.

        Raises:
            OSError: If the folder cannot be written or the disk is full.
        """
        tensors = {
            "images": self.images.cpu().contiguous(),
            "labels": self.labels.cpu().contiguous(),
        }
        header = canonical_json({"format": FORMAT, "id": self.id, **self._metadata()})
        write_atomically(path, to_safetensors(tensors, {_METADATA_KEY: header}))

    @classmethod
    def load(cls, path: Path) -> ProxyDataset:
        """Read a file that `save` wrote, and verify it.

        Raises:
            ProxyFileError: If the file is missing, truncated, altered, or of another kind.
        """
        if not path.is_file():
            raise ProxyFileError(f"the proxy data set file {path} does not exist")
        try:
            with safe_open(str(path), framework="pt") as file:
                header = (file.metadata() or {}).get(_METADATA_KEY)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ProxyFileError(
                f"the proxy data set file {path} is truncated or damaged ({error}); "
                "copy or distil it again"
            ) from error
        try:
            metadata = json.loads(header or "{}")
            if metadata.pop("format", None) != FORMAT:
                raise ProxyFileError(f"{path} is not a proxy data set of this program ({FORMAT})")
            recorded_id = metadata.pop("id")
            loaded = cls(images=tensors["images"], labels=tensors["labels"], **_revive(metadata))
            actual_id = loaded.id
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ProxyFileError(
                f"the header of {path} cannot be read ({error}); copy or distil it again"
            ) from error
        if actual_id != recorded_id:
            raise ProxyFileError(
                f"{path} was altered after it was written: its content has the id {actual_id}, "
                f"its header says {recorded_id}"
            )
        return loaded

    def _metadata(self) -> dict[str, Any]:
        plain = replace(self, images=torch.empty(0), labels=torch.empty(0))
        metadata = asdict(plain)
        del metadata["images"], metadata["labels"]
        return json.loads(canonical_json(metadata))  # type: ignore[no-any-return]


def _revive(metadata: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = {
        name: tuple(value) if name in _TUPLES else value for name, value in metadata["spec"].items()
    }
    return {
        **metadata,
        "spec": DatasetSpec(**spec),
        "augmentation": Augmentation(**metadata["augmentation"]),
        "learning_rate_rule": LearningRateRule(**metadata["learning_rate_rule"]),
    }


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
