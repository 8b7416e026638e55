"""Trajectory matching: images on which a network moves in a few steps as on all data in epochs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from nas_proxy.data.augment import DSA_STRATEGY, Augmentation, dsa_families, siamese_augment
from nas_proxy.data.multi_formation import encode
from nas_proxy.data.proxy_dataset import LearningRateRule, ProxyDataset
from nas_proxy.distill.common.inner_training import InnerTraining
from nas_proxy.distill.common.pixels import Objective, PixelDistiller, initial_label_logits
from nas_proxy.distill.common.synthetic import RealImages, SyntheticImages
from nas_proxy.distill.trajectory_matching._published import Published, Variant, published
from nas_proxy.distill.trajectory_matching._trajectories import (
    ExpertRecipe,
    Trajectories,
    obtain_trajectories,
)
from nas_proxy.errors import ConfigError, DivergedError, required
from nas_proxy.interfaces import DistillContext, DistillTask
from nas_proxy.networks.catalogue import NetworkSettings
from nas_proxy.options import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
from nas_proxy.registry import DISTILLERS
from nas_proxy.reproducibility import derive_seed, make_generator
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import DatasetSpec, ImageDataset

_RATE_MOMENTUM = 0.5  # of the optimiser of the learned learning rate, in all published code


@DISTILLERS.register("trajectory_matching")
@dataclass(frozen=True, kw_only=True)
class TrajectoryMatching(PixelDistiller):
    """MTT: N steps on the images lead where M epochs on the real ones led an expert.

    The loss is the squared distance of the student to the expert's later parameters, divided by
    the squared distance that the expert went. Options that are None are the published ones of
    `variant` for the images per class, or for the nearest number below it that has some.
    With `labels: learned` the labels start from what the experts say and are learned too.

    With `variant: mtt` these are the settings of the published 46.2, 65.4 and 71.6 % on CIFAR-10
    (1, 10 and 50 images per class). `variant: datm` is DATM but for its experts, which the authors
    trained with a sharpness-aware optimiser (FTD) that is not part of this program.

    Three gradients are on offer, see `InnerTraining` of `nas_proxy.distill.common.inner_training`.
    `unrolled` is MTT's. `recomputed` is the same number to rounding (1e-15 in double precision) in
    memory that does not grow with N (24 instead of 440 MiB for N = 20 on 50 CIFAR-10 images with a
    ConvNet of width 16), for about 1.5 times the time. `first_order` is TESLA's formula, which
    takes the parameters of each step for constants: it equals the others for N = 1 only, needs the
    memory of `recomputed` and saves five per cent of its time, so it is here for comparison.

    Attributes:
        variant: Whose published settings count: `mtt` or `datm`.
        init: `correct` starts from real images that the first expert, fully trained, classifies
            correctly, as far as a class has enough of them.
        zca: As for other methods; 0 does not whiten.
        real_batch_size: Of the experts' training.
        gradient: How the gradient is computed: `unrolled`, `recomputed` or `first_order`.
        num_inner_steps: N, the student's steps.
        inner_batch_size: Images in each of them; None: all.
        matched_epochs: M, the epochs that the expert had for the same way.
        min_start_epoch: The student starts from an expert's parameters after so many epochs or
            more.
        max_start_epoch: And after fewer than this (T+ in both papers).
        initial_max_start_epoch: The same at the first step (DATM's T).
        window_growth_steps: Over so many steps the one grows into the other; 0: at once.
        max_loss: A step whose loss is larger changes nothing. None: as published, no limit in MTT.
        initial_learning_rate: Of the student; learned with the images.
        learning_rate_learning_rate: With which that is learned, with momentum 0.5.
        label_learning_rate: Of learned labels.
        label_momentum: Of the same.
        num_experts: Trained networks to start from; each is kept in the cache.
        expert_num_epochs: Epochs of their training: plain gradient descent, no weight decay.
        expert_learning_rate: Of that training, constant.
        expert_augment: Families of augmentation of that training; as `augment`.
        expert_seed: Another one gives other experts; studies with the same one share them.

    Raises:
        ConfigError: If the experts' training is too short for the epochs that are matched, or no
            epoch is left to start from.
    """

    family = "parameter matching, several steps"
    typical_cost = "hours on a GPU, and hours more for the experts, which other studies can reuse"
    summary = "matches the training trajectories of experts (MTT; DATM's window; TESLA's gradient)"
    paper = (
        "Cazenavette et al., Dataset Distillation by Matching Training Trajectories, CVPR 2022; "
        "Cui et al., Scaling Up Dataset Distillation with Constant Memory (TESLA), ICML 2023; "
        "Guo et al., Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching "
        "(DATM), ICLR 2024"
    )

    # Narrower in the base class: `in_force` says which before the base class looks at them.
    num_steps: PositiveInt | None = None  # type: ignore[assignment]
    image_learning_rate: PositiveFloat | None = None  # type: ignore[assignment]
    init: Literal["real", "noise", "correct"] | None = None  # type: ignore[assignment]
    zca: NonNegativeFloat | None = None
    augment: str = DSA_STRATEGY
    variant: Variant = "mtt"
    gradient: Literal["unrolled", "recomputed", "first_order"] = "recomputed"
    num_inner_steps: PositiveInt | None = None
    inner_batch_size: PositiveInt | None = None
    matched_epochs: PositiveInt = 2
    min_start_epoch: NonNegativeInt | None = None
    max_start_epoch: PositiveInt | None = None
    initial_max_start_epoch: PositiveInt | None = None
    window_growth_steps: NonNegativeInt | None = None
    max_loss: PositiveFloat | None = None
    initial_learning_rate: PositiveFloat | None = None
    learning_rate_learning_rate: PositiveFloat | None = None
    label_learning_rate: PositiveFloat | None = None
    label_momentum: Fraction = 0.9
    num_experts: PositiveInt = 100
    expert_num_epochs: PositiveInt | None = None
    expert_learning_rate: PositiveFloat = 0.01
    expert_augment: str = DSA_STRATEGY
    expert_seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        """Refuse families that do not exist and epochs that no expert has."""
        super().__post_init__()
        dsa_families(self.expert_augment)
        last, length = self.max_start_epoch, self.expert_num_epochs
        if last and length and last - 1 + self.matched_epochs > length:
            raise ConfigError(
                f"students start at up to {last - 1} epochs and are compared with their expert "
                f"{self.matched_epochs} epochs later, but experts train for {length}; raise "
                f"expert_num_epochs to {last - 1 + self.matched_epochs}, or lower max_start_epoch"
            )
        for name in ("max_start_epoch", "initial_max_start_epoch"):
            end = getattr(self, name)
            if end and (self.min_start_epoch or 0) >= end:
                raise ConfigError(
                    f"there is no epoch to start from: min_start_epoch is {self.min_start_epoch} "
                    f"and {name} {end}, which is not an epoch to start from itself; raise {name}"
                )

    def in_force(self, images_per_class: int) -> Published:
        """The options, with the published ones where they are None."""
        found = published(self.variant, images_per_class)
        said = {name: getattr(self, name) for name in vars(found)}
        found = replace(found, **{name: v for name, v in said.items() if v is not None})
        return replace(found, zca=found.zca or None)

    def distill(self, task: DistillTask) -> ProxyDataset:
        """Get the experts, then optimise the images; see `PixelDistiller.distill`.

        Raises:
            ConfigError: If options and published values do not go together, or a student's step
                does not fit into memory.
            ProxyFileError: If an expert's file is truncated or altered.
            StudyError: If the experts do not fit on the disk.
            DivergedError: If a loss, a gradient, a pixel or the learning rate leaves what is
                sensible; the checkpoint keeps the last state before it.
        """
        settled = replace(self, **vars(self.in_force(task.images_per_class)))
        return super(TrajectoryMatching, settled).distill(task)

    def objective(
        self, dataset: ImageDataset, real: RealImages, context: DistillContext
    ) -> Objective:
        """Obtains the experts."""
        rules = self._settled
        recipe = ExpertRecipe(
            network=NetworkSettings(
                name="convnet", width=self.network_width, depth=self.network_depth
            ),
            train=TrainSettings(
                num_epochs=rules.expert_num_epochs,
                batch_size=self.real_batch_size,
                learning_rate=self.expert_learning_rate,
                schedule="constant",
                momentum=0.0,
                nesterov=False,
                weight_decay=0.0,
                augmentation=Augmentation(dsa=self.expert_augment),
                precision=self.precision,
            ),
            zca=rules.zca,
            seed=self.expert_seed,
        )
        trajectories = obtain_trajectories(recipe, self.num_experts, dataset, real, context)
        return TrajectoryObjective(self, rules, trajectories, real)

    @property
    def _settled(self) -> Published:
        """The options of a distiller that has no None left where a number is needed."""
        return Published(**{field.name: getattr(self, field.name) for field in fields(Published)})

    def synthetic_images(
        self, images: Tensor, images_per_class: int, spec: DatasetSpec, context: DistillContext
    ) -> SyntheticImages:
        """Learns the student's learning rate too, and labels if they are wanted."""
        rules = self._settled
        made = super().synthetic_images(images, images_per_class, spec, context)
        rate = torch.tensor(rules.initial_learning_rate, device=images.device, requires_grad=True)
        groups: list[dict[str, object]] = [
            {"params": [made.images]},
            {
                "params": [rate],
                "lr": rules.learning_rate_learning_rate,
                "momentum": _RATE_MOMENTUM,
            },
        ]
        logits = None
        if context.labels == "learned":
            logits = initial_label_logits(made.classes, spec.num_classes)
            groups.append(
                {
                    "params": [logits],
                    "lr": rules.label_learning_rate,
                    "momentum": self.label_momentum,
                }
            )
        return replace(
            made, optimiser=self.optimiser(groups), label_logits=logits, learning_rate=rate
        )

    def learning_rate_rule(self, synthetic: SyntheticImages) -> LearningRateRule:
        """The evaluation of the field, with the learning rate that was learned."""
        rate = required(synthetic.learning_rate, "the learning rate")
        return LearningRateRule(learning_rate=float(rate.detach()))


class TrajectoryObjective(Objective):
    """The distance of students from where their expert went.

    Args:
        distiller: With its options.
        rules: Those in force.
        trajectories: The experts.
        real: The real images.
    """

    def __init__(
        self,
        distiller: TrajectoryMatching,
        rules: Published,
        trajectories: Trajectories,
        real: RealImages,
    ) -> None:
        self._distiller = distiller
        self._rules = rules
        self._trajectories = trajectories
        self._real = real
        self._num_done = 0

    def state(self) -> dict[str, Tensor]:
        """How many steps are done: the window of start epochs grows with them."""
        return {"trajectories.num_done": torch.tensor(self._num_done)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to what `state` gave."""
        self._num_done = int(state["trajectories.num_done"])

    def end_of_window(self) -> int:
        """Students of this step start at an earlier epoch than this one."""
        rules = self._rules
        first, last = rules.initial_max_start_epoch, rules.max_start_epoch
        if self._num_done >= rules.window_growth_steps:
            return last
        return first + int((last - first) * self._num_done / rules.window_growth_steps)

    @torch.no_grad()
    def prepare(self, synthetic: SyntheticImages, generator: torch.Generator) -> None:
        """Start from images that the first expert knows, and from labels that experts give."""
        factor = synthetic.decode_factor
        if self._rules.init == "correct":
            known = self._trajectories.known_images(
                synthetic.images_per_class * factor**2, generator
            )
            synthetic.images.copy_(encode(self._real.at(known), factor))
        if synthetic.label_logits is not None:
            said, right = self._trajectories.labels(synthetic.training_images(), synthetic.classes)
            synthetic.label_logits[right] = said[right]

    def step(self, synthetic: SyntheticImages, seed: int) -> float:
        """Let one student train on the images, and move them against its distance (equation 3)."""
        generator = make_generator(derive_seed(seed, "start"))
        rules, distiller = self._rules, self._distiller
        expert = _draw(0, len(self._trajectories), generator)
        epoch = _draw(rules.min_start_epoch, self.end_of_window(), generator)
        start = self._trajectories.parameters(expert, epoch)
        goal = self._trajectories.parameters(expert, epoch + distiller.matched_epochs)
        way = (start - goal).square().sum()

        def loss_of(end: Tensor) -> Tensor:
            return (end - goal).square().sum() / way

        outputs, training = self._student(synthetic, start, seed)
        try:
            loss, gradients = getattr(training, distiller.gradient)(loss_of)
        except torch.OutOfMemoryError as error:
            raise self._too_large(len(synthetic.classes)) from error
        if not bool(loss.isfinite()):
            raise DivergedError("the loss is not finite")
        if rules.max_loss is None or float(loss) <= rules.max_loss:
            synthetic.optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(outputs, gradients)
            synthetic.step()
            self._check_learning_rate(synthetic)
        self._num_done += 1
        return float(loss)

    def _too_large(self, num_images: int) -> ConfigError:
        batch_size = min(self._rules.inner_batch_size or num_images, num_images)
        if self._distiller.gradient == "unrolled":
            return ConfigError(
                f"the graph of {self._rules.num_inner_steps} steps on {batch_size} images does not "
                "fit into memory; set distill.gradient: recomputed, which needs that of one step"
            )
        return ConfigError(
            f"a step on {batch_size} images does not fit into memory; set "
            f"distill.inner_batch_size to {max(1, batch_size // 2)} or less"
        )

    def _student(
        self, synthetic: SyntheticImages, start: Tensor, seed: int
    ) -> tuple[list[Tensor], InnerTraining]:
        """A student's training, and the tensors that its inputs are copies of."""
        rate = required(synthetic.learning_rate, "the learning rate")
        learned = [synthetic.label_logits] if synthetic.label_logits is not None else []
        outputs = [synthetic.training_images(), rate]
        outputs += [synthetic.labels for _ in learned]
        inputs = [output.detach().requires_grad_() for output in outputs]
        images, learning_rate = inputs[:2]
        labels = inputs[2] if learned else synthetic.labels
        batches = index_batches(
            len(images),
            self._rules.inner_batch_size,
            self._rules.num_inner_steps,
            make_generator(derive_seed(seed, "batches")),
        )

        def batch(step: int) -> tuple[Tensor, Tensor]:
            indices = batches[step].to(images.device)
            changes = make_generator(derive_seed(seed, "augmentation", step), images.device)
            augmented = siamese_augment(
                images[indices], self._distiller.augment, changes, shared=False
            )
            return augmented, labels[indices]

        training = InnerTraining(
            network=self._trajectories.network,
            start=start,
            learning_rate=learning_rate,
            num_steps=self._rules.num_inner_steps,
            batch=batch,
            inputs=inputs,
        )
        return outputs, training

    def _check_learning_rate(self, synthetic: SyntheticImages) -> None:
        rate = required(synthetic.learning_rate, "the learning rate")
        if not float(rate.detach()) > 0:
            raise DivergedError(
                f"the learned learning rate became {float(rate.detach()):.3g}, which is no step "
                "forward (lower distill.learning_rate_learning_rate too, now "
                f"{self._rules.learning_rate_learning_rate})"
            )


def index_batches(
    num_images: int, batch_size: int | None, num_batches: int, generator: torch.Generator
) -> list[Tensor]:
    """Batches of a stream of permutations: each image once before any image again.

    Args:
        num_images: The indices are smaller than this.
        batch_size: Length of each batch; None, or more than there are: all images.
        num_batches: How many.
        generator: On the CPU.
    """
    size = min(batch_size or num_images, num_images)
    num_passes = -(-num_batches * size // num_images)
    passes = [torch.randperm(num_images, generator=generator) for _ in range(num_passes)]
    return list(torch.cat(passes).split(size)[:num_batches])


def _draw(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high, (1,), generator=generator))
