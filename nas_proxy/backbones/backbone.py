"""A network of torchvision with a new head, for images of any size and either colour."""

from __future__ import annotations

from torch import Tensor, nn

from nas_proxy.backbones._structure import Structure, parameters_of, replace_head
from nas_proxy.backbones.preparation import Preparation
from nas_proxy.backbones.weights import load_weights, published
from nas_proxy.backbones.zoo import build_torchvision, structure_of
from nas_proxy.types import DatasetSpec


class Backbone(nn.Module):
    """A network of torchvision behind a `Preparation`.

    Args:
        network: As torchvision built it, its head replaced.
        preparation: Of the images.
        structure: Of the network.
    """

    def __init__(self, network: nn.Module, preparation: Preparation, structure: Structure) -> None:
        super().__init__()
        self.network = network
        self.preparation = preparation
        self.structure = structure

    @property
    def head(self) -> nn.Module:
        """What gives the logits."""
        return self.network.get_submodule(self.structure.head)

    def head_parameters(self) -> list[nn.Parameter]:
        """The weights of the head."""
        return list(self.head.parameters())

    def body_parameters(self, num_groups: int) -> list[list[nn.Parameter]]:
        """The weights of the body in groups by depth, those next to the head first."""
        groups = self.structure.groups(num_groups)
        return [parameters_of(self.network, names) for names in groups]

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images `(n, c, h, w)` of the data set to logits `(n, num_classes)`."""
        return self.preparation.in_parts(self.network, images, training=self.training)


def build_backbone(
    name: str,
    spec: DatasetSpec,
    image_size: int,
    *,
    weights: str | None = None,
    hidden_units: int = 0,
    dropout: float = 0.0,
) -> Backbone:
    """A backbone with a fresh head; what is random comes from torch's global generator.

    Args:
        name: Of a network of torchvision.
        spec: Of the images that it is given, of one or three channels, and their classes.
        image_size: In pixels, that they are resized to.
        weights: Of the body, as for `identify_weights`; None leaves it random.
        hidden_units: Of the head; see `replace_head`.
        dropout: Of the head.

    Raises:
        ConfigError: If there is no such network or weights, or it cannot take images of the size.
        DataError: If the weights cannot be had, or are of another network.
    """
    structure = structure_of(name, image_size)
    network = build_torchvision(name, spec.num_classes, image_size)
    if weights is not None:
        load_weights(network, name, weights, head=structure.head)
    replace_head(
        network, structure.head, spec.num_classes, hidden_units=hidden_units, dropout=dropout
    )
    preset = published(name, weights or "DEFAULT").transforms()
    # Some weights of a network expect other colours than others: what a trained one expects must
    # be among its own weights.
    preparation = Preparation(spec, image_size, preset.mean, preset.std, persistent=True)
    return Backbone(network, preparation, structure)
