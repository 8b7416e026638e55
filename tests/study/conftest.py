"""What the tests of stages share."""

from pathlib import Path

import pytest
from PIL import Image

from nas_proxy.study.stages import report
from tests.study.helpers_calibrate import poison_test_split


@pytest.fixture
def no_test_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks at the test images fails."""
    poison_test_split(monkeypatch)


@pytest.fixture
def drawn() -> None:
    """The figures of this test's studies are drawn."""


@pytest.fixture(autouse=True)
def blank_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn, which takes seconds, unless a test asks for `drawn`: one blank picture.

    Studies that a fixture of a module runs, and those in other processes, are drawn too.
    """
    if "drawn" in request.fixturenames:
        return

    def blank(_: object, folder: Path) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20)).save(folder / "rank_scatter.png")
        return [folder / "rank_scatter.png"]

    monkeypatch.setattr(report, "write_figures", blank)
