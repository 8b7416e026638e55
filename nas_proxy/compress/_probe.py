"""How much memory an ONNX file takes: run in a process of its own, which imports no nas_proxy.

    python -I probe.py FILE NUM_REPEATS

It prints by how many MiB the process grew at most while it loaded the file and answered
NUM_REPEATS single images on one thread. Growth counts from after the imports, so Python, numpy and
the runtime's own code do not.
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime


def peak_memory(path: str, num_repeats: int) -> float:
    """Load the file, answer, and look at the process's largest size, in MiB."""
    before = _kib("VmRSS")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    shape = [1, *session.get_inputs()[0].shape[1:]]
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    for _ in range(num_repeats):
        session.run(["logits"], {"images": image})
    return (_kib("VmHWM") - before) / 1024


def _kib(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    sys.stdout.write(f"{peak_memory(sys.argv[1], int(sys.argv[2])):.3f}")
