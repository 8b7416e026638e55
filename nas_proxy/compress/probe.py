"""What an ONNX file costs: run in a process of its own, which does not import nas_proxy.

    python -I probe.py FILE NUM_REPEATS

It prints one JSON mapping: seconds of each of NUM_REPEATS answers to one image, on one thread and
warm, and by how many MiB the process grew at most from before the file was loaded.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import onnxruntime

_NUM_WARM_UP = 10


def probe(path: str, num_repeats: int) -> dict[str, object]:
    """Load the file, answer single images, and look at the clock and at the process's size."""
    before = _kib("VmRSS")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    shape = [1, *session.get_inputs()[0].shape[1:]]
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    for _ in range(_NUM_WARM_UP):
        session.run(["logits"], {"images": image})
    seconds = []
    for _ in range(num_repeats):
        started = time.perf_counter()
        session.run(["logits"], {"images": image})
        seconds.append(time.perf_counter() - started)
    # From the largest size ever: reading the file and optimising the graph count.
    return {"seconds": seconds, "peak_memory_mib": (_kib("VmHWM") - before) / 1024}


def _kib(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe(sys.argv[1], int(sys.argv[2]))))
