"""A stand-in for a GPU: finds a CPU tensor or a CPU generator in the wrong place without one.

Inside `stand_in_gpu()` every storage has a place, `cpu` or `cuda:0`, though all of them are memory
of this process. Tensors say it in `.device`, `.to` changes it, what is computed from tensors of one
place is there too, and an operation that meets both is refused in torch's own words, as are a
generator of the other place and NumPy's look at a tensor on the GPU. As on a real GPU, a CPU scalar
may take part in what is done elementwise, and CPU positions may index tensors of the GPU.

It works below autograd, so that gradients and their formulas are seen too. What torch itself makes
inside one of its functions, such as the grid of `affine_grid`, would be on the right device, and
has no place of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda:0")
CPU = torch.device("cpu")
Place = Literal["cpu", "cuda", "anywhere"]
ATEN = torch.ops.aten
# These move values from one place to the other.
_CROSSING = {ATEN.copy_, ATEN._to_copy, ATEN._foreach_copy_}
_OF_NUMBERS = {ATEN.lift_fresh, ATEN.detach_}  # `torch.tensor([1.0])` and `new_tensor` go on so
_READING = {ATEN._local_scalar_dense, ATEN.nonzero, ATEN.equal, ATEN.masked_select}
_INDEXING = {ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._index_put_impl_}
_TAKES_CPU_SCALARS = {ATEN.masked_fill, ATEN.masked_fill_, ATEN.fill_, ATEN.index_put_}
_FROM_NUMBERS = {torch.tensor, torch.as_tensor, torch.from_numpy}
_READERS = {Tensor.numpy, Tensor.__array__}


class Places:
    """Where each storage lies."""

    def __init__(self, moved: list[tuple[torch.dtype, torch.Size]] | None) -> None:
        self.moved = [] if moved is None else moved
        # A weak reference keeps the address from being given to another storage.
        self._of: dict[int, tuple[StorageWeakRef, Place]] = {}
        self.waits: list[str] = []
        self.recording = False

    def known(self, tensor: Tensor) -> Place | None:
        found = self._of.get(tensor.untyped_storage()._cdata)
        return None if found is None else found[1]

    def of(self, tensor: Tensor) -> Place:
        return self.known(tensor) or "cpu"  # from before the stand-in began

    def put(self, tensor: Tensor, place: Place) -> None:
        storage = tensor.untyped_storage()
        self._of[storage._cdata] = StorageWeakRef(storage), place
        if len(self._of) % 4096 == 0:
            self._of = {k: v for k, v in self._of.items() if not v[0].expired()}

    def among(self, values: Any) -> set[Place]:
        return {self.of(value) for value in tree_leaves(values) if isinstance(value, Tensor)}

    def is_recording(self) -> bool:
        return self.recording

    def wait(self, what: str) -> None:
        """Note that the host has to wait for the GPU here."""
        if self.recording:
            raise RuntimeError(f"operation not permitted when stream is capturing: {what}")
        self.waits.append(what)


class Below(TorchDispatchMode):
    """Sees every operation, those of gradients too: refuses what mixes places."""

    def __init__(self, places: Places) -> None:
        super().__init__()
        self._places = places

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        places = self._places
        found = places.among((args, kwargs))
        if found >= {"cpu", "cuda"} and func.overloadpacket not in _CROSSING:
            self._check(func, args, kwargs)
        if "cuda" in found and self._waits(func, args, found):
            places.wait(str(func))
        with torch._C.DisableTorchFunction():  # this call is not one from Python
            out = func(*args, **kwargs)
        if func.overloadpacket in _OF_NUMBERS:
            return out  # whoever called from Python knows where it is to be
        made = _shared(found, "anywhere")
        for value in tree_leaves(out):
            if isinstance(value, Tensor) and places.known(value) in (None, "anywhere"):
                places.put(value, made)
        return out

    def _waits(self, func: Any, args: Any, found: set[Place]) -> bool:
        """Whether a number is read, a number of results is asked for, or values cross over."""
        packet = func.overloadpacket
        if packet in _INDEXING:
            indices = [each for each in tree_leaves(args[1]) if isinstance(each, Tensor)]
            on_cpu = any(self._places.of(each) == "cpu" for each in indices)
            return on_cpu or any(each.dtype == torch.bool for each in indices)
        return packet in _READING or (packet in _CROSSING and "cpu" in found)

    def _check(self, func: Any, args: Any, kwargs: Any) -> None:
        packet = func.overloadpacket
        if packet in _INDEXING:  # a GPU's tensor takes positions of the CPU, not the reverse
            args = [args[0], *args[2:]] if self._places.of(args[0]) == "cuda" else args
        takes_scalars = torch.Tag.pointwise in func.tags or packet in _TAKES_CPU_SCALARS
        for number, value in enumerate(args):
            written = packet not in _INDEXING and _is_written(func, number)
            for tensor in tree_leaves(value):
                if not isinstance(tensor, Tensor) or self._places.of(tensor) != "cpu":
                    continue
                if tensor.ndim or written or not takes_scalars:
                    _refuse(func, tensor)
        for tensor in tree_leaves(kwargs):
            if isinstance(tensor, Tensor) and self._places.of(tensor) == "cpu":
                _refuse(func, tensor)


def _shared(found: set[Place], otherwise: Place) -> Place:
    """Where a result is whose arguments are in the places `found`."""
    if "cuda" in found:
        return "cuda"
    if "cpu" in found:
        return "cpu"
    return "anywhere" if found else otherwise


def _is_written(func: Any, number: int) -> bool:
    alias = func._schema.arguments[number].alias_info
    return alias is not None and alias.is_write


def _refuse(func: Any, tensor: Tensor) -> None:
    raise RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and "
        f"cpu! ({func}: a tensor {tuple(tensor.shape)} is on the CPU)"
    )


class Above(TorchFunctionMode):
    """Sees what is called from Python: answers for devices, and checks generators."""

    def __init__(self, places: Places) -> None:
        super().__init__()
        self._places = places

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return GPU if self._places.of(args[0]) == "cuda" else CPU
        found = self._places.among((args, kwargs))
        if func in _READERS and found == {"cuda"}:
            raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu()")
        wanted, func, args, kwargs = self._asked_for(func, args, kwargs)
        self._check_generator(args, kwargs, wanted or ("cuda" if "cuda" in found else "cpu"))
        crosses = func in _FROM_NUMBERS or found == {"cpu", "cuda"} - {wanted}
        if wanted == "cuda" and func is Tensor.to and found == {"cpu"}:
            self._places.moved.append((args[0].dtype, args[0].shape))
        if wanted is not None and crosses and "cuda" in (wanted, *found):
            self._places.wait(str(func))
        out = func(*args, **kwargs)
        for value in tree_leaves(out):
            if not isinstance(value, Tensor):
                continue
            if wanted is not None:
                self._places.put(value, wanted)
            elif self._places.known(value) in (None, "anywhere"):
                self._places.put(value, _shared(found, "cpu"))
        return out

    def _asked_for(self, func: Any, args: Any, kwargs: Any) -> tuple[Place | None, Any, Any, Any]:
        """The place that a call names, and the call with the CPU in its stead."""
        if func in (Tensor.cpu, Tensor.cuda):
            args, kwargs = (args[0], "cpu" if func is Tensor.cpu else GPU), {}
            func = Tensor.to
        device = kwargs.get("device")
        if func is Tensor.to:
            named = [a for a in args[1:] if isinstance(a, torch.device | str | Tensor)]
            if named and isinstance(named[0], Tensor):
                device = self._device_of(named[0])
                args = args[0], device, named[0].dtype, *args[2:]
            elif named:
                device = named[0]
        if device is None:
            return None, func, args, kwargs
        place: Place = "cuda" if torch.device(device).type == "cuda" else "cpu"
        args = tuple(CPU if isinstance(a, torch.device | str) else a for a in args)
        kwargs = {**kwargs, "device": CPU} if "device" in kwargs else kwargs
        if func is Tensor.to and self._places.of(args[0]) != place:
            kwargs["copy"] = True
        return place, func, args, kwargs

    def _device_of(self, tensor: Tensor) -> torch.device:
        return GPU if self._places.of(tensor) == "cuda" else CPU

    def _check_generator(self, args: Any, kwargs: Any, place: Place) -> None:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, torch._C.Generator) and value.device.type != place:
                raise RuntimeError(
                    f"Expected a '{place}' device type for generator but found "
                    f"'{value.device.type}'"
                )


class StandInGenerator(torch.Generator):
    """A generator that says where it is."""

    _place: torch.device

    def __new__(cls, device: torch.device | str = "cpu") -> StandInGenerator:
        made = super().__new__(cls)
        made._place = GPU if torch.device(device).type == "cuda" else CPU
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._place


class Recorder(TorchDispatchMode):
    """Notes operations and the tensors they were given, and what they wrote held before."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        self._made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for number, value in enumerate(args):
            # The one operation that writes what its schema does not say it writes.
            norm = func.overloadpacket is ATEN.native_batch_norm and number in (3, 4)
            if norm or _is_written(func, number):
                self._remember(value)
        with torch._C.DisableTorchFunction():
            out = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, out))
        self._made |= _storages(out) - _storages((args, kwargs))
        return out

    def _remember(self, written: Any) -> None:
        for value in tree_leaves(written):
            if isinstance(value, Tensor) and not _storages(value) <= self._made:
                self._before.setdefault(id(value), (value, value.detach().clone()))

    def undo(self) -> None:
        with torch.no_grad():
            for tensor, value in self._before.values():
                tensor.copy_(value)


