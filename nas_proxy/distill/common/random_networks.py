"""Where methods get their random networks: the field's ConvNet, or the searched space itself."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from nas_proxy.data.augment import siamese_augment
from nas_proxy.distill.common.pixels import Objective, PixelDistiller
from nas_proxy.distill.common.synthetic import RealImages, SyntheticImages
from nas_proxy.errors import ConfigError
from nas_proxy.interfaces import DistillContext, SearchSpace, TransferSpace
from nas_proxy.networks.base import Network, batch_norms, has_batchnorm
from nas_proxy.networks.catalogue import NetworkSettings, build_network
from nas_proxy.networks.wrapped import WrappedNetwork
from nas_proxy.reproducibility import derive_seed, isolated_rng, make_generator
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.teacher_settings import TeacherSettings
from nas_proxy.types import Architecture, DatasetSpec, ImageDataset

logger = logging.getLogger("nas_proxy")

NetworkOrigin = Literal["convnet", "search_space"]

_MOST_ATTEMPTS = 100  # at drawing one network of a space that can be used
_NUM_PROBES = 4  # images that a network of a space is asked about first
_OF_THE_CONVNET = ("network_width", "network_depth", "network_norm")


class NetworkSource(ABC):
    """Random networks, one for each seed: the same seed gives the same architecture and weights."""

    @abstractmethod
    def draw(self, seed: int) -> Network:
        """A network with random weights, on the device of the images."""

    def facts(self) -> dict[str, Any]:
        """What the set's record says of them beside the options, as JSON values."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """What a continued distillation has to know of those drawn before."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - most keep nothing
        """Go back to what `state` gave."""


class ConvNets(NetworkSource):
    """One architecture of the catalogue, with other weights each time.

    Args:
        settings: Which one.
        dataset: The images that it is for.
    """

    def __init__(self, settings: NetworkSettings, dataset: ImageDataset) -> None:
        self._settings = settings
        self._dataset = dataset

    def draw(self, seed: int) -> Network:
        """See `NetworkSource.draw`."""
        with isolated_rng(seed):
            network = build_network(self._settings, self._dataset.spec)
        return network.to(self._dataset.images.device)


