"""How many validation images a ranking needs.

Candidates are told apart by differences of their mean losses on the same images. The standard error
of such a difference falls with the number of images; it has to be small beside the spread between
architectures. The table holds both, and how well the ranking by so many images agrees with that by
all of them.

    python benchmarks/validation_images.py --data-root DATA --out OUT.json
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import cifar10_factory, parser, publish
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from nas_proxy.calibrate.recipes import default_recipes
from nas_proxy.data.augment import Augmentation
from nas_proxy.data.splits import draw_per_class
from nas_proxy.evaluate.network import NetworkEvaluator, at_fidelity, training_seed
from nas_proxy.evaluate.sample import draw_architectures
from nas_proxy.interfaces import SearchSpace
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.train.loop import train
from nas_proxy.train.measuring import forward, num_parts, recalibrate_norms
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import Architecture, ImageDataset

SPACES: dict[str, SearchSpace] = {
    "nasbench201": NASBench201Space(),
    "convnet": ConvNetSpace(widths=(32, 64)),
}
NUM_DRAWS = 20


def losses_of_images(evaluator: NetworkEvaluator, architecture: Architecture) -> NDArray[Any]:
    """Cross-entropy of each validation image after a short training, `(n,)`."""
    data, settings = evaluator.evaluation_data, evaluator.settings
    seed = training_seed(0)
    with isolated_rng(seed):
        network = at_fidelity(evaluator.space, settings).build(architecture, data.measured_on.spec)
        train(network, data.training_set, settings, make_generator(seed))
    recalibrate_norms(network, data.training_set, settings, make_generator(0))
    network.eval()
    real = TrainingSet.of(data.measured_on)
    channels_last = settings.uses_channels_last(network, real.images.device)
    found: list[Tensor] = []
    with torch.no_grad():
        for part in torch.arange(len(real)).tensor_split(num_parts(len(real), real.images.shape)):
            images, labels = real.batch(part)
            logits = forward(network, images, settings, channels_last=channels_last)
            found.append(F.cross_entropy(logits, labels, reduction="none"))
    return torch.cat(found).double().numpy()


def row(losses: NDArray[Any], dataset: ImageDataset, num: int) -> dict[str, Any]:
    """What `num` images, the same number of each class, tell of the architectures.

    Args:
        losses: Of all images, `(architectures, images)`.
        dataset: The images.
        num: How many of them.
    """
    everything = losses.mean(axis=1)
    upper = np.triu_indices(len(losses), 1)
    errors = (losses[:, None] - losses[None]).std(axis=2)[upper] / math.sqrt(num)
    agreement = []
    for draw in range(NUM_DRAWS):
        per_class = num // dataset.spec.num_classes
        some = draw_per_class(dataset, per_class, make_generator(draw)).numpy()
        agreement.append(stats.spearmanr(losses[:, some].mean(axis=1), everything).statistic)
    return {
        "num_images": num,
        "standard_error_of_a_difference": round(float(np.sqrt((errors**2).mean())), 4),
        "spread_between_architectures": round(float(everything.std(ddof=1)), 4),
        "spearman_with_all_images_mean": round(float(np.mean(agreement)), 4),
        "spearman_with_all_images_lowest": round(float(np.min(agreement)), 4),
    }


def main() -> None:
    """Measure and publish."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("--num-architectures", type=int, default=30)
    arguments_parser.add_argument("--num-steps", type=int, default=90)
    arguments_parser.add_argument("--image-size", type=int, default=16)
    arguments_parser.add_argument(
        "--num-images", type=int, nargs="+", default=[250, 500, 1000, 2000, 4000]
    )
    arguments = arguments_parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, space in SPACES.items():
        base = TrainSettings(
            num_steps=1, image_size=arguments.image_size, augmentation=Augmentation(flip=True)
        )
        recipe = next(r for r in default_recipes(space, base) if r.name == "stream_90_alone")
        settings = replace(
            recipe.train,
            num_steps=arguments.num_steps,
            num_val_images=None,
            precision="float32",
            channels_last=True,
        )
        evaluator = cifar10_factory(
            settings, space, data_root=arguments.data_root, device=arguments.device
        ).build()
        drawn = draw_architectures(space, arguments.num_architectures, make_generator(0))
        losses = np.stack([losses_of_images(evaluator, each) for each in drawn])
        for num in arguments.num_images:
            found = row(losses, evaluator.evaluation_data.measured_on, num)
            rows.append({"space": name, **found})
    publish(
        {
            "num_architectures": arguments.num_architectures,
            "num_steps": arguments.num_steps,
            "image_size": arguments.image_size,
            "rows": rows,
        },
        arguments,
    )


if __name__ == "__main__":
    main()
