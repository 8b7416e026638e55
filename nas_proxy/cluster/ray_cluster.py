"""The one module that imports ray: actors, one for each slot, and what becomes of them."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from nas_proxy.cluster.interface import Cluster, Node, SlotDiedError, SlotUnreachableError
from nas_proxy.cluster.settings import LOCAL, RaySettings
from nas_proxy.cluster.slot import Slot
from nas_proxy.core.extras import is_installed, missing_words
from nas_proxy.errors import ConfigError, first_line
from nas_proxy.processes import interrupts_held

_ASIDE = "aside"  # a second thread of each actor: what is asked while it works
_STORE_BYTES = 256 * 2**20  # of a cluster that is started here; Ray's own takes a third of memory


class _Actor(Slot):
    """A slot that knows its node, and fetches from Ray's object store."""

    def __init__(self) -> None:
        import ray

        super().__init__(ray.get, ray.get_runtime_context().get_node_id())


@contextmanager
def open_cluster(settings: RaySettings, num_slots: int) -> Iterator[Cluster]:
    """Join a cluster, or start one on this machine, for the length of the block.

    Of a cluster that was there nothing is changed; what was started here ends.

    Raises:
        ConfigError: If ray is not installed, or no cluster is found.
    """
    if not is_installed("ray"):
        raise ConfigError(f"search.executor: {missing_words('ray')}, or use processes")
    # Before the import, which reads them. Nobody is told that Ray is used here.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Its page of text about each process and node that ended; we say what became of them.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died|The node with node id")
    if settings.address == LOCAL:
        # Elsewhere than on Linux that is the default: nothing listens beyond the loopback device.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    if ray.is_initialized():  # the caller's own, such as a notebook's
        yield _RayCluster()
        return
    with _signals_kept(), interrupts_held():
        _join(settings, num_slots)
    try:
        yield _RayCluster()
    finally:
        ray.shutdown()


def _join(settings: RaySettings, num_slots: int) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if settings.address != LOCAL:
            ray.init(address=settings.address, **quiet)
            return
        ray.init(
            num_cpus=max(1, math.ceil(settings.num_cpus * num_slots)),
            include_dashboard=False,
            object_store_memory=_STORE_BYTES,
            **quiet,
        )
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"search.ray.address is {settings.address!r}, but there is no Ray cluster to be joined "
            f"({first_line(error)}); start one with `ray start --head`, or set address: local"
        ) from error


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself, which the command line turns into an orderly end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _RayCluster:
    """See `Cluster`; ray is initialised."""

    def nodes(self) -> Sequence[Node]:
        import ray

        return [
            Node(
                id=each["NodeID"],
                host=each["NodeManagerHostname"],
                address=each["NodeManagerAddress"],
                resources=each["Resources"],
                is_alive=each["Alive"],
            )
            for each in ray.nodes()
        ]

    def put(self, value: object) -> Any:
        import ray

        return ray.put(value)

    def start(self, resources: Mapping[str, float], node: str = "") -> Any:
        import ray

        # Neither is tried again by Ray, which does not know whose fault an end was.
        actor = ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={_ASIDE: 1})
        placed = {"scheduling_strategy": _there(node)} if node else {}
        return actor(_Actor).options(**_options(resources), **placed).remote()

    def call(self, slot: Any, method: str, *arguments: Any, aside: bool = False) -> Future[Any]:
        bound = getattr(slot, method)
        if aside:
            bound = bound.options(concurrency_group=_ASIDE)
        return _answer(bound.remote(*arguments))

    def kill(self, slot: Any) -> None:
        import ray

        ray.kill(slot, no_restart=True)

    def probe(self, node: str) -> Future[Any]:
        import ray

        task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=_there(node))(_lives)
        return _answer(task.remote())


def _there(node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def _lives() -> bool:
    return True


def _options(resources: Mapping[str, float]) -> dict[str, float]:
    names = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    # Without num_cpus an actor would need one to be placed.
    return {"num_cpus": 0.0, **{names[name]: amount for name, amount in resources.items()}}


def _answer(reference: Any) -> Future[Any]:
    """What a call gives, with our own errors for what becomes of slots."""
    answer: Future[Any] = Future()
    reference.future().add_done_callback(lambda done: _settle(answer, done))
    return answer


def _settle(answer: Future[Any], done: Future[Any]) -> None:
    error = done.exception()
    if error is None:
        answer.set_result(done.result())
    else:
        answer.set_exception(_translated(error))


def _translated(error: BaseException) -> BaseException:
    from ray import exceptions

    text = str(error)
    is_actors = isinstance(error, exceptions.RayActorError)
    if isinstance(error, exceptions.RayTaskError) and not is_actors:
        return RuntimeError(text)  # raised within the slot: a mistake of ours
    if isinstance(error, exceptions.ActorUnavailableError):
        return SlotUnreachableError(first_line(error))
    if isinstance(error, exceptions.RayActorError) and error.actor_init_failed:
        return SlotDiedError(_last_line(text), is_refused=True)
    if isinstance(error, exceptions.RayError):
        lost = isinstance(error, exceptions.NodeDiedError) or "its node has died" in text
        return SlotDiedError(_reason(error), node_is_lost=lost)
    return RuntimeError(text)


def _reason(error: BaseException) -> str:
    """How a process ended, in words; Ray's own are a page."""
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError" or "low on memory" in text:
        return "killed because its node ran low on memory"
    if "exit code" in text:
        return f"the process ended with exit code {text.partition('exit code')[2].split()[0][:4]}"
    if "connection error code" in text:
        return "the process was killed, or ended itself without a word"
    return first_line(error)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it does not say why"
