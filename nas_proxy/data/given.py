"""Divided images that another process hands over, in place of those on the disk.

As arrays of numpy they can be mapped from memory that processes of a machine share.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nas_proxy.data._found import DataSettings
from nas_proxy.types import DatasetSpec, ImageDataset, Splits

_given: dict[DataSettings, Splits] = {}


@dataclass(frozen=True, eq=False)
class GivenSplits:
    """The three parts of a data set as arrays.

    Attributes:
        spec: Of the data set.
        images: uint8, `(n, c, h, w)` of search_train, search_val and test.
        labels: int64, `(n,)` of each.
    """

    spec: DatasetSpec
    images: tuple[NDArray[np.uint8], ...]
    labels: tuple[NDArray[np.int64], ...]

    @classmethod
    def of(cls, splits: Splits) -> GivenSplits:
        """The same without tensors."""
        parts = (splits.search_train, splits.search_val, splits.test)
        return cls(
            splits.spec,
            tuple(part.images.contiguous().numpy() for part in parts),
            tuple(part.labels.numpy() for part in parts),
        )

    @property
    def num_bytes(self) -> int:
        """Of all images."""
        return sum(images.nbytes for images in self.images)

    def splits(self) -> Splits:
        """The parts; their images are the arrays' own memory, which nobody writes to."""
        with warnings.catch_warnings():  # that they cannot be written to, which is as it should be
            warnings.simplefilter("ignore", UserWarning)
            train, val, test = (
                ImageDataset(torch.from_numpy(images), torch.from_numpy(labels), self.spec)
                for images, labels in zip(self.images, self.labels, strict=True)
            )
        return Splits(search_train=train, search_val=val, test=test)


def give_splits(settings: DataSettings, splits: Splits) -> None:
    """Let `load_splits` answer with these in this process, and look at no disk."""
    _given[settings] = splits


def given_splits(settings: DataSettings) -> Splits | None:
    """What was given for equal settings; None if nothing was."""
    return _given.get(settings)
