"""How large a network is, counted on the network itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from nas_proxy.errors import EvaluationError
from nas_proxy.interfaces import Builder
from nas_proxy.reproducibility import isolated_rng
from nas_proxy.study.evaluators import zero_cost_scores
from nas_proxy.types import Architecture, DatasetSpec

SIZES = ("num_params", "flops")


def network_sizes(
    builder: Builder,
    architecture: Architecture,
    spec: DatasetSpec,
    images: Tensor,
    *,
    names: Sequence[str] = SIZES,
    say: Callable[[str], None],
) -> dict[str, float]:
    """Those sizes of an architecture's network that can be counted, by their names.

    Args:
        builder: Makes the network, at the size that is meant.
        architecture: Of which.
        spec: Of the images that it is for.
        images: Float32 `(2, c, h, w)`, of any values.
        names: Which sizes.
        say: Told of each that cannot be counted, in words.

    Raises:
        Exception: Whatever building the network raises.
    """
    with isolated_rng(0):
        network = builder.build(architecture, spec)
    sizes = {}
    for name, measure in zero_cost_scores(tuple(names)).items():
        try:
            sizes[name] = measure.measure(network, images)
        except EvaluationError as error:
            say(f"no {name} is given for a network: {error}")
    return sizes
