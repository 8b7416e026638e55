"""Costs are counted through whatever kernels a network calls, or refused by name.

By hand for each kind of layer: `tests/scores/test_operations.py`.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nas_proxy.errors import EvaluationError
from nas_proxy.scores.flops import Flops
from tests.cases.helpers import SPACE, assert_one_sentence, python, write_config

LENGTH, WIDTH, HIDDEN = 8, 6, 10
SEQUENCES = torch.randn(3, LENGTH, WIDTH)
WEIGHT = torch.randn(WIDTH, HIDDEN)
PRODUCT = 2 * LENGTH * WIDTH * HIDDEN
STEP = 2 * LENGTH * HIDDEN * (WIDTH + HIDDEN)  # of one gate of a recurrent cell, over all steps


class Wrapped(nn.Module):
    def __init__(self, call, *layers):
        super().__init__()
        self.call, self.layers = call, nn.ModuleList(layers)

    def forward(self, images):
        return self.call(images, *self.layers)


class Multiply(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x @ WEIGHT

    @staticmethod
    def backward(context, gradient):
        return gradient @ WEIGHT.T


def attention(x, **options):
    return F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], **options)


def steps(x, cell):
    return torch.stack([cell(x[:, step]) for step in range(LENGTH)], dim=1)


COUNTED = {
    "einsum": (Wrapped(lambda x: torch.einsum("blc,cd->bld", x, WEIGHT)), PRODUCT),
    "einsum of two": (Wrapped(lambda x: torch.einsum("blc,bmc->blm", x, x)), 2 * LENGTH**2 * WIDTH),
    "tensordot": (Wrapped(lambda x: torch.tensordot(x, WEIGHT, dims=1)), PRODUCT),
    "matmul": (Wrapped(lambda x: x @ WEIGHT), PRODUCT),
    "inner": (Wrapped(lambda x: torch.inner(x, WEIGHT.T)), PRODUCT),
    "linear": (Wrapped(lambda x: F.linear(x, WEIGHT.T)), PRODUCT),
    "vmap": (Wrapped(lambda x: torch.vmap(lambda each: each @ WEIGHT)(x)), PRODUCT),
    "own function": (Wrapped(Multiply.apply), PRODUCT),
    "cells": (Wrapped(steps, nn.GRUCell(WIDTH, HIDDEN)), 3 * STEP),
    "attention with a mask": (
        Wrapped(lambda x: attention(x, attn_mask=torch.zeros(LENGTH, LENGTH))),
        2 * 2 * LENGTH**2 * WIDTH,
    ),
    "projected": (
        Wrapped(lambda x, r: r(x)[0], nn.LSTM(WIDTH, HIDDEN, batch_first=True, proj_size=4)),
        2 * LENGTH * (4 * HIDDEN * (WIDTH + 4) + HIDDEN * 4),
    ),
    "reparametrised": (nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, HIDDEN)), PRODUCT),
}  # fmt: skip
IMAGES = torch.randn(2, 4, 8, 8)
CONVOLUTIONS = {
    "grouped": (nn.Conv2d(4, 8, 3, padding=1, groups=4), 2 * 64 * 9 * 8),
    "transposed": (nn.ConvTranspose2d(4, 5, 2, stride=2), 2 * 64 * 4 * 5 * 4),
    "by columns": (
        Wrapped(lambda x: torch.randn(5, 36) @ F.unfold(x, 3, padding=1)), 2 * 64 * 36 * 5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", COUNTED)
def test_products_are_counted_however_they_are_written(kind):
    network, hand = COUNTED[kind]
    assert Flops().measure(network, SEQUENCES) == hand


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions_are_counted_however_they_are_written(kind):
    network, hand = CONVOLUTIONS[kind]
    assert Flops().measure(network, IMAGES) == hand


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "make", [torch.jit.script, lambda layer: torch.jit.trace(layer, SEQUENCES)]
)
def test_scripted_and_traced_layers_are_counted(make):
    layers = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU())
    assert Flops().measure(make(layers), SEQUENCES) == PRODUCT


def square(x):
    return x[:, :WIDTH]


REFUSED = {
    "rfft": lambda x: torch.fft.rfft(x).real,
    "svd": lambda x: torch.linalg.svd(x)[1],
    "solve": lambda x: torch.linalg.solve(square(x), square(x)),
    "inverse": lambda x: torch.linalg.inv(square(x)),
    "determinant": lambda x: torch.linalg.det(square(x)),
    "qr": lambda x: torch.linalg.qr(x)[0],
    "matrix_exp": lambda x: torch.linalg.matrix_exp(square(x)),
    "sparse": lambda x: torch.stack([torch.sparse.mm(torch.eye(8).to_sparse(), e) for e in x]),
    "complex": lambda x: (torch.complex(x, x) @ torch.complex(WEIGHT, WEIGHT)).real,
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_formula_is_known_of_is_refused_and_never_free(kind):
    with pytest.raises(EvaluationError, match="cannot be counted: nothing is known of what aten::"):
        Flops().measure(Wrapped(REFUSED[kind]), SEQUENCES)


RECURRENT = """
class Net(nn.Module):
    def __init__(self, spec, width):
        super().__init__()
        channels, height, columns = spec.image_shape
        self.rows = nn.LSTM(channels * columns, width, 2, batch_first=True, bidirectional=True)
        self.last = nn.Linear(2 * width, spec.num_classes)

    def forward(self, x):
        return self.last(self.rows(x.permute(0, 2, 1, 3).flatten(2))[0][:, -1])
"""


@pytest.mark.exhaustive
def test_a_limit_on_flops_rules_recurrent_networks_out(nas_proxy, tmp_path):
    (tmp_path / "space.py").write_text(SPACE + RECURRENT)
    limited = {"n_trials": 2, "sampler": "random", "constraints": {"flops": 1000}}
    write_config(tmp_path, space={"name": "space.py:Own"}, search=limited)
    assert_one_sentence(nas_proxy("search", "c.yaml"), "constraints")


@pytest.mark.exhaustive
def test_the_case_as_it_is_written(case, nas_proxy):
    folder = case("flops_rnn_attention")
    shown = python("measure.py", cwd=folder).stdout
    assert "LSTM 86496.0 true 86496" in shown
    assert "vit_b_32 4.409" in shown
    assert "resnet18 1.814" in shown
    assert_one_sentence(nas_proxy("search", "c.yaml"), "constraints")
