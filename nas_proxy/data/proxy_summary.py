"""What a result says of the proxy data set that it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas_proxy.data.proxy_dataset import Labelling, LearningRateRule, ProxyDataset, TeacherRecord
from nas_proxy.types import DatasetSpec


@dataclass(frozen=True, kw_only=True)
class ProxySummary:
    """A proxy data set without its pixels; see `ProxyDataset` for what is not said here.

    Attributes:
        id: Its content hash.
        images: How many of which shape, with which labels, in words.
        spec: Of the data set that was distilled.
        method: Name of the distiller.
        parameters: Its options, as JSON values.
        images_per_class: How many images were made for each class.
        seed: Of the distiller's generator.
        augmentation: What to apply when training on the images; what does nothing is left out.
        learning_rate_rule: How the method's authors train on them.
        labelling: What the labels are and who gave them.
        networks: Trained networks that shaped the images.
        decode_factor: Tiles along each side of an image.
        batchnorm_policy: Which statistics evaluation uses.
        zca: Regularisation of the whitening; None without.
        costs: Wall-clock seconds by what they were spent on.
        cost_seconds: All of them together.
        peak_memory_mib: Memory that distilling needed.
        hardware: What the costs were measured on.
        versions: Libraries that made it.
    """

    id: str
    images: str
    spec: DatasetSpec
    method: str
    parameters: Mapping[str, Any]
    images_per_class: int
    seed: int
    augmentation: Mapping[str, Any]
    learning_rate_rule: LearningRateRule
    labelling: Labelling
    networks: tuple[TeacherRecord, ...]
    decode_factor: int
    batchnorm_policy: str
    zca: float | None
    costs: Mapping[str, float]
    cost_seconds: float
    peak_memory_mib: float
    hardware: str
    versions: Mapping[str, str]

    @classmethod
    def of(cls, proxy_dataset: ProxyDataset) -> ProxySummary:
        """Of a set that was distilled, imported or read."""
        card = proxy_dataset.card()  # with the plug-in's options as JSON values
        return cls(
            id=proxy_dataset.id,
            images=card["images"],
            spec=proxy_dataset.spec,
            method=proxy_dataset.method,
            parameters=card["parameters"],
            images_per_class=proxy_dataset.images_per_class,
            seed=proxy_dataset.seed,
            augmentation=card["augmentation"],
            learning_rate_rule=proxy_dataset.learning_rate_rule,
            labelling=proxy_dataset.labelling,
            networks=proxy_dataset.networks,
            decode_factor=proxy_dataset.decode_factor,
            batchnorm_policy=proxy_dataset.batchnorm_policy,
            zca=proxy_dataset.zca,
            costs=proxy_dataset.costs,
            cost_seconds=proxy_dataset.cost_seconds,
            peak_memory_mib=proxy_dataset.peak_memory_mib,
            hardware=proxy_dataset.hardware,
            versions=proxy_dataset.versions,
        )
