"""A proxy data set that exists already, as a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.errors import ProxyFileError
from nas_proxy.interfaces import DistillContext, Distiller
from nas_proxy.registry import DISTILLERS
from nas_proxy.types import ImageDataset


@DISTILLERS.register("file")
@dataclass(frozen=True, kw_only=True)
class ProxyDatasetFile(Distiller):
    """Reads a file that an earlier study wrote, and makes sure that it fits.

    Attributes:
        path: The `.safetensors` file.
    """

    summary = "a proxy data set file that exists already"

    path: str

    def distill(
        self,
        dataset: ImageDataset,
        images_per_class: int,
        *,
        generator: torch.Generator,
        context: DistillContext,
    ) -> ProxyDataset:
        """Load the set; see `Distiller.distill`.

        Raises:
            ProxyFileError: If the file is missing or damaged, was made from other images than
                `dataset`, or has another number of images per class.
        """
        loaded = ProxyDataset.load(Path(self.path).expanduser())
        loaded.check_source(dataset.spec)
        if loaded.images_per_class != images_per_class:
            raise ProxyFileError(
                f"{self.path} holds {loaded.images_per_class} images per class, but "
                f"distill.images_per_class is {images_per_class}; "
                f"set it to {loaded.images_per_class}"
            )
        context.progress(1, 1)
        return loaded.to(context.device)
