"""Trained networks that label images, embed them, or are inverted; and the labels they give."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
