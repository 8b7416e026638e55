"""Everything that draws or writes the report: its values, figures and pages."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
