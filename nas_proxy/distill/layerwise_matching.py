"""Distribution matching in every block of random networks: attention maps or features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_proxy.data.augment import DSA_STRATEGY
from nas_proxy.distill.common.layers import LayerReader, layers_of
from nas_proxy.distill.common.random_networks import RandomNetworkDistiller
from nas_proxy.distill.common.synthetic import (
    RealImages,
    SyntheticImages,
    classes_together,
    in_full_precision,
)
from nas_proxy.errors import ConfigError
from nas_proxy.networks.base import Network, Norm
from nas_proxy.networks.catalogue import NetworkSettings
from nas_proxy.options import NonNegativeFloat, PositiveFloat, PositiveInt
from nas_proxy.registry import DISTILLERS
from nas_proxy.reproducibility import derive_seed, make_generator

_ATTENTION_SCALE = 100.0  # of DataDAM's loss in the published code, where its rate of 1 belongs


@DISTILLERS.register("layerwise_matching")
@dataclass(frozen=True, kw_only=True)
class LayerwiseMatching(RandomNetworkDistiller):
    """DataDAM, and CAFE's losses with `matching: features`: each class's mean in every block.

    The defaults are DataDAM's for up to 50 images per class; from 100 on the authors use an
    `image_learning_rate` of 10. They got their figures with batch norm; with instance norm others
    reached less (63 instead of 67 % at 50 images per class).

    CAFE is `cafe`. Its networks also train on the synthetic images between updates, for as long
    as their accuracy on real ones changes; here they are random, as in DataDAM.

    Of a network of the searched space, which has no blocks that all would agree on, the last map of
    each resolution stands for a block; where there is none, the embedding alone is matched.

    Attributes:
        matching: `attention`: where a block looks, averaged over each class. `features`: what it
            gives, averaged over each class.
        attention_power: A map is the sum over channels of the activations to this power. The paper
            says 4; the published script calls its function with 1.
        embedding_weight: Of the mean embeddings beside the attention maps.
        layer_weights: Of the features' distances, from the last layer backwards: the input of the
            linear layer, then each block's activation. The last weight holds for all further ones.
        discrimination_weight: Of the loss by which mean synthetic embeddings classify the real
            images, beside the features.
        network_norm: With batch norm all classes go through the network together.
    """

    family = "distribution matching, several layers"
    typical_cost = "hours on a GPU; about 4 s per iteration on one CPU core"
    summary = "matches attention maps or features in every block (DataDAM, CAFE)"
    paper = (
        "Sajedi et al., DataDAM: Efficient Dataset Distillation with Attention Matching, "
        "ICCV 2023; Wang et al., CAFE: Learning to Condense Dataset by Aligning Features, CVPR 2022"
    )

    num_steps: PositiveInt = 20_000
    image_learning_rate: PositiveFloat = 1.0
    real_batch_size: PositiveInt = 64
    augment: str = DSA_STRATEGY
    matching: Literal["attention", "features"] = "attention"
    attention_power: PositiveInt = 4
    embedding_weight: NonNegativeFloat = 0.01
    layer_weights: tuple[NonNegativeFloat, ...] = (1.0, 1.0, 0.1, 0.1)
    discrimination_weight: NonNegativeFloat = 0.01
    network_norm: Norm = "batch"

    def __post_init__(self) -> None:
        """Refuse an empty list of weights."""
        super().__post_init__()
        if not self.layer_weights:
            raise ConfigError("layer_weights is empty; give at least one weight, such as [1.0]")

    @classmethod
    def cafe(cls) -> LayerwiseMatching:
        """CAFE's losses with its published settings; with `augment` set, those of CAFE+DSA.

        The authors also halve the learning rate after 1200, 1600 and 1800 steps.
        """
        return cls(
            num_steps=2000,
            image_learning_rate=0.1,
            init="noise",
            real_batch_size=256,
            augment="",
            matching="features",
            network_norm="instance",
        )

    @property
    def network_settings(self) -> NetworkSettings:
        """The network that the options describe."""
        return replace(super().network_settings, norm=self.network_norm)

    def iterate(
        self, synthetic: SyntheticImages, real: RealImages, network: Network, seed: int
    ) -> float:
        """One step along the gradient of the distances, summed over layers and classes."""
        generator = make_generator(derive_seed(seed, "batches"))
        network.requires_grad_(False)
        pairs = [
            self.augmented_pair(
                real.batch(label, generator),
                synthetic.of_class(label),
                derive_seed(seed, "augmentation", label),
            )
            for label in range(synthetic.spec.num_classes)
        ]
        with torch.no_grad():
            target = self.describe(network, [real_images for real_images, _ in pairs])
        loss = self.loss(self.describe(network, [images for _, images in pairs]), target)
        synthetic.descend(loss)
        return float(loss.detach())

    def describe(self, network: Network, classes: Sequence[Tensor]) -> Description:
        """What the network makes of one batch of images for each class."""
        means, embeddings = [], []
        with layers_of(network, classes[0]) as read:
            for labels in classes_together(network, len(classes)):
                together = [classes[label] for label in labels]
                layers = self._layers(read, torch.cat(together))
                sizes = [*map(len, together)]
                for one in zip(*(layer.split(sizes) for layer in layers), strict=True):
                    means.append([layer.mean(dim=0) for layer in one])
                    embeddings.append(one[-1])
        return Description([torch.stack(layer) for layer in zip(*means, strict=True)], embeddings)

    def loss(self, synthetic: Description, real: Description) -> Tensor:
        """How far two descriptions of the same classes by the same network are apart."""
        distances = [
            (mean - goal).square().sum()
            for mean, goal in zip(synthetic.means, real.means, strict=True)
        ]
        if self.matching == "attention":
            attention = sum(distances[:-1], start=torch.zeros_like(distances[-1]))
            return _ATTENTION_SCALE * (attention + self.embedding_weight * distances[-1])
        weights, last = self.layer_weights, len(self.layer_weights) - 1
        weighted = [
            weights[min(position, last)] * each for position, each in enumerate(reversed(distances))
        ]
        discrimination = discrimination_loss(synthetic.means[-1], real.embeddings)
        # The published code counts the embedding once more, outside of the layers.
        return sum(weighted, start=distances[-1]) + self.discrimination_weight * discrimination

    def _layers(self, read: LayerReader, images: Tensor) -> list[Tensor]:
        """What is compared in each layer, first one first, the embedding last: each `(n, d)`."""
        maps, embedding = read(images)
        if self.matching == "attention":  # the embedding stands for the last block
            layers = [attention_map(each, self.attention_power) for each in maps[:-1]]
        else:
            layers = [in_full_precision(each).flatten(1) for each in maps]
        return [*layers, in_full_precision(embedding).flatten(1)]


@dataclass(frozen=True, eq=False)
class Description:
    """What a network makes of images of each class.

    Attributes:
        means: For each layer the mean of each class, `(num_classes, d)`; the embedding last.
        embeddings: For each class those of its images, `(n, d)`.
    """

    means: list[Tensor]
    embeddings: list[Tensor]


def attention_map(activation: Tensor, power: int) -> Tensor:
    """Where feature maps are active: `(n, c, h, w)` to rows of length one, `(n, h * w)`."""
    strength = in_full_precision(activation).abs().pow(power).sum(dim=1)
    return F.normalize(strength.flatten(1), dim=1)


def discrimination_loss(centres: Tensor, embeddings: Sequence[Tensor]) -> Tensor:
    """Cross-entropy, summed, of images that are classified by their product with class centres.

    Args:
        centres: Mean synthetic embeddings, `(num_classes, d)`.
        embeddings: For each class those of its real images, `(n, d)`.
    """
    labels = torch.arange(len(embeddings), device=centres.device)
    counts = torch.tensor([len(each) for each in embeddings], device=centres.device)
    logits = torch.cat(list(embeddings)) @ centres.T
    return F.cross_entropy(logits, labels.repeat_interleave(counts), reduction="sum")
