from .executors import evaluate_all, open_executor
from .factory import NetworkEvaluatorFactory
from .latency import Latency, measure_latency
from .log import EvaluationLog
from .sample import draw_architectures
from .table import TruthTable, read_table

__all__ = [
    "EvaluationLog",
    "Latency",
    "NetworkEvaluatorFactory",
    "TruthTable",
    "draw_architectures",
    "evaluate_all",
    "measure_latency",
    "open_executor",
    "read_table",
]
