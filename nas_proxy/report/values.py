"""What the report holds: every figure of the page, as `report.json` keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from nas_proxy.calibrate.result import CalibrationResult
from nas_proxy.core.results import StoredResult
from nas_proxy.data.proxy_summary import ProxySummary
from nas_proxy.evaluate_proxy.result import ProxyAccuracy, ProxyReplay
from nas_proxy.retrain.result import RetrainResult
from nas_proxy.search.result import SearchResult
from nas_proxy.statistics.base_rate import is_uneven
from nas_proxy.validate.looks import Look
from nas_proxy.validate.values import Point, RankReport


@dataclass(frozen=True)
class NodeShare:
    """What a node of a cluster did for a study.

    Attributes:
        name: Of the node.
        num_evaluations: Those that have a result.
        seconds: What they took, in all.
    """

    name: str
    num_evaluations: int
    seconds: float


@dataclass(frozen=True)
class Environment:
    """Where the report was made.

    Attributes:
        hardware: In words.
        versions: Of the libraries.
        nodes: What was evaluated on nodes of a cluster; empty where all was done on one machine.
    """

    hardware: str
    versions: Mapping[str, str]
    nodes: tuple[NodeShare, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """The real images.

    Attributes:
        name: Of the data set.
        licence: The terms under which the images may be used, in words.
        classes: In label order.
        image_shape: `(c, h, w)`.
        search_train: How many images the distiller and the candidates see.
        search_val: How many measure candidates.
        test: How many the reference is measured on.
        source_hash: Of the search-training images.
        per_class: Images of each class in search_train, search_val and test, in label order.
        left_out: What of the data was not read, a sentence; empty if nothing was left out.
    """

    name: str
    licence: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    search_train: int
    search_val: int
    test: int
    source_hash: str
    per_class: tuple[tuple[int, int, int], ...] = ()
    left_out: str = ""

    @property
    def has_uneven_classes(self) -> bool:
        """Whether classes of some part differ in size, so that accuracies need a base rate."""
        return any(is_uneven(sizes) for sizes in zip(*self.per_class, strict=True))


@dataclass(frozen=True)
class Cost:
    """One entry of the ledger.

    Attributes:
        what: Was paid for, in words.
        count: How often.
        seconds: All of them together, of one process.
        hardware: On what, where that is not the report's own environment.
        core_seconds: What processor cores worked on it; None where that was not measured, and on
            a GPU.
        is_proof: Whether it was paid to judge the ranking, and for nothing else.
        paid_by: The study that paid for it; None for this one.
    """

    what: str
    count: int
    seconds: float
    hardware: str | None = None
    core_seconds: float | None = None
    is_proof: bool = False
    paid_by: str | None = None

    @property
    def comparable(self) -> float:
        """Core-seconds; where they were not measured, the seconds of the one process."""
        return self.seconds if self.core_seconds is None else self.core_seconds


@dataclass(frozen=True)
class Total:
    """A sum of the ledger, or what another way would have cost.

    Attributes:
        what: In words.
        core_seconds: See `Cost.comparable`.
        seconds: Of one process; None where only the other is known.
    """

    what: str
    core_seconds: float
    seconds: float | None


@dataclass(frozen=True)
class ProxyEvaluations:
    """What `nas-proxy evaluate-proxy` has found out about the study's proxy data set.

    Attributes:
        accuracy: None if that was not asked.
        replay: None likewise.
    """

    accuracy: ProxyAccuracy | None
    replay: ProxyReplay | None


@dataclass(frozen=True, kw_only=True)
class StudyReport(StoredResult):
    """Everything that a person wants to know of a study.

    Attributes:
        study_name: See `StudyConfig`.
        verdict: What a person reads first.
        config: The study's configuration, as YAML spells it.
        commands: What makes the study and its pictures again.
        created: When, as ISO 8601 text.
        environment: Where.
        data: The real images.
        proxy_dataset: The distilled ones.
        calibration: How the recipe was found; None where the configuration's sections are it.
        search: What was searched.
        validation: How the ranking was judged; None if it was not.
        points: Every architecture of the validation.
        evaluate_proxy: What the proxy data set is worth; None if nobody asked.
        retrain: What full training made of the best; None where it was not asked for.
        costs: The ledger, with what was discarded.
        totals: Its sums with and without the proof, and what other ways would have cost.
        looks: Every look at references, the first one first.
        wall_seconds: Seconds of the clock that each stage took; empty if that is not known.
    """

    FORMAT: ClassVar[int] = 1

    study_name: str
    verdict: str
    config: Mapping[str, Any]
    commands: tuple[str, ...]
    created: str
    environment: Environment
    data: DataSummary
    proxy_dataset: ProxySummary
    calibration: CalibrationResult | None = None
    search: SearchResult
    validation: RankReport | None = None
    points: tuple[Point, ...] = ()
    evaluate_proxy: ProxyEvaluations | None = None
    retrain: RetrainResult | None = None
    costs: tuple[Cost, ...] = ()
    totals: tuple[Total, ...] = ()
    looks: tuple[Look, ...] = ()
    wall_seconds: Mapping[str, float] = field(default_factory=dict)
