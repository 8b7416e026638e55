"""What runs on a node: a process that reports what it finds there, and then works for a driver.

It writes into its node's cache and into temporary folders alone. What a driver keeps, it is sent.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nas_proxy.cluster.files import NodeFiles
from nas_proxy.cluster.plugins import SentPlugins
from nas_proxy.cluster.report import SlotReport, compared_versions
from nas_proxy.core import main_module
from nas_proxy.core.environment import available_memory
from nas_proxy.core.packing import pack, unpack
from nas_proxy.data.folder import cache_folder
from nas_proxy.data.given import GivenSplits, give_splits
from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.devices import mps_runs, num_gpus
from nas_proxy.errors import PluginError, StudyError, UserError, first_line


@dataclass(frozen=True)
class SlotSetup:
    """What a slot needs to know before it is given work.

    Attributes:
        plugins: The driver's.
        data: The images that it will work with; None: none.
        num_bytes: How much of them each process holds at least.
    """

    plugins: SentPlugins = SentPlugins()
    data: DataSettings | None = None
    num_bytes: int = 0


@dataclass(frozen=True)
class Work:
    """One thing to do.

    Attributes:
        function: Hash under which the packed function is found among `objects`.
        item: What it is applied to, packed.
        objects: Where what is missing on a node is fetched, by its hash.
    """

    function: str
    item: bytes
    objects: Mapping[str, Any]


@dataclass(frozen=True)
class Raised:
    """What a function raised, instead of its result."""

    error: BaseException


class Slot:
    """One process on a node. It does one thing at a time, and may be asked another meanwhile.

    Args:
        fetch: From what the driver handed over to its content.
        node: Where it runs.
    """

    def __init__(self, fetch: Callable[[Any], Any], node: str) -> None:
        self._node = node
        self._fetch = fetch
        self._files = NodeFiles(fetch)
        self._functions: dict[str, Callable[[Any], Any]] = {}

    def start(self, setup: bytes, given: GivenSplits | None) -> SlotReport:
        """Get ready to work; what stands in the way is reported, not raised.

        Args:
            setup: A packed `SlotSetup`.
            given: The images of `data.ship`.
        """
        torch.set_num_threads(1)
        report = SlotReport(
            self._node,
            compared_versions(),
            num_gpus=num_gpus(),
            free_bytes=_free_bytes(cache_folder()),
            mps=mps_runs(),
        )
        try:
            told: SlotSetup = unpack(setup)
            told.plugins.load(cache_folder("sent_code"))
            return replace(report, source_hash=self._load_images(told, given))
        # The last two: another version of this program, to which the words of the driver's mean
        # nothing.
        except (UserError, OSError, ImportError, AttributeError) as error:
            return replace(report, trouble=first_line(error, 400))

    def _load_images(self, setup: SlotSetup, given: GivenSplits | None) -> str:
        if setup.data is None:
            return ""
        available = available_memory(torch.device("cpu"))
        if setup.num_bytes > available:
            raise StudyError(
                f"{available / 10**9:.2f} GB of memory are left there, but the images alone take "
                f"{setup.num_bytes / 10**9:.2f} GB; use fewer slots (search.ray.memory_gb), or "
                "another node"
            )
        if given is not None:
            give_splits(setup.data, given.splits())
        return load_splits(setup.data).spec.source_hash

    def work(self, work: Work) -> bytes:
        """Apply a function to an item; the packed result, or what was raised."""
        torch.set_num_threads(1)  # it counts for a thread, and calls may come from any
        try:
            function = self._function(work)
            item = unpack(work.item, lambda path: self._files.path_of(path, work.objects))
            return pack(function(item), for_driver=True)
        except Exception as error:  # noqa: BLE001 - handed to whoever asked
            return pack(Raised(_sendable(error)), for_driver=True)

    def aside(self, function: bytes) -> bytes:
        """Call a packed function that takes nothing, while `work` goes on."""
        return pack(unpack(function)(), for_driver=True)

    def ping(self) -> bool:
        """Answer."""
        return True

    def _function(self, work: Work) -> Callable[[Any], Any]:
        if work.function not in self._functions:
            packed = self._fetch(work.objects[work.function])
            self._functions = {work.function: unpack(packed)}  # the last alone: it may hold images
        return self._functions[work.function]


def _free_bytes(folder: Path) -> int:
    """What the disk has room for where a folder is, or will be."""
    there = next(each for each in (folder, *folder.parents) if each.is_dir())
    return shutil.disk_usage(there).free


def _sendable(error: Exception) -> BaseException:
    """The error, or its words where its class is known to this process alone."""
    if type(error).__module__ == main_module.MAIN:
        return PluginError(
            f"what a script or notebook defines fails on a node: {type(error).__name__}: "
            f"{first_line(error)}"
        )
    try:
        unpack(pack(error, for_driver=True))
    except Exception:  # noqa: BLE001 - a class of somebody else's, that pickles anyhow
        return StudyError(f"{type(error).__name__} on {platform.node()}: {first_line(error)}")
    return error