def _storages(values: Any) -> set[int]:
    leaves = tree_leaves(values)
    return {leaf.untyped_storage()._cdata for leaf in leaves if isinstance(leaf, Tensor)}


class StandInGraph:
    """What `StepGraph` does on a GPU: repeats the operations of a step without its Python.

    Like the real one it does not do the work while it records it, goes on drawing from its
    generator, and refuses what would make the host wait.
    """

    def __init__(self, places: Places, device: torch.device, generator: torch.Generator) -> None:
        self._places = places
        self._generator = generator
        self._recorder = Recorder()

    def rehearse(self, work: Callable[[], None]) -> list[str]:
        self._places.waits.clear()
        work()
        return list(self._places.waits)

    def record(self, work: Callable[[], None]) -> None:
        state, drawn = self._generator.get_state(), torch.get_rng_state()
        self._places.recording = True
        try:
            with self._recorder:
                work()
        finally:
            self._places.recording = False
            self._recorder.undo()
            self._generator.set_state(state)
            torch.set_rng_state(drawn)

    def replay(self) -> None:
        with torch.no_grad(), torch._C.DisableTorchFunction():
            for func, args, kwargs, out in self._recorder.calls:
                found = func(*args, **kwargs)
                for old, new in zip(tree_leaves(out), tree_leaves(found), strict=True):
                    if _storages(old) != _storages(new):  # else it is a view, or was written
                        old.copy_(new)


