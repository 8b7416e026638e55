"""What the tests of cases share."""

from pathlib import Path

import pytest

from tests.cases.helpers import copied_case
from tests.helpers.cli import command_line
from tests.helpers.figures import blank_figures, drawn

__all__ = ["blank_figures", "drawn"]


@pytest.fixture
def nas_proxy(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Runs the command line in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_PROXY_CACHE", str(tmp_path / "cache"))
    return command_line(capsys)


@pytest.fixture
def case(shared_folder: Path, tmp_path: Path):
    """Copies a shared case to where `nas_proxy` runs; skipped where it is absent."""

    def copied(name: str) -> Path:
        if not (shared_folder / "cases" / name).is_dir():
            pytest.skip(f"{shared_folder} holds no cases/{name}")
        return copied_case(shared_folder, name, tmp_path)

    return copied
