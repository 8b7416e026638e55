import os
from pathlib import Path

import pytest

from nas_proxy.cluster.settings import RaySettings
from nas_proxy.evaluate.executors import Workplace
from tests.cluster.helpers_ray import quiet_environment, running_cluster

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ray_cluster():
    """Two nodes with one core each, beside a head that has none."""
    quiet_environment()  # before the import, which reads it
    pytest.importorskip("ray")
    # Slots find the helpers of these tests where this process does.
    folders = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", folders)
        with running_cluster(2) as cluster:
            yield cluster


@pytest.fixture
def workplace(ray_cluster):
    """How an executor joins them, with what it has said."""

    def make(**settings):
        said = []
        ray = RaySettings(address=ray_cluster.address, **settings)
        return Workplace(ray, say=said.append), said

    return make
