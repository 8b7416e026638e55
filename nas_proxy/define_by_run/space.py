"""A search space that is a function of a trial and a data set's specification.

What the function asks of its trial are the choices, and their values are the genotype. To know
them, it is run for images of one size and ten classes, with weights that have shapes and no
numbers; `build` runs it for the images at hand. It has to ask the same both times.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from nas_proxy.define_by_run.notation import read_choices, write_choices
from nas_proxy.define_by_run.trial import (
    Choose,
    Distribution,
    FunctionTrial,
    MismatchError,
    by_chance,
    by_genotype,
    check_all_asked,
    difference,
    from_trial,
    redraw,
)
from nas_proxy.devices import is_out_of_memory
from nas_proxy.errors import PluginError, UserError
from nas_proxy.graphs.encoding import ENCODED_SPEC
from nas_proxy.graphs.meta import WeightsOnMeta
from nas_proxy.interfaces import SearchSpace, Trial
from nas_proxy.plugin_calls import fault_of, is_of_storage, is_pruned, who
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.types import Architecture, DatasetSpec, Splits

_NUM_VERIFIED = 32  # architectures of which the function is run once more, to see that it repeats
_NUM_REMEMBERED = 4096  # architectures whose questions are remembered
_SEEDS = (0, 1)  # of weights that nobody uses; two, to notice a network that depends on them


class DependsOnImagesError(PluginError):
    """The function asks otherwise for some images than for others."""


@dataclass
class _Memory:
    """What is known of a function with its options; none of it changes what comes out.

    Attributes:
        earlier: The distribution of each name when it was first asked for.
        asked: What was asked for by genotype.
        num_verified: Architectures that were built a second time, to compare.
        without_numbers: Whether the function works with weights that have no numbers.
    """

    earlier: dict[str, Distribution] = field(default_factory=dict)
    asked: OrderedDict[str, dict[str, Distribution]] = field(default_factory=OrderedDict)
    num_verified: int = 0
    without_numbers: bool = True


@dataclass(frozen=True, kw_only=True)
class FunctionSpace(SearchSpace):
    """Derived from a function `(trial, spec) -> nn.Module`; see `space_class`.

    A genotype is the mapping from the names that the function asks its trial for to the values.
    Fields of the classes that are made of functions are the functions' further parameters.

    Attributes:
        function: It raises `optuna.TrialPruned` for what it rules out.
        code_hash: Of its text and of what it uses; None for what ships with nas_proxy.
    """

    function: ClassVar[Callable[..., nn.Module]]
    code_hash: ClassVar[str | None] = None

    def suggest(self, trial: Trial) -> Architecture:
        """The choices of an Optuna trial."""
        return self._found(from_trial(trial))

    def sample(self, generator: torch.Generator) -> Architecture:
        """Each choice drawn uniformly from its distribution, in the order of the questions."""
        return self._found(by_chance(generator))

    def mutate(self, architecture: Architecture, generator: torch.Generator) -> Architecture:
        """Another value of one choice; what depends on it comes, goes, or is drawn anew.

        Raises:
            UserError: If there is a single architecture.
        """
        asked, genotype = self._asked(architecture), architecture.genotype
        names = [name for name, distribution in asked.items() if not distribution.single()]
        if not names:
            raise UserError(
                f"the space {self.name!r} holds a single architecture, which has no neighbour; "
                "give one of its choices a second value"
            )
        name = names[int(torch.randint(len(names), (), generator=generator))]
        genotype[name] = redraw(asked[name], genotype[name], generator)
        return self._found(by_genotype(genotype, otherwise=by_chance(generator)))

    def build(self, architecture: Architecture, spec: DatasetSpec) -> nn.Module:
        """The function's network for the images and classes of `spec`.

        Raises:
            PluginError: If the function fails, or asks otherwise than for other images.
        """
        asked = self._asked(architecture)
        trial = FunctionTrial(by_genotype(architecture.genotype))
        try:
            network = self._called(trial, spec, whole=True)
        except MismatchError as error:
            raise self._depends_on_images(spec, str(error)) from error
        except Exception as error:
            if not is_pruned(error):
                raise
            raise self._depends_on_images(spec, "it raises optuna.TrialPruned") from error
        found = difference(asked, trial.asked)
        if found:
            raise self._depends_on_images(spec, found)
        if _is_on_meta(network) and not torch.empty(0).is_meta:
            raise PluginError(
                f"{who(self)} gives a network back that it has built before; build a fresh one in "
                "every call"
            )
        return network

    def check_images(self, splits: Splits) -> None:
        """Refuse images for which the function asks otherwise than for others."""
        architecture = self.sample(make_generator(0))
        try:
            with isolated_rng(_SEEDS[0]):
                self.build(architecture, splits.spec)
        except DependsOnImagesError:
            raise
        except PluginError:
            return  # of this architecture; others may be built

    def describe(self, architecture: Architecture) -> str:
        """Such as "width=32, depth=4"."""
        return write_choices(self._choices(architecture), separator=", ")

    def to_string(self, architecture: Architecture) -> str:
        """Such as "width=32,depth=4", in the order in which the function asks."""
        return write_choices(self._choices(architecture))

    def from_string(self, text: str) -> Architecture:
        """The inverse of `to_string`; the order does not count."""
        choices = read_choices(text)
        try:
            trial, _ = self._probed(by_genotype(choices), _SEEDS[0])
            check_all_asked(choices, trial)
        except MismatchError as error:
            raise ValueError(f"{text!r} is not of the space {self.name!r}: {error}") from error
        except Exception as error:
            if not is_pruned(error):
                raise
            raise ValueError(f"{text!r} is ruled out by the space {self.name!r}") from error
        return Architecture(self.name, trial.params)

    def _choices(self, architecture: Architecture) -> dict[str, Any]:
        genotype = architecture.genotype
        return {name: genotype[name] for name in self._asked(architecture)}

    def _found(self, choose: Choose) -> Architecture:
        """The architecture that somebody chooses."""
        try:
            trial, network = self._probed(choose, _SEEDS[0])
        except MismatchError as error:
            raise PluginError(f"{who(self)} cannot be asked: {error}") from error
        if not trial.params:
            raise PluginError(
                f"{who(self)} asks its trial for nothing, so it is a single network; choose by "
                "trial.suggest_categorical, suggest_int or suggest_float"
            )
        architecture, memory = Architecture(self.name, trial.params), self._memory
        known = memory.asked.get(architecture.genotype_json)
        if known is not None:
            self._require_same(architecture, difference(known, trial.asked))
        elif memory.num_verified < _NUM_VERIFIED:
            memory.num_verified += 1
            again, other = self._replayed(architecture, _SEEDS[1])
            self._require_same(
                architecture, difference(trial.asked, again.asked) or _first_change(network, other)
            )
        self._remember(architecture, trial)
        return architecture

    def _asked(self, architecture: Architecture) -> dict[str, Distribution]:
        """What the function asks for on the way to an architecture, in that order."""
        known = self._memory.asked.get(architecture.genotype_json)
        if known is not None:
            return known
        trial, _ = self._replayed(architecture, _SEEDS[0])
        self._remember(architecture, trial)
        return trial.asked

    def _replayed(self, architecture: Architecture, seed: int) -> tuple[FunctionTrial, list[str]]:
        genotype = architecture.genotype
        fault = f"{who(self)} does not give {architecture.genotype_json} again"
        if not isinstance(genotype, dict):
            raise PluginError(f"{fault}: its genotypes are mappings of names to values")
        try:
            trial, network = self._probed(by_genotype(genotype), seed)
            check_all_asked(genotype, trial)
        except MismatchError as error:
            raise PluginError(f"{fault}: {error}; {_REPEAT}") from error
        except Exception as error:
            if not is_pruned(error):
                raise
            raise PluginError(f"{fault}: it raises optuna.TrialPruned; {_REPEAT}") from error
        return trial, network

    def _probed(self, choose: Choose, seed: int) -> tuple[FunctionTrial, list[str]]:
        """A trial after the function has asked all its questions, and the network as text.

        Torch's global generators stay as they are. A function whose code needs the numbers of
        weights, such as for a size that it finds with a trial image, is given some.
        """
        memory = self._memory
        trial = FunctionTrial(choose, memory.earlier)  # the same again: it remembers its answers
        with isolated_rng(seed):
            if memory.without_numbers:
                try:
                    with WeightsOnMeta():
                        return trial, _as_text(self._called(trial, ENCODED_SPEC))
                except PluginError:
                    pass  # it may need numbers; if that is not it, it fails again
            network = _as_text(self._called(trial, ENCODED_SPEC))
            memory.without_numbers = False
            return trial, network

    def _called(self, trial: FunctionTrial, spec: DatasetSpec, *, whole: bool = False) -> nn.Module:
        """The function's network; also those weights that wait for an image if it is `whole`."""
        options = {option.name: getattr(self, option.name) for option in fields(self)}
        try:
            network: object = type(self).function(trial, spec, **options)
            if whole and isinstance(network, nn.Module):
                _initialise_lazy(network, spec)
        except (Exception, SystemExit) as error:
            if isinstance(error, MismatchError | PluginError) or _means_something(error):
                raise
            size = "x".join(map(str, spec.image_shape[1:]))
            choices = write_choices(trial.params, separator=", ") or "nothing chosen yet"
            where = f"with {choices} for {size} images"
            raise PluginError(fault_of(self, where, error)) from error
        if not isinstance(network, nn.Module):
            raise PluginError(
                f"{who(self)} gives {'nothing' if network is None else type(network).__name__}, "
                "and not an nn.Module; end the function with return nn.Sequential(...) or another "
                "module"
            )
        return network

    def _remember(self, architecture: Architecture, trial: FunctionTrial) -> None:
        asked = self._memory.asked
        asked[architecture.genotype_json] = trial.asked
        if len(asked) > _NUM_REMEMBERED:
            asked.popitem(last=False)

    def _require_same(self, architecture: Architecture, change: str) -> None:
        if change:
            raise PluginError(
                f"{who(self)} does not give the same network for the same choices, "
                f"{architecture.genotype_json}: {change}; {_REPEAT}"
            )

    def _depends_on_images(self, spec: DatasetSpec, what: str) -> DependsOnImagesError:
        def words(shape: tuple[int, int, int]) -> str:
            return "x".join(map(str, (*shape[1:], shape[0])))

        return DependsOnImagesError(
            f"{who(self)} asks otherwise for images of {words(spec.image_shape)} and "
            f"{spec.num_classes} classes than for {words(ENCODED_SPEC.image_shape)} and "
            f"{ENCODED_SPEC.num_classes}: {what}; choices must not depend on spec, for one "
            "genotype is trained at several sizes"
        )

    @cached_property
    def _memory(self) -> _Memory:
        return _Memory()


