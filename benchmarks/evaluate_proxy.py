"""Distilled sets on other networks, and as the memory of a learner: a table for each.

Runs `nas-proxy evaluate-proxy` on the sets that benchmarks/distillation.py has left in its work
folder, at a size for two CPU cores unless told otherwise, and puts the results together. Sets
whose result is there already are not measured again.

    python benchmarks/evaluate_proxy.py --data-root DATA --work WORK --out OUT.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import parser, publish
from recipes import RECIPES, SIZES
from rich.console import Console

from nas_proxy.study.config import check_config
from nas_proxy.study.console import ConsoleDisplay
from nas_proxy.study.pipeline import evaluate_proxy

METHODS = ("dm", "dsa", "mtt", "rded", "random_soft")
CPU_NETWORKS = [
    {"name": "convnet", "width": 32},
    {"name": "resnet18", "width": 8},
    {"name": "vgg11", "width": 16},
    {"name": "alexnet", "width": 32},
    {"name": "mlp"},
]
TINY_NETWORKS = [{"name": "convnet", "width": 4, "depth": 1}]


def main() -> None:
    """Measure every set and publish both tables."""
    made = parser(__doc__)
    made.add_argument("--methods", nargs="+", default=list(METHODS))
    made.add_argument("--work", type=Path, required=True, help="where the sets are")
    made.add_argument("--size", default="cpu", help="in the names of the sets")
    made.add_argument("--images-per-class", type=int, default=10)
    made.add_argument("--num-steps", type=int, default=80)
    made.add_argument("--num-seeds", type=int, default=3)
    made.add_argument("--num-learners", type=int, default=2)
    made.add_argument("--num-workers", type=int, default=2)
    arguments = made.parse_args()
    sets: dict[str, Any] = {}
    for name in arguments.methods:
        file = arguments.work / f"{arguments.size}-{name}-{arguments.images_per_class}.safetensors"
        sets[RECIPES[name].title] = measure_set(file, name, vars(arguments))
        networks = networks_of(arguments.size) or "the default ones"
        publish({"networks": networks, "sets": sets}, arguments)


def networks_of(size: str) -> list[dict[str, Any]]:
    """What the sets are tried on; none: the default ones."""
    return {"cpu": CPU_NETWORKS, "tiny": TINY_NETWORKS}.get(size, [])


def measure_set(file: Path, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Accuracies on the fixed networks, and the replay."""
    networks = networks_of(arguments["size"])
    section: dict[str, Any] = {"num_seeds": arguments["num_seeds"]}
    if networks:
        section |= {
            "protocol": "short",
            "short_steps": arguments["num_steps"],
            "networks": networks,
            "replay": {
                "num_seeds": arguments["num_learners"],
                "network": networks[0],
                "embedding": dict(SIZES[arguments["size"]].teacher),
                "train": {
                    "num_steps": arguments["num_steps"],
                    "batch_size": 64,
                    "learning_rate": 0.01,
                    "schedule": "cosine",
                    "nesterov": False,
                    "augmentation": {"crop": 0.125, "flip": True},
                },
            },
        }
    config = check_config(
        {
            "study_name": f"evaluate-proxy-{arguments['size']}-{name}",
            "results": str(arguments["work"]),
            "device": arguments["device"],
            "data": {
                "name": "cifar10",
                "root": arguments["data_root"],
                "images_per_class": SIZES[arguments["size"]].real_images_per_class,
                "val_fraction": 0.01,
            },
            "distill": {"name": "file", "path": str(file)},
            "space": {"name": "convnet"},
            "train": {"num_steps": 1},
            "search": {"executor": "processes", "num_workers": arguments["num_workers"]},
            "tracking": {"enabled": False},
            "evaluate_proxy": section,
        }
    )
    display = ConsoleDisplay(Console(stderr=True))
    found = {}
    for task in ("accuracy", "replay"):
        result = evaluate_proxy(config, display, file, task).to_json()  # type: ignore[arg-type]
        del result["format"], result["proxy_dataset"], result["versions"], result["settings"]
        for network in result.get("networks", []):
            del network["confusion"]  # ten by ten numbers each; the figure shows them
        found[task] = result
    return found


if __name__ == "__main__":
    main()
