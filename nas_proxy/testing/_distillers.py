"""Checks of distillers, on three classes of eight images."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.errors import DataError
from nas_proxy.interfaces import DistillContext, Distiller, DistillTask
from nas_proxy.reproducibility import make_generator
from nas_proxy.testing._calibration import TinySpace, tiny_calibration_sample
from nas_proxy.testing._common import (
    blame,
    check_class,
    global_generators_untouched,
    require,
    tiny_dataset,
)
from nas_proxy.types import ImageDataset, Progress, no_progress

_IMAGES_PER_CLASS = 2


def check_distiller_class(distiller: Distiller) -> None:
    """The class is named, and everything it declares as an option is one."""
    check_class(distiller)


def check_same_seed(distiller: Distiller) -> None:
    """Equal seeds give the identical set."""
    first, second = _distill(distiller), _distill(distiller)
    require(
        first.id == second.id,
        f"{distiller.name}: the same seed gives two different sets ({first.id} and {second.id}): "
        "draw only from the generator that is handed in",
    )


def check_other_seed(distiller: Distiller) -> None:
    """Another seed gives other images, if the method draws from the generator at all."""
    generator = make_generator(0)
    before = generator.get_state()
    first = _distill(distiller, generator)
    if torch.equal(generator.get_state(), before):
        return
    second = _distill(distiller, make_generator(1))
    require(
        first.id != second.id and not torch.equal(first.images, second.images),
        f"{distiller.name}: two seeds give the same images, though the generator is drawn from",
    )


def check_images(distiller: Distiller) -> None:
    """Images are normalised, finite float32 of the right shape."""
    proxy = _distill(distiller)
    spec = tiny_dataset().spec
    expected = (spec.num_classes * _IMAGES_PER_CLASS, *spec.image_shape)
    require(
        tuple(proxy.images.shape) == expected and proxy.images.dtype == torch.float32,
        f"{distiller.name}: images must be float32 of shape {expected}, not "
        f"{proxy.images.dtype} of shape {tuple(proxy.images.shape)}",
    )
    require(
        bool(proxy.images.isfinite().all()),
        f"{distiller.name}: some pixels are not finite",
    )
    require(
        not proxy.images.requires_grad,
        f"{distiller.name}: the images still carry gradients; detach them",
    )


def check_labels(distiller: Distiller) -> None:
    """One label per training image: hard ones class by class, soft ones distributions."""
    proxy = _distill(distiller)
    num_classes = tiny_dataset().spec.num_classes
    per_class = _IMAGES_PER_CLASS * proxy.decode_factor**2
    expected = torch.arange(num_classes).repeat_interleave(per_class)
    if proxy.labels.ndim == 2:
        require(
            tuple(proxy.labels.shape) == (len(expected), num_classes),
            f"{distiller.name}: soft labels must have shape {(len(expected), num_classes)}, not "
            f"{tuple(proxy.labels.shape)}",
        )
        sums = proxy.labels.sum(dim=1)
        require(
            bool((proxy.labels >= 0).all()) and torch.allclose(sums, torch.ones_like(sums)),
            f"{distiller.name}: soft labels must be at least zero and sum to one for each image",
        )
    else:
        require(
            proxy.labels.dtype == torch.int64 and proxy.labels.tolist() == expected.tolist(),
            f"{distiller.name}: hard labels must be int64 and run class by class, "
            f"{expected.tolist()}, not {proxy.labels.tolist()}",
        )


def check_record(distiller: Distiller) -> None:
    """The set says what it was made from and how, and survives its file."""
    dataset = tiny_dataset()
    proxy = _distill(distiller)
    require(
        proxy.method == distiller.name
        and proxy.images_per_class == _IMAGES_PER_CLASS
        and proxy.spec == dataset.spec,
        f"{distiller.name}: the set must carry the distiller's name as method, the images per "
        f"class and the data set's specification, not {proxy.method!r}, "
        f"{proxy.images_per_class} and {proxy.spec.name!r}",
    )
    with blame(f"{distiller.name}: the set cannot be saved"), tempfile.TemporaryDirectory() as name:
        path = Path(name) / "proxy.safetensors"
        proxy.save(path)
        loaded = ProxyDataset.load(path)
    require(loaded == proxy, f"{distiller.name}: the set changes on its way through a file")


def check_too_few_images(distiller: Distiller) -> None:
    """Asking for more images than a class has is a DataError that names both numbers."""
    available, asked = 8, 9
    dataset = tiny_dataset(images_per_class=available)
    try:
        distiller.distill(_task(distiller, dataset=dataset, images_per_class=asked))
    except DataError as error:
        words = "".join(char if char.isalnum() else " " for char in str(error)).split()
        require(
            str(available) in words and str(asked) in words,
            f"{distiller.name}: the DataError for {asked} images per class of {available} must "
            f"name both numbers: {error}",
        )
        return
    raise AssertionError(
        f"{distiller.name}: distill() accepts {asked} images per class where a class has "
        f"{available}; it must raise DataError"
    )


def check_leaves_dataset(distiller: Distiller) -> None:
    """The real images and labels are left as they were."""
    dataset = tiny_dataset()
    images, labels = dataset.images.clone(), dataset.labels.clone()
    distiller.distill(_task(distiller, dataset=dataset))
    require(
        torch.equal(dataset.images, images) and torch.equal(dataset.labels, labels),
        f"{distiller.name}: distill() changes the data set that it is given",
    )


def check_leaves_generators(distiller: Distiller) -> None:
    """The global generators are left as they were."""
    with global_generators_untouched(f"{distiller.name}: distill()"):
        _distill(distiller)


def check_resuming(distiller: Distiller) -> None:
    """Killed in the middle and started again, the set is the identical one.

    A distiller may save its state as rarely as once a second, so every step is given a little
    time until there is a state; the check takes up to two seconds.
    """
    undisturbed = _distill(distiller)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        with suppress(_Killed):
            _distill(distiller, checkpoint=checkpoint, progress=_Killer(checkpoint))
        with blame(f"{distiller.name}: distill() cannot continue from its checkpoint"):
            continued = _distill(distiller, checkpoint=checkpoint)
    require(
        continued.id == undisturbed.id,
        f"{distiller.name}: killed and continued, the set is another one ({continued.id}, not "
        f"{undisturbed.id}): the checkpoint must hold everything the next step depends on, the "
        "generator's state too",
    )


DISTILLER_CHECKS: tuple[Callable[[Distiller], None], ...] = (
    check_distiller_class,
    check_same_seed,
    check_other_seed,
    check_images,
    check_labels,
    check_record,
    check_too_few_images,
    check_leaves_dataset,
    check_leaves_generators,
    check_resuming,
)


class _Killed(BaseException):
    """As hard to swallow as KeyboardInterrupt."""


class _Killer:
    """A progress display that ends the work once there is a state to continue from.

    Args:
        checkpoint: Where the state appears.
        wait_seconds: Rest after every step without it.
    """

    def __init__(self, checkpoint: Path, wait_seconds: float = 0.25) -> None:
        self._checkpoint = checkpoint
        self._wait_seconds = wait_seconds

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Kill if there is a state, or if this was the last step; otherwise wait."""
        if self._checkpoint.exists() or done >= total:
            raise _Killed
        time.sleep(self._wait_seconds)


def _task(
    distiller: Distiller,
    generator: torch.Generator | None = None,
    *,
    dataset: ImageDataset | None = None,
    images_per_class: int = _IMAGES_PER_CLASS,
    checkpoint: Path | None = None,
    progress: Progress = no_progress,
) -> DistillTask:
    """On the CPU, with a calibration sample and a space where the method needs one."""
    sample = tiny_calibration_sample() if distiller.needs_calibration else None
    space = TinySpace() if distiller.draws_from_space else None
    return DistillTask(
        dataset=dataset or tiny_dataset(),
        images_per_class=images_per_class,
        generator=generator or make_generator(0),
        context=DistillContext(
            checkpoint=checkpoint, progress=progress, calibration=sample, space=space
        ),
    )


def _distill(
    distiller: Distiller, generator: torch.Generator | None = None, **context: Any
) -> ProxyDataset:
    with blame(f"{distiller.name}: distill() fails on three classes of eight 8x8 images"):
        return distiller.distill(_task(distiller, generator, **context))