_REPEAT = (
    "it must depend on its choices alone: whatever differs is chosen by trial.suggest_*, and "
    "nothing is drawn or counted otherwise"
)


def _means_something(error: BaseException) -> bool:
    """Whether callers tell an error apart that came through the function."""
    return is_pruned(error) or is_of_storage(error) or is_out_of_memory(error)


def _as_text(network: nn.Module) -> list[str]:
    """Modules with their settings, and shapes of weights; without addresses in memory."""
    weights = network.state_dict().items()
    shapes = [f"{name}: {tuple(each.shape)}" for name, each in weights if not is_lazy(each)]
    return [*re.sub(r" at 0x[0-9a-f]+", "", repr(network)).splitlines(), *shapes]


def _initialise_lazy(network: nn.Module, spec: DatasetSpec) -> None:
    """Let modules such as `nn.LazyLinear` see images, by which they know their sizes."""
    if any(map(is_lazy, [*network.parameters(), *network.buffers()])):
        network.eval()
        with torch.no_grad():
            network(torch.zeros(2, *spec.image_shape, device=torch.empty(0).device))
        network.train()


def _first_change(first: list[str], second: list[str]) -> str:
    """The first line that differs, in words; empty if none does."""
    if first == second:
        return ""
    length = max(len(first), len(second))
    padded = [[*lines, *["nothing"] * (length - len(lines))] for lines in (first, second)]
    one, other = next(pair for pair in zip(*padded, strict=True) if pair[0] != pair[1])
    return f"{one.strip()!r} the one time and {other.strip()!r} the other"


def _is_on_meta(network: nn.Module) -> bool:
    return any(weight.is_meta for weight in network.parameters())
