"""What scripts and notebooks call: a study, its steps, images; `nas_proxy` offers all of it."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
