"""Neural architecture search on distilled proxy data sets, with proof of their ranking."""

from lazy_loader import attach_stub

# What a name stands for is imported when it is asked for: the command line starts without torch.
__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
__version__ = "0.2.0"
