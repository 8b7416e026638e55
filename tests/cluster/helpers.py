"""A cluster in this process, whose nodes and slots end when a test says so."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from nas_proxy.cluster._dispatcher import Job
from nas_proxy.cluster.interface import Node, SlotDiedError, SlotUnreachableError
from nas_proxy.cluster.pool import SlotPool
from nas_proxy.cluster.report import SlotReport, compared_versions
from nas_proxy.cluster.settings import RaySettings
from nas_proxy.core.packing import pack


@dataclass(eq=False)
class FakeSlot:
    """What a test sees of a slot.

    Attributes:
        node: Where it was placed; empty while it waits for room.
        starting: Its answer to `start`, once it was asked.
        work: What it works on, with the answer that is waited for.
        killed: Whether the driver ended it.
        wanted: The only node that will do.
    """

    node: str = ""
    starting: Future | None = None
    work: list = field(default_factory=list)
    killed: bool = False
    wanted: str = ""

    def answer(self, value):
        self.work.pop()[1].set_result(pack(value))

    def die(self, reason="it was killed", **how):
        self.work.pop()[1].set_exception(SlotDiedError(reason, **how))

    def vanish(self):
        self.work.pop()[1].set_exception(SlotUnreachableError("the connection broke"))


class FakeCluster:
    """Places slots where there is room; tests decide what becomes of them."""

    def __init__(self, **cores):
        self.nodes_by_id = {
            name: Node(name, name, f"10.0.0.{n}", {"CPU": float(number)})
            for n, (name, number) in enumerate(cores.items(), start=1)
        }
        self.slots = []
        self.reports = {}
        self.pings = []
        self.asked = []
        self.changed = threading.Condition()

    def nodes(self):
        return list(self.nodes_by_id.values())

    def put(self, value):
        return value

    def start(self, resources, node=""):
        with self.changed:
            slot = FakeSlot(wanted=node)
            self.slots.append(slot)
            self.changed.notify_all()
            return slot

    def call(self, slot, method, *arguments, aside=False):
        answer = Future()
        with self.changed:
            if method == "start":
                slot.starting = answer
                self._place()
            elif method == "work":
                slot.work.append((arguments[0], answer))
            elif method == "ping":
                self.pings.append((slot, answer))
            elif method == "aside":
                self.asked.append((slot, answer))
            self.changed.notify_all()
        return answer

    def kill(self, slot):
        with self.changed:
            slot.killed = True
            slot.node = ""
            self._place()
            self.changed.notify_all()

    def probe(self, node):
        answer = Future()
        if self.nodes_by_id[node].is_alive:
            answer.set_result(True)
        else:
            answer.set_exception(SlotDiedError("no such node", node_is_lost=True))
        return answer

    def add(self, name, cores):
        with self.changed:
            self.nodes_by_id[name] = Node(name, name, "10.0.0.9", {"CPU": float(cores)})
            self._place()

    def lose(self, name, *, said=True):
        """A node is gone with everything on it."""
        self.nodes_by_id[name] = replace(self.nodes_by_id[name], is_alive=False)
        for slot in [each for each in self.slots if each.node == name]:
            slot.node = ""
            if slot.work and said:
                slot.die(node_is_lost=True)
            elif slot.work:
                slot.vanish()

    def free(self, slot):
        """A slot is gone, and so its core is free."""
        with self.changed:
            slot.node = ""
            self._place()

    def _place(self):
        for slot in self.slots:
            if slot.node or slot.killed or slot.starting is None or slot.starting.done():
                continue
            for node in self.nodes_by_id.values():
                if slot.wanted not in ("", node.id):
                    continue
                used = sum(each.node == node.id for each in self.slots)
                if node.is_alive and used < node.resources["CPU"]:
                    slot.node = node.id
                    report = self.reports.get(node.id, SlotReport(node.id, compared_versions()))
                    slot.starting.set_result(report)
                    break

    def until(self, condition):
        """Wait until something holds that the pool's thread does."""
        with self.changed:
            assert self.changed.wait_for(condition, timeout=20)

    def busy(self, number=1):
        """The slots that work, once there are so many."""
        self.until(lambda: sum(bool(slot.work) for slot in self.slots) >= number)
        return [slot for slot in self.slots if slot.work]


def pool_on(cluster, num_slots=2, **options):
    settings = RaySettings(**options.pop("settings", {}))
    return SlotPool(cluster, settings, num_slots, b"", tick=0.02, **options)


def job(item, **options):
    return Job(make=lambda: item, **options)


class ThreadCluster(FakeCluster):
    """Slots that do what they are told, each in a thread of its own.

    Attributes:
        is_asked: Whether they are asked what they find at their start, too.
    """

    def __init__(self, make_slot, *, is_asked=False, **cores):
        super().__init__(**cores)
        self.is_asked = is_asked
        self._make_slot = make_slot
        self._threads = {}

    def call(self, slot, method, *arguments, aside=False):
        if method == "start":
            answer = super().call(slot, method, *arguments)
            own = self._make_slot(lambda value: value, slot.node)
            self._threads[slot] = own, ThreadPoolExecutor(1)
            if self.is_asked:
                return self._threads[slot][1].submit(own.start, *arguments)
            return answer
        own, thread = self._threads[slot]
        return thread.submit(getattr(own, method), *arguments)
