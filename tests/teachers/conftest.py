"""Files of weights, which the tests of pretrained teachers take for published ones."""

import pytest
import torch
from torchvision.models import get_model

from nas_proxy.reproducibility import isolated_rng
from tests.teachers.helpers import SIZE, SMALL


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A `.pth` file of a state_dict for each of two networks, by name."""
    folder = tmp_path_factory.mktemp("weights")
    files = {}
    for name in ("resnet18", SMALL):
        with isolated_rng(3):
            network = get_model(name, weights=None)
            for module in network.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = 1.0  # statistics of the images, so that answers differ
            network.train()(torch.randn(8, 3, SIZE, SIZE))
        files[name] = folder / f"{name}.pth"
        torch.save(network.state_dict(), files[name])
    return files
