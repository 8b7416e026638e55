"""What a proxy data set is worth: fixed networks trained on it, and a learner that replays it."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
