"""Typed options of plug-ins and stages, checked by pydantic but importable without it.

A plug-in is a frozen dataclass whose fields are its options::

    @DISTILLERS.register("my_method")
    @dataclass(frozen=True, kw_only=True)
    class MyMethod(Distiller):
        num_steps: PositiveInt = 1000

The configuration validates the user's mapping against it (`nas_proxy.study.config`). The bounds
below speak pydantic's protocol, so distilling and training also run where it is not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar


@dataclass(frozen=True)
class Bound:
    """Limits of a number, as `Annotated[int, Bound(ge=1)]`; a truth value is never a number."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """Pydantic's hook: the number's own schema with these limits."""
        from pydantic_core import core_schema

        limits = {name: limit for name, limit in vars(self).items() if limit is not None}
        number = {**handler(source), **limits}
        if source is float:
            number["allow_inf_nan"] = False
        return core_schema.no_info_before_validator_function(_refuse_truth_value, number)


@dataclass(frozen=True)
class OrAuto:
    """A number with limits, or the word `auto`, as `Annotated[float | str, OrAuto(Bound(gt=0))]`.

    Attributes:
        bound: Limits of the number.
    """

    bound: Bound

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Pydantic's hook: the limited number's schema, which the word `auto` passes by."""
        from pydantic_core import core_schema

        number = handler.generate_schema(Annotated[float, self.bound])
        return core_schema.no_info_wrap_validator_function(
            lambda value, check: value if value == "auto" else check(value),
            number,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value),
        )


@dataclass(frozen=True)
class OrWord:
    """A section, a word that is checked elsewhere, or nothing.

    As `Annotated[Section | str | None, OrWord(Section)]`.

    Attributes:
        section: What is no word is one of these.
    """

    section: Any

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Pydantic's hook: the section's own schema, which words pass by."""
        from pydantic_core import core_schema

        def is_passed(value: Any) -> bool:
            return value is None or isinstance(value, str)

        def plain(value: Any) -> Any:
            whole = adapter(self.section).dump_python
            return value if is_passed(value) else whole(value, mode="json")

        return core_schema.no_info_wrap_validator_function(
            lambda value, check: value if is_passed(value) else check(value),
            handler.generate_schema(self.section),
            serialization=core_schema.plain_serializer_function_ser_schema(plain),
        )


@dataclass(frozen=True)
class Shorthand:
    """Lets a word stand for a mapping or a list, as `Annotated[Section, Shorthand(expand)]`.

    Attributes:
        expand: From the word to what it abbreviates.
        of: Types of what may be an abbreviation; a word unless said otherwise.
    """

    expand: Callable[[Any], Any]
    of: tuple[type, ...] = (str,)

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """Pydantic's hook: the section's own schema, after the word has been replaced."""
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(
            lambda value: self.expand(value) if isinstance(value, self.of) else value,
            handler(source),
        )


def _refuse_truth_value(value: Any) -> Any:
    if isinstance(value, bool):  # YAML reads on, off, yes and no as truth values
        raise ValueError(f"expected a number, got {str(value).lower()}")
    return value


PositiveInt = Annotated[int, Bound(ge=1)]
NonNegativeInt = Annotated[int, Bound(ge=0)]
PositiveFloat = Annotated[float, Bound(gt=0)]
NonNegativeFloat = Annotated[float, Bound(ge=0)]
Fraction = Annotated[float, Bound(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of everything that a configuration section is read into: unknown keys are refused."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}


@cache
def adapter(kind: Any) -> Any:
    """Pydantic's reader and writer of a type; made once, for that takes some milliseconds."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
