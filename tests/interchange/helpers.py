"""What the tests of published sets share: files as the authors write them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nas_proxy.errors import ProxyFileError
from nas_proxy.interchange.published import import_published
from nas_proxy.interchange.published_formats import Source
from nas_proxy.interchange.published_meaning import Assumptions
from nas_proxy.testing._common import tiny_dataset

DATASET = tiny_dataset()
SPEC = replace(DATASET.spec, name="cifar10", class_names=("cat", "dog", "frog"))
FIELD_MEAN, FIELD_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CLASSES = torch.tensor([2, 0, 1, 1, 0, 2])
IN_ORDER = [1, 4, 2, 3, 0, 5]  # of CLASSES, stably
PUBLISHED_ZCA = 0.1


def column(values):
    return torch.tensor(values).view(1, -1, 1, 1)


def load(path, spec=SPEC, **said):
    where = {name: said.pop(name) for name in ("format", "index", "labels") if name in said}
    return import_published(Source(path=path, **where), spec, Assumptions(**said))


def shown_pixels(imported, spec=SPEC):
    """What the imported images are in [0, 1]."""
    return imported.images * column(spec.std) + column(spec.mean)


def save_dc(path, *sets):
    accuracies = {"ConvNet": [np.float64(0.25), np.float32(0.5), np.int64(3), True, 0.125]}
    torch.save({"data": [list(pair) for pair in sets], "accs_all_exps": accuracies}, path)
    return path


def save_mtt(folder, images, labels, name="best", rate=None):
    torch.save(images, folder / f"images_{name}.pt")
    torch.save(labels, folder / f"labels_{name}.pt")
    if rate is not None:
        torch.save(torch.tensor(rate), folder / f"lr_{name}.pt")
    return folder / f"images_{name}.pt"


def refused(path, *words, error=ProxyFileError, **said):
    with pytest.raises(error) as caught:
        load(path, **said)
    for word in words:
        assert word in str(caught.value), caught.value
    assert "\n" not in str(caught.value)
