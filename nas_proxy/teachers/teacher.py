"""A trained network with what identifies it, and the labels that several of them give."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from nas_proxy.core.files import write_atomically
from nas_proxy.data.proxy_dataset import TeacherRecord
from nas_proxy.data.transforms import normalise, renormalise, resize
from nas_proxy.errors import DataError, ProxyFileError, shorten
from nas_proxy.networks.base import Network
from nas_proxy.reproducibility import canonical_json, content_hash, isolated_rng
from nas_proxy.train.measuring import num_parts
from nas_proxy.types import DatasetSpec, ImageDataset

FORMAT = "nas_proxy.teacher/1"


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network.

    Attributes:
        network: In evaluation mode; maps `(n, c, h, w)` to logits and has an embedding.
        spec: Of the images it was trained on, at the size it was trained at.
        source_spec: The same at the data set's own size.
        recipe: What network it is and how it was trained, as JSON values.
        description: The same in words.
        licence: The terms of its weights; empty for one that was trained here.
        seen: Sorted int64 hashes of the images it was trained on, `(n,)`; see `image_hashes`.
        train_seconds: Wall-clock seconds of training it.
        knows_imagenet: Whether it was trained on ImageNet-1K's training images too.
        given_spec: Whose mean and deviation the images that it is given are normalised by; None:
            those of `source_spec`. No part of the teacher: another study may have others.
    """

    network: Network
    spec: DatasetSpec
    source_spec: DatasetSpec
    recipe: Mapping[str, Any]
    description: str
    licence: str
    seen: Tensor
    train_seconds: float
    knows_imagenet: bool = False
    given_spec: DatasetSpec | None = None

    @property
    def id(self) -> str:
        """Hash of the weights, of what they were trained on, and of all else but its cost."""
        state = self.network.state_dict()
        return content_hash(*(state[name] for name in sorted(state)), self.seen, self._facts())

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @property
    def class_names(self) -> tuple[str, ...]:
        """What its logits stand for, in order."""
        return self.spec.class_names

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Of the images that the network is given, `(c, h, w)`."""
        return self.spec.image_shape

    @property
    def cost_name(self) -> str:
        """Under what its training stands on a ledger; the same for the same teacher."""
        return f"teaching {self.description} [{self.id[:6]}]"

    def record(self) -> TeacherRecord:
        """What a proxy data set keeps of it."""
        return TeacherRecord(self.id, self.description, self.licence)

    def to(self, device: torch.device) -> Teacher:
        """The same teacher after its network has moved to another device."""
        self.network.to(device)
        return self

    def for_images_of(self, spec: DatasetSpec) -> Teacher:
        """The same teacher for images that are normalised for `spec`.

        Raises:
            DataError: If it does not know the classes or the image size of `spec`.
        """
        self.check_fits(spec)
        return replace(self, given_spec=spec)

    def logits(self, images: Tensor) -> Tensor:
        """Normalised images `(n, c, h, w)` of any size to `(n, num_classes)`.

        Differentiable with respect to the images.
        """
        return self.network(self.as_trained(images))  # type: ignore[no-any-return]

    def embed(self, images: Tensor) -> Tensor:
        """The input of the network's last layer, `(n, d)`; otherwise as `logits`."""
        return self.network.embed(self.as_trained(images))

    def as_trained(self, images: Tensor) -> Tensor:
        """The images at the size and with the normalisation of those that it was trained on."""
        given, own = self.given_spec or self.source_spec, self.source_spec
        images = renormalise(images, (given.mean, given.std), (own.mean, own.std))
        return resize(images, self.spec.image_shape[1])

    def check_fits(self, spec: DatasetSpec) -> None:
        """Make sure that the teacher knows the classes and the image size of `spec`.

        Raises:
            DataError: If it does not; the message says what differs.
        """
        for name, asked, known in (
            ("classes", spec.class_names, self.source_spec.class_names),
            ("image shape", spec.image_shape, self.source_spec.image_shape),
        ):
            if asked != known:
                raise DataError(
                    f"the teacher {self.description} was trained on {self.source_spec.name}, whose "
                    f"{name} is {shorten(known)}, but {spec.name} here has {shorten(asked)}; name "
                    "another teacher, or set the data section as it was when it was trained"
                )

    def save(self, path: Path) -> None:
        """Write weights and header, atomically.

        Raises:
            OSError: If the folder cannot be written or the disk is full.
        """
        state = self.network.state_dict()
        # Copies: the format refuses weights that two layers share.
        tensors = {f"network.{k}": v.cpu().contiguous().clone() for k, v in state.items()}
        header = {
            "format": FORMAT,
            "id": self.id,
            "train_seconds": self.train_seconds,
            **self._facts(),
        }
        content = to_safetensors(
            {**tensors, "seen": self.seen.contiguous()}, {"nas_proxy": canonical_json(header)}
        )
        write_atomically(path, content)

    def _facts(self) -> dict[str, Any]:
        """What its file says of it, beside the weights and the cost."""
        return {
            "spec": asdict(self.spec),
            "source_spec": asdict(self.source_spec),
            "recipe": dict(self.recipe),
            "description": self.description,
            "licence": self.licence,
            "knows_imagenet": self.knows_imagenet,
        }


