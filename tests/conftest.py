"""What all tests share."""

import gc
import os
import re
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from nas_proxy import plugin_files, testing
from nas_proxy import registry as registry_module
from nas_proxy.registry import DISTILLERS, SCORES, SEARCH_SPACES
from nas_proxy.types import ImageDataset

torch.set_num_threads(1)  # several threads in each of several processes are slower than one

# A shared machine stalls now and then; a deadline would make that a failure.
settings.register_profile("nas_proxy", deadline=None)
settings.load_profile("nas_proxy")


# What a user's shell may hold and the program or its libraries heed: where things are kept, how
# wide and coloured text is.
INHERITED = re.compile(
    r"(MLFLOW|OPTUNA|XDG|NAS_PROXY|TTY)_.*|NO_COLOR|FORCE_COLOR|CLICOLOR.*|COLORTERM|COLUMNS|LINES"
    r"|MPLBACKEND|MPLCONFIGDIR|MATPLOTLIBRC"
)
KEPT = ("NAS_PROXY_SHARED",)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Forget what this process inherited, before any test file imports what reads it.

    Processes that tests start inherit this too. The locale, the time zone and the folder for
    temporary files stay as they are: nothing may depend on them.
    """
    for name in os.environ:
        if INHERITED.fullmatch(name) and name not in KEPT:
            del os.environ[name]
    home = TemporaryDirectory(prefix="nas_proxy_home_")
    session.config.add_cleanup(home.cleanup)
    os.environ["HOME"] = home.name


def pytest_collection_finish() -> None:
    """Leave all that was imported out of later collections, which took half a second each."""
    gc.collect()
    gc.freeze()


_FREEZE_EVERY = 50  # tests, some of which import more
_num_run = count(1)


def pytest_runtest_teardown() -> None:
    """The same for what was imported since."""
    if next(_num_run) % _FREEZE_EVERY == 0:
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def _registries():
    """What a test registers is known to it alone: names are part of a study's identity."""
    registries = (DISTILLERS, SEARCH_SPACES, SCORES)
    known = [(registry._classes, dict(registry._classes)) for registry in registries]
    known += [(registry._sent, dict(registry._sent)) for registry in registries]
    known.append((registry_module._BY_REFERENCE, dict(registry_module._BY_REFERENCE)))
    files = dict(plugin_files._loaded)
    yield
    for held, before in known:
        for name in held.keys() - before.keys():
            found = held[name]
            if not getattr(found, "__module__", "nas_proxy").startswith("nas_proxy."):
                del held[name]
    for file in plugin_files._loaded.keys() - files.keys():  # or later workers would import it
        del plugin_files._loaded[file]


# Tests that share what needs seconds to be imported or started, and that one worker of pytest-xdist
# runs for it: the exporter of ONNX files and MLflow with its store and server; the process that
# studies in processes of their own are forked from; the one that workers are forked from; clusters,
# whose processes some of these count.
TOGETHER = {
    "models": ("tests/export/", "tests/compress/", "tests/tracking/"),
    "processes": ("tests/study/test_pipeline.py", "tests/study/test_retrain_killed.py"),
    "workers": ("tests/evaluate/test_executors.py", "tests/define_by_run/test_studies.py"),
    "cluster": ("tests/cluster/",),
}
# Files that one worker runs each: their fixtures start processes, run a study or draw a report.
WHOLE_FILES = (
    "tests/distill/test_memory.py",
    "tests/evaluate/test_executors.py",
    "tests/report/test_figures_html.py",
    "tests/report/test_pareto_figure.py",
    "tests/study/test_calibrate_stage.py",
    "tests/study/test_evaluate_proxy.py",
    "tests/study/test_search_objectives.py",
    "tests/study/test_validate_stage.py",
    "tests/test_processes.py",
    "tests/test_wheel.py",
)


class TogetherScheduling(LoadScopeScheduling):
    """Every other test goes to the next worker that is free."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        alone = file if file in WHOLE_FILES else nodeid
        return next((name for name, at in TOGETHER.items() if nodeid.startswith(at)), alone)


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
