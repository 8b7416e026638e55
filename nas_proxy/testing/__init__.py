"""Checks that a plug-in keeps the promises of `nas_proxy.interfaces`, for your own tests."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
