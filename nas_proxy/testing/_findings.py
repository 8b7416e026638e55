"""All that the checks find wrong with a plug-in, each fault once, with its line."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from nas_proxy.errors import NasProxyError, first_line
from nas_proxy.interfaces import Distiller, SearchSpace, ZeroCostScore
from nas_proxy.plugin_calls import place_of
from nas_proxy.testing._distillers import DISTILLER_CHECKS
from nas_proxy.testing._scores import SCORE_CHECKS
from nas_proxy.testing._spaces import SPACE_CHECKS
from nas_proxy.types import Progress, no_progress

_PARTICULARS = re.compile(r"\{.*?\}|\d+")  # genotypes and numbers


@dataclass(frozen=True)
class Finding:
    """A fault of a plug-in.

    Attributes:
        checks: Names of the checks that found it.
        fault: What is wrong, one sentence; with the line of the plug-in's file where there is one.
    """

    checks: tuple[str, ...]
    fault: str


def find_faults(
    plugin: SearchSpace | Distiller | ZeroCostScore,
    *,
    num_samples: int = 8,
    progress: Progress = no_progress,
) -> tuple[Finding, ...]:
    """Run every check of the plug-in's kind, also after one has failed.

    Args:
        plugin: With the options to check.
        num_samples: Architectures of a search space to draw for each check.
        progress: Told after each check; the note is the name of the next one.

    Returns:
        What was found, in the order of the checks; nothing if the plug-in keeps its promises.
    """
    checks = _checks_of(plugin, num_samples)
    found: dict[str, tuple[str, list[str]]] = {}
    for number, (name, check) in enumerate(checks.items()):
        progress(number, len(checks), name.replace("_", " "))
        try:
            check()
        except Exception as error:  # noqa: BLE001 - the plug-in may raise anything
            fault = _sentence(error, type(plugin))
            # The same fault of another architecture, or for other images, is the same.
            found.setdefault(_PARTICULARS.sub("", fault), (fault, []))[1].append(name)
    progress(len(checks), len(checks))
    return tuple(Finding(tuple(names), fault) for fault, names in found.values())


def _checks_of(
    plugin: SearchSpace | Distiller | ZeroCostScore, num_samples: int
) -> dict[str, Callable[[], None]]:
    """The checks of a plug-in's kind by their names."""
    if isinstance(plugin, SearchSpace):
        return {_name(each): partial(each, plugin, num_samples) for each in SPACE_CHECKS}
    if isinstance(plugin, Distiller):
        return {_name(each): partial(each, plugin) for each in DISTILLER_CHECKS}
    return {_name(each): partial(each, plugin) for each in SCORE_CHECKS}


def _name(check: Callable[..., None]) -> str:
    return check.__name__.removeprefix("check_")


def _sentence(error: Exception, kind: type) -> str:
    """What a check says, and where in the plug-in's files it went wrong, if anything was raised."""
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    said = next((str(each) for each in chain if isinstance(each, NasProxyError)), None)
    if said is None and isinstance(error, AssertionError):
        said = str(error)
    elif said is None:
        said = f"{type(error).__name__}: {first_line(error)}"
    place = place_of(chain[-1], kind)
    return said if place in said else f"{said}{place}"
