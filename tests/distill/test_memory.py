"""Is there memory for a batch? Measured on a few images, and said in a sentence."""

import json
import subprocess
import sys

import pytest
import torch

from nas_proxy.distill.common import memory
from nas_proxy.distill.common.memory import BatchMemory
from nas_proxy.errors import ConfigError

CPU = torch.device("cpu")
MIB = 2**20


# In a process of its own: threads that other tests left behind must not count.
MEASURED = """
import gc, json, mmap, tempfile
import torch
from nas_proxy.distill.common.memory import BatchMemory
from nas_proxy.core.environment import PeakMemory

CPU, MIB = torch.device("cpu"), 2**20
found = {}

needed = BatchMemory.measure(lambda num_images: torch.ones(num_images, MIB).sum(), CPU)
found["four MiB for each image"] = needed.needed(100) / MIB, needed.largest(needed.needed(100))

held = [torch.ones(2**18) for _ in range(40)]  # small enough to stay with the allocator
del held
memories = PeakMemory(CPU), PeakMemory(CPU)
torch.ones(40, 2**18).sum()
found["freed before"] = [memory.mib for memory in memories]

def while_memory_is_given_back(give_back):
    calls = []  # what is measured if that happens in the middle of the first measurement

    def work(num_images):
        calls.append(num_images)
        if calls.count(8) == 2:  # the first is not measured
            give_back()
        torch.ones(num_images, MIB).sum()

    return BatchMemory.measure(work, CPU).needed(100) / MIB

gc.disable()
circle = [torch.ones(64, 2**18)]
circle.append(circle)
del circle
found["garbage"] = while_memory_is_given_back(gc.collect)

file = tempfile.TemporaryFile()
file.write(bytes(64 * MIB))
file.flush()
mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
sum(mapped[::4096])  # every page is in memory now
# As the kernel does with pages that nobody uses.
found["pages of files"] = while_memory_is_given_back(lambda: mapped.madvise(mmap.MADV_DONTNEED))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def measured():
    command = [sys.executable, "-c", MEASURED]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.mark.exhaustive
def test_memory_grows_with_the_batch_as_measured(measured):
    needed, largest = measured["four MiB for each image"]
    assert needed == pytest.approx(400, rel=0.15)
    assert largest in (99, 100)


def test_what_was_freed_before_counts_again(measured):
    assert measured["freed before"] == pytest.approx([40, 40], abs=4)


@pytest.mark.parametrize("given_back", ["garbage", "pages of files"])
def test_memory_that_is_given_back_meanwhile_hides_nothing(measured, given_back):
    assert measured[given_back] == pytest.approx(400, rel=0.15)


def test_a_gpu_has_a_fixed_part(monkeypatch):
    class Known:
        mib = 0.0

    watchers = [Known()]

    def watch(device):
        watchers.append(Known())
        return watchers[-1]

    def work(num_images):
        watchers[-1].mib = 100 + 3.0 * num_images

    monkeypatch.setattr(memory, "PeakMemory", watch)
    needed = BatchMemory.measure(work, torch.device("cuda"))
    assert needed.fixed == pytest.approx(100 * MIB)
    assert needed.per_image == pytest.approx(3 * MIB)
    assert needed.largest(160 * MIB) == 20
    assert needed.largest(50 * MIB) == 0


@pytest.mark.parametrize(
    ("free", "num_workers", "sentence"),
    [
        (60, 1, "a batch of 100 images needs about 0.2 GiB.*batch_size to at most 30"),
        (60, 2, "each of 2 workers.* at most 15, or lower distill.num_workers"),
        (1, 1, "not even one image fits: .* lower data.image_size"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_with_the_largest_that_does(
    monkeypatch, free, num_workers, sentence
):
    monkeypatch.setattr(memory, "available_memory", lambda device: free * MIB)
    needed = BatchMemory(0.0, 2 * MIB)
    with pytest.raises(ConfigError, match=sentence):
        needed.check(100, CPU, num_workers)


def test_a_batch_that_fits_just_so_is_not_refused(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda device: 200 * MIB)
    BatchMemory(0.0, 2 * MIB).check(100, CPU, 1)
    with pytest.raises(ConfigError, match="at most 50"):
        BatchMemory(0.0, 2 * MIB).check(100, CPU, 2)


def test_after_running_out_the_advice_is_less_than_what_was_tried(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda device: 10_000 * MIB)
    assert "at most 99" in str(BatchMemory(0.0, 2 * MIB).refusal(100, CPU, 1))


def test_a_trial_that_does_not_fit_is_refused():
    def work(num_images):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ConfigError, match="not even a batch of 8 images .* smaller network"):
        BatchMemory.measure(work, CPU)
