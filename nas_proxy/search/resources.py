"""What a candidate costs to use: parameters, FLOPs and latency of its network at full size.

They are measured in the process that asks Optuna, before a candidate is trained, and not by the
worker that trains it: constraints need them before, and one process measures one network at a time,
so that no measurement disturbs another. Workers that train meanwhile take its core, which the clock
of `nas_proxy.evaluate.latency` does not count on a CPU; on a GPU it would, and the configuration
refuses the combination.

A latency is never the same twice, and the sampler learns from it. So each is kept on disk as soon
as it is measured, and a continued search finds it there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from nas_proxy.core.environment import hardware
from nas_proxy.core.files import append_line, drop_partial_line
from nas_proxy.errors import EvaluationError, StudyError
from nas_proxy.evaluate.latency import Latency, measure_latency
from nas_proxy.evaluate.network import failure_reason
from nas_proxy.interfaces import Builder, ZeroCostScore
from nas_proxy.reproducibility import canonical_json, isolated_rng
from nas_proxy.search.settings import SearchSettings
from nas_proxy.types import Architecture, DatasetSpec


class LatencyLog:
    """An append-only file of latencies, and its content in memory.

    Args:
        path: The file; created with the first latency.

    Attributes:
        path: Likewise.
        seconds: What measuring them took.

    Raises:
        StudyError: If a line before the last cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds = 0.0
        self._latencies: dict[str, Latency] = {}
        drop_partial_line(path)
        if path.is_file():
            for number, line in enumerate(path.read_bytes().splitlines(), start=1):
                self._remember(line, number)

    def __len__(self) -> int:
        return len(self._latencies)

    def check_hardware(self, words: str) -> None:
        """Refuse to go on with latencies of other hardware.

        Raises:
            StudyError: If one was not measured on the device that `words` name.
        """
        for latency in self._latencies.values():
            if latency.device != words:
                raise StudyError(
                    f"the latencies in {self.path} were measured on {latency.device}, and this is "
                    f"{words}: they cannot be compared; continue there, or choose another "
                    "study_name"
                )

    def get(self, architecture: Architecture) -> Latency | None:
        """The latency of an architecture, if it was measured."""
        return self._latencies.get(architecture.id)

    def append(self, architecture: Architecture, latency: Latency, seconds: float) -> None:
        """Keep a latency and what measuring it took; it is on the disk when this returns.

        Raises:
            OSError: If the disk is full or the folder cannot be written.
        """
        record = {
            "architecture_id": architecture.id,
            "latency": latency.to_json(),
            "seconds": seconds,
        }
        append_line(self.path, canonical_json(record))
        self._latencies[architecture.id] = latency
        self.seconds += seconds

    def _remember(self, line: bytes, number: int) -> None:
        try:
            record = json.loads(line)
            self._latencies[record["architecture_id"]] = Latency(**record["latency"])
            self.seconds += record["seconds"]
        except (ValueError, KeyError, TypeError) as error:
            raise StudyError(
                f"{self.path}, line {number}, is damaged ({error}); remove the line to repeat "
                "that measurement"
            ) from error


class Resources:
    """Measures each architecture's network once.

    Args:
        space: At full size.
        spec: Of the real images.
        measures: The zero-cost signals `num_params` and `flops`.
        settings: Which latencies are wanted: for objectives and constraints. What another limit
            rules out already is not timed.
        latencies: Those of earlier, and where new ones are kept.
        device: Where networks are timed.

    Raises:
        StudyError: If the earlier ones were measured on other hardware.
    """

    def __init__(
        self,
        space: Builder,
        spec: DatasetSpec,
        measures: Mapping[str, ZeroCostScore],
        settings: SearchSettings,
        latencies: LatencyLog,
        device: torch.device,
    ) -> None:
        latencies.check_hardware(hardware(device))
        self._space, self._spec = space, spec
        self._measures, self._settings = measures, settings
        self._latencies, self._device = latencies, device
        self._known: dict[Architecture, dict[str, float]] = {}

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        """Parameters, FLOPs for one image, and seconds for one image, by the names of `COSTS`.

        Raises:
            EvaluationError: If the network cannot be built or applied, with the reason.
        """
        if architecture not in self._known:
            known, started = self._latencies.get(architecture), time.perf_counter()
            try:
                sizes, latency = self._measure(architecture, known)
            except (Exception, SystemExit) as error:  # a plug-in's network may raise anything
                raise EvaluationError(failure_reason(error)) from error
            if latency is not None:
                sizes["latency"] = latency.median_seconds
                if known is None:
                    self._latencies.append(architecture, latency, time.perf_counter() - started)
            self._known[architecture] = sizes
        return self._known[architecture]

    def latency(self, architecture: Architecture) -> Latency | None:
        """The latency with its spread, if it was measured."""
        return self._latencies.get(architecture)

    def _measure(
        self, architecture: Architecture, latency: Latency | None
    ) -> tuple[dict[str, float], Latency | None]:
        device, shape = self._device, self._spec.image_shape
        with isolated_rng(0):
            network = self._space.build(architecture, self._spec).to(device)
            images = torch.zeros((2, *shape), device=device)
            sizes = {name: score.measure(network, images) for name, score in self._measures.items()}
            wanted = self._settings.needs_latency
            if latency is None and wanted and not self._settings.constraints.exceeded(sizes):
                latency = measure_latency(network, shape, device=device)
        return sizes, latency
