"""What all methods share that optimise the pixels of synthetic images by gradient descent."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.data.augment import Augmentation, dsa_families
from nas_proxy.data.multi_formation import decode, encode
from nas_proxy.data.proxy_dataset import Labelling, LearningRateRule, ProxyDataset
from nas_proxy.data.splits import draw_per_class
from nas_proxy.data.transforms import normalise
from nas_proxy.data.whitening import Whitening
from nas_proxy.distill.common._lamb import Lamb
from nas_proxy.distill.common._normalised import NormalisedSGD
from nas_proxy.distill.common.recording import recorded
from nas_proxy.distill.common.synthetic import RealImages, SyntheticImages
from nas_proxy.errors import ConfigError, DivergedError
from nas_proxy.interfaces import DistillContext, Distiller, DistillTask
from nas_proxy.options import Fraction, PositiveFloat, PositiveInt
from nas_proxy.reproducibility import content_hash, isolated_rng
from nas_proxy.types import DatasetSpec, ImageDataset

ImageOptimiser = Literal["sgd", "normalised_sgd", "adam", "lamb"]

_LABEL_CONFIDENCE = 4.0  # logit of the true class before a label is learned


class Objective:
    """What one method minimises; made once for each distillation.

    A method whose next step depends on more than the synthetic images keeps it in `state`.
    """

    num_steps: int | None = None
    """Steps until it is done; None: as many as the distiller's option says."""

    def prepare(self, synthetic: SyntheticImages, generator: torch.Generator) -> None:
        """Change, in place, where the images start; called once, before the first step.

        Args:
            synthetic: As the distiller made it.
            generator: The distillation's own.
        """

    def step(self, synthetic: SyntheticImages, seed: int) -> float:
        """Improve the images once.

        Args:
            synthetic: Changed in place, through `descend` or `step`.
            seed: Of all randomness of this step.

        Returns:
            The loss, for the progress display.

        Raises:
            DivergedError: If something is not finite; images and state may be left half changed.
        """
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """What the next step depends on besides the images."""
        return {}

    def facts(self) -> dict[str, Any]:
        """What the set's record says beside the options, as JSON values."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to what `state` gave."""


