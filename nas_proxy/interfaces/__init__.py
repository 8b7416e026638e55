"""What a plug-in implements: a search space, a distiller, or a zero-cost score.

Each is a frozen dataclass whose fields are its options (see `nas_proxy.options`). The contract
tests in `nas_proxy.testing` check what the docstrings here promise.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
