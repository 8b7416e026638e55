"""The errors that nas_proxy raises.

A :class:`UserError` is the user's to mend: its message is one clear sentence that says what is
wrong, which value, and what to do. The command line prints it without a traceback and exits with
status 2. Everything else is a defect of ours and exits with status 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


class NasProxyError(Exception):
    """Base class of all errors that nas_proxy raises on purpose.

    >>> issubclass(UserError, NasProxyError)
    True
    """


class UserError(NasProxyError):
    """Something that the user can mend; the message says how.

    >>> issubclass(ConfigError, UserError)
    True
    """

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: in a notebook the sentence stands alone, as on the command line."""
        return [f"{type(self).__name__}: {self}"]


class ConfigError(UserError, ValueError):
    """A configuration that cannot be used; the message lists every fault with its path.

    It is a ValueError too, so that pydantic adds the path to one raised by a section itself.

    >>> import nas_proxy as nas
    >>> nas.Study("s", space="convnet", trian={})
    Traceback (most recent call last):
    nas_proxy.errors.ConfigError: Study: there is no 'trian'; did you mean 'train'?
    """


class DataError(UserError):
    """A data set that is missing, unreadable, or too small for what is asked of it.

    >>> import nas_proxy as nas
    >>> nas.dataset("cifar11")
    Traceback (most recent call last):
    nas_proxy.errors.DataError: there is no data set 'cifar11'; did you mean 'cifar10'?
    """


class ProxyFileError(UserError):
    """A proxy data set file that is damaged, or does not belong to the data set in use.

    >>> import nas_proxy as nas
    >>> nas.ProxyDataset.load("missing.safetensors")
    Traceback (most recent call last):
    nas_proxy.errors.ProxyFileError: the proxy data set file missing.safetensors does not exist
    """


class ModelFileError(UserError):
    """A model file that is missing, damaged, or whose search space is not what it was."""


class PluginError(UserError):
    """A plug-in that does not exist, cannot be imported, or clashes with another.

    >>> import nas_proxy as nas
    >>> nas.SEARCH_SPACES.get("no_module:Space")
    Traceback (most recent call last):
    nas_proxy.errors.PluginError: plug-in module 'no_module' cannot be imported: Module...
    """


class CompressionError(UserError):
    """A network that cannot be pruned or turned into int8 in the way that was asked for."""


class StudyError(UserError):
    """A study that cannot go on: a folder of another config, or nothing that can be trained.

    >>> import nas_proxy as nas
    >>> train = {"num_steps": 5, "batch_size": 8, "learning_rate": 0.02}
    >>> study = nas.Study("never_run", space="convnet", distill="random_subset", train=train)
    >>> study.best
    Traceback (most recent call last):
    nas_proxy.errors.StudyError: the space was not searched yet; Study.run(last="search") of ...
    """


class EvaluationError(NasProxyError):
    """One architecture could not be evaluated; it becomes a failed `Evaluation`, never a number."""


class ExportError(NasProxyError):
    """A network that cannot be written in one format; the other formats are not touched."""


class DivergedError(EvaluationError):
    """Training reached a loss that is not finite."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A clause that names the nearest of `known`, or lists them all when none is near."""
    names = sorted(known)
    near = get_close_matches(word, names, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(names)}" if names else "there is none"


def first_line(error: BaseException, width: int = 200) -> str:
    """What an error says, in its first line and at most `width` characters; else its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:width]


def shorten(value: object, width: int = 80) -> str:
    """A value for a message: a tuple without brackets, and at most `width` characters."""
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= width else f"{text[: width - 3]}..."


def masked(text: str) -> str:
    """The text without the user names and passwords of its addresses."""
    text = re.sub(r"://[^/@\s]*@", "://***@", text)
    return re.sub(r"(?i)([?&](?:\w*password|passwd|pwd|token)=)[^&\s'\"]*", r"\1***", text)


def required(value: T | None, what: str) -> T:
    """`value`, which is not None unless the calling code has a mistake.

    Raises:
        ValueError: If it is None; the message names `what`.
    """
    if value is None:
        raise ValueError(f"{what} is missing")
    return value


def instance_of(value: object, kind: type[T]) -> T:
    """`value`, which is of `kind` unless the calling code has a mistake.

    Raises:
        TypeError: If it is of another kind.
    """
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value
