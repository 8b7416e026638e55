"""The one training loop: candidates, references and the networks inside distilling all use it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.transforms import normalise
from nas_proxy.errors import DivergedError
from nas_proxy.train.schedules import learning_rate_factor
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import DatasetSpec, ImageDataset

_CHECK_EVERY = 50  # steps between looks at the loss: looking makes a GPU wait
_NORM_IMAGES = 512  # of which batch norms take their statistics when they are recalibrated
_PIXELS_AT_ONCE = 2**20  # of images that go through a network together


class Labeller(Protocol):
    """Labels augmented images while a network trains on them."""

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised `(n, c, h, w)` to probabilities `(n, num_classes)`."""


class Observer(Protocol):
    """Watches a training after each step; it may put the network into evaluation mode."""

    def __call__(self, step: int, indices: Tensor, logits: Tensor) -> None:
        """`step` counts from 1; `logits` are those of the images at `indices`, before the step."""


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Images and labels to train on, real or distilled.

    Attributes:
        images: uint8 and not normalised, or float32 and normalised, `(n, c, h, w)`.
        labels: int64 `(n,)`, or float32 `(n, num_classes)`.
        spec: Their data set.
        augmentation: What they get when the settings do not say.
        temperature: Logits are divided by it before they meet `labels`, and the loss is multiplied
            by its square, which keeps the size of the gradient (Hinton et al. 2015).
        labeller: From augmented images to probabilities, which replace `labels`; None keeps them.
        order: Positions of what one pass goes through, where some images come more often than
            others, int64 `(m,)`; None: each once.
    """

    images: Tensor
    labels: Tensor
    spec: DatasetSpec
    augmentation: Augmentation = Augmentation()
    temperature: float = 1.0
    labeller: Labeller | None = None
    order: Tensor | None = None

    @classmethod
    def of(
        cls, dataset: ImageDataset | ProxyDataset, labeller: Labeller | None = None
    ) -> TrainingSet:
        """The images and labels of a real or a proxy data set."""
        if isinstance(dataset, ProxyDataset):
            return cls(
                dataset.training_images(),
                dataset.labels,
                dataset.spec,
                dataset.augmentation,
                dataset.labelling.temperature,
                labeller,
            )
        return cls(dataset.images, dataset.labels, dataset.spec)

    def __len__(self) -> int:
        return len(self.labels if self.order is None else self.order)

    @property
    def has_hard_labels(self) -> bool:
        """Whether each image is of one class, before anything is mixed."""
        return self.labels.ndim == 1 and self.labeller is None

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images and labels at `indices` of a pass."""
        if self.order is not None:
            indices = self.order[indices]
        images = self.images[indices]
        if images.dtype == torch.uint8:
            images = normalise(images, self.spec)
        return images, self.labels[indices]


