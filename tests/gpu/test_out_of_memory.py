"""A GPU's memory runs out: the candidate fails in words, and leaves nothing to the next one."""

import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from nas_proxy.data.transforms import normalise
from nas_proxy.evaluate.trained_signals import EvaluationData
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.training_set import TrainingSet
from tests.evaluate.helpers_fakes import ARCHITECTURE, FakeScore, evaluator, settings, small_net
from tests.helpers.memory import MESSAGE, TooLargeGradient, too_large
from tests.helpers.stand_in_gpu import stand_in_gpu


class Hungry(nn.Module):
    """Takes a large activation, and fails in a forward pass, in a gradient or when it is judged."""

    def __init__(self, network, place):
        super().__init__()
        self.network = network
        self.place = place
        self.num_calls = 0
        self.kept = []  # a circle, as hooks make them: counting references does not free it
        self.register_forward_hook(lambda *_: self.kept.append(self))

    def forward(self, images):
        self.num_calls += 1
        logits = self.network(images)
        if self.place == "gradient":
            return TooLargeGradient.apply(logits)
        if self.place == "forward" and self.num_calls >= 2:  # however few the images
            raise too_large()
        if self.place == "measuring" and not self.training:
            raise too_large()
        return logits


def evaluator_on(device, make, scores=None):
    dataset = tiny_dataset()
    dataset = replace(dataset, images=dataset.images.to(device), labels=dataset.labels.to(device))
    return replace(
        evaluator(make, scores=scores, train_settings=settings()),
        score_images=(normalise(dataset.images[:6], dataset.spec), dataset.labels[:6]),
        evaluation_data=EvaluationData(dataset, "val", TrainingSet.of(dataset)),
    )


def without_seconds(evaluation):
    return {k: v for k, v in evaluation.signals.items() if k != "train_seconds"}


@pytest.mark.parametrize(
    "place",
    [
        "forward",
        "score",
        pytest.param("gradient", marks=pytest.mark.exhaustive),
        pytest.param("measuring", marks=pytest.mark.exhaustive),
    ],
)
def test_a_candidate_that_does_not_fit_fails_in_words_and_frees_its_memory(place, monkeypatch):
    networks, alive = [], []

    def make(space, spec):
        network = Hungry(small_net(space, spec), place) if not networks else small_net(space, spec)
        networks.append(weakref.ref(network))
        return network

    def score(network, images):
        if isinstance(network, Hungry) and place == "score":
            network(images).sum()
            raise too_large()
        return 1.0

    with stand_in_gpu() as device:
        alone = evaluator_on(device, small_net).evaluate(ARCHITECTURE, 5)
        scores = {"fake": FakeScoreWithoutMemory(answer=score)} if place == "score" else None
        judge = evaluator_on(device, make, scores)
        # What is alive when the memory is handed back stays in use.
        monkeypatch.setattr(
            torch.cuda,
            "empty_cache",
            lambda: alive.append(sum(ref() is not None for ref in networks)),
        )
        failed = judge.evaluate(ARCHITECTURE, 5)
        next_one = judge.evaluate(ARCHITECTURE, 5)
    assert failed.reason == f"does not fit in memory: {MESSAGE}"
    assert not failed.complete
    assert not failed.signals
    assert alive[-1] == 0  # earlier ones ask for smaller parts, with the network in use
    assert next_one.complete
    assert without_seconds(next_one).items() >= without_seconds(alone).items()


class FakeScoreWithoutMemory(FakeScore):
    def measure(self, network, images):
        return self.answer(network, images)


def test_a_candidate_that_fits_gives_nothing_back(monkeypatch):
    """Asking for memory anew for each candidate would make a GPU wait."""
    with stand_in_gpu() as device:
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: pytest.fail("not needed"))
        assert evaluator_on(device, small_net).evaluate(ARCHITECTURE, 5).complete
