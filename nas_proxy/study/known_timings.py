"""What earlier plans have timed on this machine, for runs that say how long they will take."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from nas_proxy.core.environment import hardware
from nas_proxy.core.plugin_source import source_hash
from nas_proxy.core.results import StoredResult
from nas_proxy.data.folder import cache_folder
from nas_proxy.errors import StudyError
from nas_proxy.reproducibility import content_hash
from nas_proxy.study.context import StudyContext
from nas_proxy.study.estimate import Price, Timed
from nas_proxy.study.plain_values import dump_options
from nas_proxy.study.plan import DistillUnit, SingleUnit, StagePlan


@dataclass(frozen=True)
class _Kept(StoredResult):
    """A timing in its file."""

    FORMAT: ClassVar[int] = 1

    timed: Timed


class KnownTimings:
    """Timings that a machine keeps for all studies, by everything that changes them.

    Args:
        study: Whose units are meant.
    """

    def __init__(self, study: StudyContext) -> None:
        config, spec = study.config, study.splits.spec
        self._common = [
            _identity(config.space),
            [*spec.image_shape, spec.num_classes, config.num_threads, study.executor.num_workers],
            [hardware(study.device), str(torch.__version__)],
        ]
        section = config.resolved["distill"]
        self._distilling = [spec.source_hash, _identity(config.distiller), section]

    def price(self, unit: SingleUnit) -> Timed | str:
        """What was found; why not, if nothing was."""
        try:
            return _Kept.read(self._file(unit)).timed
        except StudyError:
            return "it was not timed"

    def keep(self, plans: Iterable[StagePlan], price: Price) -> None:
        """Keep what the units of plans cost, as far as that is known.

        A folder that cannot be written keeps nothing: the next run says less.
        """
        units = dict.fromkeys(
            unit for plan in plans for task in plan.tasks for unit in task.single_units
        )
        for unit in units:
            timed = price(unit)
            if isinstance(timed, Timed):
                try:
                    _Kept(timed).write(self._file(unit))
                except OSError:
                    return

    def _file(self, unit: SingleUnit) -> Path:
        own = self._distilling if isinstance(unit, DistillUnit) else dump_options(unit)
        key = content_hash(type(unit).__name__, own, *self._common)
        return cache_folder("timings") / f"{key}.json"


def _identity(plugin: Any) -> list[object]:
    """Which plug-in it is: its options, and its source, which may be a user's that changes."""
    kind: type = type(plugin)
    source = source_hash(kind) or content_hash(_text(kind))
    return [kind.__module__, kind.__qualname__, dump_options(plugin), source]


def _text(kind: type) -> str:
    """Of the file that a class is in; empty where there is none, as in an interactive session."""
    try:
        file = inspect.getsourcefile(kind)
    except (OSError, TypeError):
        return ""
    return "" if file is None else Path(file).read_text(errors="replace")
