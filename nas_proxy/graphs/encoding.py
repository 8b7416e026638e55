"""From whatever builds a network to its features, by the cheapest way that sees all of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from nas_proxy.errors import EvaluationError, UserError
from nas_proxy.graphs.features import graph_features
from nas_proxy.graphs.meta import WeightsOnMeta
from nas_proxy.graphs.tracing import trace, trace_modules
from nas_proxy.reproducibility import isolated_rng
from nas_proxy.types import Architecture, DatasetSpec

logger = logging.getLogger("nas_proxy")

# How layers fill their weights; each gives back what it was given.
_SEED = 0  # of weights and images that nothing should depend on
# Architectures are compared with one another, whatever images a study has.
ENCODED_SPEC = DatasetSpec(
    name="any",
    class_names=tuple(map(str, range(10))),
    image_shape=(3, 32, 32),
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    licence="",
    source_hash="",
)


class Space(Protocol):
    """What is read of a search space."""

    name: ClassVar[str]
    fidelity_options: ClassVar[tuple[str, ...]]
    reduced_fidelity: ClassVar[Mapping[str, int]]

    def build(self, architecture: Architecture, spec: DatasetSpec) -> nn.Module:
        """A fresh network."""

    def fingerprint(self) -> str:
        """The same for spaces of the same networks."""


@dataclass(frozen=True)
class NetworkFeatures:
    """What `network_features` found.

    Attributes:
        values: Float32 `(d,)`, see `graph_features`.
        without_paths: Why paths are not known and their features are 0; empty if they are.
    """

    values: Tensor
    without_paths: str = ""


def network_features(
    build: Callable[[], nn.Module], image_shape: tuple[int, int, int]
) -> NetworkFeatures:
    """The features of the network that `build` makes.

    It is traced with weights and images that have shapes and no numbers. Where its code asks for
    numbers, it is traced with some, which gives the same; where its calls cannot be traced at
    all, its modules are noted in the order of their calls. Torch's global generators stay as they
    are, and have no influence.

    Args:
        build: Makes a fresh network on the CPU.
        image_shape: Channels, height and width.

    Raises:
        Exception: Whatever the network raises if it cannot take such images.
    """
    shape = (2, *image_shape)
    try:
        with isolated_rng(_SEED):
            with WeightsOnMeta():
                network = build()
            graph = trace(network.to("meta"), torch.empty(shape, device="meta"))
        return NetworkFeatures(graph_features(graph))
    except Exception as error:  # noqa: BLE001 - without numbers a network may fail in any way
        logger.debug("traced again with numbers: %s", error)
    with isolated_rng(_SEED):
        network, images = build(), torch.randn(shape)
        try:
            return NetworkFeatures(graph_features(trace(network, images)))
        except EvaluationError as error:
            return NetworkFeatures(graph_features(trace_modules(network, images)), str(error))


def encode_architecture(space: Space, architecture: Architecture) -> Tensor:
    """The features of an architecture's network for 32x32 images of ten classes, float32 `(d,)`.

    The network is the one that the space's author recommends for short trainings, which is traced
    sooner and whose numbers are as good (`benchmarks/encoding_quality.py`). Features are kept for
    as long as the process runs. If paths cannot be known, it is said once for each space.

    Raises:
        UserError: If `reduced_fidelity` names something else than fidelity options.
        Exception: Whatever the space or the network raises if it cannot be built.
    """
    return _encoded(_Identified(_identity(space), space), architecture).clone()


def _reduced(space: Space) -> Space:
    unknown = [name for name in space.reduced_fidelity if name not in space.fidelity_options]
    if unknown:
        raise UserError(
            f"reduced_fidelity of the space {space.name!r} names {unknown[0]!r}, which is not "
            f"among its fidelity_options ({', '.join(space.fidelity_options) or 'none'})"
        )
    options = dict(space.reduced_fidelity)
    return replace(space, **options) if options else space  # type: ignore[type-var]


@dataclass(frozen=True)
class _Identified:
    """A space that is equal to another one of the same networks, though it may not be hashable."""

    identity: tuple[str, ...]
    space: Space = field(compare=False)


def _identity(space: Space) -> tuple[str, ...]:
    kind = type(space)
    return kind.__module__, kind.__qualname__, space.fingerprint()


@lru_cache(maxsize=1 << 14)
def _encoded(of: _Identified, architecture: Architecture) -> Tensor:
    space = _reduced(of.space)
    found = network_features(
        lambda: space.build(architecture, ENCODED_SPEC), ENCODED_SPEC.image_shape
    )
    if found.without_paths:
        _say_once(of.space.name, found.without_paths)
    return found.values


@lru_cache
def _say_once(space: str, reason: str) -> None:
    logger.warning(
        "networks of the space %s are encoded without their paths, by their modules alone: %s",
        space,
        reason,
    )
