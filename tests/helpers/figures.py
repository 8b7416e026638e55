"""Figures that tests of studies do not draw: drawing takes more seconds than the studies do."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from nas_proxy.study.stages import report


@pytest.fixture
def drawn() -> None:
    """The figures of this test's studies are drawn."""


@pytest.fixture(autouse=True)
def blank_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn unless a test asks for `drawn`: every figure is one blank picture.

    Studies that a fixture of a module runs, and those in other processes, are drawn too.
    """
    if "drawn" in request.fixturenames:
        return

    def save_blank(_: Figure, file: Any, **__: Any) -> None:
        Image.new("RGB", (20, 20)).save(file, format="PNG")

    def write_blank(_: object, folder: Path) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        save_blank(Figure(), folder / "rank_scatter.png")
        return [folder / "rank_scatter.png"]

    monkeypatch.setattr(Figure, "savefig", save_blank)
    monkeypatch.setattr(report, "write_figures", write_blank)
