"""How far the ranking can be trusted: rank statistics, their uncertainty, cost, and the report."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
