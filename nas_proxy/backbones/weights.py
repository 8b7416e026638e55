"""Weights of torchvision's networks: published ones, or a local file's; none of them runs code."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from nas_proxy.backbones.zoo import check_backbone
from nas_proxy.errors import ConfigError, DataError, did_you_mean, first_line
from nas_proxy.files import write_atomically
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
            another network; the message names the layers that do not fit, with their shapes.
    """
    state = _local_state(_checked(weights)) if is_file(weights) else _download(name, weights)
    for key in list(state):  # in place: some networks need the mapping's own attributes
        value = state.pop(key)
        own = key.removeprefix("network.")  # of a backbone that was trained here
        skipped = own.startswith((f"{head}.", _OF_BACKBONE)) or _SECOND_HEAD.match(own)
        if not skipped:
            state[_OLD_NAME.sub(r"\1\2", own)] = value
    state = _with_positions(network, state)
    expected = {key: v for key, v in network.state_dict().items() if not key.startswith(f"{head}.")}
    faults = _faults(state, expected)
    if faults:
        more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise DataError(
            f"the weights {weights} are not of {name} ({'; '.join(faults[:_SHOWN])}{more}); name "
            "the network that they belong to"
        )
    network.load_state_dict(state, strict=False)


def save_weights(path: Path, network: nn.Module, record: WeightsRecord, key: str = "") -> None:
    """Write a network's weights with their source and licence to a .safetensors file.

    Args:
        path: The file; its folder is made.
        network: Of torchvision.
        record: Where the weights come from.
        key: Identifies the work that made them; `saved_key` reads it back.

    Raises:
        OSError: If the folder cannot be written or the disk is full.
    """
    state = {k: v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}
    said = {"source": record.source, "licence": record.licence, "key": key}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_safetensors(state, {_HEADER: canonical_json(said)}))


def saved_key(path: Path) -> str:
    """The key of a file that `save_weights` wrote; empty for any other.

    Raises:
        DataError: If the file cannot be read.
    """
    return _header(path).get("key", "")


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
    return {key: said[key] for key in ("source", "licence", "key") if key in said}


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"the weights file {path} cannot be read ({first_line(error)}); get it again, or save "
        "its state_dict alone"
    )


def _checked(weights: str) -> Path:
    path = Path(weights).expanduser()
    if not path.is_file():
        raise DataError(f"the weights file {path} does not exist; get it, or name another")
    return path
