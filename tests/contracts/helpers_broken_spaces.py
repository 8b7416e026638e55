"""For each check of a search space, spaces that break it, and what is said of them."""

import random
from dataclasses import replace
from itertools import count

import optuna
import torch
from torch import nn

from nas_proxy.interfaces import TransferSpace
from nas_proxy.reproducibility import make_generator
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.types import Architecture
from tests.contracts.helpers_traps import DeepSpace, GrowingSpace, HalfDrawn, Residual

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
