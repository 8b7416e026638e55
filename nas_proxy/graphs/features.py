"""A graph of operations as a vector of fixed length.

After the idea of GRAF (Kadlecova et al., "Surprisingly strong performance prediction with neural
graph features", ICML 2024): counts of operations, lengths of paths that use only some of them, and
degrees. GRAF describes the cell of a benchmark; this describes any network, so what all paths go
through, such as the stem, is counted on each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas_proxy.graphs.graph import Graph, Node

Values = NDArray[np.float64]

# Operations by what they do on a path: mix neighbouring pixels, mix channels, both within groups
# of channels, or make maps smoother or smaller.
_STEPS = ("large", "point", "grouped", "pool")
_JOINS = ("add", "multiply", "concat")
_KERNELS = (1, 3, 5, 7)
_COUNTED = (
    *(f"conv {k}x{k}{how}" for k in _KERNELS for how in ("", " grouped", " depthwise")),
    *("conv strided", "conv dilated", "transposed_conv", "linear", "product"),
    *("max_pool", "avg_pool", "global_pool", "pool strided"),
    *("batch_norm", "layer_norm", "group_norm", "instance_norm"),
    *("rectifier", "leaky", "smooth", "saturating", "softmax"),
    *("add", "multiply", "concat", "resize", "other"),
)
_ENDS = (*_STEPS, "join", "end")  # what an edge leads from and to
_SUBSETS = tuple(
    chosen for size in range(1, len(_STEPS) + 1) for chosen in combinations(_STEPS, size)
)
_OUTSIDE = 1 << 20  # weighs an operation outside a subset; no path has so many inside
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_NUM_LEVELS = 5  # resolutions of the images' own size, half of it, a quarter ...


def feature_names() -> tuple[str, ...]:
    """What each feature is, in words, in the order of the vector."""
    subsets = [" + ".join(chosen) for chosen in _SUBSETS]
    return (
        "paths known",
        "output reached",
        *(f"number of {name}" for name in _COUNTED),
        *(f"path with fewest of {words}" for words in subsets),
        *(f"path with most of {words}" for words in subsets),
        *(f"shortest path within {words}" for words in subsets),
        *(f"longest path within {words}" for words in subsets),
        "number of paths",
        *(f"{step} on the mean path" for step in _STEPS),
        *(f"{what} {side}-degree" for side in ("in", "out") for what in ("mean", "maximum")),
        *(f"edges from {source} to {target}" for source in _ENDS for target in _ENDS),
        *(
            f"{what} at {q:g} of the depth"
            for what in ("channels", "resolution")
            for q in _QUANTILES
        ),
        *(f"{step} at resolution 1/{2**n}" for n in range(_NUM_LEVELS) for step in _STEPS),
        *(f"channels at resolution 1/{2**n}" for n in range(_NUM_LEVELS)),
        *("multiply-adds", "parameters", "activations", "depth"),
    )


def graph_features(graph: Graph) -> Tensor:
    """The features of a network, float32 `(d,)`; `feature_names` says what they are.

    Counts, sizes and degrees are logarithms (of one more). What is not on a path from the input to
    the output counts nowhere. The order of additions, and of the nodes, makes no difference.

    Args:
        graph: As it was traced. If its paths are not known, features of paths, degrees and edges
            are 0.
    """
    simple = graph.simplified()
    nodes = simple.nodes
    depths = _depths(simple)
    parts = [
        [float(graph.has_paths), float(not graph.has_paths or bool(nodes[-1].sources))],
        _logarithms(_histogram(nodes)),
        *_paths(simple),
        _degrees(simple),
        _edges(simple),
        _profile(nodes, depths),
        _levels(nodes),
        _totals(nodes, depths),
    ]
    return torch.tensor([value for part in parts for value in part], dtype=torch.float32)


def _step(node: Node) -> str | None:
    """What the node is on a path; None if it counts as nothing."""
    if node.kind in ("conv", "transposed_conv"):
        if node.groups > 1:
            return "grouped"
        return "large" if node.kernel > 1 else "point"
    if node.kind in ("linear", "product"):
        return "point"
    return "pool" if node.kind in ("max_pool", "avg_pool") else None


def _histogram(nodes: Sequence[Node]) -> list[int]:
    found: Counter[str] = Counter()
    for node in nodes:
        if node.kind == "conv":
            kernel = max(k for k in _KERNELS if k <= max(1, node.kernel))
            how = " depthwise" if node.depthwise else " grouped" if node.groups > 1 else ""
            found[f"conv {kernel}x{kernel}{how}"] += 1
            found["conv strided"] += node.stride > 1
            found["conv dilated"] += node.dilation > 1
        else:
            # A sum of n terms is n - 1 additions.
            found[node.kind] += max(1, len(node.sources) - 1) if node.kind in _JOINS else 1
            found["pool strided"] += _step(node) == "pool" and node.stride > 1
    return [found[name] for name in _COUNTED]


def _path_weights() -> dict[str | None, Values]:
    """What a step adds to each length, `(4 * num_subsets,)`, of which the largest is sought."""
    found: dict[str | None, Values] = {None: np.zeros(4 * len(_SUBSETS))}
    for step in _STEPS:
        inside = np.array([float(step in chosen) for chosen in _SUBSETS])
        outside = _OUTSIDE * (1 - inside)
        found[step] = np.concatenate([-inside, inside, -outside - inside, inside - outside])
    return found


_WEIGHTS = _path_weights()


def _paths(graph: Graph) -> list[list[float]]:
    """Lengths of paths by subset, the number of paths, and what the mean path has."""
    num = len(_SUBSETS)
    if not graph.has_paths or not graph.nodes[-1].sources:
        return [[0.0] * (4 * num + 1 + len(_STEPS))]
    lengths: list[Values] = [_WEIGHTS[None]]
    log_counts, means = [0.0], [[0.0] * len(_STEPS)]
    for node in graph.nodes[1:]:
        step, sources = _step(node), node.sources
        best = lengths[sources[0]]
        log_count, mean = log_counts[sources[0]], means[sources[0]]
        if len(sources) > 1:
            best = np.maximum.reduce([lengths[s] for s in sources])
            log_count, mean = _merged([log_counts[s] for s in sources], [means[s] for s in sources])
        if step is not None:
            best = best + _WEIGHTS[step]
            mean = [m + (s == step) for m, s in zip(mean, _STEPS, strict=True)]
        lengths.append(best)
        log_counts.append(log_count)
        means.append(mean)
    fewest, most, short, long = lengths[-1].reshape(4, num)
    least_outside = np.ceil(-long / _OUTSIDE) * _OUTSIDE
    found = np.concatenate([-fewest, most, -short - least_outside, long + least_outside])
    return [_logarithms(found.tolist()), [log_counts[-1]], _logarithms(means[-1])]


def _merged(
    log_counts: Sequence[float], means: Sequence[Sequence[float]]
) -> tuple[float, list[float]]:
    """Number of paths, as its logarithm, and their mean steps where several meet.

    Exactly rounded sums, so that the order of the parts makes no difference.
    """
    largest = max(log_counts)
    shares = [math.exp(count - largest) for count in log_counts]
    total = math.fsum(shares)
    mean = [
        math.fsum(share * each[n] for share, each in zip(shares, means, strict=True)) / total
        for n in range(len(_STEPS))
    ]
    return largest + math.log(total), mean


def _depths(graph: Graph) -> list[int]:
    """The most steps on a path to each node, its own included; of all before it without paths."""
    depths: list[int] = []
    for node in graph.nodes:
        before = depths[-1:] if not graph.has_paths else [depths[s] for s in node.sources]
        depths.append(max(before, default=0) + (_step(node) is not None))
    return depths


def _degrees(graph: Graph) -> list[float]:
    """Mean and maximum number of parts that joins read, and of readers of what is read at all."""
    if not graph.has_paths:
        return [0.0] * 4
    outs = _num_readers(graph)
    found = []
    for degrees in ([len(n.sources) for n in graph.nodes if n.kind in _JOINS], outs):
        total = sum(degrees)
        found += [total / max(1, len(degrees)), math.log1p(max(degrees, default=0))]
    return found


def _num_readers(graph: Graph) -> list[int]:
    """Of each point at which paths part: what lies between two steps counts once."""
    points = _points(graph)
    readers: Counter[int] = Counter()
    for node in graph.nodes:
        if _is_end(node):
            readers.update(points[s] for s in node.sources)
    return list(readers.values())


def _points(graph: Graph) -> list[int]:
    """For each node the step, join or end whose result it hands on."""
    points: list[int] = []
    for index, node in enumerate(graph.nodes):
        passes = not _is_end(node) and len(node.sources) == 1
        points.append(points[node.sources[0]] if passes else index)
    return points


def _is_end(node: Node) -> bool:
    return _end(node) != "end" or node.kind in ("input", "output")


def _end(node: Node) -> str:
    return _step(node) or ("join" if node.kind in _JOINS else "end")


def _edges(graph: Graph) -> list[float]:
    """How often one kind of step, join or end is read by another."""
    found: Counter[tuple[str, str]] = Counter()
    if graph.has_paths:
        points = _points(graph)
        for node in graph.nodes:
            if _is_end(node):
                found.update((_end(graph.nodes[points[s]]), _end(node)) for s in node.sources)
    return _logarithms([found[source, target] for source in _ENDS for target in _ENDS])


def _profile(nodes: Sequence[Node], depths: Sequence[int]) -> list[float]:
    """Channels and resolution of the steps at quantiles of their order by depth."""
    steps = sorted(
        (depth, node.shape[0] if node.shape else 1, node.side)
        for node, depth in zip(nodes, depths, strict=True)
        if _step(node) is not None
    )
    chosen = [steps[round(q * (len(steps) - 1))] for q in _QUANTILES] if steps else []
    found = [math.log2(1 + value[1]) for value in chosen]
    found += [math.log2(1 + value[2]) for value in chosen]
    return found or [0.0] * (2 * len(_QUANTILES))


def _levels(nodes: Sequence[Node]) -> list[float]:
    """Steps of each kind, and the most channels, at each resolution."""
    counts: Counter[tuple[int, str]] = Counter()
    channels: dict[int, int] = {}
    largest = nodes[0].side
    for node in nodes:
        step = _step(node)
        if step is not None:
            level = round(math.log2(max(1.0, largest / max(1, node.side))))
            level = min(level, _NUM_LEVELS - 1)
            counts[level, step] += 1
            channels[level] = max(channels.get(level, 0), node.shape[0] if node.shape else 1)
    levels = range(_NUM_LEVELS)
    widths = [math.log2(1 + channels.get(level, 0)) for level in levels]
    return _logarithms([counts[level, step] for level in levels for step in _STEPS]) + widths


def _totals(nodes: Sequence[Node], depths: Sequence[int]) -> list[float]:
    weights = {identity: size for node in nodes for identity, size in node.weights}
    activations = sum(math.prod(node.shape) for node in nodes if _step(node) is not None)
    macs = sum(node.multiply_adds for node in nodes)
    return _logarithms([macs, sum(weights.values()), activations, max(depths)])


def _logarithms(values: Sequence[float]) -> list[float]:
    return [math.log1p(value) for value in values]
