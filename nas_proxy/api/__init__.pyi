from .images import ArrayImages, arrays, dataset, image_folder
from .rank import rank_report
from .results import Best, ReportPage, Verdict
from .study import Study

__all__ = [
    "ArrayImages",
    "Best",
    "ReportPage",
    "Study",
    "Verdict",
    "arrays",
    "dataset",
    "image_folder",
    "rank_report",
]
