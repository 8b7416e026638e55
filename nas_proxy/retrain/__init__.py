"""The best architectures trained fully: which ones, against what, and how good they are."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
