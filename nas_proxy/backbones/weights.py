"""Weights of torchvision's networks: published ones, or a local file's; none of them runs code."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from nas_proxy.backbones.zoo import build_without_weights, check_backbone, structure_of
from nas_proxy.core.files import write_atomically
from nas_proxy.errors import ConfigError, DataError, did_you_mean, first_line
from nas_proxy.interchange.safe_load import code_in
from nas_proxy.reproducibility import canonical_json
from nas_proxy.types import WeightsRecord

LICENCE = (
    "torchvision's weights: trained on ImageNet-1K, whose terms are non-commercial research and "
    "education only; see the weights' own page for more"
)
_UNKNOWN_LICENCE = "not known: ask whoever made the file"
_FILE_ENDINGS = (".pth", ".pt", ".safetensors")
_HEADER = "nas_proxy"
_OF_BACKBONE = "preparation."  # what a backbone that was trained here holds beside its network
_SECOND_HEAD = re.compile(r"(aux1|aux2|AuxLogits)\.")
# The published weights of DenseNets have the names that their layers had in 2017.
_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
_POSITIONS = "encoder.pos_embedding"  # of a vision transformer, as many as it cuts patches
_SHOWN = 3  # layers that a message names


def is_file(weights: str) -> bool:
    """Whether `weights` names a file rather than weights of torchvision."""
    return Path(weights).suffix in _FILE_ENDINGS


def identify_weights(name: str, weights: str) -> str:
    """Weights by what they are: torchvision's name, or a file's name and a hash of its content.

    Args:
        name: Of the network.
        weights: `DEFAULT` or another name of torchvision's weights, or a local file.

    Raises:
        ConfigError: If torchvision has no such network, or knows no weights of that name.
        DataError: If the local file is missing.
    """
    check_backbone(name)
    if is_file(weights):
        path = _checked(weights)
        with path.open("rb") as file:
            return f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"
    choices = _choices(name)
    if weights not in choices.__members__:
        raise ConfigError(
            f"torchvision has no weights {weights!r} for {name}; "
            f"{did_you_mean(weights, choices.__members__)} (or name a local .pth file)"
        )
    found: str = choices[weights].name  # DEFAULT changes with torchvision's version
    return found


def published(name: str, weights: str = "DEFAULT") -> Any:
    """The member of torchvision's enumeration; for a local file, that of the network's own."""
    choices = _choices(name)
    return choices.__members__.get(weights, choices.DEFAULT)


def published_licence(name: str, weights: str = "DEFAULT") -> str:
    """The terms of torchvision's weights, with those that one of them adds."""
    return "; ".join([LICENCE, *filter(None, [published(name, weights).meta.get("license")])])


def record_of(name: str, weights: str) -> WeightsRecord:
    """Source and licence of weights; arguments and errors as of `identify_weights`."""
    identity = identify_weights(name, weights)
    if not is_file(weights):
        return WeightsRecord(f"{name}: {identity} of torchvision", published_licence(name, weights))
    said = _header(_checked(weights))
    source = said.get("source", "a local file")
    return WeightsRecord(f"{name}: {source} ({identity})", said.get("licence", _UNKNOWN_LICENCE))


def load_weights(network: nn.Module, name: str, weights: str, *, head: str) -> None:
    """Fill in weights; the head keeps its own.

    Args:
        network: Of torchvision, changed in place.
        name: Its name.
        weights: As for `identify_weights`.
        head: Name of the module that gives the logits.

    Raises:
        ConfigError: If torchvision knows no weights of that name.
        DataError: If they cannot be downloaded, or the local file is missing, damaged or of
            another network; the message names the layers that do not fit, with their shapes, or
            that hold something else than finite numbers.
    """
    network.load_state_dict(_fitting_state(network, name, weights, head), strict=False)


def check_weights(name: str, weights: str, image_size: int) -> None:
    """Refuse weights that `load_weights` would refuse, without a network to fill.

    Args:
        name: Of the network.
        weights: As for `identify_weights`.
        image_size: In pixels, for which the network is built.

    Raises:
        ConfigError: As `load_weights`, or if the network cannot take images of that size.
        DataError: As `load_weights`.
    """
    network = build_without_weights(name, 1, image_size)
    _fitting_state(network, name, weights, structure_of(name, image_size).head)


def _fitting_state(network: nn.Module, name: str, weights: str, head: str) -> Mapping[str, Tensor]:
    """What is to be filled into a network; arguments and errors as of `load_weights`."""
    state = _local_state(_checked(weights)) if is_file(weights) else _download(name, weights)
    for key in list(state):  # in place: some networks need the mapping's own attributes
        value = state.pop(key)
        own = key.removeprefix("network.")  # of a backbone that was trained here
        skipped = own.startswith((f"{head}.", _OF_BACKBONE)) or _SECOND_HEAD.match(own)
        if not skipped:
            state[_OLD_NAME.sub(r"\1\2", own)] = value
    fitting: dict[str, Tensor] = _with_positions(network, state)
    expected = {key: v for key, v in network.state_dict().items() if not key.startswith(f"{head}.")}
    faults = _faults(fitting, expected)
    if faults:
        raise DataError(
            f"the weights {weights} are not of {name} ({_some(faults)}); name the network that "
            "they belong to"
        )
    unusable = _unusable(fitting, expected)
    if unusable:
        raise DataError(
            f"the weights {weights} of {name} cannot be used ({_some(unusable)}); get them again, "
            "or leave them out"
        )
    return fitting


