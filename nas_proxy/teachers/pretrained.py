"""Networks of torchvision as teachers, with published weights and a new last layer."""

from __future__ import annotations

from torch import Tensor, nn

from nas_proxy.backbones.preparation import Preparation
from nas_proxy.backbones.weights import identify_weights as identify
from nas_proxy.backbones.weights import load_weights, published, published_licence
from nas_proxy.backbones.zoo import build_torchvision, unsuitable_size
from nas_proxy.errors import ConfigError
from nas_proxy.networks.wrapped import WrappedNetwork
from nas_proxy.train.teacher_settings import PretrainedSettings
from nas_proxy.types import DatasetSpec


class PretrainedNetwork(WrappedNetwork):
    """A torchvision network for other classes, other sizes and another normalisation.

    Args:
        settings: Which one.
        spec: Of the images it is given, of one or three channels, and the classes it must tell.
        network: Of torchvision, without weights, its last layer replaced.

    Raises:
        ConfigError: If the network cannot take images of that size, or its last layer is not
            linear.
    """

    def __init__(self, settings: PretrainedSettings, spec: DatasetSpec, network: nn.Module) -> None:
        try:
            super().__init__(network, (3, settings.image_size, settings.image_size))
        except (AssertionError, RuntimeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise unsuitable_size(settings.name, settings.image_size, error) from error
        self._settings = settings
        self.licence = published_licence(settings.name, settings.weights)
        preset = published(settings.name, settings.weights).transforms()
        self.preparation = Preparation(spec, settings.image_size, preset.mean, preset.std)
        if settings.train == "head":
            network.requires_grad_(False)
            self.classifier.requires_grad_(True)
        self.train()

    def train(self, mode: bool = True) -> PretrainedNetwork:
        """Training mode; a body that is not trained stays in evaluation mode."""
        super().train(mode and self._settings.train == "all")
        return self

    def embed(self, images: Tensor) -> Tensor:
        """What the last linear layer is given, `(n, d)`."""
        return self.preparation.in_parts(super().embed, images, training=self.training)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, `(n, num_classes)`."""
        return self.preparation.in_parts(super().forward, images, training=self.training)

    def load_published_weights(self, weights: str) -> None:
        """Fill in published weights; the last layer keeps its own.

        Args:
            weights: As in `PretrainedSettings`.

        Raises:
            ConfigError: If torchvision knows no weights of that name.
            DataError: If they cannot be downloaded, or the local file is missing, damaged or of
                another network.
        """
        last = next(n for n, module in self.network.named_modules() if module is self.classifier)
        load_weights(self.network, self._settings.name, weights, head=last)


def build_pretrained(settings: PretrainedSettings, spec: DatasetSpec) -> PretrainedNetwork:
    """The network with random weights.

    Raises:
        ConfigError: If torchvision has no such network, its last layer is not linear, or it
            cannot take images of the size.
    """
    network = build_torchvision(settings.name, spec.num_classes, settings.image_size)
    return PretrainedNetwork(settings, spec, network)


def identify_weights(settings: PretrainedSettings) -> str:
    """Weights by what they are; see `nas_proxy.backbones.weights.identify_weights`.

    Raises:
        ConfigError: If torchvision has no such network, or knows no weights of that name.
        DataError: If the local file is missing.
    """
    return identify(settings.name, settings.weights)
