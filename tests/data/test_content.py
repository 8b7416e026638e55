"""The same image in two parts of a data set is found, whatever it is called."""

import torch

from nas_proxy.data.content import shared_images
from nas_proxy.testing import tiny_dataset
from nas_proxy.types import ImageDataset, Splits


def with_more(part, images):
    """A part of a data set and images of another one, as of the first class."""
    labels = torch.cat([part.labels, part.labels.new_zeros(len(images))])
    return ImageDataset(torch.cat([part.images, images]), labels, part.spec)


def test_images_that_several_parts_hold_are_counted():
    whole = tiny_dataset()
    train, val, test = map(whole.subset, torch.arange(len(whole)).tensor_split(3))
    assert shared_images(Splits(train, val, test)) == []
    val, test = with_more(val, train.images[:2]), with_more(test, val.images[:3])
    of_val, of_test = shared_images(Splits(train, val, test))
    assert "2 of the 10 validation images of tiny are among its training images" in of_val
    assert "3 of the 11 test images of tiny are among its training or validation" in of_test
