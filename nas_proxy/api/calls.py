"""How a user's calls are answered: what is wrong is one sentence, here as on the command line."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from nas_proxy.errors import ConfigError, UserError, did_you_mean

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("nas_proxy")


def one_sentence(function: Callable[P, R]) -> Callable[P, R]:
    """Shorten the traceback of a `UserError` to the caller's own lines.

    Where it arose within nas_proxy is logged at the level DEBUG. A keyword that does not exist is
    told as an unknown key of a configuration is.
    """
    known = list(inspect.signature(function).parameters)

    @wraps(function)
    def call(*arguments: P.args, **keywords: P.kwargs) -> R:
        unknown = [name for name in keywords if name not in known]
        if unknown:
            near = did_you_mean(unknown[0], [name for name in known if name != "self"])
            name = function.__qualname__.removesuffix(".__init__")
            raise ConfigError(f"{name}: there is no {unknown[0]!r}; {near}")
        try:
            return function(*arguments, **keywords)
        except UserError as error:
            logger.debug("%s", error, exc_info=True)
            raise error.with_traceback(None) from None

    return call
