"""Files, locks, checkpoints, and what a result says of the machine it was made on."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
