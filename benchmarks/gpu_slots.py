"""Architectures per minute with 1, 2, 4 and 8 processes on one GPU.

python benchmarks/gpu_slots.py --part prepared/cifar10_part.safetensors --out OUT.json
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

from gpu_common import PartFactory, Table, gpu_parser, plain, read_part, settings_of

from nas_proxy.data.augment import Augmentation
from nas_proxy.evaluate.executors import evaluate_all, open_executor
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.evaluate.sample import draw_architectures
from nas_proxy.reproducibility import make_generator
from nas_proxy.search_spaces.nasbench201 import NASBench201Space


def main() -> None:
    """Measure and publish, a row for each number of processes."""
    made = gpu_parser(__doc__, seconds=100)
    made.add_argument("--num-slots", type=int, nargs="+", default=None)
    made.add_argument("--cuda-graph", action="store_true")
    arguments = made.parse_args()
    tiny = arguments.size == "tiny"
    spec = read_part(arguments.part).splits.spec
    space = NASBench201Space(num_cells=1) if tiny else NASBench201Space()
    settings = settings_of(
        arguments.size,
        num_steps=2 if tiny else 60,
        augmentation=Augmentation(crop=0.125, flip=True),
    )
    factory = PartFactory(
        file=arguments.part,
        space=space,
        settings=settings,
        device=arguments.device,
        spec=spec,
        num_images=len(read_part(arguments.part).splits.search_train),
        cuda_graph=arguments.cuda_graph,
    )
    table = Table(arguments)
    for num_slots in arguments.num_slots or ([1, 2] if tiny else [1, 4, 8, 2]):
        if table.seconds_left <= 0:
            return
        per_slot = 1 if tiny else 3
        architectures = draw_architectures(space, (1 + per_slot) * num_slots, make_generator(0))
        with (
            tempfile.TemporaryDirectory() as folder,
            open_executor("processes", num_slots) as executor,
        ):
            shared = replace(factory, num_slots=num_slots)
            log = EvaluationLog(Path(folder) / "log.jsonl")
            started = time.perf_counter()
            first = evaluate_all(executor, shared, architectures[:num_slots], 0, log)
            warm = time.perf_counter()
            others = evaluate_all(executor, shared, architectures[num_slots:], 0, log)
            ended = time.perf_counter()
        failed = [e.reason for e in (*first, *others) if not e.complete]
        row = {
            "num_slots": num_slots,
            "architectures_per_minute": round(60 * len(others) / (ended - warm), 1),
            "start_and_first_evaluation_seconds": round(warm - started, 1),
            "failed": failed,
        }
        table.add(row, settings=plain(settings), cuda_graph=arguments.cuda_graph)


if __name__ == "__main__":
    main()
