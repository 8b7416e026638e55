"""What the tests of stages share."""

import pytest

from tests.helpers.figures import blank_figures, drawn
from tests.study.helpers_calibrate import poison_test_split

__all__ = ["blank_figures", "drawn"]


@pytest.fixture
def no_test_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks at the test images fails."""
    poison_test_split(monkeypatch)
