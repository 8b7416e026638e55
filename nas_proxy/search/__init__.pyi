from .guard import Guard, GuardResult
from .pareto import pareto_front
from .result import SearchResult, TrialRow
from .settings import SearchSettings
from .storage import open_storage
from .study import run_search
from .task import SearchTask

__all__ = [
    "Guard",
    "GuardResult",
    "SearchResult",
    "SearchSettings",
    "SearchTask",
    "TrialRow",
    "open_storage",
    "pareto_front",
    "run_search",
]