# What a reader of a damaged file may run into.
_DAMAGED = (
    SafetensorError,
    OSError,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    RuntimeError,
)


def load_teacher(path: Path, build: Callable[[Mapping[str, Any], DatasetSpec], Network]) -> Teacher:
    """Read a file that `Teacher.save` wrote, and verify it.

    Args:
        path: The file.
        build: From a recipe and a specification to a network with any weights.

    Raises:
        ProxyFileError: If the file is missing, truncated, altered, or of another kind.
    """
    if not path.is_file():
        raise ProxyFileError(
            f"the teacher file {path} does not exist; the file of a proxy data set whose teachers "
            "label every view goes with its folder teachers/"
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("nas_proxy", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header.pop("format", None) != FORMAT:
            raise ProxyFileError(f"{path} is not a teacher of this program ({FORMAT})")
        recorded_id = header.pop("id")
        spec, source_spec = (
            DatasetSpec.from_json(header.pop(name)) for name in ("spec", "source_spec")
        )
        with isolated_rng(0):  # what is drawn here is replaced at once
            network = build(header["recipe"], spec)
        seen = tensors.pop("seen")
        network.load_state_dict(
            {name.removeprefix("network."): value for name, value in tensors.items()}
        )
        teacher = Teacher(
            network=network.eval().requires_grad_(False),
            spec=spec,
            source_spec=source_spec,
            seen=seen,
            **header,
        )
    except _DAMAGED as error:
        reason = " ".join(str(error).split())  # torch needs many lines for weights that do not fit
        raise ProxyFileError(
            f"the teacher file {path} is truncated or damaged ({shorten(reason)}); delete it to "
            "train anew"
        ) from error
    if teacher.id != recorded_id:
        raise ProxyFileError(
            f"the teacher file {path} was altered after it was written; delete it to train anew"
        )
    return teacher


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Several teachers that label images together; a `Labeller` for the training loop.

    Attributes:
        teachers: At least one.
        temperature: Divides their logits.
        before: Applied to the images first, such as undoing a whitening; None for nothing.
    """

    teachers: Sequence[Teacher]
    temperature: float = 1.0
    before: Callable[[Tensor], Tensor] | None = None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """The mean of the teachers' probabilities, float32 `(n, num_classes)`."""
        if self.before is not None:
            images = self.before(images)
        said = [(t.logits(images) / self.temperature).softmax(dim=1) for t in self.teachers]
        return torch.stack(said).mean(dim=0)


@torch.no_grad()
def over_dataset(
    function: Callable[[Tensor], Tensor], dataset: ImageDataset, batch_size: int | None = None
) -> Tensor:
    """`function` of all normalised images, `(n, ...)`; only one batch is in memory as float.

    `batch_size` None takes as many at once as memory allows.
    """
    return in_batches(
        lambda part: function(normalise(part, dataset.spec)), dataset.images, batch_size
    )


@torch.no_grad()
def in_batches(
    function: Callable[[Tensor], Tensor], images: Tensor, batch_size: int | None = None
) -> Tensor:
    """`function` of images that are normalised already; otherwise as `over_dataset`."""
    parts = images.tensor_split(num_parts(len(images), images.shape, batch_size))
    return torch.cat([function(part) for part in parts])