_GROUP = "_group_tensors_by_device_and_dtype"


def _grouping(places: Places, group: Callable[..., Any]) -> Callable[..., Any]:
    """What optimisers and `clip_grad_norm_` ask for the device, in C++."""

    def grouped(tensors: list[list[Tensor | None]], with_indices: bool = False) -> Any:
        found = group(tensors, with_indices)
        where = places.among(tensors[0])  # the others may hold counters, which stay on the CPU
        device = GPU if where == {"cuda"} else CPU
        return {(device, dtype): value for (_, dtype), value in found.items()}

    return grouped


def _seen_by(above: Above) -> Callable[..., Any]:
    run = torch.autograd._engine_run_backward

    def run_seen(*args: Any, **kwargs: Any) -> Any:
        with above:
            return run(*args, **kwargs)

    return run_seen


class _Autocast(torch.autocast):
    """Of the CPU, whatever it was asked for."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu", *args, **kwargs)


ANSWERS: dict[str, Any] = {
    "device_count": lambda: 1,
    "is_initialized": lambda: False,
    "get_device_name": lambda device: "a stand-in",
    "get_device_capability": lambda device: (7, 0),
    "synchronize": lambda device: None,
    "empty_cache": lambda: None,
    "get_rng_state": lambda device: torch.get_rng_state(),
    "set_rng_state": lambda state, device: torch.set_rng_state(state),
    "reset_peak_memory_stats": lambda device: None,
    "memory_allocated": lambda device: 0,
    "set_per_process_memory_fraction": lambda fraction, device: None,
    "max_memory_allocated": lambda device: 2**20,
    "mem_get_info": lambda device: (2**34, 2**34),
}


@contextmanager
def stand_in_gpu(
    moved: list[tuple[torch.dtype, torch.Size]] | None = None,
) -> Iterator[torch.device]:
    """A block in which `cuda:0` can be used; gives that device.

    Args:
        moved: Gets dtype and shape of what is moved to it.
    """
    places = Places(moved)
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "Generator", StandInGenerator))
        stack.enter_context(mock.patch.object(torch, "autocast", _Autocast))
        group = mock.patch.object(torch._C, _GROUP, _grouping(places, getattr(torch._C, _GROUP)))
        stack.enter_context(group)
        for name, answer in ANSWERS.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(
            mock.patch.object(torch.cuda, "is_current_stream_capturing", places.is_recording)
        )
        above = Above(places)
        # Gradients run Python too, such as that of a function of our own.
        running = mock.patch("torch.autograd._engine_run_backward", _seen_by(above))
        stack.enter_context(running)
        graph = mock.patch("nas_proxy.train.graphed.StepGraph", partial(StandInGraph, places))
        stack.enter_context(graph)
        stack.enter_context(Below(places))
        stack.enter_context(above)
        yield GPU
