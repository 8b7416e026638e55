"""Transfer of a small backbone between CIFAR-10 and imagenet10-64, against training from scratch.

In each direction the backbone is pre-trained on the training images of one data set with their
labels, and then meets a few images of each class of the other. Compared on the same images:
training from scratch; feature extraction; fine-tuning; both in order; and both in order after
SimCLR on the target's own training images without labels. All are architectures of the space
`torchvision_backbones`, so they go through its phases and the one training loop. Accuracy is that
of target images which choose nothing: the validation folder of imagenet10-64, 2,000 test images of
CIFAR-10.

    python benchmarks/transfer.py --data-root DATA --out results/benchmarks/transfer_cpu.json

DATA holds cifar-10-batches-py/ and imagenet10-64/. Weights and finished trainings are kept in
--work and not made again, so both directions can be run side by side with --directions first.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import parser, publish

from nas_proxy.backbones.pretrain_settings import PretrainSettings
from nas_proxy.backbones.pretraining import make_weights
from nas_proxy.backbones.weights import record_of
from nas_proxy.core.files import write_atomically
from nas_proxy.data.augment import Augmentation
from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.data.splits import draw_per_class
from nas_proxy.errors import required
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory, training_fidelity
from nas_proxy.evaluate.network import NetworkEvaluator
from nas_proxy.report.learning_curve import Curve, learning_curves
from nas_proxy.reproducibility import content_hash, make_generator
from nas_proxy.search_spaces.torchvision_backbones import TorchvisionBackbonesSpace
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture, Evaluation

SEED = 0  # of the pre-trainings, of which there is one each
CHECKPOINTS = (10, 25, 40, 60, 80)


@dataclass(frozen=True)
class Condition:
    """One way to come from few images to a classifier.

    Attributes:
        name: In words.
        weights: What the body starts from: `none`, `supervised` or `simclr`.
        extraction: Share of the epochs in which the head alone learns.
    """

    name: str
    weights: str
    extraction: float


CONDITIONS = (
    Condition("from scratch", "none", 0.0),
    Condition("feature extraction", "supervised", 1.0),
    Condition("fine-tuning", "supervised", 0.0),
    Condition("feature extraction, then fine-tuning", "supervised", 0.25),
    Condition("the same after SimCLR on the target's images", "simclr", 0.25),
)


def main() -> None:
    """Pre-train, transfer both ways, and publish table and picture."""
    made = parser(__doc__)
    made.add_argument("--work", type=Path, default=Path("results/benchmarks/unfinished/transfer"))
    made.add_argument("--backbone", default="resnet18")
    made.add_argument("--image-size", type=int, default=32)
    made.add_argument("--source-images-per-class", type=int, default=500)
    made.add_argument("--target-images-per-class", type=int, default=20)
    made.add_argument("--pretrain-epochs", type=int, default=12)
    made.add_argument("--epochs", type=int, default=15)
    made.add_argument("--num-seeds", type=int, default=3)
    made.add_argument("--directions", nargs="+", default=["imagenet10", "cifar10"])
    made.add_argument("--picture", type=Path, help="PNG file of the learning curves to write")
    arguments = made.parse_args()
    directions: dict[str, Any] = {}
    for source in arguments.directions:
        target = "cifar10" if source == "imagenet10" else "imagenet10"
        directions[f"{source} to {target}"] = transfer(source, target, arguments)
        publish({"settings": _settings(arguments), "directions": directions}, arguments)
    if arguments.picture is not None:
        curves = {name: _curves(found) for name, found in directions.items()}
        write_atomically(arguments.picture, learning_curves(curves, y="accuracy"))


def _settings(arguments: Any) -> dict[str, Any]:
    names = ("backbone", "image_size", "source_images_per_class", "target_images_per_class",
             "pretrain_epochs", "epochs", "num_seeds")  # fmt: skip
    return {name: getattr(arguments, name) for name in names}


def transfer(source: str, target: str, arguments: Any) -> dict[str, Any]:
    """All conditions in one direction."""
    files = {
        "supervised": _pretrained(source, "supervised", arguments),
        "simclr": _pretrained(target, "simclr", arguments),
    }
    found = {}
    for condition in CONDITIONS:
        file = files.get(condition.weights)
        runs = [
            _kept(condition, file, target, seed, arguments) for seed in range(arguments.num_seeds)
        ]
        # The first is looked at on the way, which takes time. Core-seconds: by the clock on the
        # wall, trainings of the same 120 steps took 18 to 170 s on a machine with other work.
        seconds = [run.core_seconds for run in runs[1:] or runs]
        accuracies = [run.signals["test_accuracy"] for run in runs]
        found[condition.name] = {
            "weights": "random" if file is None else _source(arguments.backbone, file),
            "accuracy": statistics.mean(accuracies),
            "standard_error": _standard_error(accuracies),
            "accuracies": accuracies,
            "core_seconds": statistics.mean(seconds),
            "num_steps": len(runs[0].train_losses),
            "phases": runs[0].phases,
            "accuracy_curve": [runs[0].signals[f"test_accuracy@{p}"] for p in CHECKPOINTS]
            + [accuracies[0]],
            "train_losses": [round(loss, 4) for loss in runs[0].train_losses],
        }
        print(f"{source} to {target}, {condition.name}: {accuracies}", flush=True)
    return found


def _data(name: str, arguments: Any, images_per_class: int) -> DataSettings:
    if name == "cifar10":
        return DataSettings(
            name="cifar10", root=arguments.data_root, images_per_class=images_per_class
        )
    return DataSettings(
        name="image_folder",
        root=str(Path(arguments.data_root) / "imagenet10-64"),
        image_size=arguments.image_size,
        images_per_class=images_per_class,
    )


def _pretrained(name: str, method: Any, arguments: Any) -> Path:
    """Weights from the training images of a data set, with or without their labels."""
    augmentation = (
        Augmentation(crop=0.125, flip=True)
        if method == "supervised"
        else Augmentation(resized_crop=0.2, flip=True, colour_jitter=0.5)
    )
    # Of each image SimCLR sees two views at once: as many images in all.
    num_epochs = arguments.pretrain_epochs // (2 if method == "simclr" else 1)
    settings = PretrainSettings(
        method=method,
        folder=str(arguments.work / f"{name}-{method}"),
        image_size=arguments.image_size,
        train=TrainSettings(
            num_epochs=num_epochs,
            batch_size=128,
            optimiser="adam",
            learning_rate=1e-3,
            weight_decay=0.0,
            augmentation=augmentation,
        ),
    )
    splits = load_splits(_data(name, arguments, arguments.source_images_per_class))
    device = torch.device(arguments.device)
    return make_weights(arguments.backbone, splits, settings, seed=SEED, device=device)


def _source(backbone: str, file: Path) -> str:
    return record_of(backbone, str(file)).source.partition(" (")[0]


def _kept(
    condition: Condition, file: Path | None, target: str, seed: int, arguments: Any
) -> Evaluation:
    """One training, from --work if it is there."""
    key = content_hash(_settings(arguments), condition.name, target, seed)
    path = arguments.work / f"{key}.json"
    if not path.is_file():
        done = _run(condition, file, target, seed, arguments)
        write_atomically(path, json.dumps(done.to_json()))
    return Evaluation.from_json(json.loads(path.read_text()))


def _run(
    condition: Condition, file: Path | None, target: str, seed: int, arguments: Any
) -> Evaluation:
    """One training on the few target images."""
    extraction = round(condition.extraction * arguments.epochs)
    choices: dict[str, Any] = {
        "hidden_units": 0,
        "dropout": 0.0,
        "feature_extraction_epochs": extraction,
        "feature_extraction_rate": 0.05,
        "fine_tuning_epochs": arguments.epochs - extraction,
        "fine_tuning_rate": 0.05 if condition.weights == "none" else 0.02,
        "frozen_share": 0.0,
        "rate_decay": "none",
        "decay_factor": 1.0,
        "weight_decay": 5e-4,
        "flip": True,
        "rotation": 0.0,
        "colour_jitter": 0.0,
        "crop": 0.125,
    }
    space = TorchvisionBackbonesSpace(
        backbones=(arguments.backbone,),
        weights={} if file is None else {arguments.backbone: str(file)},
        image_size=arguments.image_size,
    )
    architecture = Architecture(space.name, {"backbone": arguments.backbone, **choices})
    done = _evaluator(space, target, seed, arguments).evaluate(architecture, seed)
    if not done.complete:
        raise SystemExit(done.reason)
    return done


def _evaluator(
    space: TorchvisionBackbonesSpace, target: str, seed: int, arguments: Any
) -> NetworkEvaluator:
    settings = TrainSettings(
        num_epochs="architecture",
        batch_size=25,
        checkpoints=CHECKPOINTS if seed == 0 else (),
    )
    # A fifth is left to validate; here it validates nothing.
    data = _data(target, arguments, round(arguments.target_images_per_class * 1.25))
    splits = load_splits(replace(data, seed=seed))
    evaluator = NetworkEvaluatorFactory(
        data=replace(data, seed=seed),
        space=space,
        scores={},
        settings=settings,
        train_on="search_train",
        judged_by="test",
        device=arguments.device,
        fidelity=training_fidelity(
            settings, splits.spec, splits.spec.source_hash, len(splits.search_train)
        ),
    ).build()
    data = required(evaluator.evaluation_data, "evaluation_data")
    held_out = data.measured_on
    if target == "cifar10":
        chosen = draw_per_class(splits.test, 200, make_generator(0))
        held_out = splits.test.subset(chosen)
    return replace(evaluator, evaluation_data=replace(data, measured_on=held_out))


def _standard_error(values: list[float]) -> float | None:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def _curves(found: dict[str, Any]) -> list[Curve]:
    return [
        Curve(
            name=name,
            steps=tuple(max(1, round(entry["num_steps"] * p / 100)) for p in (*CHECKPOINTS, 100)),
            values=tuple(entry["accuracy_curve"]),
            phases=tuple((phase, steps) for phase, steps in entry["phases"]),
        )
        for name, entry in found.items()
    ]


if __name__ == "__main__":
    main()
