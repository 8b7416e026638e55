"""A study: its configuration, where its files lie, what a stage is, and the line of stages."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
