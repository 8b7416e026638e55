"""Forgetting: the images that a network in training learns and loses again most often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nas_proxy.data.splits import members_of_classes
from nas_proxy.data.transforms import resize_dataset
from nas_proxy.distill.common.coreset import CoresetDistiller
from nas_proxy.errors import ConfigError, DivergedError
from nas_proxy.interfaces import DistillContext, DistillTask
from nas_proxy.networks.catalogue import NetworkOption, NetworkSettings, build_network
from nas_proxy.registry import DISTILLERS
from nas_proxy.reproducibility import derive_seed, isolated_rng, make_generator
from nas_proxy.teachers.teacher import Teacher
from nas_proxy.train.loop import train
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.teacher_settings import DEFAULT_TEACHER
from nas_proxy.train.training_set import TrainingSet

_SHOWN_EVERY = 20  # steps between two reports of progress


@DISTILLERS.register("forgetting")
@dataclass(frozen=True, kw_only=True)
class Forgetting(CoresetDistiller):
    """The most forgotten images of each class; one that was never right counts as infinitely so.

    The 200 epochs are published (with a ResNet-18); the network is the one of the condensation
    literature, in whose tables a few forgotten images of each class are worse than random ones.
    In a short training many images are never right (an eighth of CIFAR-10 after 8 epochs of a small
    ConvNet), and the choice is a draw among them. The training is the cost of this method, and a
    run that was killed starts it anew.

    Attributes:
        network: Whose training is watched; a name or a section.
        train: How it is trained; `num_seeds` trainings are averaged.
    """

    typical_cost = "a training of 200 epochs: minutes on a GPU, half a day on one CPU core"
    summary = "the real images that a network in training forgets most often"
    paper = "Toneva et al., An Empirical Study of Example Forgetting, ICLR 2019"

    network: NetworkOption = NetworkSettings(name="convnet")
    train: TrainSettings = replace(DEFAULT_TEACHER.train, num_epochs=200)

    def __post_init__(self) -> None:
        """Refuse training settings that mean nothing here."""
        if self.train.space_fidelity or self.train.num_val_images is not None:
            raise ConfigError(
                "train of forgetting trains a fixed network and validates nothing; "
                "leave space_fidelity and num_val_images out"
            )
        if self.train.augmentation is not None and self.train.augmentation.mixes:
            raise ConfigError(
                "forgetting asks whether each image is classified right, which mixed images do "
                "not say; set mixup and cutmix of train.augmentation to 0"
            )

    def select(self, task: DistillTask, teachers: Sequence[Teacher]) -> Tensor:
        """Train, count, and take the most forgotten of each class; ties are drawn."""
        dataset, generator = task.dataset, task.generator
        size = self.train.image_size or dataset.spec.image_shape[1]
        training_set = TrainingSet.of(resize_dataset(dataset, size))
        counts = []
        for _ in range(self.train.num_seeds):
            seed = int(torch.randint(2**62, (1,), generator=generator))
            counts.append(self._count(training_set, seed, task.context))
        forgotten = torch.stack(counts).mean(dim=0)
        chosen = [
            members[most_forgotten(forgotten[members], task.images_per_class, generator)]
            for members in members_of_classes(dataset, task.images_per_class)
        ]
        return torch.cat(chosen)

    def _count(self, training_set: TrainingSet, seed: int, context: DistillContext) -> Tensor:
        """How often each image is forgotten in one training, float32 `(n,)` on the CPU."""
        num_steps = self.train.steps_for(len(training_set))
        history = ForgettingHistory(len(training_set), context.device)

        def watch(step: int, indices: Tensor, logits: Tensor) -> None:
            history.record(indices, logits.argmax(dim=1) == training_set.labels[indices])
            if step % _SHOWN_EVERY == 0 or step == num_steps:
                context.progress(step, num_steps, "counting what is forgotten")

        generator = make_generator(derive_seed(seed, "batches"), context.device)
        try:
            with isolated_rng(seed):
                network = build_network(self.network, training_set.spec).to(context.device)
                train(network, training_set, self.train, generator, watch)
        except DivergedError as error:
            raise DivergedError(
                f"the training of forgetting diverged: {error}; lower distill.train.learning_rate "
                f"(now {self.train.learning_rate})"
            ) from error
        return history.num_forgotten().cpu()


class ForgettingHistory:
    """Counts how often images that were classified right are wrong at the next look.

    Args:
        num_images: Images that are trained on.
        device: Where predictions arrive.
    """

    def __init__(self, num_images: int, device: torch.device) -> None:
        self._was_right = torch.zeros(num_images, dtype=torch.bool, device=device)
        self._was_learnt = torch.zeros_like(self._was_right)
        self._counts = torch.zeros(num_images, device=device)

    def record(self, indices: Tensor, right: Tensor) -> None:
        """Look at some images.

        Args:
            indices: Which, int64 `(b,)`; one that comes twice, as in a batch across the end of an
                epoch, is right if it is right both times.
            right: Whether each is classified right now, bool `(b,)`.
        """
        seen, positions = indices.unique(return_inverse=True)
        lowest = torch.ones(len(seen), dtype=torch.int64, device=seen.device)
        right_now = lowest.scatter_reduce(0, positions, right.long(), "amin").bool()
        self._counts[seen] += (self._was_right[seen] & ~right_now).float()
        self._was_right[seen] = right_now
        self._was_learnt[seen] |= right_now

    def num_forgotten(self) -> Tensor:
        """Times that each image was forgotten, float32 `(n,)`; infinite if it was never right."""
        return torch.where(self._was_learnt, self._counts, torch.inf)


def most_forgotten(num_forgotten: Tensor, num_images: int, generator: torch.Generator) -> Tensor:
    """Positions of the highest counts, int64 `(num_images,)`, highest first; ties are drawn.

    Args:
        num_forgotten: Of one class, `(n,)`, on the CPU.
        num_images: At most n.
        generator: On the CPU.
    """
    order = torch.randperm(len(num_forgotten), generator=generator)
    ranks = num_forgotten[order].argsort(descending=True, stable=True)
    return order[ranks[:num_images]]
