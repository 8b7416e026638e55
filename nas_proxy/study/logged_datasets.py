"""The images of a study as MLflow's pages name them."""

from __future__ import annotations

from pathlib import Path

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.study.config import StudyConfig
from nas_proxy.study.context import StudyContext
from nas_proxy.tracking import LoggedDataset
from nas_proxy.types import Splits


def logged_datasets(study: StudyContext) -> dict[str, LoggedDataset]:
    """What a study's networks may be trained on, by the ids that fidelities name.

    Raises:
        ProxyFileError: If the proxy data set is damaged or was made from other images.
    """
    real, distilled = real_images(study.config, study.splits), distilled_images(study.proxy_dataset)
    return {study.splits.spec.source_hash: real, study.proxy_dataset.id: distilled}


def real_images(config: StudyConfig, splits: Splits) -> LoggedDataset:
    """The data set of a study; its digest is that of the search-training images."""
    parts = {"search_train": splits.search_train, "search_val": splits.search_val}
    return LoggedDataset(
        name=splits.spec.name,
        digest=splits.spec.source_hash,
        source=config.data.name if config.data.root is None else str(Path(config.data.root)),
        profile={
            **{name: len(part) for name, part in parts.items()},
            "test": len(splits.test),
            "num_classes": splits.spec.num_classes,
            "image_shape": splits.spec.image_shape,
            "split_seed": config.data.seed,
        },
    )


def distilled_images(proxy_dataset: ProxyDataset) -> LoggedDataset:
    """The proxy data set; its digest is its id."""
    return LoggedDataset(
        name=f"{proxy_dataset.method} of {proxy_dataset.spec.name}",
        digest=proxy_dataset.id,
        source=f"distilled from {proxy_dataset.spec.name} {proxy_dataset.spec.source_hash}",
        profile={
            "images": len(proxy_dataset),
            "images_per_class": proxy_dataset.images_per_class,
            "labels": proxy_dataset.labelling.kind,
            "cost_seconds": proxy_dataset.cost_seconds,
        },
    )