def _some(faults: list[str]) -> str:
    """The first faults of a list, and how many more there are."""
    more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    return "; ".join(faults[:_SHOWN]) + more


def save_weights(
    path: Path,
    network: nn.Module,
    record: WeightsRecord,
    key: str = "",
    *,
    seen: Tensor | None = None,
) -> None:
    """Write a network's weights with their source and licence to a .safetensors file.

    Args:
        path: The file; its folder is made.
        network: Of torchvision.
        record: Where the weights come from.
        key: Identifies the work that made them; `saved_key` reads it back.
        seen: Hashes of the images that they were trained on, int64 `(n,)`, which `seen_images`
            reads back; None if they are not known.

    Raises:
        OSError: If the folder cannot be written or the disk is full.
    """
    state = {k: v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}
    said = {"source": record.source, "licence": record.licence, "key": key}
    if seen is not None:
        said["seen"] = base64.b64encode(seen.cpu().numpy().astype("<i8").tobytes()).decode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_safetensors(state, {_HEADER: canonical_json(said)}))


def saved_key(path: Path) -> str:
    """The key of a file that `save_weights` wrote; empty for any other.

    Raises:
        DataError: If the file cannot be read.
    """
    return _header(path).get("key", "")


def seen_images(weights: str) -> Tensor:
    """Hashes of the images that weights were trained on, int64 `(n,)`; empty if not on record.

    Raises:
        DataError: If a local file is missing or cannot be read.
    """
    said = _header(_checked(weights)) if is_file(weights) else {}
    hashes = np.frombuffer(base64.b64decode(said.get("seen", "")), dtype="<i8")
    return torch.from_numpy(hashes.astype(np.int64))


def _faults(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What of a file does not fit a network, in words, in the network's order."""
    faults = []
    for key, value in expected.items():
        if key.endswith("num_batches_tracked"):  # files from before torch 0.4.1 have none
            continue
        if key not in state:
            faults.append(f"{key} {tuple(value.shape)} is missing")
        elif state[key].shape != value.shape:
            given, own = tuple(state[key].shape), tuple(value.shape)
            faults.append(f"{key} has shape {given} instead of {own}")
    unknown = (key for key in state if key not in expected)
    return faults + [f"{key} {tuple(state[key].shape)} is unknown" for key in unknown]


def _unusable(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What of a file has the right shape and no numbers to go on with, in words."""
    faults = []
    for key, own in expected.items():
        if not own.is_floating_point() or key not in state:
            continue
        value = state[key]
        if not value.is_floating_point() or value.layout != torch.strided or value.is_meta:
            faults.append(f"{key} holds {value.dtype}, {value.layout}, on {value.device}")
        elif not value.float().isfinite().all():
            faults.append(f"{key} holds values that are not finite")
    return faults


def _with_positions(network: nn.Module, state: Any) -> Any:
    """The same with a vision transformer's positions interpolated to the network's image size."""
    from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

    if not isinstance(network, VisionTransformer) or _POSITIONS not in state:
        return state
    if state[_POSITIONS].shape == network.encoder.pos_embedding.shape:
        return state
    if state[_POSITIONS].shape[2] != network.encoder.pos_embedding.shape[2]:
        return state  # of another width: said with the other faults
    return interpolate_embeddings(network.image_size, network.patch_size, state)


def _choices(name: str) -> Any:
    from torchvision import models

    return models.get_model_weights(name)


def _download(name: str, weights: str) -> dict[str, Tensor]:
    identify_weights(name, weights)
    try:
        state: dict[str, Tensor] = published(name, weights).get_state_dict(
            progress=False, check_hash=True
        )
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"the weights {weights} of {name} cannot be downloaded ({first_line(error)}); put "
            "the file somewhere and name its path in weights"
        ) from error
    return state


def _local_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - the unpickler raises what its input makes it
        raise _unreadable(path, error) from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise DataError(f"the weights file {path} holds no state_dict; save that alone")
    return state


def _header(path: Path) -> dict[str, str]:
    """What a file that was written here says of itself; empty for any other."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(str(path), framework="pt") as file:
            said = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
    except Exception as error:  # noqa: BLE001 - a damaged file raises anything
        raise _unreadable(path, error) from error
    return {key: said[key] for key in ("source", "licence", "key", "seen") if key in said}


def _unreadable(path: Path, error: Exception) -> DataError:
    code = code_in(error)
    reason = f"it would run {code}, which weights do not need" if code else first_line(error)
    return DataError(
        f"the weights file {path} cannot be read ({reason}); get it again, or save its state_dict "
        "alone"
    )


def _checked(weights: str) -> Path:
    path = Path(weights).expanduser()
    if not path.is_file():
        raise DataError(f"the weights file {path} does not exist; get it, or name another")
    return path
