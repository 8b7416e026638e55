"""What a slot finds on its node, and whether it may work there."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field

from nas_proxy.core.environment import versions
from nas_proxy.devices import cuda_version

_COMPARED = ("nas-proxy", "torch", "torchvision", "numpy")


@dataclass(frozen=True)
class SlotReport:
    """What a slot finds on its node.

    Attributes:
        node: Its id in the cluster.
        versions: Of Python and the libraries that decide about figures, and of CUDA if torch has
            it.
        source_hash: Of the images that are trained on; empty without images.
        trouble: Why it cannot work there, in words; empty if it can.
        num_gpus: GPUs that it sees.
        free_bytes: Of the disk with its cache.
        mps: Whether processes share them through CUDA's Multi-Process Service.
    """

    node: str
    versions: Mapping[str, str] = field(default_factory=dict)
    source_hash: str = ""
    trouble: str = ""
    num_gpus: int = 0
    free_bytes: int = 0
    mps: bool = False


def compared_versions() -> dict[str, str]:
    """Versions in which all processes of a study have to agree."""
    found = {name: version for name, version in versions().items() if name in _COMPARED}
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, **found, "CUDA": cuda_version()}


def start_fault(report: SlotReport, versions: Mapping[str, str], source_hash: str) -> str:
    """Why a slot cannot work for this driver, in words; empty if it can."""
    other = [
        f"{name} {report.versions.get(name, 'missing')} (here {version})"
        for name, version in versions.items()
        if report.versions.get(name) != version
    ]
    if other:
        return (
            f"other versions, with which figures would not be comparable: {', '.join(other)}; "
            "install the same on every node"
        )
    if report.trouble:
        return report.trouble
    if source_hash and report.source_hash != source_hash:
        return (
            f"other images are there than here ({report.source_hash} instead of {source_hash}): "
            "copy the same to data.root on every node, or set data.ship: true"
        )
    return ""
