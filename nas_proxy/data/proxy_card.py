"""A look at a proxy data set's file with numpy alone: what it says of itself, and its pictures.

`ProxyDataset` is for whoever trains on it; importing torch would take longer than the look.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from nas_proxy.errors import ProxyFileError
from nas_proxy.reproducibility import content_hash

FORMAT = "nas_proxy.proxy_dataset/2"
METADATA_KEY = "nas_proxy"
"""The one entry of the file's header."""
NOT_IN_ID = ("costs", "peak_memory_mib", "hardware", "versions")
"""What a set's id does not depend on: what it cost and where it was made."""


def read_arrays(path: Path, framework: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The arrays of a file, its header, and the id that was written into it; not verified.

    Args:
        path: The file.
        framework: As whose arrays: `pt` is torch, `np` is numpy.

    Raises:
        ProxyFileError: If the file is missing, truncated, or of another kind.
    """
    if not path.is_file():
        raise ProxyFileError(f"the proxy data set file {path} does not exist")
    try:
        with safe_open(str(path), framework=framework) as file:
            header = (file.metadata() or {}).get(METADATA_KEY)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ProxyFileError(
            f"the proxy data set file {path} is truncated or damaged ({error}); "
            "copy or distil it again"
        ) from error
    try:
        metadata = json.loads(header or "{}")
        if metadata.pop("format", None) != FORMAT:
            raise ProxyFileError(f"{path} is not a proxy data set of this program ({FORMAT})")
        return arrays, metadata, metadata.pop("id")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> ProxyFileError:
    """What to say of a header that is not one."""
    return ProxyFileError(f"the header of {path} cannot be read ({error}); copy or distil it again")


def check_id(path: Path, actual: str, recorded: str) -> None:
    """Make sure that a file holds what was written into it.

    Raises:
        ProxyFileError: If its content has another id than its header says.
    """
    if actual != recorded:
        raise ProxyFileError(
            f"{path} was altered after it was written: its content has the id {actual}, "
            f"its header says {recorded}"
        )


@dataclass(frozen=True, eq=False)
class ProxyCard:
    """What there is to see.

    Attributes:
        entries: As `ProxyDataset.card`.
        pixels: As `ProxyDataset.pixels`, `(n, c, h, w)`.
        images_per_class: How many there are of each class.
        class_names: In label order.
    """

    entries: dict[str, Any]
    pixels: NDArray[np.uint8]
    images_per_class: int
    class_names: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> ProxyCard:
        """Read a file that `ProxyDataset.save` wrote, and verify it.

        Raises:
            ProxyFileError: If the file is missing, truncated, altered, or of another kind.
        """
        arrays, metadata, recorded_id = read_arrays(path, "np")
        try:
            images, labels = arrays["images"], arrays["labels"]
            identity = {name: v for name, v in metadata.items() if name not in NOT_IN_ID}
            check_id(path, content_hash(images, labels, identity), recorded_id)
            return cls(
                entries=card_of(recorded_id, images.shape, metadata),
                pixels=_pixels(images, metadata),
                images_per_class=metadata["images_per_class"],
                class_names=tuple(metadata["spec"]["class_names"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise unreadable(path, error) from error


def card_of(id: str, shape: tuple[int, ...], metadata: dict[str, Any]) -> dict[str, Any]:
    """All that is known about a set, except the pixels, for a person to read.

    Args:
        id: Of the set.
        shape: Of its images.
        metadata: What a file's header says beside that.
    """
    kind = metadata["labelling"]["kind"]
    described = {name: value for name, value in metadata.items() if name != "spec"}
    return {
        "id": id,
        "images": f"{shape[0]} images of shape {tuple(shape[1:])}, {kind} labels",
        **described,
        "cost_seconds": sum(metadata["costs"].values()),
        **{f"source {name}": value for name, value in metadata["spec"].items()},
    }


def _pixels(images: NDArray[np.float32], metadata: dict[str, Any]) -> NDArray[np.uint8]:
    """As `denormalise` and `stretch` of `nas_proxy.data.transforms`."""
    if metadata["zca"] is None:
        shape = (1, -1, 1, 1)
        mean, std = (
            np.asarray(metadata["spec"][name], np.float32).reshape(shape)
            for name in ("mean", "std")
        )
        scaled = images * std + mean
    else:
        values = images.reshape(len(images), -1)
        centre = values.mean(axis=1, keepdims=True)
        spread = values.std(axis=1, ddof=1, keepdims=True).clip(1e-8)
        scaled = ((values - centre) / (5 * spread) + 0.5).reshape(images.shape)
    return (scaled * 255).round().clip(0, 255).astype(np.uint8)
