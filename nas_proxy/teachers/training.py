"""Teachers are trained once by the one training loop, and kept by content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nas_proxy.core.locks import exclusive
from nas_proxy.data.splits import image_hashes
from nas_proxy.data.transforms import resize_dataset
from nas_proxy.errors import (
    ConfigError,
    DivergedError,
    ProxyFileError,
    did_you_mean,
    required,
    shorten,
)
from nas_proxy.export.model_file import ModelOrigin
from nas_proxy.interfaces import DistillContext
from nas_proxy.networks.base import Network
from nas_proxy.networks.catalogue import NetworkSettings, build_network, describe
from nas_proxy.networks.wrapped import WrappedNetwork
from nas_proxy.registry import SEARCH_SPACES
from nas_proxy.reproducibility import content_hash, derive_seed, isolated_rng, make_generator
from nas_proxy.teachers._winner import is_model_file, teacher_of_model
from nas_proxy.teachers.pretrained import PretrainedNetwork, build_pretrained, identify_weights
from nas_proxy.teachers.teacher import FORMAT, Teacher, load_teacher
from nas_proxy.train.loop import train
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.teacher_settings import MODEL_URI, PretrainedSettings, TeacherSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import Architecture, DatasetSpec, ImageDataset

VERSION = 2  # raised by hand when training changes what a recipe gives
_NOT_IN_RECIPE = ("num_seeds", "num_val_images", "checkpoints", "norm_statistics")
_SHOWN_EVERY = 20  # steps between two reports of progress


def obtain_teachers(
    settings: Iterable[TeacherSettings], dataset: ImageDataset, context: DistillContext
) -> list[Teacher]:
    """Teachers on the context's device; those that are in its cache are not trained again.

    Args:
        settings: Which ones, in order.
        dataset: The search-training images, on the same device.
        context: Device, progress and cache.

    Raises:
        ConfigError: If there is no such architecture, network or weights.
        DataError: If a checkpoint is of other classes or another image shape, or weights of
            torchvision cannot be had.
        ProxyFileError: If a file is missing, truncated or altered.
        ModelFileError: If a model's file is damaged, or its search space is not installed.
        DivergedError: If a training diverges; the message says which and what to lower.
    """
    return [obtain_teacher(each, dataset, context) for each in settings]


def obtain_teacher(
    settings: TeacherSettings, dataset: ImageDataset, context: DistillContext
) -> Teacher:
    """One teacher; see `obtain_teachers`. The context's `costs` learn what its training took."""
    with context.costs.obtain() as paid:
        teacher = _obtained(settings, dataset, context)
        paid[teacher.cost_name] = teacher.train_seconds
    return teacher


def _obtained(settings: TeacherSettings, dataset: ImageDataset, context: DistillContext) -> Teacher:
    if settings.checkpoint is not None:
        return _read(settings.checkpoint, dataset, context).to(context.device)
    recipe = _recipe(settings)
    if context.cache is None:
        return _train_teacher(settings, recipe, dataset, context)
    cached = _cached(recipe, dataset.spec, context.cache)
    with _alone(cached, context):
        if not cached.is_file():
            _train_teacher(settings, recipe, dataset, context).save(cached)
        # Read again, so that the first study has what every later one will have.
        return read_teacher(cached).to(context.device)


def _cached(recipe: Mapping[str, Any], spec: DatasetSpec, cache: Path) -> Path:
    """Where studies share a teacher."""
    key = content_hash(recipe, asdict(spec), VERSION, FORMAT)
    return cache / "teachers" / f"{key}.safetensors"


def is_trained(settings: TeacherSettings, spec: DatasetSpec, cache: Path) -> bool:
    """Whether an earlier study has left a teacher that would have to be trained.

    Of torchvision's networks it is not known without their weights, which a look must not fetch.
    """
    return settings.pretrained is None and _cached(_recipe(settings), spec, cache).is_file()


@dataclass(frozen=True)
class TeacherBuilder:
    """Builds a teacher's network, untrained, as a search space builds its own.

    Attributes:
        settings: Which one.
    """

    settings: TeacherSettings

    def build(self, architecture: Architecture, spec: DatasetSpec) -> nn.Module:
        """A fresh network; `architecture` is left aside."""
        return _build(_recipe(self.settings), spec)


def _read(checkpoint: str, dataset: ImageDataset, context: DistillContext) -> Teacher:
    """A teacher that is trained already: of a file, or of a registered model."""
    if checkpoint.startswith(MODEL_URI):
        if context.fetch_model is None:
            raise ConfigError(
                f"the model {checkpoint} cannot be looked up here; name a file, or use it as a "
                "teacher of the stage retrain"
            )
        path = context.fetch_model(checkpoint)
    else:
        path = Path(checkpoint).expanduser()
        if not path.is_file():
            raise ProxyFileError(
                f"the teacher file {path} does not exist; name one that does, or a network to train"
            )
    if is_model_file(path):
        return teacher_of_model(path, dataset)
    return read_teacher(path).for_images_of(dataset.spec)


def read_teacher(path: Path) -> Teacher:
    """Read a teacher's file.

    Raises:
        ProxyFileError: If the file is missing, truncated, altered, or of another kind.
    """
    return load_teacher(path, _build)


