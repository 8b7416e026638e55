"""The simulation of sequential validations reckons as the package does, many samples at once."""

import sys
from pathlib import Path

import numpy as np
import pytest

from nas_proxy.statistics import ranks

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import sequential_coverage

    yield sequential_coverage
    for name in ("sequential_coverage", "interval_coverage", "common"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("n", [12, 30])
def test_intervals_are_those_of_the_package(script, n):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(5, n)).round(1)  # with ties
    reference = (scores + 0.3 * rng.normal(size=(5, n))).round(1)
    found = script.intervals(*script.fisher_parts(scores, reference), n, 0.99)
    for x, y, ends in zip(scores, reference, found.T, strict=True):
        known = ranks.estimate(ranks.spearman, x, y, confidence=0.99)
        assert (known.low, known.high) == pytest.approx(tuple(ends))
