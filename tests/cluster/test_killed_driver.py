"""Drivers that are killed by -9 at random moments.

Twenty times, with the figures printed: `NAS_PROXY_FAULTS=20 pytest -m exhaustive -s
tests/cluster/test_killed_driver.py`.
"""

import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.cluster.helpers_ray import NUM_FAULTS, SECONDS, num_different, say, until

pytestmark = pytest.mark.exhaustive
ROOT = Path(__file__).parents[2]


def test_a_driver_is_killed_at_a_random_moment_and_goes_on(ray_cluster, tmp_path):
    chance = random.Random(1)  # noqa: S311 - moments of a test
    for number in range(NUM_FAULTS):
        log = tmp_path / f"{number}.jsonl"
        words = [ray_cluster.address, str(log), "6", str(SECONDS), "2"]
        command = [sys.executable, "-m", "tests.cluster.study_process", *words]
        driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert any("ready" in line for line in iter(driver.stdout.readline, ""))
        moment = chance.uniform(0.0, 3.0)
        time.sleep(moment)
        assert len(slot_processes()) == 2
        driver.kill()
        driver.wait()
        before = len(log.read_text().splitlines()) if log.is_file() else 0
        struck = time.monotonic()
        until(lambda: not slot_processes(), 60)
        gone = time.monotonic() - struck
        again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert '"finished"' in again.stdout
        assert num_different(log) == 6
        say(
            f"driver {number + 1}: killed after {moment:.2f} s with {before} of 6 there, "
            f"slots gone after {gone:.1f} s"
        )


def slot_processes():
    """Those of actors of ours, as Ray titles them."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any("_Actor" in word for word in process.info["cmdline"] or ())
    ]