@dataclass(frozen=True)
class TrainResult:
    """What one training leaves behind besides the weights.

    Attributes:
        losses: Mean loss of the batch at each step, `(num_steps,)`.
        train_seconds: Wall-clock seconds of the loop.
        images_seen: Images that went through the network, repeats counted.
    """

    losses: tuple[float, ...]
    train_seconds: float
    images_seen: int

    @property
    def loss_mean(self) -> float:
        """Mean over all steps: how fast the network learns."""
        return sum(self.losses) / len(self.losses)

    @property
    def loss_tail(self) -> float:
        """Mean over the last tenth of the steps, at least one: how far it got."""
        tail = self.losses[-max(1, len(self.losses) // 10) :]
        return sum(tail) / len(tail)

    @property
    def loss_slope(self) -> float:
        """Change of the loss over the second half of the steps, by its least-squares line."""
        half = torch.tensor(self.losses[len(self.losses) // 2 :], dtype=torch.float64)
        steps = torch.linspace(-0.5, 0.5, len(half), dtype=torch.float64)
        if len(half) == 1:
            return 0.0
        return float((steps * half).sum() / (steps * steps).sum())

    def until(self, step: int) -> TrainResult:
        """What had been left behind after the first `step` steps; the time is not known."""
        share = step / len(self.losses)
        return TrainResult(self.losses[:step], math.nan, round(self.images_seen * share))


def train(
    network: nn.Module,
    training_set: TrainingSet,
    settings: TrainSettings,
    generator: torch.Generator,
    observer: Observer | None = None,
) -> TrainResult:
    """Train `network` in place by gradient descent on cross-entropy.

    Args:
        network: Maps `(n, c, h, w)` to logits; on the device of the images.
        training_set: What it learns.
        settings: Length, schedule, augmentation, precision.
        generator: On the device of the images: order of the images and augmentation.
        observer: Told after each step.

    Raises:
        DivergedError: If the loss is not finite; it is looked at every 50 steps and at the end.
    """
    device = training_set.images.device
    num_steps = settings.steps_for(len(training_set))
    batch_size = min(settings.batch_size, len(training_set))
    spec = training_set.spec
    augmentation = settings.augmentation or training_set.augmentation
    optimiser = _optimiser(network, settings)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate_factor(settings.schedule, step, num_steps)
    )
    channels_last = settings.uses_channels_last(network, device)
    if channels_last:
        network.to(memory_format=torch.channels_last)
    # Mixing turns hard labels into probabilities, which are still to be smoothed.
    smoothing = settings.label_smoothing if training_set.has_hard_labels else 0.0
    network.train()
    started = time.perf_counter()
    losses: list[Tensor] = []
    for indices in _index_batches(len(training_set), batch_size, num_steps, generator):
        images, labels = training_set.batch(indices)
        images = augmentation.apply(images, generator)
        if augmentation.mixes:
            images, labels = augmentation.mix(images, as_probabilities(labels, spec), generator)
        if training_set.labeller is not None:
            labels = training_set.labeller(images)
        logits = _forward(network, images, settings, channels_last=channels_last)
        loss = _loss(logits, labels, training_set.temperature, smoothing)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        scheduler.step()
        losses.append(loss.detach())
        if observer is not None:
            observer(len(losses), indices, logits.detach())
            network.train()  # it may have been measured
        if len(losses) % _CHECK_EVERY == 0 or len(losses) == num_steps:
            _check_finite(losses)
    return TrainResult(
        losses=tuple(torch.stack(losses).tolist()),
        train_seconds=time.perf_counter() - started,
        images_seen=num_steps * batch_size,
    )


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


@torch.no_grad()
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
        batch_size: Images at once; None takes what memory allows.
        expected: What a teacher says of each image, probabilities `(n, num_classes)`.

    Raises:
        DivergedError: If the loss is not finite.
    """
    network.eval()
    real = dataset if isinstance(dataset, TrainingSet) else TrainingSet.of(dataset)
    device, num_classes = real.images.device, real.spec.num_classes
    channels_last = settings.uses_channels_last(network, device)
    loss, divergence = torch.zeros((), device=device), torch.zeros((), device=device)
    pairs = torch.zeros(num_classes**2, dtype=torch.int64, device=device)
    everything = torch.arange(len(real), device=device)
    for indices in everything.tensor_split(num_parts(len(real), real.images.shape, batch_size)):
        images, labels = real.batch(indices)
        logits = _forward(network, images, settings, channels_last=channels_last)
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
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
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
        _forward(network, images, settings, channels_last=channels_last)
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


def as_probabilities(labels: Tensor, spec: DatasetSpec) -> Tensor:
    """Hard labels `(n,)` or soft ones as float32 `(n, num_classes)`."""
    return labels if labels.ndim == 2 else F.one_hot(labels, spec.num_classes).float()


def _optimiser(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    weights, rate, decay = network.parameters(), settings.learning_rate, settings.weight_decay
    if settings.optimiser == "adam":
        return torch.optim.Adam(weights, lr=rate, weight_decay=decay)
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(weights, lr=rate, weight_decay=decay)
    return torch.optim.SGD(
        weights,
        lr=rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=decay,
    )


def _forward(
    network: nn.Module, images: Tensor, settings: TrainSettings, *, channels_last: bool
) -> Tensor:
    """Logits in float32, whatever they were computed in."""
    device = images.device
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.uses_bfloat16(device)):
        logits: Tensor = network(images)
    return logits.float()


def _index_batches(
    num_images: int, batch_size: int, num_steps: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Batches of a stream of permutations: each image once before any image again."""
    stream = torch.empty(0, dtype=torch.int64, device=generator.device)
    for _ in range(num_steps):
        if len(stream) < batch_size:
            order = torch.randperm(num_images, generator=generator, device=generator.device)
            stream = torch.cat([stream, order])
        yield stream[:batch_size]
        stream = stream[batch_size:]


def _loss(logits: Tensor, labels: Tensor, temperature: float, smoothing: float) -> Tensor:
    loss = F.cross_entropy(logits / temperature, labels, label_smoothing=smoothing)
    return loss * temperature**2


def _check_finite(losses: list[Tensor]) -> None:
    recent = torch.stack(losses[-_CHECK_EVERY:])
    if not bool(recent.isfinite().all()):
        first = len(losses) - len(recent) + int((~recent.isfinite()).nonzero()[0]) + 1
        raise DivergedError(f"the training loss is not finite from step {first} on")
