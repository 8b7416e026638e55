"""What commands cost before they answer: seconds, core-seconds and resident memory.

python benchmarks/startup.py --before CHECKOUT --out results/benchmarks/startup.json

Each command runs in a process of its own, in turns with the same one of another checkout and with
`import torch` alone, which bounds what needs torch. The figures are medians.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import parser, publish

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.types import DatasetSpec

REFUSED = "study_name: refused\nserch: {n_trials: 3}\n"


def main() -> None:
    """Measure and publish."""
    arguments_parser = parser(__doc__, data=False)
    arguments_parser.add_argument("--before", type=Path, help="another checkout of nas_proxy")
    arguments_parser.add_argument("--num-repeats", type=int, default=5)
    arguments = arguments_parser.parse_args()
    trees = {"before": arguments.before, "after": Path(__file__).parents[1]}
    with tempfile.TemporaryDirectory() as folder:
        commands = _commands(Path(folder))
        runs: dict[str, dict[str, list[dict[str, float]]]] = {}
        for _ in range(arguments.num_repeats):
            for name, words in commands.items():
                for when, tree in trees.items():
                    if tree is not None:
                        found = runs.setdefault(name, {}).setdefault(when, [])
                        found.append(_run(words, tree.resolve(), Path(folder)))
    medians = {
        name: {when: _medians(rows) for when, rows in by_tree.items()}
        for name, by_tree in runs.items()
    }
    publish({"num_repeats": arguments.num_repeats, "commands": medians}, arguments)


def _commands(folder: Path) -> dict[str, list[str]]:
    refused, proxy = folder / "refused.yaml", folder / "proxy.safetensors"
    refused.write_text(REFUSED)
    spec = DatasetSpec("noise", ("a", "b"), (3, 32, 32), (0.5,) * 3, (0.2,) * 3, "none", "")
    images = torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(2).repeat_interleave(10)
    ProxyDataset(images, labels, spec, "random_subset", {}, 10, 0).save(proxy)
    ours = ["-m", "nas_proxy.cli"]
    return {
        "import torch": ["-c", "import torch"],
        "nas-proxy --help": [*ours, "--help"],
        "nas-proxy list": [*ours, "list"],
        "nas-proxy inspect FILE": [*ours, "inspect", str(proxy)],
        "nas-proxy run ABSENT_FILE": [*ours, "run", str(folder / "absent.yaml")],
        "nas-proxy run REFUSED_CONFIG": [*ours, "run", str(refused)],
    }


# In a small process: what is started counts the memory of whoever starts it.
LAUNCH = """
import json, os, subprocess, sys, time
started = time.perf_counter()
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
process = subprocess.Popen(sys.argv[1:], **quiet)
usage = os.wait4(process.pid, 0)[2]
process.returncode = 0
print(json.dumps({
    "seconds": time.perf_counter() - started,
    "core_seconds": usage.ru_utime + usage.ru_stime,
    "peak_mib": usage.ru_maxrss / 1024,
}))
"""


def _run(command: list[str], tree: Path, folder: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCH, sys.executable, *command],
        env={**os.environ, "PYTHONPATH": str(tree)},
        cwd=folder,  # Python looks for modules in the folder that it is started in
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _medians(rows: list[dict[str, float]]) -> dict[str, Any]:
    return {name: round(statistics.median(row[name] for row in rows), 2) for name in rows[0]}


if __name__ == "__main__":
    main()
