"""What a network looks like as a graph of operations, as numbers that a model can learn from."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
