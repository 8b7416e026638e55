"""Operations are counted by formulas that one can write by hand, whichever kernels run."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nas_proxy.errors import EvaluationError
from nas_proxy.scores.flops import Flops

LENGTH, WIDTH, HIDDEN = 8, 6, 10
SEQUENCES = torch.randn(3, LENGTH, WIDTH)


class Wrapped(nn.Module):
    def __init__(self, call, *layers):
        super().__init__()
        self.call, self.layers = call, nn.ModuleList(layers)

    def forward(self, images):
        return self.call(images, *self.layers)


def recurrent(kind, gates, layers, directions):
    layer = kind(WIDTH, HIDDEN, layers, batch_first=True, bidirectional=directions == 2)
    inputs = [WIDTH, *[directions * HIDDEN] * (layers - 1)]
    hand = sum(2 * LENGTH * gates * HIDDEN * (wide + HIDDEN) * directions for wide in inputs)
    return Wrapped(lambda x, r: r(x)[0], layer), hand


@pytest.mark.parametrize(("layers", "directions"), [(1, 1), (2, 2)])
@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers(kind, gates, layers, directions):
    network, hand = recurrent(kind, gates, layers, directions)
    assert Flops().measure(network, SEQUENCES) == hand


# Four projections of each token, and two products of all pairs of tokens.
ATTENTION = 2 * LENGTH * 4 * WIDTH**2 + 2 * 2 * LENGTH**2 * WIDTH


@pytest.mark.parametrize("need_weights", [True, False])
def test_attention(need_weights):
    layer = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
    network = Wrapped(lambda x, a: a(x, x, x, need_weights=need_weights)[0], layer)
    assert Flops().measure(network, SEQUENCES) == ATTENTION


@pytest.mark.parametrize("num_layers", [1, 3])
def test_transformers(num_layers):
    layer = nn.TransformerEncoderLayer(WIDTH, 2, dim_feedforward=20, batch_first=True)
    network = nn.TransformerEncoder(layer, num_layers)
    hand = num_layers * (ATTENTION + 2 * LENGTH * 2 * 20 * WIDTH)
    assert Flops().measure(network, SEQUENCES) == hand


@pytest.mark.parametrize("is_causal", [True, False])
def test_bare_attention(is_causal):
    heads = SEQUENCES[:, None].expand(-1, 2, -1, -1)
    network = Wrapped(
        lambda x: F.scaled_dot_product_attention(
            heads[: len(x)], heads[: len(x)], heads[: len(x)], is_causal=is_causal
        )
    )
    assert Flops().measure(network, SEQUENCES) == 2 * 2 * 2 * LENGTH**2 * WIDTH


def test_products_of_three_and_of_vectors():
    bilinear = Wrapped(lambda x, layer: layer(x, x), nn.Bilinear(WIDTH, WIDTH, 5))
    assert Flops().measure(bilinear, SEQUENCES) == 3 * LENGTH * 5 * WIDTH**2
    # Of weights alone, as spectral norms have it: once for the two images of the count.
    vector = Wrapped(lambda x, layer: x + (layer.weight @ layer.weight[0]).sum(), nn.Linear(7, 7))
    assert Flops().measure(vector, SEQUENCES) == 2 * 7 * 7 / 2


def test_what_is_no_product_is_free():
    network = nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.AvgPool2d(2), nn.GELU()
    )
    assert Flops().measure(network, torch.randn(2, 3, 8, 8)) == 0


@torch.library.custom_op("nas_proxy_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x @ torch.ones(x.shape[-1], x.shape[-1]) * 2


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (twice, "nas_proxy_tests::twice"),
        (lambda x: torch.fft.fft2(x).real, "aten::_fft_c2c"),
        (lambda x: torch.cdist(x, x), "aten::_cdist_forward"),
    ],
)
def test_work_that_nothing_is_known_of_is_refused_by_its_name(call, name):
    with pytest.raises(EvaluationError, match=f"cannot be counted.*{name}"):
        Flops().measure(Wrapped(call), SEQUENCES)


def refuse(images):
    raise ValueError("no images")


def test_the_fast_kernels_are_on_again_afterwards():
    with pytest.raises(ValueError, match="no images"):
        Flops().measure(
            Wrapped(lambda x: (_ for _ in ()).throw(ValueError("no images"))), SEQUENCES
        )
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mkldnn.enabled
    assert torch.backends.cudnn.enabled
