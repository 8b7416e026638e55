from .distiller import CalibrationSample, DistillContext, Distiller, DistillTask
from .search_space import Builder, SearchSpace, TransferSpace, Trial
from .zero_cost_score import ZeroCostScore

__all__ = [
    "Builder",
    "CalibrationSample",
    "DistillContext",
    "DistillTask",
    "Distiller",
    "SearchSpace",
    "TransferSpace",
    "Trial",
    "ZeroCostScore",
]
