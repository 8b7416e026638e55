"""Zero-cost scores: numbers that rank untrained networks in seconds; one file, one score."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
