"""From plain values to options and back: what any section or plug-in's section is checked by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from nas_proxy.errors import ConfigError, UserError
from nas_proxy.options import adapter
from nas_proxy.study.config_faults import in_words

T = TypeVar("T")


def check_value(
    kind: Any, value: Any, path: tuple[str, ...], faults: list[str], beside: Sequence[str] = ()
) -> Any:
    """`value` as `kind`; None after adding to `faults` what is wrong with it.

    Args:
        kind: A section, a plug-in, or a simple type.
        value: As the file has it.
        path: Where it stands there.
        faults: Grows.
        beside: Keys that may stand there too and are read elsewhere.
    """
    try:
        return adapter(kind).validate_python(value)
    except ValidationError as error:
        faults.extend(in_words(error, kind, path, beside))
    except UserError as error:  # from a section's own __post_init__
        faults.append(f"{'.'.join(path)}: {error}")
    return None


def dump_options(plugin: Any) -> dict[str, Any]:
    """The fields of a plug-in or a section as plain JSON values."""
    kind: Any = type(plugin)
    dumped: dict[str, Any] = adapter(kind).dump_python(plugin, mode="json")
    return dumped


def read_options(kind: type[T], value: Mapping[str, Any]) -> T:
    """The inverse of `dump_options`.

    Raises:
        ConfigError: With every fault that was found, one per line.
    """
    faults: list[str] = []
    read: T | None = check_value(kind, value, (), faults)
    if read is None:
        raise ConfigError("\n".join(faults))
    return read
