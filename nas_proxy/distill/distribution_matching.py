"""Distribution matching: the mean embedding of each class, under random networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas_proxy.data.augment import DSA_STRATEGY
from nas_proxy.distill.common.random_networks import RandomNetworkDistiller
from nas_proxy.distill.common.synthetic import (
    RealImages,
    SyntheticImages,
    cache_sized_parts,
    classes_together,
    in_full_precision,
)
from nas_proxy.networks.base import Network
from nas_proxy.options import PositiveFloat, PositiveInt
from nas_proxy.registry import DISTILLERS
from nas_proxy.reproducibility import derive_seed, make_generator


@DISTILLERS.register("distribution_matching")
@dataclass(frozen=True, kw_only=True)
class DistributionMatching(RandomNetworkDistiller):
    """DM: images whose mean embedding equals that of their class, whatever the network.

    The defaults are the published ones for up to 50 images per class; from 100 on the authors
    use an `image_learning_rate` of 10.
    """

    family = "distribution matching, one layer"
    typical_cost = "hours on a GPU; about 6 s per iteration on one CPU core"
    summary = "matches the mean embedding of each class under random networks (DM)"
    paper = "Zhao and Bilen, Dataset Condensation with Distribution Matching, WACV 2023"

    num_steps: PositiveInt = 20_000
    image_learning_rate: PositiveFloat = 1.0
    augment: str = DSA_STRATEGY

    def iterate(
        self, synthetic: SyntheticImages, real: RealImages, network: Network, seed: int
    ) -> float:
        """Sum over classes of the squared distance of the two mean embeddings (equation 4).

        Where batch norm looks at the whole batch, all classes are in it, as in the published code.
        """
        generator = make_generator(derive_seed(seed, "batches"))
        network.requires_grad_(False)
        loss = torch.zeros((), device=synthetic.images.device)
        for labels in classes_together(network, synthetic.spec.num_classes):
            pairs = [
                self.augmented_pair(
                    real.batch(label, generator),
                    synthetic.of_class(label),
                    derive_seed(seed, "augmentation", label),
                )
                for label in labels
            ]
            targets = _mean_embeddings(network, [real_images for real_images, _ in pairs])
            images = [synthetic_images for _, synthetic_images in pairs]
            embeddings = in_full_precision(network.embed(torch.cat(images)))
            for target, mine in zip(targets, embeddings.split([*map(len, images)]), strict=True):
                loss = loss + (target - mine.mean(dim=0)).square().sum()
        synthetic.descend(loss)
        return float(loss.detach())


@torch.no_grad()
def _mean_embeddings(network: Network, classes: Sequence[Tensor]) -> list[Tensor]:
    """Of each class, all of which go through the network together."""
    parts = cache_sized_parts(network, torch.cat(list(classes)))
    if len(parts) > 1:
        sums = [in_full_precision(network.embed(part)).sum(dim=0) for part in parts]
        return [torch.stack(sums).sum(dim=0) / sum(map(len, parts))]
    embeddings = in_full_precision(network.embed(parts[0]))
    return [each.sum(dim=0) / len(each) for each in embeddings.split([*map(len, classes)])]
