"""Checks of search spaces."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import torch

from nas_proxy.core.packing import pack, unpack
from nas_proxy.errors import UserError
from nas_proxy.interfaces import SearchSpace, TransferSpace
from nas_proxy.reproducibility import make_generator
from nas_proxy.scores.flops import Flops
from nas_proxy.testing._common import (
    blame,
    check_class,
    equal_weights,
    global_generators_untouched,
    random_study,
    require,
    shapes,
)
from nas_proxy.testing._space_training import (
    BATCH_SIZE,
    TRAINING_CHECKS,
    built,
    samples,
    small_spec,
    train_once,
)
from nas_proxy.testing._space_traps import TRAP_CHECKS
from nas_proxy.train.phases import num_steps_of
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture, WeightsRecord

_MAX_PROPOSALS = 300  # of which some are not ruled out, as a search asks no further


def check_space_class(space: SearchSpace, num_samples: int) -> None:
    """The class is named, everything it declares as an option is one, and its base fits."""
    check_class(space)
    if isinstance(space, TransferSpace):
        return
    members = set(vars(TransferSpace)) - set(vars(SearchSpace))
    unread = sorted(name for name in members if hasattr(space, name))
    require(
        not unread,
        f"{space.name}: nothing reads {', '.join(unread)} of a SearchSpace: derive from "
        "TransferSpace",
    )


def check_sampling(space: SearchSpace, num_samples: int) -> None:
    """Equal generators give equal architectures, which carry the space's name."""
    first, second = (
        [space.sample(generator) for _ in range(num_samples)]
        for generator in (make_generator(7), make_generator(7))
    )
    require(
        first == second,
        f"{space.name}: sample() gives other architectures for an equal generator: draw only from "
        "the generator that is handed in",
    )
    for architecture in first:
        _require_member(space, architecture, "sample()")
    with global_generators_untouched(f"{space.name}: sample()"):
        space.sample(make_generator(7))


def check_suggesting(space: SearchSpace, num_samples: int) -> None:
    """Optuna's trials give architectures of the space, and their parameters give them again.

    `optuna.TrialPruned` rules a trial out, but not all of them.
    """
    import optuna

    study = random_study()
    num_found = 0
    for _ in range(_MAX_PROPOSALS):
        trial = study.ask()
        with blame(f"{space.name}: suggest() fails on an Optuna trial"):
            try:
                architecture = space.suggest(trial)
            except optuna.TrialPruned:
                continue
        _require_member(space, architecture, "suggest()")
        with blame(f"{space.name}: suggest() fails when a trial's parameters are given again"):
            again = space.suggest(optuna.trial.FixedTrial(trial.params))
        require(
            again == architecture,
            f"{space.name}: suggest() gives another architecture for the same parameters: every "
            "choice must go through trial.suggest_*",
        )
        train_once(space, architecture, small_spec(), "an architecture that suggest() gave")
        num_found += 1
        if num_found == num_samples:
            return
    require(
        num_found > 0,
        f"{space.name}: suggest() rules out all of {_MAX_PROPOSALS} random trials by "
        "optuna.TrialPruned: let it choose among what it allows",
    )


def check_mutating(space: SearchSpace, num_samples: int) -> None:
    """A neighbour is another architecture of the space, builds, and depends on the generator.

    A space may leave `mutate` out: evolution then refuses it in one sentence.
    """
    if not space.can_mutate:
        return
    for seed, architecture in enumerate(samples(space, num_samples)):
        with blame(f"{space.name}: mutate() fails on {architecture.genotype_json}"):
            neighbour, again = (space.mutate(architecture, make_generator(seed)) for _ in range(2))
        require(
            neighbour != architecture,
            f"{space.name}: mutate() gives back the same architecture {architecture.genotype_json}",
        )
        require(
            neighbour == again,
            f"{space.name}: mutate() gives other neighbours for an equal generator",
        )
        _require_member(space, neighbour, "mutate()")
        train_once(space, neighbour, small_spec(), "an architecture that mutate() gave")


