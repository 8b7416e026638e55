"""A network as a graph of operations: the part between its images and its logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nas_proxy.graphs.operations import OTHER

_JOINS = ("add", "multiply", "concat")


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        kind: See `operations`; the first node of a graph is the `input`.
        sources: Positions in the graph of the nodes that it reads, one for each time.
        shape: Of its output, without the images' dimension.
        kernel: Longest side of a convolution's kernel; 0 of anything else.
        groups: Of a convolution.
        depthwise: Whether it convolves each channel alone.
        stride: Of a convolution or pooling.
        dilation: Of a convolution.
        multiply_adds: For one image.
        weights: Identity and size of each parameter that it reads.
    """

    kind: str
    sources: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    kernel: int = 0
    groups: int = 1
    depthwise: bool = False
    stride: int = 1
    dilation: int = 1
    multiply_adds: int = 0
    weights: tuple[tuple[int, int], ...] = ()

    @property
    def side(self) -> int:
        """Longest side of the feature map; 1 if there is none."""
        return max(self.shape[1:], default=1)


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which each comes after its sources.

    Attributes:
        nodes: The first is the input.
        output: Position of the node that gives the logits.
        has_paths: Whether sources are known; otherwise nodes are in the order of their calls.
    """

    nodes: tuple[Node, ...]
    output: int
    has_paths: bool = True

    def simplified(self) -> Graph:
        """The same network with what says nothing left out.

        What stays lies on a path from the input to the output: a network that computes more than
        it uses is the network without that. Views, dropout, and joins of which all but one part
        are constant, give way to what they read; a sum of a sum that nobody else reads is one sum,
        whatever the order of its additions. A graph whose output the input does not reach is left
        with these two.
        """
        if not self.has_paths:
            kept = tuple(n for n in self.nodes if n.kind != OTHER)
            return Graph(kept, len(kept) - 1, has_paths=False)
        live = self._live()
        if self.output not in live:
            return Graph((self.nodes[0], Node("output")), 1)
        position: dict[int, int] = {}
        nodes: list[Node] = []
        for index in sorted(live):
            node = self.nodes[index]
            sources = tuple(position[s] for s in node.sources if s in live)
            if len(sources) == 1 and (node.kind == OTHER or node.kind in _JOINS):
                position[index] = sources[0]
                continue
            position[index] = len(nodes)
            nodes.append(replace(node, sources=sources))
        nodes.append(Node("output", (position[self.output],)))
        return _with_long_sums(nodes)

    def _live(self) -> set[int]:
        """Positions on a path from the input to the output."""
        reached = {0}
        for index, node in enumerate(self.nodes):
            if reached.intersection(node.sources):
                reached.add(index)
        needed, found = [self.output], set()
        while needed:
            index = needed.pop()
            if index in reached and index not in found:
                found.add(index)
                needed += self.nodes[index].sources
        return found


def _with_long_sums(nodes: Sequence[Node]) -> Graph:
    """The graph in which a sum that one other sum alone reads is part of it."""
    num_reads = [0] * len(nodes)
    reader = [-1] * len(nodes)
    for index, node in enumerate(nodes):
        for source in node.sources:
            num_reads[source] += 1
            reader[source] = index
    absorbed = [
        n.kind == "add" and num_reads[i] == 1 and nodes[reader[i]].kind == "add"
        for i, n in enumerate(nodes)
    ]
    terms: list[tuple[int, ...]] = []  # of each node, among those that stay
    kept: list[Node] = []
    position: dict[int, int] = {}
    for index, node in enumerate(nodes):
        sources = tuple(
            term
            for source in node.sources
            for term in (terms[source] if absorbed[source] else (position[source],))
        )
        terms.append(tuple(sorted(sources)))
        if not absorbed[index]:
            position[index] = len(kept)
            kept.append(replace(node, sources=terms[-1]))
    return Graph(tuple(kept), len(kept) - 1)
