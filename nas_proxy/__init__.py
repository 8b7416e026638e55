"""Neural architecture search on distilled proxy data sets, with proof of their ranking."""

import inspect
from types import ModuleType
from typing import Any

from lazy_loader import attach_stub

from nas_proxy import distill, validate

# What a name stands for is imported when it is asked for: the command line starts without torch.
__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
__version__ = "0.2.0"


class _Step(ModuleType):
    """A package whose name is that of a function in `nas_proxy.api.steps`, which calling it calls.

    Python makes a package an attribute of the one that it lies in, where the function would be.
    """

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._function(*arguments, **keywords)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function)

    @property
    def _function(self) -> Any:
        from nas_proxy.api import steps

        return getattr(steps, self.__name__.rpartition(".")[2])


distill.__class__ = validate.__class__ = _Step
