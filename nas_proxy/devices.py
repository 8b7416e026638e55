"""What is asked of a GPU: the only module that speaks of `torch.cuda`.

Each question has an answer for a CPU too, so that its callers need not tell the two apart.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor


def is_gpu(device: torch.device) -> bool:
    """Whether it is a GPU, the only other kind of device than the CPU that is supported."""
    return device.type == "cuda"


def cuda_version() -> str:
    """Of the CUDA that torch was built for; `none` for a build without."""
    return torch.version.cuda or "none"


def num_gpus() -> int:
    """How many GPUs torch sees."""
    return torch.cuda.device_count()


def mps_runs() -> bool:
    """Whether CUDA's Multi-Process Service runs here, through which processes then share a GPU."""
    folder = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))
    return (folder / "control").exists()


def gpus_in_use() -> list[int]:
    """Numbers of the GPUs whose global generators have been made; none before the first work."""
    return list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []


def gpu_name(device: torch.device) -> str:
    """The GPU in words."""
    return torch.cuda.get_device_name(device)


def gpu_has_bfloat16(device: torch.device) -> bool:
    """Whether the GPU has instructions for bfloat16, not just an emulation."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def wait_for(device: torch.device) -> None:
    """Wait until the GPU has done what was queued; a CPU is never behind."""
    if is_gpu(device):
        torch.cuda.synchronize(device)


def release_memory(device: torch.device) -> None:
    """Give back what nobody needs any more, such as after memory ran out."""
    gc.collect()  # hooks and graphs refer to one another, and to their tensors
    if is_gpu(device):
        torch.cuda.empty_cache()


def share_memory(device: torch.device, num_processes: int) -> None:
    """Take no more of the GPU's memory than an equal share among processes that work on it.

    A candidate that fits into its share fits whatever its neighbours do at the same time, so that
    which of them fail does not depend on who ran beside whom. A tenth of the memory stays with the
    libraries of each process and with the one that started them. One process alone takes all.
    """
    if is_gpu(device) and num_processes > 1:
        torch.cuda.set_per_process_memory_fraction(0.9 / num_processes, device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or on a CPU."""
    # On a CPU torch raises a plain RuntimeError for memory; the text is all there is to tell by.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def is_recording(device: torch.device) -> bool:
    """Whether work on the GPU is being recorded as a graph, and not done."""
    return is_gpu(device) and torch.cuda.is_current_stream_capturing()


def global_rng_state(device: torch.device) -> Tensor:
    """State of the global generator from which dropout on `device` draws; on the CPU."""
    return torch.cuda.get_rng_state(device) if is_gpu(device) else torch.get_rng_state()


def set_global_rng_state(device: torch.device, state: Tensor) -> None:
    """Put the global generator of `device` back."""
    if is_gpu(device):
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def reset_peak_gpu_memory(device: torch.device) -> int:
    """Forget the largest amount so far; bytes of the GPU that are in use."""
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def peak_gpu_memory(device: torch.device) -> int:
    """The most bytes that tensors of this process took since `reset_peak_gpu_memory`."""
    return torch.cuda.max_memory_allocated(device)


def free_gpu_memory(device: torch.device) -> int:
    """Bytes of the GPU that no process has taken."""
    return torch.cuda.mem_get_info(device)[0]


class StepGraph:
    """Work that a GPU repeats by itself once it has been recorded: a CUDA graph.

    What is recorded are the operations on the GPU, with the very tensors that they were given.
    Nothing else is repeated: no Python, no choice that Python made, no number that it passed on.

    Args:
        device: The GPU.
        generator: On it; its draws go on from replay to replay, as those of the global one do.
    """

    def __init__(self, device: torch.device, generator: torch.Generator) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(generator)
        self._stream = torch.cuda.Stream(device)

    def rehearse(self, work: Callable[[], None]) -> list[str]:
        """Do the work once as usual, where it will be recorded.

        Returns:
            The lines that made this process wait for the GPU, which cannot be recorded.
        """
        now = torch.cuda.current_stream(self._stream.device)
        before = torch.cuda.get_sync_debug_mode()
        self._stream.wait_stream(now)
        with warnings.catch_warnings(record=True) as said, torch.cuda.stream(self._stream):
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                work()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        now.wait_stream(self._stream)
        waits = [each for each in said if "synchronizing" in str(each.message)]
        return [f"{each.filename}:{each.lineno}" for each in waits]

    def record(self, work: Callable[[], None]) -> None:
        """Record the work; it is not done.

        Raises:
            RuntimeError: If it cannot be recorded.
        """
        with torch.cuda.graph(self._graph, stream=self._stream):
            work()

    def replay(self) -> None:
        """Do what was recorded, with what its tensors hold now."""
        self._graph.replay()
