"""Every promise that a plug-in can break is noticed by the check that is meant for it."""

import random
from dataclasses import replace
from itertools import count

import numpy as np
import optuna
import pytest
import torch
from torch import nn

from nas_proxy.distill.random_subset import RandomSubset
from nas_proxy.errors import EvaluationError
from nas_proxy.interfaces import DistillContext, TransferSpace, ZeroCostScore
from nas_proxy.reproducibility import make_generator
from nas_proxy.scores.num_params import NumParams
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.testing import DISTILLER_CHECKS, SCORE_CHECKS, SPACE_CHECKS, tiny_dataset
from nas_proxy.types import Architecture
from tests.contracts.helpers_traps import Conditional, DeepSpace, GrowingSpace, HalfDrawn, Residual

CHECKS = {check.__name__: check for check in (*SPACE_CHECKS, *DISTILLER_CHECKS, *SCORE_CHECKS)}
FIXED = ConvNetSpace().sample(make_generator(99))
COUNTER = count()


def subclass(base, **members):
    return type("Broken", (base,), {"__module__": __name__, **members})


def pruned(*_):
    raise optuna.TrialPruned


def foreign(*_):
    return Architecture("elsewhere", FIXED.genotype)


class Tuned(ConvNetSpace, TransferSpace):
    """Says how it is trained."""


class BuildWith(ConvNetSpace):
    """Builds a network and alters it."""

    def alter(self, network):
        raise NotImplementedError

    def build(self, architecture, spec):
        network = super().build(architecture, spec)
        return self.alter(network) or network


