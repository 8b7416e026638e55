"""Where a cheap score may cut so that the best by a dearer one are kept.

The assumption: score and reference have a Gaussian copula, as two normal values of a correlation r
would. Then of the best fraction f by reference, the upper share s by score holds

    kept(s) = P(S > z(1 - s) | T > z(1 - f)) = 1/f * integral from 1 - f to 1 of
              Phi((r z(u) - z(1 - s)) / sqrt(1 - r^2)) du

with S and T standard normal values of correlation r and z the normal quantile. r follows from
Spearman's rho as 2 sin(pi / 6 rho) (Pearson 1907). Real scores often know less of the best than of
the rest, which a copula with one correlation cannot say. So the lower end of rho's interval is
taken, and no cut ever loses one of the sample's own best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy

from nas_proxy.statistics.intervals import Values, normal_quantile
from nas_proxy.statistics.ranks import estimate, spearman

BEST = 0.1  # the part by reference that cuts have to keep
_MAX_CORRELATION = 0.999  # beyond it the integrand is a step


@dataclass(frozen=True)
class Cut:
    """What has to be reached to go on.

    Attributes:
        share: Upper part of all architectures that is expected to reach it.
        score: The least that goes on; None: everything does, and the share is 1.
    """

    share: float
    score: float | None

    def passes(self, score: float) -> bool:
        """Whether what has this score goes on."""
        return self.score is None or score >= self.score


NO_CUT = Cut(1.0, None)


def kept_share(share: float, correlation: float, fraction: float = BEST) -> float:
    """The part of the best `fraction` by reference that the upper `share` by score holds.

    Args:
        share: In (0, 1).
        correlation: Pearson's, of the normal values behind both sides; see above.
        fraction: In (0, 1).
    """
    r = min(max(correlation, -_MAX_CORRELATION), _MAX_CORRELATION)
    nodes, weights = _quadrature()
    truth = scipy.special.ndtri(1 - fraction / 2 + fraction / 2 * nodes)
    cut = normal_quantile(1 - share)
    return float(weights @ scipy.special.ndtr((r * truth - cut) / math.sqrt(1 - r * r))) / 2


@cache
def _quadrature() -> tuple[Values, Values]:
    """Of Gauss and Legendre, on [-1, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    return nodes, weights


def share_to_keep(rho: float, keep: float, fraction: float = BEST) -> float:
    """The smallest share that may be expected to hold so much of the best `fraction`.

    Args:
        rho: Spearman's, of score and reference. One that is not above 0 allows no cut.
        keep: In (0, 1).
        fraction: In (0, 1).
    """
    if rho <= 0:
        return 1.0
    r = 2 * math.sin(math.pi / 6 * rho)
    least, most = 1e-6, 1 - 1e-9
    if kept_share(least, r, fraction) >= keep:
        return least
    return float(scipy.optimize.brentq(lambda s: kept_share(s, r, fraction) - keep, least, most))


def learn_cut(scores: Values, reference: Values, share: float | None, keep: float) -> Cut:
    """Where to cut, from a sample of which both sides are known.

    The k-th best score of n lets an expected share of k / (n + 1) of all architectures pass,
    whatever their distribution. With a given share, k is the smallest that does. Without one it is
    the smallest that may be expected to keep the wanted part of the best tenth at the lower end of
    the correlation's interval, and that loses none of the sample's own best tenth. A score that is
    not shown to rank better than chance cuts nothing.

    Args:
        scores: `(n,)`, higher is better; of a fitted model out of fold, for it knows its sample
            better than what is to come.
        reference: `(n,)`, of the same architectures.
        share: In (0, 1]; None: it follows from the sample.
        keep: Expected part of the best tenth that stays; in (0, 1).
    """
    n, least = len(scores), 1
    if share is None:
        found = estimate(spearman, scores, reference)
        share = 1.0 if found is None or found.low is None else share_to_keep(found.low, keep)
        least = _reach_of_best(scores, reference)
    k = max(math.ceil(share * (n + 1) - 1e-9), least)
    if k > n:
        return NO_CUT
    return Cut(k / (n + 1), float(np.sort(scores)[n - k]))


def _reach_of_best(scores: Values, reference: Values) -> int:
    """How many have at least the score of the worst-scored of the best tenth by reference."""
    worst_of_best = np.sort(reference)[-math.ceil(BEST * len(reference))]
    return int((scores >= scores[reference >= worst_of_best].min()).sum())
