"""What a strategy of benchmarks/cost_to_quality.py would hand over, by what it has cost so far."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from quality_populations import Population

from nas_proxy.core.files import append_line, drop_partial_line
from nas_proxy.reproducibility import content_hash


@dataclass
class Trajectory:
    """What a strategy would hand over if it were stopped.

    Attributes:
        costs: Core-seconds, rising.
        tests: Test accuracy in % of the pick from that cost on.
        spent: Core-seconds by what they were spent on, at the end.
        chosen: The recipe, where there is one.
    """

    costs: list[float] = field(default_factory=list)
    tests: list[float] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)
    chosen: str = ""

    def spend(self, what: str, seconds: float) -> None:
        """Pay."""
        self.spent[what] = self.spent.get(what, 0.0) + seconds

    def pick(self, test: float) -> None:
        """Note the architecture that is the best known now."""
        self.costs.append(sum(self.spent.values()))
        self.tests.append(test)

    def at(self, costs: np.ndarray) -> np.ndarray:
        """Test accuracy of the pick at each of the `costs`, `(n,)`; none is below the first."""
        return np.array(self.tests)[np.searchsorted(self.costs, costs, side="right") - 1]

    def without(self, what: str) -> Trajectory:
        """The same where something that is paid for before the first pick was there already."""
        costs = [cost - self.spent.get(what, 0.0) for cost in self.costs]
        spent = {name: seconds for name, seconds in self.spent.items() if name != what}
        return replace(self, costs=costs, spent=spent)

    def and_(self, **more: float) -> Trajectory:
        """The same where more was paid for, by what, before the first pick."""
        costs = [cost + sum(more.values()) for cost in self.costs]
        return replace(self, costs=costs, spent={**self.spent, **more})


class Strategy(Protocol):
    """Picks an architecture of a population."""

    def __call__(self, population: Population, seed: int) -> Trajectory:
        """What it would hand over, and what it costs."""

    def identity(self, population: Population) -> str:
        """What its trajectories depend on, beside the seed."""


class KeptTrajectories:
    """Trajectories that were simulated before, on disk: a line each.

    Args:
        file: Made with the first.
    """

    def __init__(self, file: Path) -> None:
        drop_partial_line(file)
        lines = file.read_text().splitlines() if file.is_file() else []
        self._file = file
        self._known = {key: found for key, found in map(json.loads, lines)}

    def of(self, strategy: Strategy, population: Population, seed: int) -> Trajectory:
        """That of a strategy; simulated if it is not known."""
        key = content_hash(strategy.identity(population), seed)
        if key not in self._known:
            self._known[key] = asdict(strategy(population, seed))
            append_line(self._file, json.dumps([key, self._known[key]]))
        return Trajectory(**self._known[key])
