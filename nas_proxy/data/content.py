"""Which images are the same, whatever they are called: compared by their pixels."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from nas_proxy.types import Splits


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
