"""What is decided about slots and their work, in one thread alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from nas_proxy.cluster.interface import (
    Cluster,
    Node,
    SlotDiedError,
    SlotLostError,
    SlotUnreachableError,
)
from nas_proxy.cluster.limits import Limits
from nas_proxy.cluster.report import SlotReport, compared_versions, start_fault
from nas_proxy.cluster.settings import RaySettings
from nas_proxy.cluster.slot import Raised, Work
from nas_proxy.core.packing import unpack
from nas_proxy.errors import StudyError, first_line

_MAX_ATTEMPTS = 3  # as of a candidate that was in flight when the program was killed
_MAX_DEAD_STARTS = 3  # slots that die before they answer, with no success at all
_UNKNOWN = 150.0  # seconds after which an unreachable slot is given up, whoever is gone
_PEEK_EVERY = 30.0  # seconds: how much of a training that keeps its state a lost node may cost


@dataclass(eq=False)
class Job:
    """Something to do on a slot.

    Attributes:
        make: What the slot is sent, made when its turn comes.
        finish: From the slot's result and its node's name to the result.
        lost: Gives the result where the slot was lost over it; None: the loss is raised.
        kind: Jobs of a kind take about as long; None: no limit is known.
        peek: What is called aside while it runs, packed, and who is told the answer.
        outcome: The result.
        attempts: How often its node was lost.
    """

    make: Callable[[], Work]
    finish: Callable[[Any, str], Any] = lambda result, node: result
    lost: Callable[[SlotLostError], Any] | None = None
    kind: Hashable = None
    peek: tuple[bytes, Callable[[Any], None]] | None = None
    outcome: Future[Any] = field(default_factory=Future)
    attempts: int = 0


@dataclass(eq=False)
class _Slot:
    handle: Any
    node: str = ""  # id; empty until it has answered
    job: Job | None = None
    begun: float = 0.0
    suspected: str = ""  # how it ended, while nobody knows whose fault it was
    since: float = 0.0  # of the suspicion
    asked: bool = False  # whether a question is on its way
    peeked: float = 0.0


class Dispatcher:
    """Starts slots, gives them work, and finds out what became of those that are gone.

    All methods but the constructor belong to one thread, in which the owner calls what it is told.

    Args:
        cluster: Where.
        settings: What each slot is given, and how long it may take.
        num_slots: How many are asked for.
        setup: What each is told at its start, packed: see `Slot.start`.
        given: The images to share, handed over by `Cluster.put`; None: slots load them.
        source_hash: What each has to report of its images; empty: none are needed.
        say: Told what a person should know.
        tell: Takes what has to be called in that thread.

    Attributes:
        opened: Done with the first slot that answers, or fails.
        failure: Why everything was given up; None: it was not.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: RaySettings,
        num_slots: int,
        setup: bytes,
        *,
        given: Any,
        source_hash: str,
        say: Callable[[str], None],
        tell: Callable[[Callable[[], None]], None],
    ) -> None:
        self._cluster, self._settings, self._num_slots = cluster, settings, num_slots
        self._setup, self._given = cluster.put(setup), given
        self._source_hash, self._say, self._tell = source_hash, say, tell
        self._versions = compared_versions()
        self._limits = Limits(settings.evaluation_timeout)
        self._slots: list[_Slot] = []
        self._waiting: deque[Job] = deque()
        self._names: dict[str, str] = {}
        self._lost: set[str] = set()
        self._num_dead_starts = 0
        self.opened: Future[None] = Future()
        self.failure: BaseException | None = None

    @property
    def words(self) -> str:
        """How many nodes and slots work, such as `2 nodes, 8 slots`; from any thread."""
        ready = [slot for slot in list(self._slots) if slot.node and not slot.suspected]
        counts = {"node": len({slot.node for slot in ready}), "slot": len(ready)}
        return ", ".join(f"{n} {what}{'s' * (n != 1)}" for what, n in counts.items())

    def start(self) -> None:
        """Ask for as many slots as are missing."""
        while len(self._slots) < self._num_slots:
            slot = _Slot(self._cluster.start(self._settings.resources))
            self._slots.append(slot)
            answer = self._cluster.call(slot.handle, "start", self._setup, self._given)
            self._when_done(answer, lambda done, slot=slot: self._started(slot, done))  # type: ignore[misc]

    def close(self) -> None:
        """End all slots, whatever they do."""
        for slot in self._slots:
            self._kill(slot)

    def _when_done(self, future: Future[Any], event: Callable[[Future[Any]], None]) -> None:
        future.add_done_callback(lambda done: self._tell(lambda: event(done)))

    def _started(self, slot: _Slot, done: Future[SlotReport]) -> None:
        if slot not in self._slots:
            return
        error = done.exception()
        if error is not None:
            self._dead_start(slot, error)
            return
        report = done.result()
        fault = start_fault(report, self._versions, self._source_hash)
        if fault:
            self.fail(StudyError(f"node {self._name(report.node)}: {fault}"))
            return
        self._num_dead_starts = 0
        slot.node = report.node
        if not self.opened.done():
            self.opened.set_result(None)
            if report.mps:
                self._say("ray: slots share GPUs through CUDA's Multi-Process Service")
        self._dispatch()

    def _dead_start(self, slot: _Slot, error: BaseException) -> None:
        """A slot that never answered: its node may be gone, or it cannot live there."""
        self._drop(slot)
        if isinstance(error, SlotUnreachableError):
            self.start()
            return
        if not isinstance(error, SlotDiedError):
            raise error
        self._num_dead_starts += not error.node_is_lost
        if error.is_refused:
            self.fail(
                StudyError(
                    f"a slot cannot start on a node of the cluster: {error}; install the same "
                    "nas-proxy with the same extras on every node"
                )
            )
        elif self._num_dead_starts >= _MAX_DEAD_STARTS:
            self.fail(
                StudyError(
                    f"slots die before they answer, the last because: {error}; use fewer "
                    "(search.num_workers) or give each more memory (search.ray.memory_gb)"
                )
            )
        else:
            self.start()

    def queue(self, job: Job) -> None:
        """Take a job, which is begun when a slot is free."""
        if self.failure is not None:
            job.outcome.set_exception(self.failure)
            return
        self._waiting.append(job)
        self._dispatch()

    def _dispatch(self) -> None:
        for slot in self._slots:
            if not slot.node or slot.job is not None or slot.suspected:
                continue
            job = self._next_job()
            if job is None:
                return
            try:
                work = job.make()
            except Exception as error:  # noqa: BLE001 - such as a file that cannot be read
                job.outcome.set_exception(error)
                continue
            slot.job, slot.begun = job, monotonic()
            slot.peeked = slot.begun
            answer = self._cluster.call(slot.handle, "work", work)
            self._when_done(answer, lambda done, s=slot, j=job: self._answered(s, j, done))  # type: ignore[misc]

    def _next_job(self) -> Job | None:
        while self._waiting:
            job = self._waiting.popleft()
            if job.attempts or job.outcome.set_running_or_notify_cancel():
                return job
        return None

    def _answered(self, slot: _Slot, job: Job, done: Future[bytes]) -> None:
        if slot.job is not job:
            return  # it was given up meanwhile, so that nobody waits for this
        error = done.exception()
        if error is None:
            seconds = monotonic() - slot.begun
            slot.job = None
            self._finish(job, done.result(), self._name(slot.node), seconds)
            self._dispatch()
        elif isinstance(error, SlotDiedError | SlotUnreachableError):
            self._suspect(slot, error)
        else:
            slot.job = None
            job.outcome.set_exception(error)

    def _finish(self, job: Job, packed: bytes, node: str, seconds: float) -> None:
        try:
            result = unpack(packed)
            if isinstance(result, Raised):
                job.outcome.set_exception(result.error)
                return
            job.outcome.set_result(job.finish(result, node))
            self._limits.learn(job.kind, seconds)
        except Exception as error:  # noqa: BLE001 - handed on to whoever waits
            job.outcome.set_exception(error)

    # Losses

    def _suspect(self, slot: _Slot, error: BaseException) -> None:
        """A busy slot is gone, or nobody can reach it."""
        if isinstance(error, SlotDiedError) and error.node_is_lost:
            self._lose_node(slot)
            return
        slot.suspected, slot.since = first_line(error), monotonic()
        slot.asked = False
        self._ask(slot, is_dead=isinstance(error, SlotDiedError))

    def _ask(self, slot: _Slot, *, is_dead: bool) -> None:
        """Find out whose fault it was: of a dead slot its node is asked, else the slot itself."""
        if self._is_gone(slot.node):
            self._lose_node(slot)
        elif not slot.asked:
            slot.asked = True
            if is_dead:
                self._when_done(
                    self._cluster.probe(slot.node), lambda done: self._probed(slot, done)
                )
            else:
                answer = self._cluster.call(slot.handle, "ping", aside=True)
                self._when_done(answer, lambda done: self._pinged(slot, done))

    def _probed(self, slot: _Slot, done: Future[Any]) -> None:
        if slot not in self._slots:
            return
        if done.exception() is not None:
            self._lose_node(slot)
        else:
            self._lose_slot(slot, f"the worker on {self._name(slot.node)} died: {slot.suspected}")

    def _pinged(self, slot: _Slot, done: Future[Any]) -> None:
        if slot not in self._slots:
            return
        slot.asked = False
        error = done.exception()
        if isinstance(error, SlotUnreachableError):
            return  # asked again at the next tick
        if isinstance(error, SlotDiedError):
            since = slot.since
            self._suspect(slot, error)
            slot.since = since
        else:  # it lives, but the answer to its job went astray
            self._kill(slot)
            self._lose_node(slot)

    def _is_gone(self, node: str) -> bool:
        return all(each.id != node or not each.is_alive for each in self._cluster.nodes())

    def _lose_node(self, slot: _Slot) -> None:
        """Begin the job of a slot again elsewhere, unless that was done often enough."""
        job, seconds, name = slot.job, monotonic() - slot.begun, self._name(slot.node)
        self._drop(slot)
        if job is not None:
            job.attempts += 1
            if job.attempts < _MAX_ATTEMPTS:
                self._waiting.appendleft(job)
            else:
                why = f"its node was lost {job.attempts} times, the last time {name}"
                self._lose_job(job, SlotLostError(why, seconds))
        if slot.node not in self._lost:  # of all its slots the first
            self._lost.add(slot.node)
            self._say(f"ray: {name} was lost; its work is begun again elsewhere")
        self.start()
        self._dispatch()

    def _lose_slot(self, slot: _Slot, why: str) -> None:
        """The job of a slot has failed, and another slot takes its place."""
        job, seconds = slot.job, monotonic() - slot.begun
        self._drop(slot)
        if job is not None:
            self._lose_job(job, SlotLostError(why, seconds))
        self.start()
        self._dispatch()

    def _lose_job(self, job: Job, error: SlotLostError) -> None:
        if job.lost is None:
            job.outcome.set_exception(error)
        else:
            job.outcome.set_result(job.lost(error))

    def _drop(self, slot: _Slot) -> None:
        slot.job = None
        if slot in self._slots:
            self._slots.remove(slot)

    def _kill(self, slot: _Slot) -> None:
        with suppress(Exception):  # it may be gone already
            self._cluster.kill(slot.handle)

    def fail(self, error: BaseException) -> None:
        """Give everything up; whoever waits is told why."""
        if self.failure is not None:
            return
        self.failure = error
        if not self.opened.done():
            self.opened.set_exception(error)
        running = [slot.job for slot in self._slots if slot.job is not None]
        for slot in self._slots:
            slot.job = None
        for job in [*running, *self._waiting]:
            if not job.outcome.done():
                job.outcome.set_exception(error)
        self._waiting.clear()

    def tick(self) -> None:
        """Look at limits, and at nodes of which nothing is heard."""
        now = monotonic()
        for slot in list(self._slots):
            if slot.suspected:
                self._look_at_suspect(slot, now)
            elif slot.job is not None:
                limit = self._limits.of(slot.job.kind)
                if limit is not None and now - slot.begun > limit:
                    self._kill(slot)
                    name = self._name(slot.node)
                    self._lose_slot(slot, f"no answer from {name} within {limit:.0f} s")
                elif slot.job.peek is not None and now - slot.peeked > _PEEK_EVERY:
                    self._peek(slot, slot.job)

    def _look_at_suspect(self, slot: _Slot, now: float) -> None:
        if self._is_gone(slot.node):
            self._lose_node(slot)
        elif now - slot.since > _UNKNOWN:
            self._kill(slot)
            self._lose_node(slot)
        elif not slot.asked:
            self._ask(slot, is_dead=False)

    def _peek(self, slot: _Slot, job: Job) -> None:
        function, tell = job.peek if job.peek is not None else (b"", lambda _: None)
        slot.peeked = float("inf")

        def seen(done: Future[bytes]) -> None:
            slot.peeked = monotonic()
            if done.exception() is None and slot.job is job:
                tell(unpack(done.result()))

        self._when_done(self._cluster.call(slot.handle, "aside", function, aside=True), seen)

    def _name(self, node: str) -> str:
        if node not in self._names:
            nodes: Mapping[str, Node] = {each.id: each for each in self._cluster.nodes()}
            self._names[node] = nodes[node].name if node in nodes else node
        return self._names[node]
