"""The images under optimisation, the real ones, and how both go through a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas_proxy.data.multi_formation import decode
from nas_proxy.data.transforms import normalise
from nas_proxy.data.whitening import Whitening
from nas_proxy.errors import DivergedError
from nas_proxy.networks.base import Network, batch_norms
from nas_proxy.types import DatasetSpec, ImageDataset

_CACHED_VALUES = 2**21  # 8 MiB of float32: the largest feature maps of a part


class RealImages:
    """Random batches of real images, normalised and, where it is asked for, whitened.

    Args:
        dataset: Where they come from.
        batch_size: Images in a batch, of one class or of all.
        whitening: Applied after normalising; None for none.

    Attributes:
        dataset: As it was given, neither normalised nor whitened.
    """

    def __init__(
        self, dataset: ImageDataset, batch_size: int, whitening: Whitening | None = None
    ) -> None:
        self.dataset = dataset
        self._batch_size = batch_size
        self._whitening = whitening
        self._members = [
            torch.nonzero(dataset.labels == label).flatten()
            for label in range(dataset.spec.num_classes)
        ]

    def batch(self, label: int, generator: torch.Generator) -> Tensor:
        """Images of class `label`, without repeats; all of them if there are fewer."""
        members = self._members[label]
        order = torch.randperm(len(members), generator=generator)[: self._batch_size]
        return self.at(members[order.to(members.device)])

    def mixed_batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images of any class and their labels, int64, without repeats."""
        chosen = torch.randperm(len(self.dataset), generator=generator)[: self._batch_size]
        chosen = chosen.to(self.dataset.labels.device)
        return self.at(chosen), self.dataset.labels[chosen]

    def at(self, indices: Tensor) -> Tensor:
        """The images at `indices` of the data set."""
        images = normalise(self.dataset.images[indices], self.dataset.spec)
        return images if self._whitening is None else self._whitening.apply(images)


@dataclass(eq=False, kw_only=True)
class SyntheticImages:
    """The images under optimisation, and what is learned with them.

    Attributes:
        images: Normalised float32 with gradients, `(num_classes * images_per_class, c, h, w)`.
        classes: The class of each training image, int64, class by class.
        images_per_class: How many belong to each class.
        spec: Of the real images.
        optimiser: Holds everything that is learned.
        decode_factor: Tiles along each side of an image; see `nas_proxy.data.multi_formation`.
        label_logits: Learned labels are their softmax, `(len(classes), num_classes)`; None where
            labels are not learned.
        learning_rate: Learned step size of whatever trains on the images, a scalar; None where
            it is not learned.
    """

    images: Tensor
    classes: Tensor
    images_per_class: int
    spec: DatasetSpec
    optimiser: torch.optim.Optimizer
    decode_factor: int = 1
    label_logits: Tensor | None = None
    learning_rate: Tensor | None = None

    def training_images(self) -> Tensor:
        """What networks train on, `(len(classes), c, h, w)`; gradients flow to `images`."""
        return decode(self.images, self.decode_factor)

    @property
    def labels(self) -> Tensor:
        """The classes, or the learned probabilities, with gradients."""
        return self.classes if self.label_logits is None else self.label_logits.softmax(dim=1)

    def of_class(self, label: int) -> Tensor:
        """The training images of one class."""
        start = label * self.images_per_class
        return decode(self.images[start : start + self.images_per_class], self.decode_factor)

    def descend(self, loss: Tensor) -> None:
        """One step of the optimiser along the gradient of `loss`.

        Raises:
            DivergedError: If the loss is not finite; nothing is changed then. Or as in `step`.
        """
        if not bool(loss.isfinite()):
            raise DivergedError("the loss is not finite")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.step()

    def step(self) -> None:
        """One step of the optimiser along the gradients that are there already.

        Raises:
            DivergedError: If a gradient is not finite; nothing is changed then. If a pixel, or
                whatever else is learned, is not finite after the step; `restore` goes back.
        """
        for parameter in self.parameters:
            if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
                raise DivergedError("a gradient is not finite")
        self.optimiser.step()
        if not all(bool(parameter.isfinite().all()) for parameter in self.parameters):
            raise DivergedError("a pixel or another learned value is not finite")

    @property
    def parameters(self) -> list[Tensor]:
        """Everything that is learned."""
        return [p for group in self.optimiser.param_groups for p in group["params"]]

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, for a checkpoint."""
        found = {}
        for index, parameter in enumerate(self.parameters):
            found[f"parameter.{index}"] = parameter
            for name, value in self.optimiser.state[parameter].items():
                if isinstance(value, Tensor):  # momentum without a step yet is None
                    found[f"optimiser.{index}.{name}"] = value
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to what `state` gave."""
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters):
                parameter.copy_(state[f"parameter.{index}"])
                self.optimiser.state[parameter].clear()  # what a step added since then
        for key, value in state.items():
            if key.startswith("optimiser."):
                _, position, name = key.split(".", 2)
                parameter = self.parameters[int(position)]
                # Adam counts its steps on the CPU; everything else lives beside the parameter.
                home = value if name == "step" else value.to(parameter.device)
                self.optimiser.state[parameter][name] = home


def cache_sized_parts(network: Network, images: Tensor) -> tuple[Tensor, ...]:
    """`images`, to go through `network` one part after the other.

    On a CPU the feature maps of 256 CIFAR images do not fit into any cache, and 16 at a time take
    half as long. A GPU gets them whole, and so does a network that mixes the images of a batch.

    Args:
        network: Embeds.
        images: `(n, c, h, w)`, at least one.

    Returns:
        Parts of nearly equal length: group norm refuses a single image with a single pixel.
    """
    convolution = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    if images.device.type != "cpu" or convolution is None or mixes_images(network):
        return (images,)
    values = convolution.out_channels * images.shape[-2:].numel()
    length = max(1, _CACHED_VALUES // values)
    return images.tensor_split(-(-len(images) // length))


def mixes_images(network: Network) -> bool:
    """Whether what it makes of an image depends on the batch, as batch norm in training does."""
    return any(norm.training for norm in batch_norms(network))


def classes_together(network: Network, num_classes: int) -> list[range]:
    """Which classes go through a network in one batch.

    Each by itself; but all of them where batch norm would otherwise take away what tells one class
    from another: its mean.
    """
    if mixes_images(network):
        return [range(num_classes)]
    return [range(label, label + 1) for label in range(num_classes)]


def in_full_precision(values: Tensor) -> Tensor:
    """At least float32: means of what a network gives in bfloat16 are not taken in bfloat16."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
