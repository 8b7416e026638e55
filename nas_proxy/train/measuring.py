"""How good a network is on real images, and what its batch norms know of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_proxy.devices import is_gpu, is_out_of_memory, release_memory
from nas_proxy.errors import DivergedError, EvaluationError
from nas_proxy.networks.base import batch_norms
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import ImageDataset

_NORM_IMAGES = 512  # of which batch norms take their statistics when they are recalibrated
_PIXELS_AT_ONCE = 2**20  # of images that go through a network together


@dataclass(frozen=True, eq=False)
class Measurement:
    """How good a network is on real images.

    Attributes:
        loss: Mean cross-entropy.
        confusion: int64 `(num_classes, num_classes)`: how many images of each class (rows) the
            network took for each class (columns).
        divergence: Mean Kullback-Leibler divergence of the network's probabilities from those it
            was held against, in nats; None if there were none.
    """

    loss: float
    confusion: Tensor
    divergence: float | None = None

    @property
    def accuracy(self) -> float:
        """Share of the images whose class was found, in [0, 1]."""
        return float(self.confusion.trace()) / float(self.confusion.sum())


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for the length of the block; every module gets its own mode back."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@torch.inference_mode()
def measure(
    network: nn.Module,
    dataset: ImageDataset | TrainingSet,
    settings: TrainSettings,
    batch_size: int | None = None,
    expected: Tensor | None = None,
) -> Measurement:
    """Loss and confusion matrix on real images, in evaluation mode.

    Args:
        network: On the device of the images.
        dataset: The images; where their labels are soft, the likeliest class is the true one.
        settings: Precision and layout.
        batch_size: Images at once; None takes what is fastest.
        expected: What a teacher says of each image, probabilities `(n, num_classes)`.

    Raises:
        DivergedError: If the loss is not finite.
        EvaluationError: If the network has not one output for each class.
    """
    network.eval()
    real = dataset if isinstance(dataset, TrainingSet) else TrainingSet.of(dataset)
    num = num_parts(len(real), real.images.shape, batch_size or _fastest(real.images))
    while True:
        try:
            return _measure(network, real, settings, num, expected)
        except Exception as error:
            if not is_out_of_memory(error) or 4 * num > len(real):
                raise
        release_memory(real.images.device)  # now that no error holds what did not fit
        num *= 2


def _measure(
    network: nn.Module,
    real: TrainingSet,
    settings: TrainSettings,
    num: int,
    expected: Tensor | None,
) -> Measurement:
    """The measurement, in `num` parts."""
    device, num_classes = real.images.device, real.spec.num_classes
    channels_last = settings.uses_channels_last(network, device)
    loss, divergence = torch.zeros((), device=device), torch.zeros((), device=device)
    pairs = torch.zeros(num_classes**2, dtype=torch.int64, device=device)
    for indices in torch.arange(len(real), device=device).tensor_split(num):
        images, labels = real.batch(indices)
        logits = forward(network, images, settings, channels_last=channels_last)
        if logits.shape[1] != num_classes:
            raise EvaluationError(
                f"the network gives {logits.shape[1]} outputs for {num_classes} classes"
            )
        loss += F.cross_entropy(logits, labels, reduction="sum")
        if expected is not None:
            said = logits.log_softmax(dim=1)
            divergence += F.kl_div(said, expected[indices], reduction="sum")
        classes = labels if labels.ndim == 1 else labels.argmax(dim=1)
        pairs += torch.bincount(
            classes * num_classes + logits.argmax(dim=1), minlength=num_classes**2
        )
    mean_loss = float(loss) / len(real)
    if not mean_loss < float("inf"):
        raise DivergedError("the validation loss is not finite")
    return Measurement(
        mean_loss,
        pairs.view(num_classes, num_classes).cpu(),
        None if expected is None else float(divergence) / len(real),
    )


def _fastest(images: Tensor) -> int:
    """Images at once: on a CPU their activations should stay near its cache, and fill a GPU.

    A few at least: group norm refuses a single image with a single pixel.
    """
    at_once, most = (2**22, 4096) if is_gpu(images.device) else (2**16, 500)
    return max(4, min(most, at_once // math.prod(images.shape[-2:])))


@torch.no_grad()
def recalibrate_norms(
    network: nn.Module,
    training_set: TrainingSet,
    settings: TrainSettings,
    generator: torch.Generator,
) -> None:
    """Set the running statistics of all batch norms to those of training images, as they are now.

    Running averages lag behind weights that change fast, and remember augmented images. Networks
    without batch norm are left as they are.

    Args:
        network: On the device of the images.
        training_set: 512 of its images are looked at, fewer if it has fewer; not augmented.
        settings: Precision and layout.
        generator: On the device of the images: which ones.
    """
    norms = [norm for norm in batch_norms(network) if norm.track_running_stats]
    if not norms:
        return
    device = training_set.images.device
    channels_last = settings.uses_channels_last(network, device)
    chosen = torch.randperm(len(training_set), generator=generator, device=device)[:_NORM_IMAGES]
    momenta = [norm.momentum for norm in norms]
    network.eval()  # dropout stays out of it
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over the batches
        norm.train()
    for indices in chosen.tensor_split(num_parts(len(chosen), training_set.images.shape, 128)):
        images, _ = training_set.batch(indices)
        forward(network, images, settings, channels_last=channels_last)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def num_parts(num_images: int, shape: Sequence[int], batch_size: int | None = None) -> int:
    """Into how many parts, for `tensor_split`, images go through a network without gradients.

    Even parts: group norm refuses a last batch of one image with a single pixel.

    Args:
        num_images: At least one.
        shape: Of the images, `(..., h, w)`.
        batch_size: Largest part; None takes up to 500 images, fewer of large ones, so that the
            activations of a ConvNet of width 128 take at most 1.5 GiB.
    """
    if batch_size is None:
        batch_size = max(1, min(500, _PIXELS_AT_ONCE // math.prod(shape[-2:])))
    return -(-num_images // batch_size)


def forward(
    network: Callable[[Tensor], Any],
    images: Tensor,
    settings: TrainSettings,
    *,
    channels_last: bool,
) -> Tensor:
    """Logits in float32, whatever they were computed in.

    Raises:
        EvaluationError: If the network gives something else.
    """
    device = images.device
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.uses_bfloat16(device)):
        logits = network(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        given = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise EvaluationError(f"the network gives {given} instead of logits (n, num_classes)")
    return logits.float()
