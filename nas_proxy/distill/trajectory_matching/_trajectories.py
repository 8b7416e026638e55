"""Expert trajectories: what the parameters of a network are at every epoch of its training.

They depend on the real images alone, so they are kept for other studies: one file for each expert,
in half precision, in `trajectories/<id>` of the cache. The id is a hash of everything that shapes
them, except the number of experts: a study that asks for more trains only the missing ones.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from nas_proxy.core.files import write_atomically
from nas_proxy.distill.common.inner_training import flatten_parameters, forward
from nas_proxy.distill.common.synthetic import RealImages
from nas_proxy.errors import DivergedError, ProxyFileError, StudyError, instance_of
from nas_proxy.interfaces import DistillContext
from nas_proxy.networks.base import Network
from nas_proxy.networks.catalogue import NetworkSettings, build_network
from nas_proxy.reproducibility import (
    canonical_json,
    content_hash,
    derive_seed,
    isolated_rng,
    make_generator,
)
from nas_proxy.train.loop import train
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import DatasetSpec, ImageDataset

FORMAT = "nas_proxy.trajectory/1"
VERSION = 1  # raised by hand when training changes what a recipe gives
_METADATA_KEY = "nas_proxy"
_TENSOR = "parameters"
_BYTES = 2  # of a number in half precision
_BATCH_SIZE = 500  # images that go through a network at once where no gradient is needed


@dataclass(frozen=True, kw_only=True)
class ExpertRecipe:
    """What makes experts the ones they are, together with the images.

    Attributes:
        network: Which network.
        train: How it is trained; needs `num_epochs`.
        zca: Regularisation of the whitening that the images go through; None for none.
        seed: Of weights, batches and augmentation of all experts.
    """

    network: NetworkSettings
    train: TrainSettings
    zca: float | None
    seed: int

    @property
    def num_epochs(self) -> int:
        """Epochs that an expert trains; its trajectory has one point more, the first."""
        return instance_of(self.train.num_epochs, int)

    def id(self, spec: DatasetSpec) -> str:
        """Hash of the recipe and of the images that `spec` describes."""
        return content_hash(asdict(self), spec.source_hash, spec.image_shape, VERSION)


class Trajectories:
    """Trained experts on disk; read point by point, so that memory does not grow with them.

    Without a cache they are kept in a temporary folder for as long as this object lives.

    Attributes:
        id: Names their folder.
        network: Lends its structure to whoever runs it with the parameters of an expert.

    Args:
        recipe: What they are.
        dataset: The search-training images.
        real: The same images as networks see them, whitened if the recipe says so.
        context: Device, progress and cache.
    """

    def __init__(
        self,
        recipe: ExpertRecipe,
        dataset: ImageDataset,
        real: RealImages,
        context: DistillContext,
    ) -> None:
        self.id = recipe.id(dataset.spec)
        self._recipe = recipe
        self._dataset = dataset
        self._real = real
        self._context = context
        self._seconds: list[float] = []
        self.network = self._initialised(seed=0)
        if context.cache is None:
            self._folder = Path(tempfile.mkdtemp(prefix="nas_proxy_trajectories_"))
            weakref.finalize(self, shutil.rmtree, self._folder)
        else:
            self._folder = context.cache / "trajectories" / self.id

    def __len__(self) -> int:
        return len(self._seconds)

    @property
    def train_seconds(self) -> float:
        """Wall-clock seconds of training all experts, whenever that was."""
        return sum(self._seconds)

    def path(self, expert: int) -> Path:
        """The file of an expert, counted from 0."""
        return self._folder / f"expert_{expert:04d}.safetensors"

    def parameters(self, expert: int, epoch: int) -> Tensor:
        """All parameters of an expert after `epoch` epochs, float32 `(p,)`; -1 for the last.

        The order is that of `flatten_parameters`.
        """
        with safe_open(str(self.path(expert)), framework="pt") as file:
            points = file.get_slice(_TENSOR)
            point: Tensor = points[epoch % (self._recipe.num_epochs + 1)]
        return point.to(self._context.device, torch.float32)

    @torch.no_grad()
    def known_images(self, wanted: int, generator: torch.Generator) -> Tensor:
        """Random real images of each class, first of all those that the first expert is right on.

        Args:
            wanted: Images of each class; a class with fewer gives some of them more than once.
            generator: On the CPU.

        Returns:
            Indices of the data set, int64 `(num_classes * wanted,)`, class by class.
        """
        expert = self.parameters(0, -1)
        chosen = []
        for label in range(self._dataset.spec.num_classes):
            members = torch.nonzero(self._dataset.labels == label).flatten()
            order = torch.randperm(len(members), generator=generator).to(members.device)
            known, unknown, num_known = [], [], 0
            for part in members[order].split(_BATCH_SIZE):
                right = self._logits(expert, self._real.at(part)).argmax(dim=1) == label
                known.append(part[right])
                unknown.append(part[~right])
                num_known += len(known[-1])
                if num_known >= wanted:
                    break
            ranked = torch.cat(known + unknown)
            chosen.append(ranked.repeat(-(-wanted // len(ranked)))[:wanted])
        return torch.cat(chosen)

    @torch.no_grad()
    def labels(self, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """What the experts that are right about an image say of it, on average.

        Args:
            images: As networks see them, `(n, c, h, w)`.
            classes: int64, `(n,)`.

        Returns:
            Logits `(n, num_classes)`, and for each image whether any expert is right about it,
            `(n,)`; the logits of one that none is right about are zero.
        """
        total = torch.zeros(len(images), self._dataset.spec.num_classes, device=images.device)
        num_right = torch.zeros(len(images), 1, device=images.device)
        for expert in range(len(self)):
            parameters = self.parameters(expert, -1)
            parts = images.split(_BATCH_SIZE)
            logits = torch.cat([self._logits(parameters, part) for part in parts])
            right = (logits.argmax(dim=1) == classes)[:, None]
            total += logits * right
            num_right += right
        return total / num_right.clamp_min(1), num_right.flatten() > 0

    def _logits(self, parameters: Tensor, images: Tensor) -> Tensor:
        return forward(self.network, parameters, images)

    def obtain(self, num_experts: int) -> None:
        """Make sure of the first `num_experts` experts; see `obtain_trajectories`."""
        paths = [self.path(expert) for expert in range(num_experts)]
        self._check_space(sum(not path.is_file() for path in paths))
        self._seconds = []
        for expert, path in enumerate(paths):
            with self._context.costs.obtain() as paid:
                known = path.is_file()
                self._seconds.append(
                    self._verified(path, expert) if known else self._train(expert, num_experts)
                )
                paid["experts"] = self.train_seconds

    def _check_space(self, num_missing: int) -> None:
        num_parameters = flatten_parameters(self.network).numel()
        size = num_parameters * (self._recipe.num_epochs + 1) * _BYTES
        self._folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folder).free
        if num_missing * size > free:
            raise StudyError(
                f"{num_missing} expert trajectories of {size / 2**20:.1f} MiB each do not fit into "
                f"{self._folder}, where {free / 2**20:.1f} MiB are free; lower distill.num_experts "
                f"by {num_missing - free // size} or distill.expert_num_epochs "
                f"(now {self._recipe.num_epochs}), or make room"
            )

    def _initialised(self, seed: int) -> Network:
        with isolated_rng(seed):
            network = build_network(self._recipe.network, self._dataset.spec)
        return network.to(self._context.device)

    def _train(self, expert: int, num_experts: int) -> float:
        """Train an expert and keep its trajectory; returns the seconds it took."""
        settings = self._recipe.train
        network = self._initialised(derive_seed("expert", self._recipe.seed, expert))
        last = self._recipe.num_epochs
        ends = {
            replace(settings, num_epochs=epoch).steps_for(len(self._dataset))
            for epoch in range(1, last + 1)
        }
        points: list[Tensor] = []

        def keep() -> None:
            points.append(flatten_parameters(network).to("cpu", torch.float16))
            epoch = len(points) - 1
            if epoch < last:  # what comes after the last epoch reports itself
                done, total = expert * last + epoch, num_experts * last
                self._context.progress(done, total, f"expert {expert + 1} of {num_experts}")

        def observe(step: int, indices: Tensor, logits: Tensor) -> None:
            if step in ends:
                keep()

        keep()
        training_set = _RealSet(
            self._dataset.images, self._dataset.labels, self._dataset.spec, real=self._real
        )
        seed = derive_seed("training an expert", self._recipe.seed, expert)
        try:
            result = train(
                network, training_set, settings, make_generator(seed, self._context.device), observe
            )
        except DivergedError as error:
            raise DivergedError(
                f"expert {expert + 1} of {num_experts} diverged: {error}; lower "
                f"distill.expert_learning_rate (now {settings.learning_rate})"
            ) from error
        self._save(torch.stack(points), expert, result.train_seconds)
        return result.train_seconds

    def _save(self, points: Tensor, expert: int, seconds: float) -> None:
        header = {
            "format": FORMAT,
            "trajectories": self.id,
            "expert": expert,
            "recipe": asdict(self._recipe),
            "train_seconds": seconds,
        }
        header["hash"] = content_hash(points, header)
        content = to_safetensors({_TENSOR: points}, {_METADATA_KEY: canonical_json(header)})
        write_atomically(self.path(expert), content)

    def _verified(self, path: Path, expert: int) -> float:
        """Read all of a file once; returns the seconds that its expert took."""
        try:
            with safe_open(str(path), framework="pt") as file:
                header = json.loads((file.metadata() or {})[_METADATA_KEY])
                points = file.get_tensor(_TENSOR)
            recorded = header.pop("hash")
            of = (header["format"], header["trajectories"], header["expert"])
            seconds = float(header["train_seconds"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise ProxyFileError(
                f"the expert trajectory {path} is truncated or damaged ({error}); delete it and it "
                "is trained again"
            ) from error
        if content_hash(points, header) != recorded or of != (FORMAT, self.id, expert):
            raise ProxyFileError(
                f"the expert trajectory {path} was altered after it was written; delete it and it "
                "is trained again"
            )
        return seconds


@dataclass(frozen=True, eq=False, kw_only=True)
class _RealSet(TrainingSet):
    """Real images as the method sees them, whitened batch by batch: no copy in float32."""

    real: RealImages

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.real.at(indices), self.labels[indices]


def obtain_trajectories(
    recipe: ExpertRecipe,
    num_experts: int,
    dataset: ImageDataset,
    real: RealImages,
    context: DistillContext,
) -> Trajectories:
    """Experts, of which those that the context's cache does not hold are trained.

    A run that was killed has lost the expert in training and no other.

    Args:
        recipe: What they are.
        num_experts: How many.
        dataset: The search-training images.
        real: The same images as networks see them, whitened if the recipe says so.
        context: Device, progress and cache.

    Raises:
        ProxyFileError: If a file is truncated or altered.
        StudyError: If they do not fit on the disk; the message says how many would.
        DivergedError: If a training diverges.
    """
    trajectories = Trajectories(recipe, dataset, real, context)
    trajectories.obtain(num_experts)
    return trajectories