def check_json(space: SearchSpace, num_samples: int) -> None:
    """Architectures survive JSON with the same id, and their genotypes build afterwards."""
    for architecture in samples(space, num_samples):
        copy = Architecture.from_json(json.loads(json.dumps(architecture.to_json())))
        require(
            copy == architecture and copy.id == architecture.id,
            f"{space.name}: {architecture.genotype_json} changes on its way through JSON",
        )
        built(space, copy, small_spec(), seed=0)


def check_encoding(space: SearchSpace, num_samples: int) -> None:
    """Features are finite float32 vectors of one length, and tell most networks apart.

    Without an `encode` of its own a space has the features of its networks' graphs, which are
    equal where the networks are.
    """
    architectures = samples(space, num_samples)
    with global_generators_untouched(f"{space.name}: encode()"):
        features = [space.encode(architecture) for architecture in architectures]
    for architecture, vector in zip(architectures, features, strict=True):
        require(
            vector.dtype == torch.float32 and vector.ndim == 1,
            f"{space.name}: encode() must give float32 of shape (d,), not {vector.dtype} of shape "
            f"{tuple(vector.shape)}",
        )
        require(
            vector.shape == features[0].shape,
            f"{space.name}: encode() gives {len(vector)} features for {architecture.genotype_json} "
            f"and {len(features[0])} for {architectures[0].genotype_json}",
        )
        require(
            bool(vector.isfinite().all()),
            f"{space.name}: encode() gives features of {architecture.genotype_json} that are not "
            "finite",
        )
        require(
            torch.equal(vector, space.encode(architecture)),
            f"{space.name}: encode() gives other features for {architecture.genotype_json} the "
            "second time",
        )
    num_networks = len({space.canonical_form(architecture) for architecture in architectures})
    require(
        len({tuple(vector.tolist()) for vector in features}) > num_networks / 2,
        f"{space.name}: encode() gives most architectures the same features",
    )


def check_canonical_form(space: SearchSpace, num_samples: int) -> None:
    """Equal architectures have one canonical form, and networks of one form are of one function.

    That is tested by what they cost: equal functions need equally many operations.
    """
    flops: dict[str, float] = {}
    for architecture in samples(space, num_samples):
        form = space.canonical_form(architecture)
        require(
            isinstance(form, str) and form == space.canonical_form(architecture),
            f"{space.name}: canonical_form() must give the same text every time, not {form!r}",
        )
        spec = small_spec()
        network = built(space, architecture, spec, seed=0)
        counted = Flops().measure(network, torch.zeros(2, *spec.image_shape))
        require(
            flops.setdefault(form, counted) == counted,
            f"{space.name}: canonical_form() says that two architectures are one network, but "
            f"their operations differ ({counted:g} and {flops[form]:g}): {form}",
        )


def check_weights(space: SearchSpace, num_samples: int) -> None:
    """The global generator's seed, and nothing else, decides a fresh network's weights."""
    for architecture in samples(space, min(2, num_samples)):
        first, same, other = (
            built(space, architecture, small_spec(), seed=seed) for seed in (1, 1, 2)
        )
        require(
            equal_weights(first, same),
            f"{space.name}: build() gives other weights for an equal seed",
        )
        require(
            not equal_weights(first, other),
            f"{space.name}: build() gives the same weights for every seed: does it seed torch?",
        )
        shared = {id(weight) for weight in first.parameters()}
        require(
            shared.isdisjoint(id(weight) for weight in same.parameters()),
            f"{space.name}: build() gives the same weights to two networks: build a fresh one",
        )


def check_state(space: SearchSpace, num_samples: int) -> None:
    """Weights alone bring a network back: files of models and teachers hold nothing else."""
    images = torch.randn(BATCH_SIZE, *small_spec().image_shape, generator=make_generator(0))
    for architecture in samples(space, min(2, num_samples)):
        first, other = (built(space, architecture, small_spec(), seed=seed) for seed in (1, 2))
        with blame(f"{space.name}: {architecture.genotype_json} does not take weights back"):
            other.load_state_dict(first.state_dict())
            with torch.no_grad():
                expected, found = first.eval()(images), other.eval()(images)
        require(
            torch.allclose(found, expected, atol=1e-4),
            f"{space.name}: with the weights of another, {architecture.genotype_json} answers "
            "otherwise: make what build() draws parameters or persistent buffers",
        )


