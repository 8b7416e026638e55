from .images import ArrayImages, arrays, dataset, image_folder
from .own_figures import rank_report
from .ranking import rank
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
    "rank",
    "rank_report",
    "validate",
]
