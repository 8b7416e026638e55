from .images import ArrayImages, arrays, dataset, image_folder
from .rank import rank_report
from .results import Best, ReportPage, Verdict
from .steps import distill, validate
from .study import Study

__all__ = [
    "ArrayImages",
    "Best",
    "ReportPage",
    "Study",
    "Verdict",
    "arrays",
    "dataset",
    "distill",
    "image_folder",
    "rank_report",
    "validate",
]
