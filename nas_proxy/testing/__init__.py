"""Checks that a plug-in keeps the promises of `nas_proxy.interfaces`, for your own tests."""

from nas_proxy.testing.common import tiny_dataset
from nas_proxy.testing.contracts import (
    DISTILLER_CHECKS,
    SCORE_CHECKS,
    SPACE_CHECKS,
    check_distiller,
    check_search_space,
    check_zero_cost_score,
)

__all__ = [
    "DISTILLER_CHECKS",
    "SCORE_CHECKS",
    "SPACE_CHECKS",
    "check_distiller",
    "check_search_space",
    "check_zero_cost_score",
    "tiny_dataset",
]
