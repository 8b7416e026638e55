"""What was found out about a proxy data set, as `accuracy.json` and `replay.json` hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from nas_proxy.core.results import StoredResult
from nas_proxy.data.proxy_summary import ProxySummary
from nas_proxy.evaluate_proxy.accuracy import NetworkAccuracies, Stability
from nas_proxy.statistics.accuracy import SeedMean
from nas_proxy.statistics.base_rate import majority_words


@dataclass(frozen=True, kw_only=True)
class ProxyEvaluation(StoredResult):
    """What every task states.

    Attributes:
        proxy_dataset: What was evaluated.
        classes: In label order.
        settings: The section `evaluate_proxy`, as a configuration spells it.
        num_seeds: Of the networks that were trained on it.
        hardware: What everything ran on, in words.
        versions: Of the libraries.
    """

    proxy_dataset: ProxySummary
    classes: tuple[str, ...]
    settings: Mapping[str, Any]
    num_seeds: int
    hardware: str
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ProxyAccuracy(ProxyEvaluation):
    """Test accuracies of fixed networks under every condition.

    Attributes:
        protocol: How they were trained, in words.
        num_steps: How long, on the set.
        networks: One after the other.
        stability: How far the figures move; None for a single network.
        seconds: What each condition cost, of one process.
    """

    FORMAT: ClassVar[int] = 1

    protocol: str
    num_steps: int
    networks: tuple[NetworkAccuracies, ...]
    stability: Stability | None
    seconds: Mapping[str, float]

    @property
    def base_rate(self) -> str:
        """What the accuracies must be read against, a sentence; empty where classes are alike."""
        counted = (network.confusion for network in self.networks if network.confusion)
        return majority_words([sum(row) for row in next(counted, ())], self.classes)


@dataclass(frozen=True, kw_only=True)
class LearnerMemory:
    """Images as the memory of learners.

    Attributes:
        name: Which images, in words.
        after_each_task: Accuracy on all classes met so far, `(num_learners, num_tasks)`.
        final_accuracy: After the last task.
        forgetting: See `replay.ReplayResult`.
        seconds: Of all trainings.
    """

    name: str
    after_each_task: tuple[tuple[float, ...], ...]
    final_accuracy: SeedMean
    forgetting: SeedMean
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ProxyReplay(ProxyEvaluation):
    """The set and as many other images as the memory of a learner.

    Attributes:
        memories: The set's own first.
        num_tasks: In how many parts the classes come.
        learner: The network, in words.
    """

    FORMAT: ClassVar[int] = 1

    memories: tuple[LearnerMemory, ...]
    num_tasks: int
    learner: str
