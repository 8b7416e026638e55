"""The making of a proxy data set, measured from outside: the one place that knows what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from nas_proxy.core.environment import PeakMemory, hardware, versions
from nas_proxy.core.plugin_source import source_hash
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.errors import PluginError
from nas_proxy.interfaces import Distiller, DistillTask
from nas_proxy.plugin_calls import who
from nas_proxy.teachers.labelling import label
from nas_proxy.teachers.settings import LabelSettings


def distill_and_label(
    distiller: Distiller, task: DistillTask, labels: LabelSettings | None = None
) -> ProxyDataset:
    """Distil, label, and write into the set what that cost and where it was done.

    Its costs are those of `task.context.costs`: `distilling`; each teacher, which may have been
    paid by an earlier study; what the method names itself; and `labelling`. A set that was made
    before, such as one from a file, keeps its own, and getting it is counted as `reading`. Where
    a distiller states more than was measured, that stands.

    Args:
        distiller: The method.
        task: What it makes; its context's `costs` may hold what led up to it.
        labels: What labels the images get; None: those that the method gives.

    Raises:
        UserError: As `Distiller.distill` and `label`; if the method gives no set.
        DivergedError: Likewise.
    """
    context = task.context
    memory = PeakMemory(context.device)
    with context.costs.measure("distilling"):
        made = distiller.distill(task)
    if not isinstance(made, ProxyDataset):
        raise PluginError(
            f"{who(distiller)}: distill gives {type(made).__name__}, not a ProxyDataset; end it "
            "with return ProxyDataset(...)"
        )
    own = made.method == distiller.name
    if own:
        source = source_hash(type(distiller))
        made = replace(
            made,
            parameters={**made.parameters, **({"code": source} if source else {})},
            peak_memory_mib=memory.mib,
            hardware=hardware(context.device),
            versions=versions(),
        )
    if labels is not None:
        made = label(made, labels, task.dataset, context)
    measured = context.costs.seconds
    if not own:
        measured["reading"] = measured.pop("distilling")
    return replace(made, costs=_larger(made.costs, measured))


def _larger(stated: Mapping[str, float], measured: Mapping[str, float]) -> dict[str, float]:
    names = dict.fromkeys([*measured, *stated])
    return {name: max(stated.get(name, 0.0), measured.get(name, 0.0)) for name in names}
