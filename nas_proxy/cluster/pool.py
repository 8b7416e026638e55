"""The slots of one study: a fixed number of them, on whatever nodes have room.

One thread decides everything, in the order in which it hears of it; the cluster's threads and
those that submit only queue what happened. So nothing here needs a lock.

- A slot is given work once it has answered. Until then the work waits for whichever slot is free
  first, never for a node that may not come.
- A node that is lost is nobody's fault: its work is begun again elsewhere, at most three times. A
  process that ends on a node that lives has failed at its work, once. Ray does not always say which
  of both it was; then the node is asked for a sign of life.
- Work that has no answer within its limit has failed, and its slot is killed.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import Any, Self

from nas_proxy.cluster._dispatcher import Dispatcher, Job
from nas_proxy.cluster.interface import Cluster, num_fitting, resource_fault
from nas_proxy.cluster.settings import RaySettings
from nas_proxy.errors import ConfigError

__all__ = ["Job", "SlotPool"]

_TICK = 1.0  # seconds between looks at what does not happen by itself
_PATIENCE = 20.0  # seconds for nodes to join before it is said that none is large enough
_SLOW_START = 30.0  # seconds without a slot after which it is said what is waited for


class SlotPool:
    """A fixed number of slots, as far as the nodes have room for them; the rest wait for nodes.

    Args:
        cluster: Where.
        settings: What each slot is given, and how long it may take.
        num_slots: How many are asked for.
        setup: What each is told at its start, packed: see `Slot.start`.
        given: The images to share, handed over by `Cluster.put`; None: slots load them.
        source_hash: What each has to report of its images; empty: none are needed.
        say: Told what a person should know.
        tick: Seconds between looks at limits and nodes.
        patience: Seconds for nodes to join before none is large enough.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: RaySettings,
        num_slots: int,
        setup: bytes,
        *,
        given: Any = None,
        source_hash: str = "",
        say: Callable[[str], None] = lambda words: None,
        tick: float = _TICK,
        patience: float = _PATIENCE,
    ) -> None:
        self._cluster, self._settings, self._num_slots = cluster, settings, num_slots
        self._say, self._tick, self._patience = say, tick, patience
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._dispatcher = Dispatcher(
            cluster,
            settings,
            num_slots,
            setup,
            given=given,
            source_hash=source_hash,
            say=say,
            tell=self._events.put,
        )
        self._ends = False
        self._thread = threading.Thread(target=self._run, name="slots", daemon=True)

    @property
    def words(self) -> str:
        """How many nodes and slots work, such as `2 nodes, 8 slots`."""
        return self._dispatcher.words

    def __enter__(self) -> Self:
        """Start, and wait for the first slot.

        Raises:
            ConfigError: If no node has what a slot is to be given.
            StudyError: If a node has other images, versions, or no room for them.
        """
        self._thread.start()
        try:
            self._events.put(self._dispatcher.start)
            self._await_first()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all slots, whatever they do."""
        self._ends = True
        self._events.put(lambda: None)
        self._thread.join()
        self._dispatcher.close()

    def submit(self, job: Job) -> Future[Any]:
        """Queue a job.

        Raises:
            StudyError: If the slots had to be given up.
        """
        if self._dispatcher.failure is not None:
            raise self._dispatcher.failure
        self._events.put(lambda: self._dispatcher.queue(job))
        return job.outcome

    def _await_first(self) -> None:
        started, said = monotonic(), False
        while True:
            with suppress(FutureTimeoutError):
                self._dispatcher.opened.result(timeout=self._tick)
                break
            waited = monotonic() - started
            if waited > self._patience:
                fault = resource_fault(self._settings.resources, self._cluster.nodes())
                if fault:
                    raise ConfigError(fault)
            if waited > _SLOW_START and not said:
                said = True
                self._say(
                    "ray: no slot has answered yet; either others use the nodes, or they start"
                )
        room = num_fitting(self._settings.resources, self._cluster.nodes())
        if room < self._num_slots:
            self._say(
                f"ray: there is room for {room} of {self._num_slots} slots; others start when "
                "nodes come, and the search stays the same"
            )

    def _run(self) -> None:
        next_tick = monotonic() + self._tick
        while not self._ends:
            event = self._next_event(next_tick)
            if event is None:
                next_tick, event = monotonic() + self._tick, self._dispatcher.tick
            try:
                event()
            except Exception as error:  # noqa: BLE001 - nobody else would hear of it
                self._dispatcher.fail(error)

    def _next_event(self, until: float) -> Callable[[], None] | None:
        left = until - monotonic()
        try:
            return self._events.get(timeout=left) if left > 0 else None
        except queue.Empty:
            return None