class Drawn(nn.Module):
    """Holds something that is drawn when it is built, and that no file of weights has."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.shift = torch.rand(())

    def forward(self, images):
        return self.network(images) + self.shift


class Viewed(nn.Module):
    """Calls `view` on what a convolution gives, which may be laid out channels-last."""

    def __init__(self, spec):
        super().__init__()
        self.network = nn.Conv2d(spec.image_shape[0], 8, 1)
        self.head = nn.Linear(8 * spec.image_shape[1] * spec.image_shape[2], spec.num_classes)

    def forward(self, images):
        features = self.network(images)
        return self.head(features.view(len(images), -1))


class Changed(nn.Module):
    """Gives what a function makes of the logits."""

    def __init__(self, network, change):
        super().__init__()
        self.network = network
        self.change = change

    def forward(self, images):
        return self.change(self.network(images))


def scaled(factor):
    def alter(self, network):
        for weight in network.parameters():
            weight.data.mul_(factor)

    return alter


SPACES = {
    "check_space_class": [
        (subclass(ConvNetSpace, name=""), "has no name"),
        (subclass(ConvNetSpace, __annotations__={"extra": int}, extra=3), "extra of Broken cannot"),
        (subclass(ConvNetSpace, notices=lambda s: ("terms",)), "nothing reads notices"),
    ],
    "check_sampling": [
        (
            subclass(
                ConvNetSpace,
                sample=lambda s, g: ConvNetSpace.sample(s, make_generator(next(COUNTER))),
            ),
            "other architectures for an equal generator",
        ),
        (subclass(ConvNetSpace, sample=foreign), "must give Architecture"),
        (
            subclass(
                ConvNetSpace, sample=lambda s, g: (random.random(), ConvNetSpace.sample(s, g))[1]
            ),
            "global random generator of Python",
        ),
    ],
    "check_suggesting": [
        (subclass(ConvNetSpace, suggest=foreign), "must give Architecture"),
        (
            subclass(ConvNetSpace, suggest=lambda s, t: s.sample(make_generator(next(COUNTER)))),
            "every choice must go through",
        ),
        (subclass(ConvNetSpace, suggest=lambda s, t: t.suggest_any("x")), "suggest.. fails on"),
        (subclass(ConvNetSpace, suggest=pruned), "rules out all of 300 random trials"),
    ],
    "check_mutating": [
        (subclass(ConvNetSpace, mutate=lambda s, a, g: a), "gives back the same"),
        (subclass(ConvNetSpace, mutate=foreign), "must give Architecture"),
        (
            subclass(
                ConvNetSpace,
                mutate=lambda s, a, g: ConvNetSpace.mutate(s, a, make_generator(next(COUNTER))),
            ),
            "other neighbours for an equal generator",
        ),
        (
            subclass(
                ConvNetSpace,
                mutate=lambda s, a, g: Architecture("convnet", {**a.genotype, "width": 30.5}),
            ),
            "does not build",
        ),
    ],
    "check_json": [
        (
            subclass(ConvNetSpace, build=lambda s, a, spec: a.genotype["missing"]),
            "does not build: KeyError",
        ),
    ],
    "check_encoding": [
        (subclass(ConvNetSpace, encode=lambda s, a: torch.zeros(3)), "the same features"),
        (subclass(ConvNetSpace, encode=lambda s, a: torch.zeros(3).double()), "must give float32"),
        (subclass(ConvNetSpace, encode=lambda s, a: torch.full((2,), torch.nan)), "not finite"),
        (
            subclass(ConvNetSpace, encode=lambda s, a: torch.zeros(a.genotype["depth"])),
            "features for",
        ),
        (
            subclass(ConvNetSpace, encode=lambda s, a: torch.rand(3)),
            "changes the global random generator",
        ),
        (
            subclass(ConvNetSpace, encode=lambda s, a: torch.tensor([float(next(COUNTER))])),
            "the second time",
        ),
    ],
    "check_canonical_form": [
        (subclass(ConvNetSpace, canonical_form=lambda s, a: "one"), "their operations differ"),
        (subclass(ConvNetSpace, canonical_form=lambda s, a: 1), "the same text every time"),
    ],
    "check_training_small": [
        (
            subclass(BuildWith, alter=lambda s, n: nn.Sequential(n, nn.Linear(3, 10))),
            "gives logits of shape",
        ),
        (
            subclass(BuildWith, alter=lambda s, n: (n.requires_grad_(False), None)[1]),
            "cannot be trained",
        ),
        (subclass(BuildWith, alter=scaled(torch.inf)), "not finite"),
        (
            subclass(BuildWith, alter=lambda s, n: nn.Sequential(nn.Threshold(0, 0, True), n)),
            "chang",
        ),
    ],
    "check_training_large": [
        (
            subclass(
                ConvNetSpace,
                build=lambda s, a, spec: ConvNetSpace.build(
                    s, a, replace(spec, image_shape=(spec.image_shape[0], 8, 8))
                ),
            ),
            "cannot be trained",
        ),
    ],
    "check_training_odd": [
        (
            subclass(
                BuildWith,
                alter=lambda s, n: nn.Sequential(nn.PixelUnshuffle(2), nn.PixelShuffle(2), n),
            ),
            "on 3 classes of 9x9x1 images, cannot be trained",
        ),
    ],
    "check_training_as_studies": [
        (
            subclass(ConvNetSpace, build=lambda s, a, spec: Viewed(spec)),
            "channels-last .*: view size is not .* Call reshape .* train.channels_last: false",
        ),
    ],
    "check_one_image": [
        (
            subclass(BuildWith, alter=lambda s, n: Changed(n, torch.squeeze)),
            r"gives logits of shape \(3,\) for one image",
        ),
        (
            subclass(BuildWith, alter=lambda s, n: Changed(n, lambda x: x - x.mean(0))),
            "answers otherwise to an image alone",
        ),
        (subclass(BuildWith, alter=lambda s, n: Changed(n, lambda x: x[1])), "IndexError"),
    ],
    "check_state": [
        (subclass(BuildWith, alter=lambda self, network: Drawn(network)), "persistent buffers"),
    ],
    "check_weights": [
        (subclass(BuildWith, alter=lambda s, n: scaled(next(COUNTER))(s, n)), "an equal seed"),
        (subclass(BuildWith, alter=scaled(0)), "for every seed"),
    ],
    "check_pickling": [
        (subclass(ConvNetSpace, __reduce__=lambda s: (open, ("nowhere",))), "cannot be pickled"),
        (subclass(ConvNetSpace, __reduce__=lambda s: (ConvNetSpace, ())), "another one"),
    ],
    "check_fidelity_options": [
        (subclass(ConvNetSpace, fidelity_options=("widths",)), "must be an option with an integer"),
    ],
    "check_transfer": [
        (subclass(Tuned, training_phases=lambda s, a, settings: ()), "no step of training"),
        (subclass(Tuned, training_phases=lambda s, a, settings: 1 / 0), "training_phases.. fails"),
        (subclass(Tuned, weights_record=lambda s, a: "mine"), "must say where weights come from"),
        (subclass(Tuned, notices=lambda s: (1,)), "must give texts"),
        (
            subclass(
                Tuned,
                without_weights=lambda s: subclass(
                    BuildWith, alter=lambda s, n: nn.Sequential(n)
                )(),
            ),
            "networks have other weights",
        ),
    ],
    "check_string_form": [
        (subclass(ConvNetSpace, from_string=lambda s, text: FIXED), "reads back as"),
        (
            subclass(
                ConvNetSpace,
                from_string=lambda s, text: ConvNetSpace.from_string(s, text.strip("?")),
            ),
            "accepts",
        ),
        (subclass(ConvNetSpace, from_string=lambda s, text: 1 / 0), "from_string.. fails on"),
    ],
    "check_description": [
        (subclass(ConvNetSpace, describe=lambda s, a: "two\nlines"), "one line"),
        (subclass(ConvNetSpace, describe=lambda s, a: ""), "one line"),
    ],
}


SPACES["check_fidelity_options"].append((GrowingSpace, "changes the genotypes"))


def residual(*, inplace):
    return subclass(BuildWith, alter=lambda s, n: nn.Sequential(Residual(inplace), n))


SPACES["check_reduced_fidelity"] = [
    (subclass(DeepSpace, reduced_fidelity={"layer": 1}), "'layer', which is none .*'layers'"),
    (subclass(DeepSpace, reduced_fidelity={"layers": 0.5}), "sets layers to 0.5; it must be a who"),
    (subclass(DeepSpace, reduced_fidelity={"layers": 4}), "makes no network cheaper: .* weights"),
    (subclass(DeepSpace, more=2), "makes no network cheaper"),
    (subclass(GrowingSpace, reduced_fidelity={"size": 2}), "changes the genotypes"),
]
SPACES["check_inplace"] = [(residual(inplace=True), "answers otherwise without .* of ReLU: ")]
SPACES["check_sampled_choices"] = [(HalfDrawn, "never draws 'none' at norm of a genotype among")]


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