def check_pickling(space: SearchSpace, num_samples: int) -> None:
    """The space survives pickling: worker processes receive it so."""
    with blame(f"{space.name}: the space cannot be pickled"):
        copy = unpack(pack(space))
    require(
        copy == space and copy.fingerprint() == space.fingerprint(),
        f"{space.name}: the space is another one after pickling",
    )


def check_fidelity_options(space: SearchSpace, num_samples: int) -> None:
    """Halving any fidelity option keeps the genotypes, and they build."""
    for option in space.fidelity_options:
        value = getattr(space, option, None)
        if isinstance(value, bool) or not isinstance(value, int):
            raise AssertionError(
                f"{space.name}: the fidelity option {option!r} must be an option with an integer "
                f"value, not {value!r}"
            )
        reduced = replace(space, **{option: max(1, value // 2)})
        require(
            samples(reduced, num_samples) == samples(space, num_samples),
            f"{space.name}: {option} changes the genotypes, so it is no fidelity option",
        )
        for architecture in samples(space, num_samples)[:3]:
            train_once(
                reduced, architecture, small_spec(), f"with {option} halved, an architecture"
            )


def check_string_form(space: SearchSpace, num_samples: int) -> None:
    """If there is a string form, it leads back, and other text is a ValueError."""
    for architecture in samples(space, num_samples):
        try:
            text = space.to_string(architecture)
        except UserError:
            return
        with blame(f"{space.name}: from_string() fails on {text!r}, which to_string() gave"):
            back = space.from_string(text)
        require(
            back == architecture,
            f"{space.name}: {text!r} reads back as {back.genotype_json}, not "
            f"{architecture.genotype_json}",
        )
        for wrong in ("", f"{text}?"):
            try:
                space.from_string(wrong)
            except ValueError:
                continue
            raise AssertionError(
                f"{space.name}: from_string() accepts {wrong!r}; it must raise ValueError"
            )


def check_description(space: SearchSpace, num_samples: int) -> None:
    """A description is one line."""
    for architecture in samples(space, num_samples):
        text = space.describe(architecture)
        require(
            bool(text.strip()) and len(text.splitlines()) == 1,
            f"{space.name}: describe() must give one line, not {text!r}",
        )


def check_transfer(space: SearchSpace, num_samples: int) -> None:
    """Of a `TransferSpace`: it says how it is trained, and builds the same without weights."""
    if not isinstance(space, TransferSpace):
        return
    settings = TrainSettings(
        num_steps=None if space.says_length else 4,
        num_epochs="architecture" if space.says_length else None,
    )
    bare = space.without_weights()
    for architecture in samples(space, min(2, num_samples)):
        where = f"{space.name}: {architecture.genotype_json}"
        with blame(f"{where}: training_phases() fails"):
            phases = space.training_phases(architecture, settings)
            num_steps = num_steps_of(phases, BATCH_SIZE)
        require(num_steps > 0, f"{where}: training_phases() gives no step of training")
        record = space.weights_record(architecture)
        require(
            isinstance(record, WeightsRecord) and bool(record.source),
            f"{where}: weights_record() must say where weights come from, not {record!r}",
        )
        own, other = (built(each, architecture, small_spec(), seed=0) for each in (space, bare))
        require(
            shapes(own) == shapes(other),
            f"{where}: without_weights() gives a space whose networks have other weights",
        )
    require(
        all(isinstance(notice, str) for notice in space.notices()),
        f"{space.name}: notices() must give texts, not {space.notices()!r}",
    )


SPACE_CHECKS: tuple[Callable[[SearchSpace, int], None], ...] = (
    check_space_class,
    check_sampling,
    check_suggesting,
    check_mutating,
    check_json,
    check_encoding,
    check_canonical_form,
    *TRAINING_CHECKS,
    check_weights,
    check_state,
    check_pickling,
    check_fidelity_options,
    check_string_form,
    check_description,
    check_transfer,
    *TRAP_CHECKS,
)


def _require_member(space: SearchSpace, architecture: Architecture, origin: str) -> None:
    require(
        isinstance(architecture, Architecture) and architecture.space == space.name,
        f"{space.name}: {origin} must give Architecture(self.name, genotype), not {architecture!r}",
    )
