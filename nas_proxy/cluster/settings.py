"""The configuration section `search.ray`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from nas_proxy.options import Bound, Options, OrAuto, PositiveFloat

LOCAL = "local"


@dataclass(frozen=True, kw_only=True)
class RaySettings(Options):
    """The cluster of `executor: ray`, and what each of its slots is given.

    Attributes:
        address: `auto`: the cluster that runs on this machine, or that the variable RAY_ADDRESS
            names. `local`: one is started on this machine alone, and ends with the study.
            Otherwise `HOST:PORT` of the head node; this machine has to be a node of that cluster.
        num_cpus: Cores of a slot, or a fraction of one; it trains with one thread.
        num_gpus: GPUs of a slot; with 0.25, four slots share each.
        memory_gb: Memory that a slot reserves, so that no node is given more slots than fit; None
            reserves none.
        evaluation_timeout: Seconds after which a slot that has not answered is killed, and its
            evaluation has failed. `auto`: ten times the median of the finished evaluations of that
            fidelity, and at least ten minutes; while none is finished there is no limit.
    """

    address: str = "auto"
    num_cpus: Annotated[float, Bound(ge=0)] = 1.0
    num_gpus: Annotated[float, Bound(ge=0)] = 0.0
    memory_gb: PositiveFloat | None = None
    evaluation_timeout: Annotated[float | str, OrAuto(Bound(gt=0))] = "auto"

    def __post_init__(self) -> None:
        """Refuse what Ray has no meaning for."""
        if self.address.startswith("ray://"):
            raise ValueError(
                f"address is {self.address!r}, but a study is no Ray client: run it on a node of "
                "the cluster, with address: auto"
            )
        if self.num_gpus > 1 and self.num_gpus != int(self.num_gpus):
            raise ValueError(
                f"num_gpus is {self.num_gpus:g}, but Ray divides no more than one GPU: give a "
                "fraction of one, or a whole number"
            )
        if not (self.num_cpus or self.num_gpus or self.memory_gb):
            raise ValueError(
                "num_cpus, num_gpus and memory_gb are all 0, so that every slot would start on "
                "one node; give at least one of them"
            )

    @property
    def resources(self) -> dict[str, float]:
        """What each slot is given, by Ray's names; memory in bytes."""
        memory = 0.0 if self.memory_gb is None else self.memory_gb * 10**9
        wanted = {"CPU": self.num_cpus, "GPU": self.num_gpus, "memory": memory}
        return {name: amount for name, amount in wanted.items() if amount}

    @property
    def slots_per_gpu(self) -> int:
        """How many slots share a GPU; 1 where a slot has a whole one, or none."""
        return int(1 / self.num_gpus + 1e-6) if 0 < self.num_gpus < 1 else 1
