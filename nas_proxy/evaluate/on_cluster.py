"""The executor `ray`: evaluations in slots on the nodes of a cluster.

What an evaluation reads goes to its node first, once: the user's code, proxy data sets, teachers.
What it leaves beside its result, weights and checkpoints, comes back with it, and checkpoints of
long trainings before that. So nodes share no folder with the driver, which alone writes a study's.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, cast, runtime_checkable

from nas_proxy.cluster.check import NodeCheck, check_nodes
from nas_proxy.cluster.files import FileSender
from nas_proxy.cluster.interface import Cluster, SlotLostError
from nas_proxy.cluster.plugins import SentPlugins
from nas_proxy.cluster.pool import Job, SlotPool
from nas_proxy.cluster.ray_cluster import open_cluster
from nas_proxy.cluster.settings import RaySettings
from nas_proxy.cluster.slot import SlotSetup, Work
from nas_proxy.core.files import write_atomically
from nas_proxy.core.packing import pack
from nas_proxy.data.given import GivenSplits
from nas_proxy.errors import ConfigError
from nas_proxy.evaluate.executors import (
    EvaluatorCache,
    EvaluatorFactory,
    Executor,
    Workplace,
    lost_evaluation,
)
from nas_proxy.reproducibility import content_hash
from nas_proxy.teachers.labelling import teacher_files
from nas_proxy.types import Architecture, Evaluation

_MOST_SHIPPED = 2 * 10**9  # bytes of `data.ship`

OpenCluster = Callable[[RaySettings, int], AbstractContextManager[Cluster]]
"""From what is asked for, and the number of slots, to a cluster."""

State = Mapping[str, bytes | None]
"""Files by their relative names; None: there is none any more."""


@runtime_checkable
class StateFactory(EvaluatorFactory, Protocol):
    """Describes an evaluator that keeps weights or checkpoints in a folder."""

    @property
    def state_folder(self) -> Path | None:
        """That folder; None: nothing is kept."""

    def with_state_in(self, folder: Path) -> EvaluatorFactory:
        """The same with another one."""


@dataclass(frozen=True)
class Order:
    """An evaluation that is asked of a slot.

    Attributes:
        factory: As of `Executor.submit`, as what follows.
        architecture: Which one.
        seed: Of the evaluation.
        state: Files of earlier trainings; None: it neither needs nor leaves any.
    """

    factory: EvaluatorFactory
    architecture: Architecture
    seed: int
    state: Mapping[str, bytes] | None = None


@dataclass(frozen=True)
class Answer:
    """An evaluation, with what it changed among its files."""

    evaluation: Evaluation
    state: State


@contextmanager
def open_on_cluster(
    num_workers: int,
    workplace: Workplace,
    open_cluster: OpenCluster = open_cluster,
) -> Iterator[Executor]:
    """Slots for the length of the block; what was there before stays as it was.

    The cluster is joined when something is to be done for the first time: reading what a study has
    found needs none.

    Args:
        num_workers: Slots that are asked for, whatever nodes there are.
        workplace: The cluster, and the images.
        open_cluster: Opens the cluster.
    """
    with ExitStack() as stack:
        yield _ClusterExecutor(stack, num_workers, workplace, open_cluster)


def check_cluster(workplace: Workplace) -> list[NodeCheck]:
    """What slots would find on each node; see `check_nodes`.

    Raises:
        ConfigError: If there is no such cluster.
    """
    with open_cluster(workplace.ray, 1) as cluster:
        return check_nodes(cluster, _setup(workplace), _source_hash(workplace))


def _setup(workplace: Workplace) -> bytes:
    """What slots are told at their start, packed."""
    splits = workplace.splits
    num_bytes = 0 if splits is None else GivenSplits.of(splits).num_bytes
    return pack(SlotSetup(SentPlugins.here(), workplace.data, num_bytes))


def _source_hash(workplace: Workplace) -> str:
    return "" if workplace.splits is None else workplace.splits.spec.source_hash


def _given(workplace: Workplace) -> GivenSplits | None:
    """The images to send, if that is asked for."""
    if workplace.data is None or workplace.splits is None or not workplace.data.ship:
        return None
    given = GivenSplits.of(workplace.splits)
    if given.num_bytes > _MOST_SHIPPED:
        raise ConfigError(
            f"data.ship: the decoded images take {given.num_bytes / 10**9:.1f} GB, and at most "
            f"{_MOST_SHIPPED / 10**9:.0f} GB are sent; put them to data.root on every node instead"
        )
    return given


@dataclass(frozen=True)
class _Slots:
    """The slots of a study, once there are any."""

    pool: SlotPool
    packer: _Packer

    @classmethod
    def opened(
        cls, stack: ExitStack, num_workers: int, workplace: Workplace, open_cluster: OpenCluster
    ) -> _Slots:
        """Join the cluster, and wait for the first slot; all end with the stack."""
        given = _given(workplace)
        cluster = stack.enter_context(open_cluster(workplace.ray, num_workers))
        pool = SlotPool(
            cluster,
            workplace.ray,
            num_workers,
            _setup(workplace),
            given=None if given is None else cluster.put(given),
            source_hash=_source_hash(workplace),
            say=workplace.say,
        )
        return cls(stack.enter_context(pool), _Packer(cluster))


class _ClusterExecutor:
    """See `ElsewhereExecutor`."""

    def __init__(
        self, stack: ExitStack, num_workers: int, workplace: Workplace, open_cluster: OpenCluster
    ) -> None:
        self.num_workers = num_workers
        self._open = partial(_Slots.opened, stack, num_workers, workplace, open_cluster)
        self._opened: _Slots | None = None

    def start(self) -> _Slots:
        """The slots, which are opened by the first call."""
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    @property
    def words(self) -> str:
        """Nodes and slots; empty before there are any."""
        return "" if self._opened is None else self._opened.pool.words

    def open_pool(self, function: Callable[[Any], Any], num_workers: int) -> _LentPool:
        """The same slots for another function, as many as there are."""
        slots = self.start()
        return _LentPool(slots.pool, slots.packer, function)

    def submit(
        self, factory: EvaluatorFactory, architecture: Architecture, seed: int
    ) -> Future[Evaluation]:
        slots = self.start()
        folder = factory.state_folder if isinstance(factory, StateFactory) else None
        order = Order(factory, architecture, seed)

        def lost(error: SlotLostError) -> Evaluation:
            return lost_evaluation(factory, architecture, seed, str(error), seconds=error.seconds)

        def finish(answer: Answer, node: str) -> Evaluation:
            if folder is not None:
                _keep(folder, answer.state)
            return replace(answer.evaluation, node=node)

        job = Job(
            make=slots.packer.work_later(evaluate_there, order, folder),
            finish=finish,
            lost=lost,
            kind=content_hash(factory.fidelity.to_json()),
        )
        if folder is not None:
            job.peek = _packed_peek(), partial(_keep, folder)
        return slots.pool.submit(job)


class _LentPool:
    """The slots, for another function: see `Pool`."""

    def __init__(self, pool: SlotPool, packer: _Packer, function: Callable[[Any], Any]) -> None:
        self._pool, self._packer, self._function = pool, packer, function
        self._waiting: list[Future[Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for future in self._waiting:
            future.cancel()  # what runs is left to end: the slots are needed again

    def submit(self, item: Any) -> Future[Any]:
        work = self._packer.work(self._function, item)
        future = self._pool.submit(Job(make=lambda: work))
        self._waiting = [each for each in self._waiting if not each.done()] + [future]
        return future


class _Packer:
    """Packs functions and items, with the files that they name."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._files = FileSender(cluster.put, teacher_files)
        self._functions: dict[Callable[[Any], Any], tuple[str, Any]] = {}

    def work_later(
        self, function: Callable[[Any], Any], order: Order, folder: Path | None
    ) -> Callable[[], Work]:
        """What `work` makes; with files of the folder as they are when it is asked for."""
        work = self.work(function, order)  # now: whoever submits is told what cannot be packed
        if folder is None:
            return lambda: work

        def with_state() -> Work:
            state = _files_of(folder, order.architecture)
            return self.work(function, replace(order, state=state))

        return with_state

    def work(self, function: Callable[[Any], Any], item: Any) -> Work:
        """An item for a function.

        Raises:
            StudyError: If one of both cannot be sent, such as one that holds a lock.
            ConfigError: If a file that it names is too large to be sent.
        """
        if function not in self._functions:
            packed = pack(function)
            handed = self._cluster.put(packed)
            self._functions[function] = hashlib.sha256(packed).hexdigest(), handed
        digest, handed = self._functions[function]
        named: dict[str, Any] = {digest: handed}

        def stand_in(path: Path) -> tuple[str, str] | None:
            found = self._files.stand_in(path)
            if found is not None:
                named[found[0]] = self._files.objects[found[0]]
            return found

        return Work(digest, pack(item, stand_in=stand_in), named)


