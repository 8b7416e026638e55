from .export import export_proxy_dataset
from .published import import_published
from .published_meaning import Assumptions
from .safe_load import load_safely

__all__ = ["Assumptions", "export_proxy_dataset", "import_published", "load_safely"]