@contextmanager
def _alone(path: Path, context: DistillContext) -> Iterator[None]:
    """Keep other processes from training the same teacher; a kill lets them in again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    note = "waiting for another process, which trains the same teacher"
    with exclusive(path.with_suffix(".lock"), on_wait=lambda: context.progress(0, 1, note)):
        yield


def _recipe(settings: TeacherSettings) -> dict[str, Any]:
    """What makes a teacher the one it is, as JSON values; nothing that another machine lacks."""
    plain = asdict(settings)
    plain["train"] = {k: v for k, v in plain["train"].items() if k not in _NOT_IN_RECIPE}
    if settings.architecture is None:
        del plain["space"]
    if not settings.compile:  # as before it could be asked for
        del plain["compile"]
    if settings.pretrained is not None:
        plain["pretrained"]["weights"] = identify_weights(settings.pretrained)
    return {key: value for key, value in plain.items() if value is not None}


def _build(recipe: Mapping[str, Any], spec: DatasetSpec) -> Network:
    """A network of a recipe, with weights from torch's global generator."""
    if "model" in recipe:
        origin = ModelOrigin.from_json(recipe["model"])
        return WrappedNetwork(origin.build(), spec.image_shape)
    if "network" in recipe:
        return build_network(NetworkSettings(**recipe["network"]), spec)
    if "pretrained" in recipe:
        return build_pretrained(PretrainedSettings(**recipe["pretrained"]), spec)
    space = SEARCH_SPACES.get(recipe["space"])()
    fidelity = recipe["train"]["space_fidelity"]
    for option in fidelity:
        if option not in space.fidelity_options:
            raise ConfigError(
                f"{option!r} is not a fidelity of the space {space.name!r}; "
                + did_you_mean(option, space.fidelity_options)
            )
    try:
        architecture = space.from_string(recipe["architecture"])
    except ValueError as error:
        raise ConfigError(f"the teacher cannot be built: {error}") from error
    network = replace(space, **fidelity).build(architecture, spec)
    return WrappedNetwork(network, spec.image_shape)


def _train_teacher(
    settings: TeacherSettings,
    recipe: Mapping[str, Any],
    dataset: ImageDataset,
    context: DistillContext,
) -> Teacher:
    size = settings.train.image_size or dataset.spec.image_shape[1]
    reduced = resize_dataset(dataset, size)
    description = _describe(settings, recipe, reduced.spec)
    with isolated_rng(derive_seed("teacher", settings.seed)):
        network = _build(recipe, reduced.spec)
        pretrained = network if isinstance(network, PretrainedNetwork) else None
        if pretrained is not None:
            published = required(settings.pretrained, "pretrained")
            pretrained.load_published_weights(published.weights)
        network.to(context.device)
        seconds = _train(network, reduced, settings, description, context)
    network.zero_grad()  # the last step's gradients need as much memory as the weights
    return Teacher(
        network=network.eval().requires_grad_(False),
        spec=reduced.spec,
        source_spec=dataset.spec,
        recipe=recipe,
        description=description,
        licence=pretrained.licence if pretrained is not None else "",
        seen=image_hashes(dataset.images).sort().values,
        train_seconds=seconds,
        knows_imagenet=pretrained is not None,
    )


def _train(
    network: Network,
    dataset: ImageDataset,
    settings: TeacherSettings,
    description: str,
    context: DistillContext,
) -> float:
    """Train in place; returns the seconds it took."""
    num_steps = settings.train.steps_for(len(dataset))

    def show(step: int, indices: Tensor, logits: Tensor) -> None:
        if step % _SHOWN_EVERY == 0 or step == num_steps:
            context.progress(step, num_steps, f"teaching {description}")

    generator = make_generator(derive_seed("teaching", settings.seed), context.device)
    try:
        result = train(
            network,
            TrainingSet.of(dataset),
            settings.train,
            generator,
            show,
            compiled=settings.compile,
        )
    except RuntimeError as error:
        if not settings.compile or not _is_of_compiling(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"the teacher {description} cannot be compiled ({shorten(reason)}); set compile: "
            "false, or install a C++ compiler if there is none"
        ) from error
    except DivergedError as error:
        raise DivergedError(
            f"the teacher {description} diverged: {error}; lower its train.learning_rate "
            f"(now {settings.train.learning_rate})"
        ) from error
    return result.train_seconds


def _is_of_compiling(error: RuntimeError) -> bool:
    """Whether one of its classes is torch's for this, which has no public name."""
    return any(kind.__name__ == "TorchDynamoException" for kind in type(error).__mro__)


def _describe(settings: TeacherSettings, recipe: Mapping[str, Any], spec: DatasetSpec) -> str:
    if settings.network is not None:
        name = describe(settings.network)
    elif settings.pretrained is not None:
        name = f"{settings.pretrained.name} of torchvision ({recipe['pretrained']['weights']})"
    else:
        name = f"{settings.space} {settings.architecture}"
    return f"{name}, {_length(settings.train)} on {spec.name}"


def _length(settings: TrainSettings) -> str:
    if settings.num_epochs is not None:
        return f"{settings.num_epochs} epochs"
    return f"{settings.num_steps} steps"
