"""The methods of benchmarks/distillation.py: options, labels and published figures.

Published figures are CIFAR-10 test accuracies of ConvNet-D3 (W128, instance norm) from the papers'
tables; methods.md of the literature gives several protocols, so columns of different papers are
never mixed in one claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from nas_proxy.data.augment import DSA_STRATEGY, Augmentation
from nas_proxy.data.proxy_dataset import LearningRateRule, ProxyDataset
from nas_proxy.distill.gradient_matching import GradientMatching
from nas_proxy.distill.layerwise_matching import LayerwiseMatching
from nas_proxy.train.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the benchmark is run.

    Attributes:
        name: `published`, `cpu` for two cores and an hour, or `tiny` to see that it runs.
        network_width: Of the ConvNets that are trained on the sets.
        num_epochs: Of that training, where a recipe has no rule of its own.
        real_images_per_class: What is distilled; None for all of the training images.
        teacher: The teacher of soft labels, as a section.
    """

    name: str
    network_width: int
    num_epochs: int
    real_images_per_class: int | None = None
    teacher: Mapping[str, Any]

    def describe(self) -> dict[str, Any]:
        """The size as JSON values."""
        return {key: dict(v) if isinstance(v, Mapping) else v for key, v in vars(self).items()}


_BATCHNORM_CONVNET = {"name": "convnet", "norm": "batch", "width": 32}
_CPU_TEACHER: dict[str, Any] = {
    "network": _BATCHNORM_CONVNET,
    "train": {
        "num_epochs": 8,
        "batch_size": 128,
        "learning_rate": 0.1,
        "augmentation": {"crop": 0.125, "flip": True},
    },
}
SIZES = {
    "published": Size(
        name="published",
        network_width=128,
        num_epochs=1000,
        teacher={
            "network": {"name": "resnet18", "norm": "batch"},
            "train": {
                "num_epochs": 200,
                "batch_size": 128,
                "learning_rate": 0.1,
                "schedule": "cosine",
                "augmentation": {"crop": 0.125, "flip": True},
            },
        },
    ),
    "cpu": Size(
        name="cpu",
        network_width=32,
        num_epochs=300,
        real_images_per_class=1000,
        teacher=_CPU_TEACHER,
    ),
    "tiny": Size(
        name="tiny",
        network_width=4,
        num_epochs=2,
        real_images_per_class=20,
        teacher={
            "network": {**_BATCHNORM_CONVNET, "width": 4},
            "train": {**_CPU_TEACHER["train"], "num_epochs": 1},
        },
    ),
}
_TINY = {"network_width": 4, "real_batch_size": 8, "num_steps": 2, "num_experts": 1}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One row of the table.

    Attributes:
        title: The method's name in the field.
        distiller: Its registered name.
        published_accuracy: In %, by images per class.
        published: Options at the published size where they are not the distiller's defaults, by
            images per class.
        cpu: Options at the CPU's size.
        labels: The section `labels`; empty for hard ones.
        rule: Whether networks train by the set's own learning-rate rule instead of the common one.
        note: What must be known about the row.
    """

    title: str
    distiller: str
    published_accuracy: Mapping[int, float] = field(default_factory=dict)
    published: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    cpu: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    rule: bool = False
    note: str = ""

    def options_at(self, size: Size) -> dict[str, Any]:
        """What the size changes."""
        if size.name == "published":
            return {}
        smaller = {key: value for key, value in _TINY.items() if key in self.cpu}
        return {**self.cpu, **(smaller if size.name == "tiny" else {})}

    def train_settings(self, proxy_dataset: ProxyDataset, size: Size) -> TrainSettings:
        """How networks are trained on the set, and on its control."""
        rule = proxy_dataset.learning_rate_rule if self.rule else LearningRateRule()
        settings = TrainSettings.of_rule(rule)
        if size.name != "published" or not self.rule:
            settings = replace(settings, num_epochs=size.num_epochs)
        if self.rule:
            return settings
        return replace(settings, augmentation=Augmentation(dsa=DSA_STRATEGY))


_PIXELS = {"network_width": 32, "real_batch_size": 64}
_EMBEDDING = {"network": _CPU_TEACHER}
_SOFT = {"kind": "soft", "per": "view", "temperature": 4.0}

_TRAJECTORIES = {
    **_PIXELS,
    "zca": 0,
    "num_experts": 3,
    "expert_num_epochs": 5,
    "expert_learning_rate": 0.02,
    "num_inner_steps": 10,
    "inner_batch_size": 50,
    "matched_epochs": 1,
    "min_start_epoch": 0,
    "initial_max_start_epoch": 4,
    "max_start_epoch": 4,
    "image_learning_rate": 1000,
    "initial_learning_rate": 0.02,
    "learning_rate_learning_rate": 1e-5,
    "num_steps": 150,
}
_RIDGE = {"network_width": 32, "real_batch_size": 256, "zca": None}

RECIPES: Mapping[str, Recipe] = {
    "random": Recipe(
        title="random images",
        distiller="random_subset",
        published_accuracy={1: 15.4, 10: 31.0, 50: 50.6},
        note="compared with other random images: a check of the comparison itself",
    ),
    "random_soft": Recipe(
        title="random images, soft labels",
        distiller="random_subset",
        labels=_SOFT,
        note="no distillation: the control of every method with soft labels",
    ),
    "herding": Recipe(
        title="herding",
        distiller="herding",
        cpu=_EMBEDDING,
        published_accuracy={10: 31.6, 50: 40.4},
    ),
    "k_center": Recipe(
        title="k-center",
        distiller="k_center",
        cpu=_EMBEDDING,
        published_accuracy={10: 14.7, 50: 27.0},
        note="picks the outermost images, which is known to hurt small sets",
    ),
    "k_means": Recipe(title="k-means", distiller="k_means", cpu=_EMBEDDING),
    "forgetting": Recipe(
        title="forgetting",
        distiller="forgetting",
        published_accuracy={10: 23.3, 50: 23.3},
        cpu={
            "network": {"name": "convnet", "width": 16},
            "train": {**_CPU_TEACHER["train"], "num_epochs": 6},
        },
        note="picks the hardest images, which is known to hurt small sets",
    ),
    "dm": Recipe(
        title="DM",
        distiller="distribution_matching",
        published_accuracy={1: 26.0, 10: 48.9, 50: 63.0},
        cpu={**_PIXELS, "num_steps": 300},
    ),
    "cafe": Recipe(
        title="CAFE",
        distiller="layerwise_matching",
        published_accuracy={1: 30.3, 10: 46.3, 50: 55.5},
        published=dict.fromkeys((1, 10, 50), asdict(LayerwiseMatching.cafe())),
        cpu={
            **_PIXELS,
            "matching": "features",
            "network_norm": "instance",
            "num_steps": 200,
            "image_learning_rate": 1.0,
            "augment": DSA_STRATEGY,
        },
        note="its losses under random networks; the authors' networks also train",
    ),
    "datadam": Recipe(
        title="DataDAM",
        distiller="layerwise_matching",
        published_accuracy={1: 32.0, 10: 54.2, 50: 67.0},
        cpu={**_PIXELS, "num_steps": 300},
    ),
    "dc": Recipe(
        title="DC",
        distiller="gradient_matching",
        published_accuracy={1: 28.3, 10: 44.9, 50: 53.9},
        cpu={**_PIXELS, "num_steps": 8, "inner_loop": 10, "init": "real"},
    ),
    "dsa": Recipe(
        title="DSA",
        distiller="gradient_matching",
        published_accuracy={1: 28.8, 10: 52.1, 50: 60.6},
        cpu={
            **_PIXELS,
            "num_steps": 8,
            "inner_loop": 10,
            "init": "real",
            "augment": DSA_STRATEGY,
        },
    ),
    "idc": Recipe(
        title="IDC",
        distiller="gradient_matching",
        published_accuracy={1: 50.6, 10: 67.5, 50: 74.5},
        published={number: asdict(GradientMatching.idc(number)) for number in (1, 10, 50)},
        cpu={
            **asdict(GradientMatching.idc(10)),
            **_PIXELS,
            "num_steps": 6,
            "outer_loop": 10,
            "real_steps": 4,
        },
    ),
    "dm_factor_2": Recipe(
        title="DM with IDC's multi-formation",
        distiller="distribution_matching",
        cpu={**_PIXELS, "num_steps": 200, "decode_factor": 2},
    ),
    "mtt": Recipe(
        title="MTT",
        distiller="trajectory_matching",
        published_accuracy={1: 46.2, 10: 65.4, 50: 71.6},
        cpu=_TRAJECTORIES,
        rule=True,
    ),
    "datm": Recipe(
        title="DATM",
        distiller="trajectory_matching",
        published_accuracy={1: 46.9, 10: 66.8, 50: 76.1},
        published=dict.fromkeys((1, 10, 50), {"variant": "datm"}),
        cpu={
            **_TRAJECTORIES,
            "variant": "datm",
            "initial_max_start_epoch": 2,
            "window_growth_steps": 50,
        },
        labels={"kind": "learned"},
        rule=True,
    ),
    "frepo": Recipe(
        title="FRePo",
        distiller="kernel_ridge",
        published_accuracy={1: 46.8, 10: 65.5, 50: 71.7},
        cpu={
            **_RIDGE,
            "num_steps": 150,
            "image_learning_rate": 0.02,
            "num_networks": 3,
            "network_learning_rate": 1e-3,
        },
        labels={"kind": "learned"},
    ),
    "label_solve": Recipe(
        title="label solve",
        distiller="kernel_ridge",
        published=dict.fromkeys((1, 10, 50), {"optimise": "labels"}),
        cpu={**_RIDGE, "optimise": "labels", "num_networks": 3},
        labels={"kind": "learned"},
    ),
    "meta_learning": Recipe(
        title="meta-learning (truncated back-propagation)",
        distiller="meta_learning",
        cpu={
            "network_width": 32,
            "real_batch_size": 128,
            "zca": None,
            "init": "real",
            "unroll": 10,
            "window": 5,
            "batch_per_class": 5,
            "inner_learning_rate": 0.005,
            "image_learning_rate": 0.02,
            "num_steps": 150,
        },
    ),
    "sre2l": Recipe(
        title="SRe2L",
        distiller="statistical_matching",
        labels=_SOFT,
        cpu={"networks": [_CPU_TEACHER], "num_steps": 300, "augmentation": {"dsa": DSA_STRATEGY}},
        published_accuracy={10: 27.2, 50: 47.5},
        note="published figures are of ResNet-18 students",
    ),
    "sre2l_real": Recipe(
        title="SRe2L from real images",
        distiller="statistical_matching",
        labels=_SOFT,
        cpu={
            "networks": [_CPU_TEACHER],
            "num_steps": 75,
            "image_learning_rate": 0.05,
            "init": "real",
            "augmentation": {"dsa": DSA_STRATEGY},
        },
        note="EDC's start, length and learning rate; not the rest of EDC",
    ),
    "rded": Recipe(
        title="RDED",
        distiller="patch_selection",
        labels=_SOFT,
        cpu={**_EMBEDDING, "augmentation": {"dsa": DSA_STRATEGY}},
        published_accuracy={1: 23.5, 10: 50.2, 50: 68.4},
    ),
}
