"""The distilled set and its portable file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from nas_proxy.core.files import write_atomically
from nas_proxy.data.augment import LATER_FIELDS, Augmentation
from nas_proxy.data.multi_formation import decode
from nas_proxy.data.proxy_card import (
    FORMAT,
    METADATA_KEY,
    NOT_IN_ID,
    card_of,
    check_id,
    read_arrays,
    unreadable,
)
from nas_proxy.data.transforms import denormalise, stretch
from nas_proxy.errors import ProxyFileError, shorten
from nas_proxy.reproducibility import canonical_json, content_hash
from nas_proxy.types import DatasetSpec

_LEAKED_KEY = "has_seen_judges"  # in files and their ids, for `TeacherRecord.num_leaked_images`
_MAX_SUM_ERROR = 1e-3  # of a soft label: half precision rounds a hundred classes to less

LabelKind = Literal["hard", "soft", "learned"]


@dataclass(frozen=True)
class LearningRateRule:
    """How the method's authors train on their images; the search may choose otherwise.

    Attributes:
        optimiser: `sgd`, `adam` or `adamw`.
        learning_rate: The largest of the schedule.
        momentum: Not Nesterov's; of `sgd` alone.
        weight_decay: L2 penalty, decoupled with `adamw`.
        batch_size: Images per step; smaller sets are used whole.
        schedule: `step` is times 0.1 at half; see `nas_proxy.train.schedules`.
        num_epochs: Passes over the images.
    """

    optimiser: str = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 256
    schedule: str = "step"
    num_epochs: int = 1000


@dataclass(frozen=True)
class TeacherRecord:
    """A network that had a part in making a proxy data set.

    Attributes:
        id: Content hash of the teacher; its file is `teachers/<id>.safetensors` beside the set's.
        description: What network it is and how it was trained, in words.
        licence: The terms of its weights, in words; empty for one that was trained here.
        num_leaked_images: Held-out images of the study (search_val, test) that it was trained on,
            which its user allowed; 0 is the only honest number. Files call it `has_seen_judges`.
    """

    id: str
    description: str
    licence: str = ""
    num_leaked_images: int = 0


@dataclass(frozen=True)
class Labelling:
    """What the labels of a proxy data set are.

    Attributes:
        kind: `hard`: the classes. `soft`: probabilities that teachers gave. `learned`: optimised,
            with the images or for them.
        temperature: The logits of teachers and students are divided by it.
        per: `image`: the labels in the file. `view`: the teachers label every augmented view
            during training; the labels in the file are those of the images themselves.
        teachers: The labels are the mean of what these say.
    """

    kind: LabelKind = "hard"
    temperature: float = 1.0
    per: Literal["image", "view"] = "image"
    teachers: tuple[TeacherRecord, ...] = ()


@dataclass(frozen=True, eq=False)
class ProxyDataset:
    """A few images that stand for a data set, with everything needed to use them elsewhere.

    Attributes:
        images: Normalised float32, `(n, c, h, w)`.
        labels: One for each training image, of which there are `decode_factor ** 2` in each
            image: int64 `(m,)` if hard, float32 `(m, num_classes)` with rows that sum to 1 if not.
        spec: Of the data set that was distilled: classes, mean and deviation, licence, hash of
            the search-training split that the distiller saw.
        method: Name of the distiller.
        parameters: Its options.
        images_per_class: How many images were made for each class.
        seed: Of the distiller's generator.
        augmentation: What to apply when training on the images.
        learning_rate_rule: How the method's authors train on them.
        labelling: What the labels are and who gave them.
        networks: Trained networks that shaped the images, with or without labelling them.
        decode_factor: Tiles along each side of an image; see `nas_proxy.data.multi_formation`.
        batchnorm_policy: `running`: statistics gathered while training on these images are used
            at evaluation.
        zca: Regularisation of the whitening that the images went through after normalising; None
            if they did not. Real images must go through the same before a network that trained on
            these sees them; see `nas_proxy.data.whitening`.
        costs: Seconds of one process by what they were spent on: distilling, each teacher,
            labelling; measured by whoever has the set made.
        peak_memory_mib: Memory that distilling needed beside what was in use before.
        hardware: What the costs were measured on.
        versions: Libraries that made it.

    >>> import tempfile, nas_proxy as nas
    >>> made = nas.distill("digits", "random_subset", images_per_class=1)
    >>> file = Path(tempfile.mkdtemp()) / "proxy.safetensors"
    >>> made.save(file)
    >>> nas.ProxyDataset.load(file).id == made.id
    True
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
    labelling: Labelling = Labelling()
    networks: tuple[TeacherRecord, ...] = ()
    decode_factor: int = 1
    batchnorm_policy: str = "running"
    zca: float | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    peak_memory_mib: float = 0.0
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

    @cached_property
    def id(self) -> str:
        """Hash of all that shapes training on it; not of what it cost or where it was made."""
        metadata = self._metadata()
        for name in NOT_IN_ID:
            del metadata[name]
        return content_hash(self.images, self.labels, metadata)

    @property
    def cost_seconds(self) -> float:
        """Seconds of one process of all that was needed: distilling, teaching and labelling."""
        return sum(self.costs.values())

    @property
    def teachers(self) -> tuple[TeacherRecord, ...]:
        """Every trained network that had a part in the images or their labels."""
        return tuple(dict.fromkeys((*self.networks, *self.labelling.teachers)))

    def training_images(self) -> Tensor:
        """What networks train on: normalised float32, one for each label."""
        return decode(self.images, self.decode_factor)

    def check_labels(self) -> None:
        """Make sure that there is a label for each training image, and that it is one.

        Raises:
            ProxyFileError: If not; the message names the first wrong one.
        """
        num_images, num_classes = len(self) * self.decode_factor**2, self.spec.num_classes
        shape = (num_images, num_classes) if self.has_soft_labels else (num_images,)
        if tuple(self.labels.shape) != shape:
            raise ProxyFileError(
                f"the labels of the proxy data set have shape {tuple(self.labels.shape)}, but "
                f"{num_images} training images of {num_classes} classes need {shape}"
            )
        if self.has_soft_labels:
            sums = self.labels.sum(dim=1)
            wrong = ~((sums - 1).abs() <= _MAX_SUM_ERROR) | (self.labels < 0).any(dim=1)
            remedy = f"the {num_classes} values of each must be at least 0 and sum to 1"
        else:
            sums = self.labels
            wrong = (self.labels < 0) | (self.labels >= num_classes)
            remedy = f"they must be whole numbers from 0 to {num_classes - 1}"
        if bool(wrong.any()):
            first = int(wrong.nonzero()[0])
            what = "sums to" if self.has_soft_labels else "is"
            raise ProxyFileError(
                f"{int(wrong.sum())} of the {num_images} labels of the proxy data set are wrong: "
                f"label {first} {what} {float(sums[first]):.6g}; {remedy}"
            )

    @property
    def has_soft_labels(self) -> bool:
        """Whether each label is a distribution over the classes."""
        return self.labels.ndim == 2

    @property
    def classes(self) -> Tensor:
        """The class that each training image was made for, int64 `(m,)`, class by class."""
        per_class = self.images_per_class * self.decode_factor**2
        labels = torch.arange(self.spec.num_classes, device=self.labels.device)
        return labels.repeat_interleave(per_class)

    def pixels(self) -> Tensor:
        """The images as a person sees them: uint8, `(n, c, h, w)`.

        Whitened images have no colours to go back to; their contrast is stretched.
        """
        if self.zca is not None:
            return stretch(self.images)
        return denormalise(self.images, self.spec)

    def to(self, device: torch.device) -> ProxyDataset:
        """The same set on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def card(self) -> dict[str, Any]:
        """All that is known about it, except the pixels, for a person to read."""
        return card_of(self.id, tuple(self.images.shape), self._metadata())

    def check_fits(self, spec: DatasetSpec) -> None:
        """Make sure that networks trained on the set can be asked about the images of `spec`.

        Raises:
            ProxyFileError: If the classes or the image shape differ; the message says how.
        """
        self._compare(
            spec,
            ("classes", spec.class_names, self.spec.class_names),
            ("image shape", spec.image_shape, self.spec.image_shape),
        )

    def check_source(self, spec: DatasetSpec) -> None:
        """Make sure that the set was made from the very images that `spec` describes.

        Raises:
            ProxyFileError: If it was not; the message says what differs.
        """
        self.check_fits(spec)
        self._compare(
            spec, ("search-training split", spec.source_hash, self.spec.source_hash or "unknown")
        )

    def _compare(self, spec: DatasetSpec, *aspects: tuple[str, Any, Any]) -> None:
        for name, asked, made in aspects:
            if asked != made:
                raise ProxyFileError(
                    f"the proxy data set {self.id} was made from {self.spec.name}, whose {name} "
                    f"is {shorten(made)}, but the study uses {spec.name} with {shorten(asked)}; "
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
        self.check_labels()
        header = canonical_json({"format": FORMAT, "id": self.id, **self._metadata()})
        write_atomically(path, to_safetensors(tensors, {METADATA_KEY: header}))

    @classmethod
    def load(cls, path: Path | str) -> ProxyDataset:
        """Read a file that `save` wrote, and verify it.

        The same file is read and hashed once in a process: whoever asks again is given the same
        tensors, which nobody may alter in place.

        Raises:
            ProxyFileError: If the file is missing, truncated, altered, or of another kind.
        """
        path = Path(path)
        if not path.is_file():
            raise ProxyFileError(f"the proxy data set file {path} does not exist")
        status = path.stat()
        return cls._read(path, (status.st_mtime_ns, status.st_size, status.st_ino))

    @classmethod
    @lru_cache(maxsize=8)
    def _read(cls, path: Path, version: tuple[int, int, int]) -> ProxyDataset:
        """Read a file of which `version` tells one writing from the next."""
        tensors, metadata, recorded_id = read_arrays(path, "pt")
        try:
            loaded = cls(images=tensors["images"], labels=tensors["labels"], **_revive(metadata))
            actual_id = loaded.id
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise unreadable(path, error) from error
        check_id(path, actual_id, recorded_id)
        loaded.check_labels()
        return loaded

    def _metadata(self) -> dict[str, Any]:
        plain = replace(self, images=torch.empty(0), labels=torch.empty(0))
        metadata = asdict(plain)
        del metadata["images"], metadata["labels"]
        for record in (*metadata["networks"], *metadata["labelling"]["teachers"]):
            record[_LEAKED_KEY] = record.pop("num_leaked_images")
        # Left out where they do nothing, so that files keep the id that was written into them.
        for name in LATER_FIELDS:
            if not metadata["augmentation"][name]:
                del metadata["augmentation"][name]
        return json.loads(canonical_json(metadata))  # type: ignore[no-any-return]


def _revive(metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        **metadata,
        "spec": DatasetSpec.from_json(metadata["spec"]),
        "augmentation": Augmentation(**metadata["augmentation"]),
        "learning_rate_rule": LearningRateRule(**metadata["learning_rate_rule"]),
        "networks": _records(metadata["networks"]),
        "labelling": Labelling(
            **{**metadata["labelling"], "teachers": _records(metadata["labelling"]["teachers"])}
        ),
    }


def _records(mappings: list[dict[str, Any]]) -> tuple[TeacherRecord, ...]:
    return tuple(
        TeacherRecord(
            **{("num_leaked_images" if k == _LEAKED_KEY else k): v for k, v in mapping.items()}
        )
        for mapping in mappings
    )
