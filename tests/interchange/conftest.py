"""Published images, and the folder that they are read from."""

import pytest
import torch

from tests.interchange.helpers import FIELD_MEAN, FIELD_STD, column


@pytest.fixture
def folder(tmp_path):
    """A folder whose name, with those of the two around it, says nothing."""
    path = tmp_path / "release" / "set" / "one"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def pixels():
    """Six images in [0, 1], each recognisable."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(6, 3, 8, 8, generator=generator)


@pytest.fixture
def published(pixels):
    """The same as the field normalises them."""
    return (pixels - column(FIELD_MEAN)) / column(FIELD_STD)