@dataclass(frozen=True, kw_only=True)
class PixelDistiller(Distiller):
    """A distiller whose result is found by gradient descent on pixels.

    Attributes:
        num_steps: Iterations.
        image_optimiser: `sgd`, with `image_momentum`; `normalised_sgd`, the same on gradients of
            one size, whose learning rate is the typical change of a pixel; `adam`; or `lamb`, whose
            learning rate is the share of its own norm by which a tensor moves.
        image_learning_rate: Of the optimiser of the pixels.
        image_momentum: Of `sgd` and `normalised_sgd`.
        init: Start from `real` images or from Gaussian `noise`.
        decode_factor: Multi-formation (IDC): each image holds this many reduced images along each
            side, which are enlarged for training; 1 for none.
        augment: Families of differentiable Siamese augmentation, joined by `_`; empty for none.
            Leave out `flip` for written characters.
        real_batch_size: Real images per iteration, of each class where classes are matched singly.
        network_width: Channels of the networks, where these are ConvNets, with instance norm.
        network_depth: Their blocks; None: as the field does at this image size.
        zca: Whiten all images with this regularisation (0.1 in FRePo); None does not.
        precision: `bfloat16` computes convolutions and products in bfloat16 (autocast).
    """

    num_steps: PositiveInt
    image_optimiser: ImageOptimiser = "sgd"
    image_learning_rate: PositiveFloat
    image_momentum: Fraction = 0.5
    init: Literal["real", "noise"] = "real"
    decode_factor: PositiveInt = 1
    augment: str = ""
    real_batch_size: PositiveInt = 256
    network_width: PositiveInt = 128
    network_depth: PositiveInt | None = None
    zca: PositiveFloat | None = None
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        """Refuse augmentation families that do not exist."""
        dsa_families(self.augment)

    @abstractmethod
    def objective(
        self, dataset: ImageDataset, real: RealImages, context: DistillContext
    ) -> Objective:
        """Get ready for a distillation: networks, trajectories, pools.

        Args:
            dataset: The real images.
            real: Batches of them, normalised and whitened as asked.
            context: Device, progress and cache; `labels` says whether labels are to be learned.
        """

    def initialise(
        self, dataset: ImageDataset, images_per_class: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Random real images, or Gaussian noise of their shape; see `Distiller.initialise`.

        With multi-formation each image holds `decode_factor ** 2` real ones; a class that has
        fewer than that gives some of them more than once.
        """
        indices = draw_per_class(dataset, images_per_class, generator)
        images = normalise(dataset.images[indices], dataset.spec)
        if self.decode_factor > 1:
            images = self._formations(dataset, images_per_class, generator)
        if self.init == "noise":
            images = torch.randn(images.shape, generator=generator).to(images.device)
        return images, dataset.labels[indices]

    def _formations(
        self, dataset: ImageDataset, images_per_class: int, generator: torch.Generator
    ) -> Tensor:
        _, height, width = dataset.spec.image_shape
        if any(
            -(-side // self.decode_factor) * (self.decode_factor - 1) >= side
            for side in (height, width)
        ):
            raise ConfigError(
                f"decode_factor {self.decode_factor} is too large for {height}x{width} pixels: "
                "some of the images in an image would have none; use 2, or 3 for large images"
            )
        wanted = images_per_class * self.decode_factor**2
        parts = []
        for label in range(dataset.spec.num_classes):
            members = torch.nonzero(dataset.labels == label).flatten()
            rounds = -(-wanted // len(members))
            order = torch.cat(
                [torch.randperm(len(members), generator=generator) for _ in range(rounds)]
            )
            parts.append(members[order[:wanted].to(members.device)])
        images = normalise(dataset.images[torch.cat(parts)], dataset.spec)
        return encode(images, self.decode_factor)

    def distill(self, task: DistillTask) -> ProxyDataset:
        """Optimise the images for `num_steps` iterations; see `Distiller.distill`.

        Raises:
            DivergedError: If a loss, a gradient or a pixel is not finite; the checkpoint keeps the
                last state before it.
        """
        dataset, context, generator = task.dataset, task.context, task.generator
        whitening = None
        if self.zca is not None:
            with context.costs.measure("whitening"):
                whitening = Whitening.fit(dataset, self.zca)
        real = RealImages(dataset, self.real_batch_size, whitening)
        images, _ = self.initialise(dataset, task.images_per_class, generator)
        if whitening is not None and self.init != "noise":
            # What networks see is white, not the mosaic that it is stored in.
            images = whitening.apply(decode(images, self.decode_factor))
            images = encode(images, self.decode_factor)
        objective = self.objective(dataset, real, context)
        synthetic = self.synthetic_images(images, task.images_per_class, dataset.spec, context)
        objective.prepare(synthetic, generator)
        drawn_from = [context.space.fingerprint()] if context.space is not None else []
        key = content_hash(
            self.name, asdict(self), dataset.spec.source_hash, task.images_per_class,
            generator.initial_seed(), context.labels, *drawn_from,
        )  # fmt: skip
        checkpointer = Checkpointer(context.checkpoint, key)
        self._run(synthetic, objective, generator, checkpointer, context)
        checkpointer.remove()
        made = recorded(
            self,
            task,
            synthetic.images,
            synthetic.labels,
            augmentation=self.training_augmentation(),
        )
        learned = synthetic.label_logits is not None
        return replace(
            made,
            parameters={**made.parameters, **objective.facts()},
            decode_factor=self.decode_factor,
            zca=self.zca,
            labelling=Labelling(kind="learned" if learned else "hard"),
            learning_rate_rule=self.learning_rate_rule(synthetic),
        )

    def synthetic_images(
        self, images: Tensor, images_per_class: int, spec: DatasetSpec, context: DistillContext
    ) -> SyntheticImages:
        """What is optimised; a method that learns labels or a learning rate adds them here."""
        images = images.clone().requires_grad_()
        classes = torch.arange(spec.num_classes, device=images.device)
        return SyntheticImages(
            images=images,
            classes=classes.repeat_interleave(images_per_class * self.decode_factor**2),
            images_per_class=images_per_class,
            spec=spec,
            optimiser=self.optimiser([{"params": [images]}]),
            decode_factor=self.decode_factor,
        )

    def optimiser(self, groups: Sequence[dict[str, object]]) -> torch.optim.Optimizer:
        """Of the pixels and whatever else is learned, each group with its own settings."""
        if self.image_optimiser == "adam":
            return torch.optim.Adam(list(groups), lr=self.image_learning_rate)
        if self.image_optimiser == "lamb":
            return Lamb(list(groups), lr=self.image_learning_rate)
        descent = NormalisedSGD if self.image_optimiser == "normalised_sgd" else torch.optim.SGD
        return descent(list(groups), lr=self.image_learning_rate, momentum=self.image_momentum)

    def training_augmentation(self) -> Augmentation:
        """What training on the finished images gets."""
        return Augmentation(dsa=self.augment)

    def learning_rate_rule(self, synthetic: SyntheticImages) -> LearningRateRule:
        """How the method's authors train on the finished images."""
        return LearningRateRule()

    def _run(
        self,
        synthetic: SyntheticImages,
        objective: Objective,
        generator: torch.Generator,
        checkpointer: Checkpointer,
        context: DistillContext,
    ) -> None:
        """All iterations, from the checkpoint on."""
        first, num_steps = 0, objective.num_steps or self.num_steps
        whole = _Whole(synthetic, objective, generator)
        found = checkpointer.load()
        if found is not None:
            first = found.step
            whole.restore(found.tensors)
        for step in range(first, num_steps):
            before = {name: value.detach().clone() for name, value in whole.state().items()}
            seed = int(torch.randint(2**62, (1,), generator=generator))
            try:
                # The networks of a space may have dropout, which knows the global generator alone.
                with (
                    isolated_rng(seed),
                    torch.autocast(
                        context.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"
                    ),
                ):
                    loss = objective.step(synthetic, seed)
            except DivergedError as error:
                whole.restore(before)
                checkpointer.save(step, before)
                kept = f"; {context.checkpoint} keeps the images after step {step}"
                raise DivergedError(
                    f"{self.name} diverged at step {step + 1} of {num_steps}: {error}; "
                    f"lower distill.image_learning_rate (now {self.image_learning_rate})"
                    f"{kept if context.checkpoint else ''}"
                ) from error
            checkpointer.save_if_due(step + 1, whole.state())
            context.progress(step + 1, num_steps, f"loss {loss:.3g}")


class _Whole:
    """Everything that the next step depends on."""

    def __init__(
        self, synthetic: SyntheticImages, objective: Objective, generator: torch.Generator
    ) -> None:
        self._synthetic = synthetic
        self._objective = objective
        self._generator = generator

    def state(self) -> dict[str, Tensor]:
        """Not a copy: the next step changes it."""
        generator = {"generator": self._generator.get_state()}
        return {**generator, **self._synthetic.state(), **self._objective.state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._synthetic.restore(state)
        self._objective.restore(state)
        self._generator.set_state(state["generator"])


def initial_label_logits(classes: Tensor, num_classes: int) -> Tensor:
    """Where learned labels start: sure of the class, but not so sure that nothing is learned."""
    one_hot = torch.nn.functional.one_hot(classes, num_classes).float()
    return (one_hot * _LABEL_CONFIDENCE).requires_grad_()
