"""Drawing the architectures that a ranking is judged on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch

from nas_proxy.errors import StudyError
from nas_proxy.interfaces import SearchSpace
from nas_proxy.types import Architecture

_MAX_REPEATS = 1000  # consecutive known draws after which a space counts as exhausted


def draw_architectures(
    space: SearchSpace,
    num: int,
    generator: torch.Generator,
    *,
    among: Sequence[Architecture] | None = None,
    excluded: Collection[Architecture] = (),
) -> list[Architecture]:
    """Different architectures, uniform over the space or over a benchmark's rows.

    Args:
        space: Where to draw from.
        num: How many.
        generator: The only source of randomness.
        among: A benchmark's architectures, to draw from these instead.
        excluded: Never drawn, nor any other genotype of their networks: they had a part in what
            is judged.

    Raises:
        StudyError: If there are not so many; the message says how many there are.
    """
    source = _shuffled(among, generator) if among is not None else _stream(space, generator)
    barred = {space.canonical_form(architecture) for architecture in excluded}
    drawn: dict[Architecture, None] = {}
    repeats = 0
    for architecture in source:
        if architecture in drawn or space.canonical_form(architecture) in barred:
            repeats += 1
            if among is None and repeats > _MAX_REPEATS:  # a table ends by itself
                break
            continue
        repeats = 0
        drawn[architecture] = None
        if len(drawn) == num:
            return list(drawn)
    source_words = "the truth table" if among is not None else f"the space {space.name!r}"
    aside = (
        f" ({len(set(excluded))} are set aside, with every other genotype of their networks: the "
        "score or its calibration was made from them)"
        if excluded
        else ""
    )
    raise StudyError(
        f"{num} different architectures are asked for, but only {len(drawn)} could be drawn from "
        f"{source_words}{aside}; ask for fewer"
    )


def count_architectures(space: SearchSpace, most: int, generator: torch.Generator) -> int:
    """How many networks a space holds, as far as drawing shows; counted up to `most`.

    Genotypes of one network count once.

    Args:
        space: Which one.
        most: Where counting ends.
        generator: The only source of randomness.
    """
    found: set[str] = set()
    repeats = 0
    for architecture in _stream(space, generator):
        form = space.canonical_form(architecture)
        repeats = repeats + 1 if form in found else 0
        found.add(form)
        if len(found) == most or repeats > _MAX_REPEATS:
            break
    return len(found)


def _stream(space: SearchSpace, generator: torch.Generator) -> Iterator[Architecture]:
    while True:
        yield space.sample(generator)


def _shuffled(among: Sequence[Architecture], generator: torch.Generator) -> Iterator[Architecture]:
    for index in torch.randperm(len(among), generator=generator).tolist():
        yield among[index]
