from ._common import tiny_dataset
from ._contracts import check_distiller, check_search_space, check_zero_cost_score
from ._distillers import DISTILLER_CHECKS
from ._findings import Finding, find_faults
from ._scores import SCORE_CHECKS
from ._spaces import SPACE_CHECKS

__all__ = [
    "DISTILLER_CHECKS",
    "Finding",
    "SCORE_CHECKS",
    "SPACE_CHECKS",
    "check_distiller",
    "check_search_space",
    "check_zero_cost_score",
    "find_faults",
    "tiny_dataset",
]
