"""Where the searches of the tests run, and what they write."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from nas_proxy.evaluate.log import EvaluationLog

NUM_THREADS = 4


@pytest.fixture
def pool():
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        yield threads


@pytest.fixture
def wait_for_all(pool):
    """Wait until nothing runs in the pool: every thread of it has to come to the barrier."""

    def wait():
        barrier = Barrier(NUM_THREADS)
        list(pool.map(lambda _: barrier.wait(), range(NUM_THREADS)))

    return wait


@pytest.fixture
def log(tmp_path):
    return EvaluationLog(tmp_path / "evaluations.jsonl")
