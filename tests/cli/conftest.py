"""What the tests of the command line share."""

from tests.helpers.figures import blank_figures, drawn

__all__ = ["blank_figures", "drawn"]
