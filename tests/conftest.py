"""What all tests share."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from nas_proxy import testing
from nas_proxy.types import ImageDataset

torch.set_num_threads(1)  # several threads in each of several processes are slower than one

# A shared machine stalls now and then; a deadline would make that a failure.
settings.register_profile("nas_proxy", deadline=None)
settings.load_profile("nas_proxy")


# Tests that share what needs seconds to be imported or started, and that one worker of pytest-xdist
# runs for it: the exporter of ONNX files and MLflow with its store and server; the process that
# studies in processes of their own are forked from.
TOGETHER = {
    "models": ("tests/export/", "tests/compress/", "tests/tracking/"),
    "processes": ("tests/study/test_pipeline.py", "tests/study/test_retrain_killed.py"),
}


class TogetherScheduling(LoadScopeScheduling):
    """Every other test goes to the next worker that is free."""

    def _split_scope(self, nodeid: str) -> str:
        return next((name for name, at in TOGETHER.items() if nodeid.startswith(at)), nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> TogetherScheduling:
    return TogetherScheduling(config, log)


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """Real images and published tables, which are not part of the repository."""
    beside = Path(__file__).parents[2] / "shared"
    folder = Path(os.environ.get("NAS_PROXY_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist (set NAS_PROXY_SHARED)")
    return folder


@pytest.fixture
def tiny_dataset() -> ImageDataset:
    """Three classes of eight 8x8 images."""
    return testing.tiny_dataset()
