"""A CPU tensor or generator in the wrong place is found without a GPU; see `stand_in_gpu`.

What runs there gives the same figures, for it is the same arithmetic.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.data.augment import Augmentation
from nas_proxy.data.transforms import normalise
from nas_proxy.distill.measured import distill_and_label
from nas_proxy.distill.random_subset import RandomSubset
from nas_proxy.evaluate.latency import measure_latency
from nas_proxy.interfaces import DistillContext, DistillTask
from nas_proxy.knowledge_distillation.prepared import LoadedKnowledgeDistillation, train_student
from nas_proxy.knowledge_distillation.teachers import Generation, Teachers
from nas_proxy.registry import DISTILLERS, SCORES, SEARCH_SPACES
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.teachers.labelling import labeller_of, save_teachers
from nas_proxy.teachers.settings import LabelSettings
from nas_proxy.teachers.training import obtain_teachers
from nas_proxy.testing._calibration import tiny_calibration_sample
from nas_proxy.testing._distillation import DISTILLATIONS
from nas_proxy.train.loop import Observer, train
from nas_proxy.train.measuring import measure, recalibrate_norms
from nas_proxy.train.phases import Phase
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import ImageDataset
from tests.contracts.test_contracts import MADE_ELSEWHERE, SMALL_OPTIONS, SMALL_TEACHER
from tests.gpu.helpers import CELL, CPU, drive, factory_on, images_on, network_on, on_both
from tests.helpers.stand_in_gpu import GPU, stand_in_gpu

# --- mistakes that were planted ---------------------------------------------------------------


def cpu_generator(dataset: ImageDataset) -> None:
    Augmentation(flip=True).apply(normalise(dataset.images, dataset.spec), make_generator(0))


def generator_left_behind(dataset: ImageDataset) -> None:
    torch.randperm(3, generator=make_generator(0, GPU))


def cpu_constant(dataset: ImageDataset) -> None:
    (dataset.images.float() - torch.tensor(dataset.spec.mean).view(1, 3, 1, 1)).sum()


def cpu_network(dataset: ImageDataset) -> None:
    measure(network_on(CPU), dataset, TrainSettings(num_steps=1))


def cpu_labels(dataset: ImageDataset) -> None:
    moved = TrainingSet.of(replace(dataset, labels=dataset.labels.cpu()))
    train(network_on(GPU), moved, TrainSettings(num_steps=1), make_generator(0, GPU))


def cpu_labeller(dataset: ImageDataset) -> None:
    training_set = TrainingSet.of(dataset)
    labelled = replace(training_set, labeller=lambda images: torch.ones(len(images), 3) / 3)
    train(network_on(GPU), labelled, TrainSettings(num_steps=1), make_generator(0, GPU))


def gradient_of_the_cpu(dataset: ImageDataset) -> None:
    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, images: Tensor) -> Tensor:
            return images.clone()

        @staticmethod
        def backward(context: Any, gradient: Tensor) -> Tensor:
            return gradient * torch.full(gradient.shape, 0.5)

    images = normalise(dataset.images, dataset.spec).requires_grad_()
    Halved.apply(images).sum().backward()


def cpu_positions_of_labels(dataset: ImageDataset) -> None:
    torch.arange(3)[dataset.labels]


def numpy_of_the_gpu(dataset: ImageDataset) -> None:
    dataset.images.numpy()


def cpu_sum(dataset: ImageDataset) -> None:
    total = torch.zeros(())
    total += dataset.images.float().mean()


def cpu_buffer(dataset: ImageDataset) -> None:
    network = network_on(GPU)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.zeros(module.num_features)
    measure(network, dataset, TrainSettings(num_steps=1))


@pytest.mark.parametrize(
    "mistake",
    [
        cpu_generator,
        generator_left_behind,
        cpu_constant,
        cpu_network,
        cpu_labels,
        cpu_labeller,
        gradient_of_the_cpu,
        cpu_positions_of_labels,
        numpy_of_the_gpu,
        cpu_sum,
        cpu_buffer,
    ],
)
def test_a_mistake_is_found(mistake: Callable[[ImageDataset], None]) -> None:
    with stand_in_gpu(), pytest.raises((RuntimeError, TypeError), match="device|numpy"):
        mistake(images_on(GPU))


def test_what_a_gpu_allows_is_no_mistake() -> None:
    with stand_in_gpu():
        images = images_on(GPU).images.float()
        assert (images * torch.tensor(2.0)).device == GPU  # a scalar of the CPU
        assert images[torch.tensor([1, 0])].device == GPU  # positions on the CPU
        assert images.new_zeros(2).device == torch.zeros_like(images).device == GPU
        assert images.cpu().device == CPU
        assert images.cpu().to(images).device == GPU
        assert torch.zeros(2).device == CPU


# --- training and measuring -------------------------------------------------------------------


AUGMENTATIONS = {
    "resized_crop": Augmentation(resized_crop=0.5),
    "crop": Augmentation(crop=0.25),
    "flip": Augmentation(flip=True),
    "rotation": Augmentation(rotation=15.0),
    "colour_jitter": Augmentation(colour_jitter=0.3),
    "cutout": Augmentation(cutout=0.5),
    "mixup": Augmentation(mixup=1.0),
    "cutmix": Augmentation(cutmix=1.0),
    "both mixed": Augmentation(mixup=0.5, cutmix=1.0),
    **{
        f"dsa {family}": Augmentation(dsa=family)
        for family in ("color", "crop", "cutout", "flip", "scale", "rotate")
    },
}


@on_both
@pytest.mark.parametrize("augmentation", AUGMENTATIONS.values(), ids=AUGMENTATIONS.keys())
def test_augmentation(place: str, augmentation: Augmentation) -> None:
    def work(device: torch.device) -> tuple[Tensor, Tensor]:
        dataset, generator = images_on(device), make_generator(1, device)
        images = augmentation.apply(normalise(dataset.images, dataset.spec), generator)
        one_hot = nn.functional.one_hot(dataset.labels, 3).float()
        return augmentation.mix(images, one_hot, generator)

    drive(place, work)


def test_every_augmentation_is_driven() -> None:
    driven = {n for each in AUGMENTATIONS.values() for n, v in vars(each).items() if v}
    assert driven == set(vars(Augmentation()))


TRAININGS = {
    "plain": {},
    "adam": {"optimiser": "adam", "learning_rate": 0.001},
    "adamw": {"optimiser": "adamw", "learning_rate": 0.001},
    "channels last": {"channels_last": True},
    "bfloat16": {"precision": "bfloat16"},
    "mixed": {"augmentation": Augmentation(crop=0.125, cutmix=1.0), "label_smoothing": 0.1},
}


@on_both
@pytest.mark.parametrize("options", TRAININGS.values(), ids=TRAININGS.keys())
def test_training_recalibrating_and_measuring(place: str, options: dict[str, Any]) -> None:
    settings = TrainSettings(num_steps=3, batch_size=8, **{"precision": "float32", **options})

    def work(device: torch.device) -> tuple[Any, ...]:
        dataset, network = images_on(device), network_on(device)
        training_set = TrainingSet.of(dataset)
        result = train(network, training_set, settings, make_generator(0, device))
        recalibrate_norms(network, training_set, settings, make_generator(1, device))
        expected = torch.full((len(dataset), 3), 1 / 3, device=device)
        found = measure(network, dataset, settings, expected=expected)
        assert found.confusion.device == CPU
        return result.losses, found.loss, found.divergence, *found.confusion.flatten().tolist()

    drive(place, work)


class AlwaysDue(Checkpointer):
    is_due = True


@on_both
def test_training_continues_on_its_device(place: str, tmp_path: Path) -> None:
    settings = TrainSettings(num_steps=4, batch_size=8, precision="float32", optimiser="adamw")

    def end_the_process(step: int, *_: Tensor) -> None:
        if step == 3:
            raise KeyboardInterrupt

    def work(device: torch.device) -> tuple[float, ...]:
        training_set = TrainingSet.of(images_on(device))

        def run(observer: Observer | None) -> tuple[float, ...]:
            network, generator = network_on(device), make_generator(0, device)
            state = AlwaysDue(tmp_path / f"{device.type}.state", "a training")
            result = train(network, training_set, settings, generator, observer, checkpoint=state)
            return result.losses

        with pytest.raises(KeyboardInterrupt):
            run(end_the_process)
        return run(None)

    drive(place, work)


# --- evaluating architectures -----------------------------------------------------------------


@on_both
def test_evaluating_an_architecture(place: str) -> None:
    def work(device: torch.device) -> dict[str, float]:
        factory = factory_on(device)
        evaluator = factory.build()
        assert evaluator.device == device
        evaluation = evaluator.evaluate(factory.space.from_string(CELL), 0)
        assert evaluation.complete, evaluation.reason
        return {k: v for k, v in evaluation.signals.items() if k != "train_seconds"}

    drive(place, work)


@on_both
@pytest.mark.parametrize("name", SCORES.names())
def test_zero_cost_score(place: str, name: str) -> None:
    space = SEARCH_SPACES.get("nasbench201")(num_cells=1, channels=4)

    def work(device: torch.device) -> float:
        dataset = images_on(device)
        images = normalise(dataset.images, dataset.spec)
        with isolated_rng(0):
            network = space.build(space.from_string(CELL), dataset.spec).to(device)
            return SCORES.get(name)().measure_labelled(network, images, dataset.labels)

    drive(place, work)


def test_latency() -> None:
    with stand_in_gpu() as device:
        found = measure_latency(
            network_on(device), (3, 8, 8), num_repeats=2, num_warm_up=1, device=device
        )
    assert found.device == "a stand-in"


# --- distilling, teaching, labelling ----------------------------------------------------------

# Of every kind one: what a network is asked for, what is chosen, what is drawn.
TYPICAL = ("distribution_matching", "patch_selection", "random_subset", "k_means")


def distillers() -> list[Any]:
    names = [name for name in DISTILLERS.names() if name not in MADE_ELSEWHERE]
    return [
        pytest.param(name, marks=[] if name in TYPICAL else [pytest.mark.exhaustive])
        for name in names
    ]


@on_both
@pytest.mark.parametrize("name", distillers())
def test_distiller(place: str, name: str) -> None:
    distiller = DISTILLERS.get(name)(**SMALL_OPTIONS.get(name, {}))

    def work(device: torch.device) -> tuple[Tensor, Tensor]:
        sample = tiny_calibration_sample() if distiller.needs_calibration else None
        task = DistillTask(
            dataset=images_on(device),
            images_per_class=2,
            generator=make_generator(0),
            context=DistillContext(device=device, calibration=sample),
        )
        made = distiller.distill(task)
        return made.images, made.labels

    drive(place, work)


@on_both
@pytest.mark.parametrize(
    "given", [{"kind": "soft"}, {"kind": "soft", "per": "view"}, {"kind": "learned"}], ids=str
)
def test_teachers_and_labels(place: str, given: dict[str, Any], tmp_path: Path) -> None:
    settings = LabelSettings(**given, teachers=(SMALL_TEACHER,))

    def work(device: torch.device) -> tuple[Any, ...]:
        dataset, place = images_on(device), tmp_path / device.type
        context = DistillContext(device=device, labels=settings.kind, cache=place)
        task = DistillTask(
            dataset=dataset, images_per_class=2, generator=make_generator(0), context=context
        )
        made = distill_and_label(RandomSubset(), task, settings)
        file = place / "set.safetensors"
        save_teachers(obtain_teachers(settings.teachers, dataset, context), file)
        training_set = TrainingSet.of(made, labeller_of(made, file, dataset))
        training = TrainSettings(num_steps=2, precision="float32")
        result = train(network_on(device), training_set, training, make_generator(0, device))
        return made.labels, result.losses

    drive(place, work)


@on_both
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[] if kind == "all together" else [pytest.mark.exhaustive])
        for kind in DISTILLATIONS
    ],
)
def test_knowledge_distillation(place: str, kind: str) -> None:
    settings = DISTILLATIONS[kind]
    phases = (Phase("training", TrainSettings(num_steps=2, precision="float32")),)

    def work(device: torch.device) -> tuple[float, ...]:
        dataset = images_on(device)
        training_set = TrainingSet.of(dataset)
        with isolated_rng(0):
            trained = tuple(
                Generation(
                    network_on(device, name).eval().requires_grad_(False),
                    dataset.spec.class_names,
                    dataset.spec.image_shape,
                )
                for name in ("convnet", "resnet18")[: len(settings.all_teachers)]
            )
            number = len(trained)
            teachers = Teachers(trained, (0.6, 0.5)[:number], (0.9, 1.2)[:number])
            loaded, _ = LoadedKnowledgeDistillation(settings, teachers).after_generations(
                lambda: network_on(device, "resnet18"), training_set, phases, seed=1
            )
            student = network_on(device, "resnet18")
            result = train_student(loaded, student, training_set, phases, make_generator(0, device))
        return result.losses

    drive(place, work)
