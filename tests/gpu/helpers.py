"""What tests of devices share: images and networks on any of them, and a place to try things."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_proxy.data.sources import DataSettings
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory
from nas_proxy.networks.catalogue import NetworkSettings, build_network
from nas_proxy.registry import SEARCH_SPACES
from nas_proxy.reproducibility import isolated_rng
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Fidelity, ImageDataset
from tests.helpers.stand_in_gpu import GPU, stand_in_gpu

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
on_both = pytest.mark.parametrize(
    "place", ["stand-in", pytest.param("gpu", marks=[pytest.mark.gpu, needs_gpu])]
)
CELL = "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|none~2|"


def images_on(device: torch.device) -> ImageDataset:
    dataset = tiny_dataset()
    return replace(dataset, images=dataset.images.to(device), labels=dataset.labels.to(device))


def network_on(device: torch.device, name: str = "convnet") -> nn.Module:
    with isolated_rng(0):
        options = {"norm": "batch", "depth": 1} if name == "convnet" else {}
        settings = NetworkSettings(name=name, width=4, **options)
        return build_network(settings, tiny_dataset().spec).to(device)


def drive(place: str, work: Callable[[torch.device], Any]) -> None:
    """Do the work on a GPU, which draws other numbers than a CPU; on the stand-in and compare."""
    if place == "gpu":
        check_values(work(GPU))
    else:
        same_on_both(work)


def check_values(found: Any) -> None:
    """Tensors are on the GPU, and all values are finite."""
    if isinstance(found, Tensor):
        assert found.device == GPU
        assert bool(found.isfinite().all())
    elif isinstance(found, tuple | list):
        for value in found:
            check_values(value)
    elif isinstance(found, dict):
        check_values(list(found.values()))
    else:
        assert abs(found) < float("inf")


def same_on_both(work: Callable[[torch.device], Any]) -> None:
    """Do the work on the CPU and on the stand-in; figures are equal, and tensors over there."""
    expected = work(CPU)
    with stand_in_gpu() as device:
        found = work(device)
        for value in found if isinstance(found, tuple) else [found]:
            assert not isinstance(value, Tensor) or value.device == GPU
    assert_equal(found, expected)


def assert_equal(found: Any, expected: Any) -> None:
    if isinstance(expected, Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:  # eigenvalues depend on where in memory their matrix lies
        assert found == pytest.approx(expected, rel=1e-9)


def factory_on(device: torch.device, **changes: Any) -> NetworkEvaluatorFactory:
    settings = TrainSettings(
        num_steps=4,
        batch_size=16,
        precision="float32",
        checkpoints=(50,),
        norm_statistics="recalibrated",
        num_val_images=100,
    )
    given: dict[str, Any] = {
        "data": DataSettings(name="digits", images_per_class=20),
        "space": SEARCH_SPACES.get("nasbench201")(num_cells=1, channels=4),
        "scores": {},
        "settings": settings,
        "train_on": "search_train",
        "device": str(device),
        "fidelity": Fidelity("tiny", 4, 16, 8),
        "requested": ("fit_loss",),
        "keep_confusion": True,
    }
    return NetworkEvaluatorFactory(**{**given, **changes})