class SpaceNetworks(NetworkSource):
    """Random architectures of a search space, at the fidelity that its author recommends.

    Batch norms normalise with the batch that is before them, as in training; all else, such as
    dropout, is as in evaluation: two batches are compared under one and the same function. What
    cannot be used is skipped, counted, and said once: a network whose embedding no image can
    change, such as a cell without a path; one that does not end in a linear layer; and one with an
    operation that torch cannot differentiate twice, where the method asks for that.

    Args:
        space: Whose networks; weights that it would start from are left out.
        dataset: The images that they are for.
        twice: Whether they are to be differentiated twice.
        batch_norm: Whether they must have batch norm.
    """

    def __init__(
        self,
        space: SearchSpace,
        dataset: ImageDataset,
        *,
        twice: bool = False,
        batch_norm: bool = False,
    ) -> None:
        bare = space.without_weights() if isinstance(space, TransferSpace) else space
        self._space = replace(bare, **bare.reductions)
        self._dataset = dataset
        self._twice = twice
        self._batch_norm = batch_norm
        self._num_drawn = 0
        self._num_skipped = 0

    @classmethod
    def of_study(
        cls, method: str, dataset: ImageDataset, context: DistillContext, **needs: bool
    ) -> SpaceNetworks:
        """Those of the context's space.

        Args:
            method: Who asks, for the message.
            dataset: The images that they are for.
            context: Has the space.
            **needs: As for the class.

        Raises:
            ConfigError: If the context has no space.
        """
        if context.space is None:
            raise ConfigError(
                f"{method} with networks: search_space draws from the space that is searched, and "
                "here is none; give one (DistillContext.space), or leave networks out"
            )
        return cls(context.space, dataset, **needs)

    def draw(self, seed: int) -> Network:
        """See `NetworkSource.draw`.

        Raises:
            ConfigError: If none of a hundred architectures can be used; the message names one.
        """
        _, network = self._drawn(seed)
        return network.to(self._dataset.images.device)

    def draw_teacher(self, seed: int, train: TrainSettings) -> TeacherSettings:
        """An architecture that is to be trained, at the same fidelity.

        Args:
            seed: Of the draw.
            train: How it is to be trained.

        Raises:
            ConfigError: As `draw`.
            UserError: If the space has no string form, by which teachers are known.
        """
        architecture, _ = self._drawn(seed)
        fidelity = {option: getattr(self._space, option) for option in self._space.fidelity_options}
        return TeacherSettings(
            space=self._space.name,
            architecture=self._space.to_string(architecture),
            train=replace(train, space_fidelity=fidelity),
        )

    def _drawn(self, seed: int) -> tuple[Architecture, Network]:
        for attempt in range(_MOST_ATTEMPTS):
            own = derive_seed(seed, "attempt", attempt)
            architecture = self._space.sample(make_generator(derive_seed(own, "architecture")))
            network, fault = self._built(architecture, own)
            if network is not None:
                self._num_drawn += 1
                return architecture, network
            self._skip(architecture, fault)
        raise ConfigError(
            f"networks: search_space finds no network to distil with among {_MOST_ATTEMPTS} of the "
            f"space {self._space.name!r}: {self._space.describe(architecture)}, for one, {fault}; "
            "leave networks out, which takes the method's own"
        )

    def _built(self, architecture: Architecture, seed: int) -> tuple[Network | None, str]:
        """A network, or None and what is wrong with it."""
        spec = self._dataset.spec
        with isolated_rng(seed):
            built = self._space.build(architecture, spec)
            try:
                network = WrappedNetwork(built, spec.image_shape)
            except ConfigError:
                return None, "does not end in a linear layer, so it has no embedding"
            if self._batch_norm and not has_batchnorm(network):
                return None, "has no batch norm"
            network.eval()
            for norm in batch_norms(network):
                norm.train()
            fault = _fault(network, spec, seed, twice=self._twice)
        return (network, "") if not fault else (None, fault)

    def _skip(self, architecture: Architecture, fault: str) -> None:
        if self._num_skipped == 0:
            logger.warning(
                "distill: networks of the space that teach nothing are skipped and counted: %s "
                "%s; the set's parameters hold their number as num_skipped_networks",
                self._space.describe(architecture),
                fault,
            )
        self._num_skipped += 1

    def facts(self) -> dict[str, Any]:
        """Which space, and how many of its networks were used and skipped."""
        return {
            "space": {"name": self._space.name, "fingerprint": self._space.fingerprint()},
            "num_networks": self._num_drawn,
            "num_skipped_networks": self._num_skipped,
        }

    def state(self) -> dict[str, Tensor]:
        """How many were used and skipped."""
        return {"networks.counts": torch.tensor([self._num_drawn, self._num_skipped])}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to what `state` gave."""
        self._num_drawn, self._num_skipped = state["networks.counts"].tolist()


def _fault(network: Network, spec: DatasetSpec, seed: int, *, twice: bool) -> str:
    """Why no image can learn from a network; empty if one can."""
    generator = make_generator(derive_seed(seed, "probe"))
    images = torch.randn(_NUM_PROBES, *spec.image_shape, generator=generator).requires_grad_()
    embedding = network.embed(images)
    projected = (embedding * torch.randn(embedding.shape, generator=generator)).sum()
    if not bool(projected.isfinite()):
        return "has an embedding that is not finite"
    gradient = None
    if projected.requires_grad:
        (gradient,) = torch.autograd.grad(projected, images, allow_unused=True)
    if gradient is None or not bool(gradient.any()):
        return "gives the same embedding for every image"
    if not bool(gradient.isfinite().all()):
        return "has a gradient that is not finite"
    return (
        "" if not twice or _has_second_derivative(network, images) else "has no second derivative"
    )


def _has_second_derivative(network: Network, images: Tensor) -> bool:
    """Whether torch knows the derivative of the weights' gradient for the images; it is finite."""
    loss = network(images).logsumexp(dim=1).sum()
    weights = list(network.parameters())
    gradients = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
    length = torch.stack([each.square().sum() for each in gradients if each is not None]).sum()
    try:
        (found,) = torch.autograd.grad(length, images)
    except RuntimeError as error:
        if "is not implemented" in str(error):
            return False
        raise
    return bool(found.isfinite().all())


