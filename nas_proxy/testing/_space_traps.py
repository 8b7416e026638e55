"""Checks of search spaces for mistakes that no error shows, and that cost a study its worth."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from nas_proxy.errors import did_you_mean
from nas_proxy.interfaces import SearchSpace
from nas_proxy.plugin_calls import is_pruned
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.scores.flops import Flops
from nas_proxy.testing._common import blame, require
from nas_proxy.testing._space_training import built, samples, small_spec
from nas_proxy.types import Architecture

_NUM_DRAWN = 300  # architectures on either side, of which choices are compared
_EXPECTED = 20  # of a choice among these, before its absence is no accident: exp(-20)


def check_reduced_fidelity(space: SearchSpace, num_samples: int) -> None:
    """What is recommended for short trainings are fidelity options, and they make networks cheaper.

    A study trains its candidates with them unless it says otherwise.
    """
    reduced, who = dict(space.reduced_fidelity), f"{space.name}: reduced_fidelity"
    for option, value in reduced.items():
        require(
            option in space.fidelity_options,
            f"{who} names {option!r}, which is none of fidelity_options; "
            f"{did_you_mean(option, space.fidelity_options)}",
        )
        require(
            isinstance(value, int) and not isinstance(value, bool) and value > 0,
            f"{who} sets {option} to {value!r}; it must be a whole number above 0",
        )
    defaults = {each.name: each.default for each in fields(space)}
    same = all(getattr(space, option) == value for option, value in reduced.items())
    chosen = any(defaults[option] not in (MISSING, getattr(space, option)) for option in reduced)
    if not reduced or (same and chosen):  # whoever checks it has reduced it already
        return
    with blame(f"{who} is not accepted"):
        cheap = replace(space, **reduced)
    architectures = samples(space, num_samples)
    require(
        samples(cheap, num_samples) == architectures,
        f"{who} changes the genotypes, so trainings would not be of the same architectures",
    )
    before, after = (
        [built(each, architecture, small_spec(), seed=0) for architecture in architectures[:3]]
        for each in (space, cheap)
    )
    require(
        _num_weights(after) < _num_weights(before) or _operations(after) < _operations(before),
        f"{who} makes no network cheaper: {_num_weights(after):,} weights with it, "
        f"{_num_weights(before):,} without, and no fewer operations",
    )


def check_inplace(space: SearchSpace, num_samples: int) -> None:
    """Modules with `inplace=True` change nothing that is read elsewhere.

    Such as an activation that begins a residual branch, and alters what the branch is added to.
    Training-free scores look between the layers: they would read another network than is trained.
    """
    for architecture in samples(space, min(2, num_samples)):
        network, plain = (built(space, architecture, small_spec(), seed=0) for _ in range(2))
        names = {type(each).__name__ for each in _inplace(network)}
        if not names:
            continue
        for module in _inplace(plain):
            module.inplace = False
        require(
            torch.allclose(_logits(network), _logits(plain), rtol=1e-3, atol=1e-5),
            f"{space.name}: {architecture.genotype_json} answers otherwise without inplace=True of "
            f"{', '.join(sorted(names))}: something else reads what they alter, which spoils what "
            "training-free scores read; leave inplace out",
        )


def check_sampled_choices(space: SearchSpace, num_samples: int) -> None:
    """`sample` draws whatever `suggest` offers: else a search meets what no validation judges.

    Each draw of `suggest` counts as often as it stands for genotypes, for `sample` is uniform over
    these. A choice of which twenty are to be expected among 300, and none is drawn, is missing.
    Where a space is a function, both run it, and there is nothing to compare.
    """
    from nas_proxy.define_by_run.space import FunctionSpace  # imports optuna

    if isinstance(space, FunctionSpace):
        return
    generator = make_generator(5)
    drawn: set[tuple[str, Any]] = set()
    for _ in range(_NUM_DRAWN):
        drawn.update(_choices(space.sample(generator)))
    weights: Counter[tuple[str, Any]] = Counter()
    total = 0.0
    for _ in range(_NUM_DRAWN):
        trial = _RandomTrial(generator)
        with blame(f"{space.name}: suggest() uses more of a trial than interfaces.Trial promises"):
            try:
                architecture = space.suggest(trial)
            except Exception as error:
                if not is_pruned(error):
                    raise
                continue
        total += trial.weight
        for choice in set(_choices(architecture)):
            weights[choice] += trial.weight  # type: ignore[assignment]
    for (place, value), weight in sorted(weights.items(), key=lambda each: -each[1]):
        expected = _NUM_DRAWN * weight / total
        require(
            expected < _EXPECTED or (place, value) in drawn,
            f"{space.name}: sample() never draws {value!r} at {place or 'the top'} of a genotype "
            f"among {_NUM_DRAWN}, where suggest() offers it about {expected:.0f} times: both must "
            "draw from the same choices",
        )


TRAP_CHECKS: tuple[Callable[[SearchSpace, int], None], ...] = (
    check_reduced_fidelity,
    check_inplace,
    check_sampled_choices,
)


@dataclass
class _RandomTrial:
    """A trial that chooses at random.

    Attributes:
        generator: The only source of randomness.
        weight: One over the probability of what was chosen: how many settings it stands for.
    """

    generator: torch.Generator
    weight: float = 1.0
    chosen: dict[str, Any] = field(default_factory=dict)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        if name not in self.chosen:
            self.weight *= len(choices)
            self.chosen[name] = choices[self._below(len(choices))]
        return self.chosen[name]

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self.suggest_categorical(name, range(low, high + 1, step)))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if step is not None:
            num_steps = round((high - low) / step)
            return low + step * int(self.suggest_categorical(name, range(num_steps + 1)))
        share = float(torch.rand((), generator=self.generator))
        value = low * (high / low) ** share if log else low + (high - low) * share
        return float(self.chosen.setdefault(name, value))

    def _below(self, number: int) -> int:
        return int(torch.randint(number, (), generator=self.generator))


def _choices(architecture: Architecture) -> Iterator[tuple[str, Any]]:
    """Each leaf of a genotype with the place where it stands."""

    def leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield from leaves(inner, f"{place}.{key}" if place else str(key))
        elif isinstance(value, list | tuple):
            for index, inner in enumerate(value):
                yield from leaves(inner, f"{place}[{index}]")
        else:
            yield place, value

    return leaves(json.loads(architecture.genotype_json), "")


def _num_weights(networks: Sequence[nn.Module]) -> int:
    return sum(weight.numel() for network in networks for weight in network.parameters())


def _operations(networks: Sequence[nn.Module]) -> float:
    images = torch.zeros(2, *small_spec().image_shape)
    return sum(Flops().measure(network, images) for network in networks)


def _inplace(network: nn.Module) -> list[Any]:
    return [each for each in network.modules() if getattr(each, "inplace", False) is True]


def _logits(network: nn.Module) -> Tensor:
    """Of random images, in training mode: fresh norms would hide much in evaluation mode."""
    images = torch.randn(4, *small_spec().image_shape, generator=make_generator(0))
    with torch.no_grad(), isolated_rng(0):
        return cast(Tensor, network.train()(images))
