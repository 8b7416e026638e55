"""`model.safetensors`: trained weights with everything that is needed to use them, and no pickle.

The header names the search space with its options, the architecture and the data set, from which
the network is built before the weights are put into it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from nas_proxy.core.files import write_atomically
from nas_proxy.errors import ModelFileError, PluginError
from nas_proxy.interfaces import SearchSpace, TransferSpace
from nas_proxy.lookup import search_space_class
from nas_proxy.options import adapter
from nas_proxy.reproducibility import canonical_json, content_hash, isolated_rng
from nas_proxy.types import Architecture, DatasetSpec

FORMAT = "nas_proxy.model/1"
_HEADER = "nas_proxy"


@dataclass(frozen=True)
class ModelOrigin:
    """What a network is built from, before it has weights.

    Attributes:
        architecture: Which network; it names its search space.
        space_options: The options with which the space builds it, as JSON values.
        spec: The images and classes that it was trained on, at the size it was trained at.
    """

    architecture: Architecture
    space_options: Mapping[str, Any]
    spec: DatasetSpec

    @classmethod
    def of(cls, space: SearchSpace, architecture: Architecture, spec: DatasetSpec) -> ModelOrigin:
        """The origin of the network that `space.build(architecture, spec)` makes."""
        # Its weights replace those that a training started from, whose file may be elsewhere.
        untrained = space.without_weights() if isinstance(space, TransferSpace) else space
        options = asdict(untrained)
        return cls(architecture, json.loads(canonical_json(options)), spec)

    def build(self, space: str | Callable[..., nn.Module] | None = None) -> nn.Module:
        """The network with any weights, which are to be replaced.

        Args:
            space: Name of its search space here, or `FILE.py:CLASS`, or `FILE.py:FUNCTION`, or the
                function itself; None: as it was called where the network was trained.

        Raises:
            ModelFileError: If the search space is not installed here, or has other options.
        """
        from pydantic import ValidationError

        meant = space or self.architecture.space
        name = meant if isinstance(meant, str) else getattr(meant, "__name__", repr(meant))
        try:
            kind = search_space_class(meant)
            found: SearchSpace = adapter(kind).validate_python(dict(self.space_options))
        except PluginError as error:
            raise ModelFileError(
                f"the model is of the search space {name!r}, which is not there: {error}; install "
                "it, say where it is (load_model(..., space='FILE.py:NAME')), or use model.onnx "
                "or model.pt2, which need no search space"
            ) from error
        except ValidationError as error:
            raise ModelFileError(
                f"the installed search space {name!r} does not know the options of the model, "
                f"{dict(self.space_options)}; install the version that made it, or use model.onnx "
                "or model.pt2, which need no search space"
            ) from error
        with isolated_rng(0):
            return found.build(self.architecture, self.spec)

    def to_json(self) -> dict[str, Any]:
        """A JSON mapping; `from_json` reads it back."""
        return {
            **self.architecture.to_json(),
            "space_options": dict(self.space_options),
            "dataset": asdict(self.spec),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ModelOrigin:
        """The inverse of `to_json`."""
        return cls(
            Architecture.from_json(value),
            value["space_options"],
            DatasetSpec.from_json(value["dataset"]),
        )


class DeployedModel(nn.Module):
    """A trained network as one uses it: colour values in, logits out, in evaluation mode.

    The normalisation is part of it, so that nobody has to know the data set's mean and deviation.

    Args:
        network: Maps normalised images to logits.
        origin: What it was built from.

    Attributes:
        network: The same, for normalised images.
        origin: The same.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, origin: ModelOrigin) -> None:
        super().__init__()
        self.network = network
        self.origin = origin
        for name in ("mean", "std"):
            values = torch.tensor(getattr(origin.spec, name)).view(1, -1, 1, 1)
            self.register_buffer(name, values)
        self.eval()

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name for each logit."""
        return self.origin.spec.class_names

    def forward(self, images: Tensor) -> Tensor:
        """float32 images in [0, 1], `(n, c, h, w)`, to logits `(n, num_classes)`."""
        return self.network((images - self.mean) / self.std)  # type: ignore[no-any-return]


def save_model(model: DeployedModel, path: Path) -> None:
    """Write weights and origin, atomically.

    Raises:
        OSError: If the folder cannot be written or the disk is full.
    """
    state = model.network.state_dict()
    # Copies: the format refuses weights that two layers share. Contiguous: it knows no layouts.
    tensors = {name: value.cpu().contiguous().clone() for name, value in state.items()}
    origin = model.origin.to_json()
    header = {"format": FORMAT, "id": _id(origin, tensors), **origin}
    write_atomically(path, to_safetensors(tensors, {_HEADER: canonical_json(header)}))


def load_model(
    path: Path | str, *, space: str | Callable[..., nn.Module] | None = None
) -> DeployedModel:
    """Read a file that `save_model` wrote, and verify it.

    Args:
        path: A `model.safetensors`.
        space: Where its search space is here, as for `ModelOrigin.build`: a space of one file is
            known by the file's path, which is another one on another machine.

    Returns:
        The model on the CPU, in evaluation mode.

    Raises:
        ModelFileError: If the file is missing, damaged, altered or of another kind, or its search
            space is not installed.

    >>> import tempfile, nas_proxy as nas
    >>> from nas_proxy.data import load_splits
    >>> space = nas.search_space("convnet")
    >>> spec = load_splits(nas.dataset("digits")).spec
    >>> architecture = space.sample(torch.Generator().manual_seed(0))
    >>> origin = ModelOrigin.of(space, architecture, spec)
    >>> file = Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> save_model(DeployedModel(space.build(architecture, spec), origin), file)
    >>> nas.load_model(file)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"the model file {path} does not exist")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not isinstance(header, dict) or header.pop("format", None) != FORMAT:
            raise ModelFileError(f"{path} is not a model of this program ({FORMAT})")
        recorded_id, origin = header.pop("id"), ModelOrigin.from_json(header)
        if recorded_id != _id(header, tensors):
            raise ValueError("its content is not what was written")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"the model file {path} is damaged ({error}); copy or export it again"
        ) from error
    network = origin.build(space)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(
            f"the weights of {path} do not fit the network that the installed search space "
            f"{origin.architecture.space!r} builds ({reason}); install the version that made it, "
            "or use model.onnx or model.pt2"
        ) from error
    return DeployedModel(network, origin)


def _id(origin: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    names = sorted(tensors)
    return content_hash(dict(origin), names, *(tensors[name] for name in names))
