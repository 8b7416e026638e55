"""A training step as one CUDA graph: one launch from Python instead of hundreds.

Indices of the batch lie in a tensor that is filled before each step, as the learning rate does;
gathering, augmentation, the network, its gradient and the optimiser are recorded once and repeated.
Small networks keep a GPU waiting for Python otherwise.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from nas_proxy.devices import StepGraph, is_gpu, is_out_of_memory

logger = logging.getLogger("nas_proxy")

NUM_REHEARSALS = 3
"""Steps that are done as usual first: libraries choose their kernels, optimisers make buffers."""

Step = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From the positions of a batch, `(n,)`, to its loss and its logits `(n, num_classes)`."""


class GraphedStep:
    """Does steps as one graph where that can be done, and as usual where it cannot, which is said.

    A step cannot be recorded that makes the host wait for the GPU, such as augmentation that draws
    a number for Python, or that draws from a generator of the CPU: it would repeat what was drawn
    once. A network whose Python code does something else from step to step must not be trained so;
    that alone is not found out.

    Args:
        work: One step, which changes weights and buffers in place.
        generator: On the device of the training; the only one besides the global generators.

    Attributes:
        num_replayed: Steps that the graph did.
    """

    def __init__(self, work: Step, generator: torch.Generator) -> None:
        self.num_replayed = 0
        self._work = work
        self._num_rehearsed = 0
        self._outcome: tuple[Tensor, Tensor] | None = None  # of the last step
        self._recorded = False
        self._indices: Tensor | None = None
        self._graph: StepGraph | None = None
        if is_gpu(generator.device):
            self._graph = StepGraph(generator.device, generator)
        else:
            _say("a CUDA graph needs a GPU")

    def __call__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and logits of one step, which stay as they are in later ones."""
        if self._graph is not None and self._num_rehearsed < NUM_REHEARSALS:
            return self._rehearse(self._graph, indices)
        if self._graph is not None and not self._recorded:
            self._record(self._graph, indices)
        if self._graph is None or self._indices is None or self._outcome is None:
            return self._work(indices)
        self._indices.copy_(indices)
        self._graph.replay()
        self.num_replayed += 1
        loss, logits = self._outcome
        return loss.clone(), logits.clone()

    def _rehearse(self, graph: StepGraph, indices: Tensor) -> tuple[Tensor, Tensor]:
        done: list[tuple[Tensor, Tensor]] = []
        before = _host_randomness()
        waits = graph.rehearse(lambda: done.append(self._work(indices)))
        self._num_rehearsed += 1
        self._outcome = done[0]
        if self._num_rehearsed < NUM_REHEARSALS:  # what is made once and kept is made in the first
            return self._outcome
        if waits:
            self._refuse(f"the host has to wait for the GPU at {waits[0]}")
        elif _host_randomness() != before:
            self._refuse("random numbers are drawn on the host")
        return self._outcome

    def _record(self, graph: StepGraph, indices: Tensor) -> None:
        if self._outcome is None:
            return
        self._indices = indices.clone()
        loss, logits = (torch.empty_like(each) for each in self._outcome)
        self._outcome = loss, logits
        static = self._indices

        def work() -> None:
            for into, value in zip((loss, logits), self._work(static), strict=True):
                into.copy_(value)

        try:
            graph.record(work)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self._refuse(str(error).strip().splitlines()[0])
        self._recorded = True

    def _refuse(self, reason: str) -> None:
        self._graph = None
        _say(reason)


def _host_randomness() -> tuple[object, ...]:
    return torch.get_rng_state().numpy().tobytes(), random.getstate()


@lru_cache(maxsize=64)
def _say(reason: str) -> None:
    """Once in a process: candidates of one search mostly have one reason."""
    logger.warning("training goes step by step, not as a CUDA graph: %s", reason)
