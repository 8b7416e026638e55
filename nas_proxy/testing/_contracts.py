"""One call for each kind of plug-in, and the checks by themselves.

Every check is a function that raises AssertionError with one sentence. In pytest, one test for
each check tells more than one test for all::

    @pytest.mark.parametrize("check", SPACE_CHECKS, ids=lambda check: check.__name__)
    def test_my_space(check):
        check(MySpace(), 8)
"""

from __future__ import annotations

from nas_proxy.interfaces import Distiller, SearchSpace, ZeroCostScore
from nas_proxy.testing._distillers import DISTILLER_CHECKS
from nas_proxy.testing._scores import SCORE_CHECKS
from nas_proxy.testing._spaces import SPACE_CHECKS


def check_search_space(space: SearchSpace, *, num_samples: int = 8) -> None:
    """Run every check of search spaces; needs optuna.

    Args:
        space: With the options to check; it must be registered or loaded through the registry.
        num_samples: Architectures to draw for each check.

    Raises:
        AssertionError: At the first broken promise, in one sentence.
    """
    for check in SPACE_CHECKS:
        check(space, num_samples)


def check_distiller(distiller: Distiller) -> None:
    """Run every check of distillers.

    Args:
        distiller: With options that make it cheap: each check distils at least once. Six steps
            or more let the check of resuming kill it in between.

    Raises:
        AssertionError: At the first broken promise, in one sentence.
    """
    for check in DISTILLER_CHECKS:
        check(distiller)


def check_zero_cost_score(score: ZeroCostScore) -> None:
    """Run every check of zero-cost scores.

    Args:
        score: With the options to check.

    Raises:
        AssertionError: At the first broken promise, in one sentence.
    """
    for check in SCORE_CHECKS:
        check(score)
