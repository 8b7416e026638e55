"""Scores that are measured together: the values of each alone, for less work."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from nas_proxy.errors import EvaluationError
from nas_proxy.interfaces import ZeroCostScore
from nas_proxy.registry import SCORES, SEARCH_SPACES
from nas_proxy.reproducibility import isolated_rng
from nas_proxy.scores.fisher import Fisher
from nas_proxy.scores.suite import measure_scores
from nas_proxy.types import DatasetSpec

SEED = 5
BACKBONE = "torchvision_backbones"
OPTIONS = {"nasbench201": {"num_cells": 1, "channels": 8}, BACKBONE: {"backbones": ("mnasnet0_5",)}}


def spec_of(image_size):
    return DatasetSpec(
        "x", tuple("abcde"), (3, image_size, image_size), (0.5,) * 3, (0.2,) * 3, "", ""
    )


def batch(image_size, num_images=8):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(num_images, 3, image_size, image_size, generator=generator)
    return images, torch.randint(5, (num_images,), generator=generator)


class Builds:
    """Builds networks and counts them."""

    def __init__(self, space, text, image_size):
        self._space, self._spec = space, spec_of(image_size)
        self._architecture = space.from_string(text)
        self.num = 0

    def __call__(self):
        self.num += 1
        return self._space.build(self._architecture, self._spec)


NB201 = "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|none~2|"


@pytest.mark.parametrize(
    ("space", "text", "image_size"),
    [
        ("convnet", "ConvNet-W32-D3-NBN-AR-PA", 8),
        ("convnet", "ConvNet-W32-D2-NGN-AS-PM", 8),
        ("nasbench201", NB201, 8),
        pytest.param(BACKBONE, None, 64, marks=pytest.mark.exhaustive),
    ],
)
def test_all_together_have_the_values_that_each_has_alone(space, text, image_size):
    known = SEARCH_SPACES.get(space)(**OPTIONS.get(space, {}))
    if text is None:
        text = known.to_string(known.sample(torch.Generator().manual_seed(0)))
    build, images = Builds(known, text, image_size), batch(image_size)
    classes = {name: SCORES.get(name) for name in SCORES.names()}
    scores = {n: c() for n, c in classes.items() if c.__module__.startswith("nas_proxy.")}
    together, seconds = measure_scores(scores, build, *images, SEED)
    assert build.num == 6  # counting, the flow, a batch of 64, one of eight; zen and zico alone
    assert list(together) == list(seconds) == list(scores)
    assert min(seconds.values()) > 0
    for name, score in scores.items():
        with isolated_rng(SEED):
            alone = score.measure_labelled(build(), *images)
        # Gradients that shall be differentiated again come from other code for some layers.
        assert together[name] == pytest.approx(alone, rel=1e-6), name


@dataclass(frozen=True)
class Spoiling(ZeroCostScore):
    """What a third party may write: draws random numbers and spoils its network."""

    def measure(self, network: nn.Module, images: torch.Tensor) -> float:
        total = float(sum(parameter.detach().sum() for parameter in network.parameters()))
        for parameter in network.parameters():
            parameter.data.zero_()
        return total + float(torch.rand(()))


def test_a_score_that_does_not_share_has_a_network_of_its_own():
    build = Builds(SEARCH_SPACES.get("convnet")(), "ConvNet-W32-D1-NN-AR-PN", 8)
    own = {"first": Spoiling(), "snip": SCORES.get("snip")(), "second": Spoiling()}
    values, _ = measure_scores(own, build, *batch(8), SEED)
    with isolated_rng(SEED):
        assert values["first"] == values["second"] == Spoiling().measure(build(), batch(8)[0])
    assert values["snip"] > 0


@dataclass(frozen=True, kw_only=True)
class Doubled(Fisher):
    """Derived from a score that shares, and measured in its own way."""

    def measure(self, network: nn.Module, images: torch.Tensor) -> float:
        return 2.0 * len(images)


def test_a_score_that_is_derived_from_one_that_shares_measures_as_it_says():
    build = Builds(SEARCH_SPACES.get("convnet")(), "ConvNet-W32-D1-NN-AR-PN", 8)
    scores = {"snip": SCORES.get("snip")(), "doubled": Doubled()}
    assert measure_scores(scores, build, *batch(8), SEED)[0]["doubled"] == 16.0
    assert Doubled().measure_labelled(build(), *batch(8)) == 16.0
    assert build.num == 3


def test_what_one_score_is_told_of_a_batch_is_not_altered_by_another():
    """In every order: a score that frees the graph or overwrites a gradient would be noticed."""
    names = ["grasp", "jacobian_covariance", "naswot", "snip", "fisher", "meco"]
    build = Builds(SEARCH_SPACES.get("nasbench201")(num_cells=1, channels=4), NB201, 8)
    scores = {name: SCORES.get(name)(num_images=8) for name in names}
    forwards, _ = measure_scores(scores, build, *batch(8), SEED)
    assert build.num == 1
    backwards = {name: scores[name] for name in reversed(names)}
    assert measure_scores(backwards, build, *batch(8), SEED)[0] == forwards


def test_other_numbers_of_images_are_other_batches():
    build = Builds(SEARCH_SPACES.get("convnet")(), "ConvNet-W32-D1-NN-AR-PN", 8)
    grad_norm = SCORES.get("grad_norm")
    scores = {"four": grad_norm(num_images=4), "eight": grad_norm(num_images=8)}
    values, _ = measure_scores(scores, build, *batch(8), SEED)
    four = batch(8)[0][:4], batch(8)[1][:4]
    assert values["four"] == measure_scores({"x": grad_norm()}, build, *four, SEED)[0]["x"]
    assert values["four"] != values["eight"]


def test_a_score_that_is_not_defined_says_so():
    build = Builds(
        SEARCH_SPACES.get("nasbench201")(num_cells=1),
        "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
        8,
    )
    scores = {name: SCORES.get(name)() for name in ("num_params", "snip", "naswot")}
    with pytest.raises(EvaluationError, match=r"^(snip|naswot): "):
        measure_scores(scores, build, *batch(8), SEED)
