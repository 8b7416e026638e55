"""Every promise that a plug-in can break is noticed by the check that is meant for it."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from nas_proxy.distill.random_subset import RandomSubset
from nas_proxy.errors import EvaluationError
from nas_proxy.interfaces import DistillContext, ZeroCostScore
from nas_proxy.reproducibility import make_generator
from nas_proxy.scores.num_params import NumParams
from nas_proxy.testing import DISTILLER_CHECKS, SCORE_CHECKS, SPACE_CHECKS, tiny_dataset
from tests.contracts.helpers_broken_spaces import COUNTER, SPACES, BuildWith, residual, subclass
from tests.contracts.helpers_traps import Conditional, DeepSpace

CHECKS = {check.__name__: check for check in (*SPACE_CHECKS, *DISTILLER_CHECKS, *SCORE_CHECKS)}


@pytest.mark.parametrize(
    ("check", "space"),
    [
        ("check_reduced_fidelity", DeepSpace()),
        ("check_reduced_fidelity", DeepSpace(layers=1)),  # reduced by whoever checks it
        ("check_inplace", residual(inplace=False)()),
        (
            "check_inplace",
            subclass(BuildWith, alter=lambda s, n: nn.Sequential(n, nn.ReLU(True)))(),
        ),
    ],
)
def test_what_is_no_trap_passes(check, space):
    CHECKS[check](space, 3)


def test_a_choice_that_few_genotypes_have_is_not_missed():
    drawn = {Conditional().sample(make_generator(seed)).genotype["depth"] for seed in range(300)}
    assert 1 not in drawn
    CHECKS["check_sampled_choices"](Conditional(), 3)


class Distiller(RandomSubset):
    """Distils, and alters the result."""

    def alter(self, proxy, task):
        raise NotImplementedError

    def distill(self, task):
        proxy = super().distill(task)
        return self.alter(proxy, task) or proxy


def altered(**changes):
    """A distiller whose result has other attributes, computed from the right result."""
    return subclass(
        Distiller,
        alter=lambda s, proxy, *_: replace(
            proxy, **{name: change(getattr(proxy, name)) for name, change in changes.items()}
        ),
    )


def forgetful(self, task):
    """Continues from its checkpoint to something else than without one."""
    proxy, context = RandomSubset().distill(replace(task, context=DistillContext())), task.context
    if context.checkpoint is None:
        return proxy
    if not context.checkpoint.exists():
        context.checkpoint.touch()
        context.progress(1, 2)
    return replace(proxy, images=proxy.images + 1)


def swallow(self, task):
    """Gives fewer images where there are too few."""
    return RandomSubset.distill(self, replace(task, images_per_class=1))


def seeded(self, task):
    """Ignores the seed but draws from the generator."""
    torch.rand(1, generator=task.generator)
    return RandomSubset.distill(self, replace(task, generator=make_generator(3)))


DISTILLERS = {
    "check_distiller_class": [(subclass(RandomSubset, name=""), "has no name")],
    "check_same_seed": [(altered(images=lambda x: x + next(COUNTER)), "two different sets")],
    "check_other_seed": [(subclass(RandomSubset, distill=seeded), "two seeds give the same")],
    "check_images": [
        (altered(images=lambda x: x[1:]), "of shape"),
        (altered(images=lambda x: x.double()), "float32"),
        (altered(images=lambda x: x / 0), "not finite"),
        (altered(images=lambda x: x.clone().requires_grad_()), "detach"),
    ],
    "check_labels": [
        (altered(labels=lambda x: x.flip(0)), "class by class"),
        (altered(labels=lambda x: x.float()), "int64"),
        (altered(labels=lambda x: torch.ones(len(x), 3)), "sum to one"),
        (altered(labels=lambda x: torch.ones(len(x), 2) / 2), "soft labels must have shape"),
    ],
    "check_record": [
        (altered(method=lambda x: "other"), "must carry"),
        (altered(images_per_class=lambda x: 3), "must carry"),
        (altered(parameters=lambda x: {"path": object()}), "cannot be saved"),
    ],
    "check_too_few_images": [(subclass(RandomSubset, distill=swallow), "must raise DataError")],
    "check_leaves_dataset": [
        (
            subclass(Distiller, alter=lambda s, p, task: (task.dataset.images.zero_(), None)[1]),
            "changes the data set",
        ),
    ],
    "check_leaves_generators": [
        (subclass(Distiller, alter=lambda *_: (torch.rand(1), None)[1]), "generator of torch"),
        (subclass(Distiller, alter=lambda *_: (np.random.rand(), None)[1]), "generator of numpy"),
    ],
    "check_resuming": [(subclass(RandomSubset, distill=forgetful), "killed and continued")],
}


def scored(function):
    return subclass(NumParams, measure=lambda self, network, images: function(network, images))


def refuse(*_):
    raise EvaluationError("never")


def refuse_without_reason(*_):
    raise EvaluationError


NUMBERS = {
    "check_score_class": [
        (subclass(NumParams, higher_is_better="yes"), "must be true or false"),
        (subclass(ZeroCostScore, measure=lambda *_: 0.0), "has no name"),
    ],
    "check_finite": [
        (scored(lambda *_: float("nan")), "not a finite float"),
        (scored(lambda *_: torch.ones(())), "not a finite float"),
        (scored(refuse), "most networks of convnet have no score"),
        (scored(refuse_without_reason), "gives no reason"),
        (scored(lambda *_: 1 / 0), "cannot be measured: ZeroDivisionError"),
    ],
    "check_deterministic": [(scored(lambda *_: float(next(COUNTER))), "under equal seeds")],
    "check_leaves_images": [
        (scored(lambda n, images: float(images.zero_().sum())), "changes the images"),
        (scored(lambda n, images: (images.requires_grad_(), 1.0)[1]), "changes the images"),
    ],
    "check_score_leaves_generators": [
        (scored(lambda *_: float(np.random.rand())), "generator of numpy"),
        (scored(lambda *_: random.random()), "generator of Python"),
    ],
}

CASES = [
    pytest.param(CHECKS[name], plugin, fault, id=f"{name.removeprefix('check_')}-{index}")
    for table in (SPACES, DISTILLERS, NUMBERS)
    for name, cases in table.items()
    for index, (plugin, fault) in enumerate(cases)
]


@pytest.mark.parametrize(("check", "plugin", "fault"), CASES)
def test_a_broken_promise_is_noticed(check, plugin, fault):
    arguments = (plugin(), 6) if check in SPACE_CHECKS else (plugin(),)
    with pytest.raises(AssertionError, match=fault) as caught:
        check(*arguments)
    assert len(str(caught.value).splitlines()) == 1


def test_every_check_has_a_plugin_that_breaks_it():
    assert set(CHECKS) == {*SPACES, *DISTILLERS, *NUMBERS}


def test_the_tiny_dataset_is_always_the_same_and_in_mixed_order():
    first, second = tiny_dataset(), tiny_dataset()
    assert torch.equal(first.images, second.images)
    assert first.images.dtype == torch.uint8
    assert first.labels.bincount().tolist() == [8, 8, 8]
    assert first.labels.tolist() != sorted(first.labels.tolist())