def _files_of(folder: Path, architecture: Architecture) -> dict[str, bytes]:
    """What trainings of an architecture left in a folder; their names begin with its id."""
    files = sorted(folder.rglob(f"{architecture.id}_*"))
    return {str(each.relative_to(folder)): each.read_bytes() for each in files if each.is_file()}


def _keep(folder: Path, state: State) -> None:
    """Write what came back of a training.

    Raises:
        OSError: If the disk is full.
    """
    for name, content in state.items():
        if content is None:
            (folder / name).unlink(missing_ok=True)
        else:
            write_atomically(folder / name, content)


# What follows runs in a slot.
_evaluators = EvaluatorCache()


@dataclass
class _Watched:
    """The files of the training that runs.

    Attributes:
        architecture: Which one is trained; None: none is.
        told: Hashes of what the driver was told of meanwhile, by name.
    """

    architecture: Architecture | None = None
    told: dict[str, str] = field(default_factory=dict)


_watched = _Watched()


@cache
def _own_folder() -> Path:
    """The same one for all trainings of a slot: its evaluator is kept while factories are equal."""
    return Path(tempfile.mkdtemp(prefix="nas_proxy_slot_"))


def evaluate_there(order: Order) -> Answer:
    """Evaluate in a slot; errors as of the evaluator."""
    if order.state is None:
        found = _evaluators.evaluate(order.factory, order.architecture, order.seed)
        return Answer(found, {})
    folder = _own_folder()
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in order.state.items():
        write_atomically(folder / name, content)
    before = _hashes(order.state)
    _watched.architecture, _watched.told = order.architecture, before
    factory = cast(StateFactory, order.factory).with_state_in(folder)
    try:
        found = _evaluators.evaluate(factory, order.architecture, order.seed)
        # Since the beginning: what was told of meanwhile may not have arrived.
        return Answer(found, _changes(_files_of(folder, order.architecture), before))
    finally:
        _watched.architecture = None
        shutil.rmtree(folder, ignore_errors=True)


def changed_state() -> State:
    """What the training that runs has written since this was last asked."""
    if _watched.architecture is None:
        return {}
    files = _files_of(_own_folder(), _watched.architecture)
    changes = _changes(files, _watched.told)
    _watched.told = _hashes(files)
    return changes


def _changes(files: Mapping[str, bytes], before: Mapping[str, str]) -> State:
    """What is new, or gone, compared with the hashes from before."""
    now = _hashes(files)
    gone: dict[str, bytes | None] = dict.fromkeys(before.keys() - now.keys())
    return {**gone, **{name: files[name] for name in files if before.get(name) != now[name]}}


def _hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


@cache
def _packed_peek() -> bytes:
    return pack(changed_state)
