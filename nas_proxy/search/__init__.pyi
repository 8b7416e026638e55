from .pareto import pareto_front
from .settings import SearchSettings
from .storage import open_storage
from .study import SearchTask, run_search

__all__ = ["SearchSettings", "SearchTask", "open_storage", "pareto_front", "run_search"]
