"""Does knowledge distillation help, and which kind? One teacher, one student, three seeds.

The same student is trained alone and with each kind at its published settings: with the same
weights, batches and augmentation for the same seed. All teachers have seen the same images as the
student. The test images are looked at once, and no setting was chosen by them; `auto` weights are
chosen anew for each seed, by short trainings on the validation images, as `retrain` does it. A
training that is finished is kept in --out and not done again.

    python benchmarks/knowledge_distillation.py --data-root DATA --size cpu
    python benchmarks/knowledge_distillation.py --data-root DATA --size published --device cuda

Seconds are those of one student, with its earlier generations, its teachers' answers and the choice
of what is `auto`. The CPU size takes about 40 minutes of one core. The published one is CIFAR-100,
ResNet32x4 to ResNet8x4, 240 epochs: alone 72.50, response 73.33, attention 73.44, relational 71.90,
decoupled 76.32 with a teacher of 79.42 (RepDistiller, mdistiller; test accuracy of the last epoch).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from cifar_resnet import CifarResNet
from common import parser, publish
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import nn

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.data.transforms import resize_dataset
from nas_proxy.knowledge_distillation.prepared import LoadedKnowledgeDistillation, train_student
from nas_proxy.knowledge_distillation.settings import (
    KnowledgeDistillationOption,
    KnowledgeDistillationSettings,
)
from nas_proxy.knowledge_distillation.teachers import Generation, Teachers
from nas_proxy.knowledge_distillation.tuning import tune
from nas_proxy.networks.catalogue import NetworkSettings, build_network
from nas_proxy.reproducibility import derive_seed, isolated_rng, make_generator
from nas_proxy.statistics.accuracy import SeedMean
from nas_proxy.train.loop import train
from nas_proxy.train.measuring import Measurement, measure
from nas_proxy.train.phases import Phase
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import DatasetSpec, ImageDataset, Splits

Build = Callable[[DatasetSpec], nn.Module]


@dataclass(frozen=True)
class Size:
    """What is trained on what.

    Attributes:
        data: The data set.
        image_size: Of teachers and student.
        teachers: Name to network; the first teaches wherever one does.
        student: The network that learns.
        teaching: How teachers are trained.
        learning: How the student is.
        published: Accuracies of the literature in %, by row.
    """

    data: dict[str, Any]
    image_size: int
    teachers: Mapping[str, Build]
    student: Build
    teaching: TrainSettings
    learning: TrainSettings
    published: Mapping[str, float]


def _fixed(name: Any, width: int) -> Build:
    return lambda spec: build_network(NetworkSettings(name=name, width=width, norm="batch"), spec)


def _resnet(depth: int) -> Build:
    return lambda spec: CifarResNet(depth, (32, 64, 128, 256), spec.num_classes)


_SMALL = TrainSettings(
    num_steps=1000,
    batch_size=64,
    augmentation=Augmentation(crop=0.125, flip=True),
    norm_statistics="recalibrated",
)
_PUBLISHED = TrainSettings(
    num_epochs=240,
    batch_size=64,
    learning_rate=0.05,
    schedule="three_steps",
    nesterov=False,
    augmentation=Augmentation(crop=0.125, flip=True),
)
SIZES = {
    "cpu": Size(
        data={"name": "cifar10", "images_per_class": 500},
        image_size=16,
        teachers={"resnet18": _fixed("resnet18", 32), "vgg11": _fixed("vgg11", 32)},
        student=_fixed("convnet", 16),
        teaching=replace(_SMALL, num_steps=1200),
        learning=_SMALL,
        published={},
    ),
    "published": Size(
        data={"name": "cifar100", "val_fraction": 0.02},
        image_size=32,
        teachers={"resnet32x4": _resnet(32), "resnet20x4": _resnet(20)},
        student=_resnet(8),
        teaching=_PUBLISHED,
        learning=_PUBLISHED,
        published={
            "alone": 72.50,
            "response": 73.33,
            "attention": 73.44,
            "relational": 71.90,
            "response (decoupled)": 76.32,
        },
    ),
    "smoke": Size(
        data={"name": "cifar10", "images_per_class": 20},
        image_size=8,
        teachers={"resnet18": _fixed("resnet18", 4), "vgg11": _fixed("vgg11", 4)},
        student=_fixed("convnet", 4),
        teaching=replace(_SMALL, num_steps=2),
        learning=replace(_SMALL, num_steps=3),
        published={},
    ),
}
ALONE = "alone"
# Teachers are counted: one is the first of the size's.
KINDS: dict[str, tuple[Any, int]] = {
    ALONE: (None, 0),
    "response": ({"kind": "response"}, 1),
    "response (decoupled)": ({"kind": "response", "variant": "decoupled"}, 1),
    "self (generations)": ("self", 0),
    "self (exits)": ({"kind": "self", "variant": "exits"}, 0),
    "multi_teacher (mean)": ({"kind": "multi_teacher"}, 2),
    "multi_teacher (val_accuracy)": ({"kind": "multi_teacher", "variant": "val_accuracy"}, 2),
    "multi_teacher (val_loss)": ({"kind": "multi_teacher", "variant": "val_loss"}, 2),
    "multi_teacher (confidence)": ({"kind": "multi_teacher", "variant": "confidence"}, 2),
    "attention": ({"kind": "attention"}, 1),
    "attention (weight: auto)": ({"kind": "attention", "weight": "auto"}, 1),
    "relational": ({"kind": "relational"}, 1),
    "response + attention": ({"terms": [{"kind": "response"}, {"kind": "attention"}]}, 1),
    "response + attention (weight: auto)": (
        {"terms": [{"kind": "response"}, {"kind": "attention", "weight": "auto"}]},
        1,
    ),
    "response + relational": ({"terms": [{"kind": "response"}, {"kind": "relational"}]}, 1),
    "response + exits": (
        {"terms": [{"kind": "response"}, {"kind": "self", "variant": "exits"}]},
        1,
    ),
}


def main() -> None:
    """Train what is missing, seed by seed, and write the table after each."""
    arguments = _arguments()
    torch.set_num_threads(1)
    size, device = SIZES[arguments.size], torch.device(arguments.device)
    splits = _splits(size, arguments.data_root, device)
    found = _finished(arguments.out)
    classroom = _Classroom(size, splits, Path(arguments.work), arguments.size)
    for name in size.teachers:  # their training is no part of a student's seconds
        classroom.measured(name)
    for index in range(arguments.num_seeds):
        for name in arguments.kinds:
            done = found.setdefault(name, {"accuracies": [], "seconds": [], "chosen": []})
            if len(done["accuracies"]) > index:
                continue
            # Of the processor where it can be had: other processes do not count.
            clock = time.process_time if device.type == "cpu" else time.perf_counter
            started = clock()
            teaching = classroom.teaching(name, index)
            accuracy = classroom.learn(teaching, index)
            done["accuracies"].append(accuracy)
            done["seconds"].append(clock() - started)
            done["chosen"].append(_chosen(name, teaching))
            print(f"{name}, seed {index}: {accuracy:.2f} %", flush=True)
            publish(_table(found, size, classroom), arguments)
    publish(_table(found, size, classroom), arguments)


@dataclass(frozen=True, eq=False)  # by identity: what is cached belongs to one of them
class _Classroom:
    size: Size
    splits: Splits
    work: Path
    name: str

    def learn(self, teaching: LoadedKnowledgeDistillation | None, index: int) -> float:
        """Test accuracy in % of a student of one seed."""
        student = self._student(teaching, index, self.size.learning)
        return 100 * measure(student, self.splits.test, self.size.learning).accuracy

    def _student(
        self, teaching: LoadedKnowledgeDistillation | None, index: int, learning: TrainSettings
    ) -> nn.Module:
        seed = derive_seed("student", index)
        phases = (Phase("training", learning),)
        training_set = TrainingSet.of(self.splits.search_train)
        device = training_set.images.device

        def build() -> nn.Module:
            return self.size.student(self.splits.spec).to(device)

        with isolated_rng(seed):
            student = build()
            if teaching is not None:
                teaching, _ = teaching.after_generations(build, training_set, phases, seed)
            generator = make_generator(derive_seed("batches", index), device)
            train_student(teaching, student, training_set, phases, generator)
        return student

    def teaching(self, name: str, index: int) -> LoadedKnowledgeDistillation | None:
        """What students of one kind and seed learn beside the labels."""
        settings = settings_of(name, self.size)
        if settings is None:
            return None
        number = KINDS[name][1]
        networks = [self.teacher(each) for each in list(self.size.teachers)[:number]]
        measured = [self.measured(each) for each in list(self.size.teachers)[:number]]
        teachers = Teachers(
            tuple(networks),
            tuple(each.accuracy for each in measured),
            tuple(each.loss for each in measured),
        )
        if settings.is_auto:
            short = partial(self._short_trainings, teachers, index)
            settings = tune(settings, short).settings
        return LoadedKnowledgeDistillation(settings, teachers)

    def _short_trainings(
        self, teachers: Teachers, index: int, candidates: Sequence[KnowledgeDistillationSettings]
    ) -> list[tuple[float, float]]:
        """Accuracy and loss on the validation images after a tenth of the steps."""
        num_steps = max(1, self.size.learning.steps_for(len(self.splits.search_train)) // 10)
        short = replace(self.size.learning, num_steps=num_steps, num_epochs=None)
        found = []
        for settings in candidates:
            student = self._student(LoadedKnowledgeDistillation(settings, teachers), index, short)
            measured = measure(student, self.splits.search_val, short)
            found.append((measured.accuracy, measured.loss))
        return found

    @cache  # noqa: B019 - there is one classroom
    def measured(self, name: str, split: str = "search_val") -> Measurement:
        """A teacher on the images of a split."""
        return measure(self.teacher(name).network, getattr(self.splits, split), self.size.teaching)

    @cache  # noqa: B019
    def teacher(self, name: str) -> Generation:
        """A trained teacher, from the disk if it is there."""
        spec, file = self.splits.spec, self.work / f"kd-{self.name}-{name}.safetensors"
        device = self.splits.search_train.images.device
        seed = derive_seed("benchmark teacher", name)
        with isolated_rng(seed):
            network = self.size.teachers[name](spec).to(device)
            if file.is_file():
                network.load_state_dict(load_file(file, device=str(device)))
            else:
                training_set = TrainingSet.of(self.splits.search_train)
                train(network, training_set, self.size.teaching, make_generator(seed, device))
                file.parent.mkdir(parents=True, exist_ok=True)
                state = {k: v.contiguous() for k, v in network.state_dict().items()}
                save_file(state, file)
        return Generation(network.eval().requires_grad_(False), spec.class_names, spec.image_shape)


def settings_of(name: str, size: Size) -> KnowledgeDistillationSettings | None:
    """The settings of a row; None for the student alone."""
    section, number = KINDS[name]
    if section is None:
        return None
    if number:  # the word stands for the size's own networks, which are trained here
        words = ["resnet18", "vgg11"][:number]
        section = {**section, "teachers": words}
    return TypeAdapter(KnowledgeDistillationOption).validate_python(section)


def _chosen(name: str, teaching: LoadedKnowledgeDistillation | None) -> list[float]:
    """The weights of a row whose weights are chosen."""
    if teaching is None or "auto" not in name:
        return []
    return [float(term.weight) for term in teaching.settings.terms]


def _splits(size: Size, data_root: str, device: torch.device) -> Splits:
    splits = load_splits(DataSettings(root=data_root, **size.data))

    def prepared(part: ImageDataset) -> ImageDataset:
        part = resize_dataset(part, size.image_size)
        return replace(part, images=part.images.to(device), labels=part.labels.to(device))

    return Splits(**{name: prepared(part) for name, part in splits.parts.items()})


def _finished(out: Path) -> dict[str, Any]:
    if not out.is_file():
        return {}
    rows = json.loads(out.read_text())["rows"]
    return {
        row["kind"]: {key: row.get(key, []) for key in ("accuracies", "seconds", "chosen")}
        for row in rows
    }


def _table(found: dict[str, Any], size: Size, classroom: _Classroom) -> dict[str, Any]:
    teachers = {name: 100 * classroom.measured(name, "test").accuracy for name in size.teachers}
    rows = []
    for name, done in found.items():
        own = SeedMean.of(done["accuracies"])
        alone = found.get(ALONE, {"accuracies": []})["accuracies"]
        pairs = list(zip(done["accuracies"], alone, strict=False))
        gain = SeedMean.of([ours - theirs for ours, theirs in pairs]) if pairs else None
        rows.append(
            {
                "kind": name,
                "test_accuracy": own.mean,
                "standard_error": own.standard_error,
                "gain": gain.mean if gain else None,
                "gain_standard_error": gain.standard_error if gain else None,
                "published": size.published.get(name),
                **done,
            }
        )
    return {
        "images": {**size.data, "image_size": size.image_size},
        "num_training_images": len(classroom.splits.search_train),
        "teachers_test_accuracy": teachers,
        "student_num_params": sum(
            p.numel() for p in size.student(classroom.splits.spec).parameters()
        ),
        "student_steps": size.learning.steps_for(len(classroom.splits.search_train)),
        "rows": rows,
    }


def _arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--size", choices=list(SIZES), required=True)
    made.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    made.add_argument("--num-seeds", type=int, default=3)
    made.add_argument("--work", default="results/benchmarks/unfinished", help="teachers")
    made.set_defaults(out=None)
    arguments = made.parse_args()
    if arguments.out is None:
        arguments.out = Path(f"results/benchmarks/knowledge_distillation_{arguments.size}.json")
    if arguments.kinds[0] != ALONE:
        arguments.kinds.insert(0, ALONE)
    return arguments


if __name__ == "__main__":
    main()
