"""Make the folder that benchmarks/gpu.sh reads: a part of CIFAR-10, a table, and small packages.

Where a GPU is lent, nothing can be fetched, and there may be nothing beside Python 3.12, torch,
torchvision, numpy, scipy, safetensors, scikit-learn and matplotlib. The wheels of what else is
needed are put beside the images (5 MiB); gpu.sh unpacks them. Code and folder together stay below
64 MiB: 14,000 images of 3 KiB, 1,200 of each class to train on and 200 to test with, are the
default (41 MiB). With 300 and 50 (10 MiB) every part runs too; its accuracies mean less.

    python benchmarks/prepare_gpu.py --data-root DATA --table TABLE.csv --out prepared
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import torch
from gpu_common import PART, write_part
from torch import Tensor

from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.types import ImageDataset

ROOT = Path(__file__).resolve().parents[1]
LIMIT_MIB = 64
CODE = ("nas_proxy", "search_spaces", "benchmarks", "tests", "pyproject.toml", "README.md")
PACKAGES = (
    *("lazy_loader", "filelock", "pebble"),  # what we import; torch may bring an old filelock
    *("pydantic", "pydantic_core", "annotated-types", "typing-inspection", "typing-extensions"),
    *("pytest", "pluggy", "iniconfig", "pygments", "packaging"),
)
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_28_x86_64")


def main() -> None:
    """Write the folder and say how large it is."""
    arguments = parse_arguments()
    out: Path = arguments.out
    splits = load_splits(DataSettings(name="cifar10", root=arguments.data_root))
    names = splits.spec.class_names
    train = in_turn(splits.search_train, arguments.images_per_class)
    test = in_turn(splits.test, arguments.test_images_per_class)
    table = read_table(arguments.table, arguments.num_architectures) if arguments.table else {}
    write_part(out / PART, train, test, names, table)
    write_announcement(out / "wheels")
    if not arguments.no_wheels:
        fetch_wheels(out / "wheels", arguments.python_version)
    sizes = {"code": mib(*(ROOT / name for name in CODE)), str(out): mib(out)}
    print(", ".join(f"{name}: {size:.1f} MiB" for name, size in sizes.items()))
    if sum(sizes.values()) > LIMIT_MIB:
        raise SystemExit(
            f"code and folder are {sum(sizes.values()):.1f} MiB, more than {LIMIT_MIB}; lower "
            "--images-per-class"
        )


def parse_arguments() -> argparse.Namespace:
    """Which images, and where to."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--data-root", required=True, help="folder of cifar-10-batches-py")
    made.add_argument("--table", type=Path, help="NAS-Bench-201: arch_str,cifar10_test_200,...")
    made.add_argument("--out", type=Path, default=Path("prepared"))
    made.add_argument("--images-per-class", type=int, default=1200)
    made.add_argument("--test-images-per-class", type=int, default=200)
    made.add_argument("--num-architectures", type=int, default=60)
    made.add_argument("--python-version", default="3.12", help="of the machine with the GPU")
    made.add_argument("--no-wheels", action="store_true", help="fetch no packages")
    return made.parse_args()


def in_turn(dataset: ImageDataset, images_per_class: int) -> tuple[Tensor, Tensor]:
    """The first images of each class, the classes in turn, with their labels."""
    of_class = [
        (dataset.labels == label).nonzero()[:images_per_class, 0]
        for label in range(dataset.spec.num_classes)
    ]
    chosen = torch.stack(of_class, dim=1).flatten()
    return dataset.images[chosen], dataset.labels[chosen]


def read_table(path: Path, num: int) -> dict[str, float]:
    """The first rows of the benchmark's table, which is in random order."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))[:num]
    return {row["arch_str"]: float(row["cifar10_test_200"]) for row in rows}


def write_announcement(folder: Path) -> None:
    """Announce the built-in plug-ins, as an installed nas_proxy does."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name = f"nas_proxy-{project['version']}"
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    said = f"Metadata-Version: 2.1\nName: nas-proxy\nVersion: {project['version']}\n"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-announced.whl", "w") as file:
        file.writestr(f"{name}.dist-info/METADATA", said)
        file.writestr(f"{name}.dist-info/entry_points.txt", "\n".join(lines))


def fetch_wheels(folder: Path, python_version: str) -> None:
    """The newest wheels that fit the other machine, by pip, from its usual registry."""
    platforms = [option for each in PLATFORMS for option in ("--platform", each)]
    # What pydantic asks for by version comes along, so that the two parts of it fit.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder)]
    command += ["--only-binary=:all:", "--python-version", python_version, *platforms, *PACKAGES]
    subprocess.run(command, check=True)


def mib(*paths: Path) -> float:
    """Of files, and of all files in folders."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    return sum(f.stat().st_size for f in files if f.is_file() and f.suffix != ".pyc") / 2**20


if __name__ == "__main__":
    main()
