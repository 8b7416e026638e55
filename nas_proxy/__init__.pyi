from .api.images import arrays, dataset, image_folder
from .api.own_figures import rank_report
from .api.ranking import rank
from .api.steps import distill, validate
from .api.study import Study
from .data.proxy_dataset import ProxyDataset
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
from .interfaces import Distiller, SearchSpace, ZeroCostScore
from .lookup import search_space
from .types import Architecture

__all__ = [
    "__version__",
    "Architecture",
    "ConfigError",
    "DataError",
    "Distiller",
    "NasProxyError",
    "PluginError",
    "ProxyDataset",
    "ProxyFileError",
    "SearchSpace",
    "Study",
    "StudyError",
    "UserError",
    "ZeroCostScore",
    "arrays",
    "dataset",
    "distill",
    "image_folder",
    "load_model",
    "rank",
    "rank_report",
    "search_space",
    "validate",
]

__version__: str
