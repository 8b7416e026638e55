"""What Optuna and MLflow are told of a trial beside its score."""

from dataclasses import dataclass

import pytest
import torch

from nas_proxy.evaluate.log import period_of
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.study.logged_trials import trial_facts
from nas_proxy.types import DatasetSpec, Evaluation, Fidelity, Status

SPEC = DatasetSpec("d", ("a", "b"), (1, 8, 8), (0.5,), (0.5,), "none", "hash")
SPACE = ConvNetSpace(widths=(8,), depths=(1,))


def evaluation(space=SPACE, **changes):
    architecture = space.sample(make_generator(0))
    fidelity = Fidelity("d", num_steps=1, batch_size=1, image_size=8)
    return Evaluation(architecture, fidelity, 0, **{"status": Status.COMPLETE, **changes})


def test_sizes_are_those_of_the_network_at_full_size():
    found = trial_facts(SPACE, SPEC, evaluation(seconds=2.0))
    with isolated_rng(1):
        network = SPACE.build(evaluation().architecture, SPEC)
    assert found["num_params"] == sum(p.numel() for p in network.parameters())
    assert found["flops"] > 0
    assert found["seconds"] == 2.0


def test_sizes_that_the_score_measured_are_not_counted_again():
    known = {"num_params": 7.0, "flops": 9.0}
    found = trial_facts(SPACE, SPEC, evaluation(signals=known))
    assert {name: found[name] for name in known} == known


@dataclass(frozen=True)
class Broken(ConvNetSpace):
    def build(self, architecture, spec):
        raise SystemExit("a defect of the user's")


def test_what_cannot_be_built_has_no_sizes_and_draws_nothing():
    broken = Broken(widths=(8,), depths=(1,))
    state = torch.get_rng_state()
    assert trial_facts(broken, SPEC, evaluation(broken, seconds=1.0)) == {"seconds": 1.0}
    assert torch.equal(torch.get_rng_state(), state)


def test_a_period_holds_all_that_is_known():
    first = evaluation(started_unix_seconds=100.0, seconds=5.0)
    second = evaluation(started_unix_seconds=102.0, seconds=1.0)
    assert period_of([second, first, evaluation(seconds=9.0)]) == pytest.approx((100.0, 105.0))
    assert period_of([evaluation(seconds=9.0)]) is None
