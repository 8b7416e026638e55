"""Which images are in which part: drawn from an explicit generator, compared by their pixels."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from nas_proxy.errors import DataError
from nas_proxy.types import ImageDataset, Splits


def stratified_split(
    labels: Tensor, fraction: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Divide indices so that every class gives the same fraction to the second part.

    Args:
        labels: int64, `(n,)`.
        fraction: Share of each class that goes into the second part, rounded to the nearest
            image, but at least one image and never all of them.
        generator: The only source of randomness.

    Returns:
        The indices of both parts, each in ascending order.

    Raises:
        DataError: If a class has fewer than two images.
    """
    first, second = [], []
    for label in labels.unique().tolist():
        members = torch.nonzero(labels == label).flatten()
        if len(members) < 2:
            raise DataError(
                f"class {label} has {len(members)} image(s); two are needed to divide it between "
                "training and validation"
            )
        members = members[torch.randperm(len(members), generator=generator)]
        num_second = min(max(round(len(members) * fraction), 1), len(members) - 1)
        second.append(members[:num_second])
        first.append(members[num_second:])
    return torch.cat(first).sort().values, torch.cat(second).sort().values


def draw_per_class(
    dataset: ImageDataset, images_per_class: int, generator: torch.Generator
) -> Tensor:
    """Indices of `images_per_class` random images of each class, class by class.

    Args:
        dataset: Where to draw from.
        images_per_class: Images to draw of each class, without replacement.
        generator: On the CPU; the only source of randomness.

    Returns:
        int64 on the device of the labels, `(num_classes * images_per_class,)`.

    Raises:
        DataError: If a class has too few images; the message gives both numbers.
    """
    drawn = [
        members[torch.randperm(len(members), generator=generator)[:images_per_class]]
        for members in members_of_classes(dataset, images_per_class)
    ]
    return torch.cat(drawn).to(dataset.labels.device)


def members_of_classes(dataset: ImageDataset, images_per_class: int) -> list[Tensor]:
    """Indices of all images of each class, in ascending order: int64 on the CPU, class by class.

    Args:
        dataset: Where to look.
        images_per_class: What is asked of each class.

    Raises:
        DataError: If a class has fewer than `images_per_class`; the message gives both numbers.
    """
    labels = dataset.labels.cpu()
    found = []
    for label, name in enumerate(dataset.spec.class_names):
        members = torch.nonzero(labels == label).flatten()
        if len(members) < images_per_class:
            raise DataError(
                f"class {name!r} of {dataset.spec.name} has {len(members)} images in the "
                f"search-training split, but images_per_class asks for {images_per_class}; "
                "ask for fewer or give the class more images"
            )
        found.append(members)
    return found


def image_hashes(images: Tensor) -> Tensor:
    """One number for the content of each image, int64 `(n,)`, in the images' order."""
    digests = [
        int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8).digest(), signed=True)
        for image in images.cpu().numpy()
    ]
    return torch.tensor(digests, dtype=torch.int64)


def shared_images(splits: Splits) -> list[str]:
    """Which parts hold images of parts that are learned from or chosen by, in words."""
    train, val, test = (
        image_hashes(part.images) for part in (splits.search_train, splits.search_val, splits.test)
    )
    found = []
    for name, own, words, others in (
        ("validation", val, "training", train),
        ("test", test, "training or validation", torch.cat([train, val])),
    ):
        num_shared = int(torch.isin(own, others).sum())
        if num_shared:
            found.append(
                f"{num_shared} of the {len(own)} {name} images of {splits.spec.name} are among its "
                f"{words} images too, so accuracies on them are too high; remove them there"
            )
    return found
