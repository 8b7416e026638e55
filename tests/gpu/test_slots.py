"""Several processes evaluate on one GPU: each holds the images once, and a share of memory."""

import pytest
import torch

from nas_proxy.devices import share_memory
from nas_proxy.reproducibility import make_generator
from tests.gpu.helpers import factory_on
from tests.helpers.stand_in_gpu import stand_in_gpu


@pytest.mark.parametrize(("num_slots", "shares"), [(1, []), (2, [0.45]), (8, [0.1125])])
def test_each_process_takes_an_equal_share(num_slots, shares, monkeypatch):
    taken = []
    with stand_in_gpu() as device:
        monkeypatch.setattr(
            torch.cuda,
            "set_per_process_memory_fraction",
            lambda fraction, of: taken.append((fraction, of)),
        )
        factory_on(device, num_slots=num_slots).build()
    assert taken == [(pytest.approx(share), device) for share in shares]


def test_a_cpu_is_not_shared_out():
    share_memory(torch.device("cpu"), 8)


def test_images_go_to_the_gpu_once_and_stay_as_bytes():
    moved = []
    with stand_in_gpu(moved) as device:
        factory = factory_on(device)
        evaluator = factory.build()
        data = evaluator.evaluation_data
        assert data.training_set.images.device == data.measured_on.images.device == device
        assert data.training_set.images.dtype == data.measured_on.images.dtype == torch.uint8
        sizes = sorted(len(data) for data in (data.training_set.images, data.measured_on.images))
        assert sorted(shape[0] for dtype, shape in moved if dtype == torch.uint8) == sizes
        moved.clear()
        generator = make_generator(0)
        for _ in range(3):
            evaluation = evaluator.evaluate(factory.space.sample(generator), 0)
            assert evaluation.complete, evaluation.reason
        assert moved  # weights
        assert torch.uint8 not in [dtype for dtype, _ in moved]
