"""Checks that a plug-in keeps the promises of `nas_proxy.interfaces`, for your own tests."""

from nas_proxy.testing.common import tiny_dataset
from nas_proxy.testing.contracts import check_distiller, check_search_space, check_zero_cost_score
from nas_proxy.testing.distillers import DISTILLER_CHECKS
from nas_proxy.testing.scores import SCORE_CHECKS
from nas_proxy.testing.spaces import SPACE_CHECKS

__all__ = [
    "DISTILLER_CHECKS",
    "SCORE_CHECKS",
    "SPACE_CHECKS",
    "check_distiller",
    "check_search_space",
    "check_zero_cost_score",
    "tiny_dataset",
]
