"""`torch.cuda` is asked in one module alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nas_proxy import devices
from nas_proxy.devices import is_out_of_memory

ROOT = Path(__file__).parents[1]
SOURCES = [*(ROOT / "nas_proxy").rglob("*.py"), *(ROOT / "search_spaces").rglob("*.py")]
CPU = torch.device("cpu")


def mentions_of_cuda(source: str) -> Iterator[int]:
    """Lines that ask or tell a GPU something: `torch.cuda`, `.cuda()`, `device.type == "cuda"`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            found = node.attr in ("cuda", "pin_memory")
        elif isinstance(node, ast.Import):
            found = any(alias.name.startswith("torch.cuda") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found = any(name.startswith("torch.cuda") for name in names)
        elif isinstance(node, ast.Compare):
            compared = [node.left, *node.comparators]
            found = any(
                isinstance(side, ast.Constant) and side.value == "cuda" for side in compared
            )
        else:
            continue
        if found:
            yield node.lineno


def test_one_module_asks_torch_cuda() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        if path != Path(devices.__file__)
        for line in mentions_of_cuda(path.read_text())
    }
    assert not found, "ask nas_proxy.devices instead"


@pytest.mark.parametrize(
    "source",
    [
        "torch.cuda.synchronize()",
        "import torch.cuda",
        "from torch import cuda",
        "from torch.cuda import empty_cache",
        "network.cuda()",
        "device.type == 'cuda'",
        "images.pin_memory()",
    ],
)
def test_each_way_to_ask_is_found(source: str) -> None:
    assert list(mentions_of_cuda(source)) == [1]


def test_what_is_asked_of_a_cpu_needs_no_gpu() -> None:
    state = devices.global_rng_state(CPU)
    drawn = torch.rand(3)
    devices.set_global_rng_state(CPU, state)
    assert torch.equal(torch.rand(3), drawn)
    devices.wait_for(CPU)
    devices.release_memory(CPU)
    assert not devices.is_gpu(CPU)
    assert devices.is_gpu(torch.device("cuda:1"))


@pytest.mark.parametrize(
    ("error", "ran_out"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
    ids=repr,
)
def test_out_of_memory_is_recognised(error: Exception, ran_out: bool) -> None:
    assert is_out_of_memory(error) is ran_out