@dataclass(frozen=True, kw_only=True)
class DrawingDistiller(PixelDistiller):
    """A pixel distiller that looks at the images through random networks.

    Attributes:
        networks: `convnet`: the field's, of `network_width` and `network_depth`. `search_space`:
            random architectures of the study's own space, at its `reduced_fidelity`.
        differentiates_twice: Whether the method differentiates gradients of the networks.
    """

    differentiates_twice: ClassVar[bool] = False

    networks: NetworkOrigin = "convnet"

    def __post_init__(self) -> None:
        """Refuse options of the ConvNet where there is none."""
        super().__post_init__()
        if self.networks == "convnet":
            return
        for field in fields(self):
            if field.name in _OF_THE_CONVNET and getattr(self, field.name) != field.default:
                raise ConfigError(
                    f"{field.name} ({getattr(self, field.name)}) is an option of the ConvNet, and "
                    "networks: search_space draws other networks; leave one of them out"
                )

    @property
    def draws_from_space(self) -> bool:
        """With `networks: search_space`."""
        return self.networks == "search_space"

    @property
    def network_settings(self) -> NetworkSettings:
        """The ConvNet that the options describe."""
        return NetworkSettings(name="convnet", width=self.network_width, depth=self.network_depth)

    def network_source(self, dataset: ImageDataset, context: DistillContext) -> NetworkSource:
        """Where the method's networks come from.

        Raises:
            ConfigError: If they are to come from a space, and the context has none.
        """
        if not self.draws_from_space:
            return ConvNets(self.network_settings, dataset)
        needs = self.differentiates_twice
        return SpaceNetworks.of_study(self.name, dataset, context, twice=needs)


@dataclass(frozen=True, kw_only=True)
class RandomNetworkDistiller(DrawingDistiller):
    """A pixel distiller that meets a freshly initialised network in every iteration.

    Attributes:
        augment_jointly: Apply all families of `augment`, one after the other (IDC), instead of one
            of them, drawn at random (DSA).
    """

    augment_jointly: bool = False

    @abstractmethod
    def iterate(
        self, synthetic: SyntheticImages, real: RealImages, network: Network, seed: int
    ) -> float:
        """Improve the images with one random network; see `Objective.step`.

        Args:
            synthetic: Changed in place through `descend`.
            real: Where batches of real images come from.
            network: Freshly initialised; may be trained.
            seed: Of all further randomness of this iteration.
        """

    def objective(
        self, dataset: ImageDataset, real: RealImages, context: DistillContext
    ) -> Objective:
        """Hands each iteration its network."""
        return _RandomNetworks(self, self.network_source(dataset, context), real)

    def augmented_pair(self, real: Tensor, synthetic: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Both batches under the same random change, as Siamese augmentation asks."""
        strategies = self.augment.split("_") if self.augment_jointly else [self.augment]
        changed = []
        for images in (real, synthetic):
            generator = make_generator(seed, images.device)
            for strategy in strategies:
                images = siamese_augment(images, strategy, generator)
            changed.append(images)
        return changed[0], changed[1]


class NetworkObjective(Objective):
    """The objective of a method that draws networks; their source is part of its state.

    Args:
        source: Draws them.
    """

    def __init__(self, source: NetworkSource) -> None:
        self.source = source

    def facts(self) -> dict[str, Any]:
        """Those of the source."""
        return self.source.facts()

    def state(self) -> dict[str, Tensor]:
        """Of the source; a method adds its own."""
        return self.source.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to what `state` gave."""
        self.source.restore(state)


class _RandomNetworks(NetworkObjective):
    def __init__(
        self, distiller: RandomNetworkDistiller, source: NetworkSource, real: RealImages
    ) -> None:
        super().__init__(source)
        self._distiller = distiller
        self._real = real

    def step(self, synthetic: SyntheticImages, seed: int) -> float:
        network = self.source.draw(seed)
        return self._distiller.iterate(synthetic, self._real, network, seed)
