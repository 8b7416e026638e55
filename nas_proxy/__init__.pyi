from .api.images import arrays, dataset, image_folder
from .api.own_figures import rank_report
from .api.ranking import rank
from .api.steps import distill, validate
from .api.study import Study
from .data.proxy_dataset import ProxyDataset
from .data.sources import DataSettings, load_splits
from .errors import (
    ConfigError,
    DataError,
    NasProxyError,
    PluginError,
    ProxyFileError,
    StudyError,
    UserError,
)
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
    "ConfigError",
    "DISTILLERS",
    "DataError",
    "DataSettings",
    "DatasetSpec",
    "DistillContext",
    "DistillTask",
    "Distiller",
    "Evaluation",
    "Fidelity",
    "ImageDataset",
    "NasProxyError",
    "PluginError",
    "ProxyDataset",
    "ProxyFileError",
    "SCORES",
    "SEARCH_SPACES",
    "SearchSpace",
    "Splits",
    "Study",
    "StudyError",
    "UserError",
    "ZeroCostScore",
    "arrays",
    "dataset",
    "distill",
    "image_folder",
    "load_config",
    "load_model",
    "load_splits",
    "rank",
    "rank_report",
    "run_pipeline",
    "search_space",
    "validate",
]

__version__: str
