"""Core-seconds of all zero-cost scores of one architecture, here and in another checkout.

python benchmarks/zero_cost_speed.py --before CHECKOUT --out results/benchmarks/zero_cost_speed.json

Both measure the same architectures at 32 pixels in processes that take turns, so that what else the
machine does disturbs both alike. The table also says how far any value of the two is apart.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from common import in_checkout, parser, publish

from nas_proxy.evaluate.network import NetworkEvaluator
from nas_proxy.evaluate.sample import draw_architectures
from nas_proxy.interfaces import ZeroCostScore
from nas_proxy.registry import SCORES, SEARCH_SPACES
from nas_proxy.reproducibility import make_generator
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import DatasetSpec, Fidelity

SPACES = ("nasbench201", "convnet")


def main() -> None:
    """Measure and publish."""
    arguments_parser = parser(__doc__, data=False)
    arguments_parser.add_argument("--before", type=Path, help="another checkout of nas_proxy")
    arguments_parser.add_argument("--num-architectures", type=int, default=6)
    arguments_parser.add_argument("--image-size", type=int, default=32)
    arguments_parser.add_argument("--measure", metavar="SPACE", help="print one measurement alone")
    arguments = arguments_parser.parse_args()
    torch.set_num_threads(1)
    sizes = arguments.num_architectures, arguments.image_size
    if arguments.measure:
        print(json.dumps(_measure(arguments.measure, *sizes)))
        return
    trees = {"before": arguments.before, "after": Path(__file__).parents[1]}
    result = {"num_architectures": sizes[0], "image_size": sizes[1], "num_scores": len(_scores())}
    for space in SPACES:
        words = ["--num-architectures", str(sizes[0]), "--image-size", str(sizes[1])]
        runs = {
            name: json.loads(in_checkout(tree, __file__, "--measure", space, *words))
            for name, tree in trees.items()
            if tree is not None
        }
        result[space] = _compared(runs)
    publish(result, arguments)


def _scores() -> dict[str, ZeroCostScore]:
    return {name: SCORES.get(name)() for name in SCORES.names()}


def _measure(space_name: str, num_architectures: int, image_size: int) -> list[dict[str, Any]]:
    """Values and core-seconds for each architecture; one more warms up."""
    names = tuple(map(str, range(10)))
    spec = DatasetSpec("noise", names, (3, image_size, image_size), (0.5,) * 3, (0.2,) * 3, "", "")
    generator = make_generator(0)
    images = torch.randn(64, *spec.image_shape, generator=generator)
    labels = torch.randint(10, (64,), generator=generator)
    space = SEARCH_SPACES.get(space_name)()
    evaluator = NetworkEvaluator(
        space=space,
        scores=_scores(),
        score_images=(images, labels),
        spec=spec,
        settings=TrainSettings(num_steps=1),
        fidelity=Fidelity("noise", 1, 1, image_size),
    )
    architectures = draw_architectures(space, num_architectures + 1, generator)
    rows = []
    for architecture in (architectures[-1], *architectures[:-1]):
        evaluation = evaluator.evaluate(architecture, 0)
        rows.append(
            {
                "core_seconds": evaluation.core_seconds,
                "signals": dict(evaluation.signals),
                "reason": evaluation.reason,
            }
        )
    return rows[1:]


def _compared(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        f"core_seconds_{name}": round(sum(row["core_seconds"] for row in rows) / len(rows), 2)
        for name, rows in runs.items()
    }
    found["num_without_a_score"] = sum(bool(row["reason"]) for row in runs["after"])
    if "before" in runs:
        found["share_of_before"] = round(
            found["core_seconds_after"] / found["core_seconds_before"], 2
        )
        pairs = list(zip(runs["before"], runs["after"], strict=True))
        found["largest_relative_difference_of_a_value"] = max(
            abs(new["signals"][name] - value) / max(abs(value), 1e-30)
            for old, new in pairs
            for name, value in old["signals"].items()
        )
    return found


if __name__ == "__main__":
    main()
