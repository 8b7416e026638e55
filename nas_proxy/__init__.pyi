from .data.proxy_dataset import ProxyDataset
from .data.sources import DataSettings, load_splits
from .errors import NasProxyError, UserError
from .export.model_file import load_model
from .interfaces import DistillContext, Distiller, DistillTask, SearchSpace, ZeroCostScore
from .lookup import search_space
from .registry import DISTILLERS, SCORES, SEARCH_SPACES
from .study.config import load_config
from .study.pipeline import run_pipeline
from .types import Architecture, DatasetSpec, Evaluation, Fidelity, ImageDataset, Splits

__all__ = [
    "__version__",
    "Architecture",
    "DISTILLERS",
    "DataSettings",
    "DatasetSpec",
    "DistillContext",
    "DistillTask",
    "Distiller",
    "Evaluation",
    "Fidelity",
    "ImageDataset",
    "NasProxyError",
    "ProxyDataset",
    "SCORES",
    "SEARCH_SPACES",
    "SearchSpace",
    "Splits",
    "UserError",
    "ZeroCostScore",
    "load_config",
    "load_model",
    "load_splits",
    "run_pipeline",
    "search_space",
]

__version__: str
