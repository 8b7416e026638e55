"""Whatever goes wrong in a search space's own code is said as its author's to mend."""

import math
import re
import sys
from dataclasses import dataclass

import numpy as np
import optuna
import pytest
import torch
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from nas_proxy.errors import ConfigError, PluginError, StudyError, UserError
from nas_proxy.interfaces import SearchSpace
from nas_proxy.reproducibility import make_generator
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.study.plain_values import read_options
from nas_proxy.types import Architecture
from tests.search.helpers import Grid, make_task, optuna_trials, search

FIXED = ConvNetSpace().sample(make_generator(0))
ARGUMENTS = {
    "suggest": (optuna.trial.FixedTrial({"depth": 1, "w": 8}),),
    "sample": (make_generator(0),),
    "mutate": (FIXED, make_generator(0)),
    **dict.fromkeys(("encode", "describe", "to_string", "canonical_form"), (FIXED,)),
    "from_string": ("text",),
    "fingerprint": (),
}


def space_with(name, method, base=ConvNetSpace):
    return type("Mine", (base,), {"__module__": __name__, "name": "mine", name: method})()


def call(name, method):
    return getattr(space_with(name, method), name)(*ARGUMENTS[name])


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_space_the_method_the_line_and_the_error_are_named(name):
    def broken(self, *_):
        return {}["nope"]

    line = broken.__code__.co_firstlineno + 1
    with pytest.raises(PluginError) as caught:
        call(name, broken)
    place = rf"\(test_plugin_calls.py, line {line}\)"
    expected = rf"the search space 'mine' fails in {name} {place}: KeyError: 'nope'"
    assert re.fullmatch(expected, str(caught.value))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_exit_is_an_error_too(name):
    with pytest.raises(PluginError, match=rf"fails in {name} .*sys.exit\(3\)"):
        call(name, lambda *_: sys.exit(3))


def test_an_exit_in_build_is_an_error_and_others_stay_what_they_are():
    with pytest.raises(PluginError, match=r"fails in build .*sys.exit\('no'\)"):
        space_with("build", lambda *_: sys.exit("no")).build(FIXED, None)
    with pytest.raises(ZeroDivisionError):
        space_with("build", lambda *_: 1 / 0).build(FIXED, None)


def test_sentences_and_refusals_that_callers_expect_pass():
    def refuse(error):
        def method(*_):
            raise error

        return method

    with pytest.raises(UserError, match="^my own words$"):
        call("mutate", refuse(UserError("my own words")))
    with pytest.raises(ValueError, match="^no cell$"):
        call("from_string", refuse(ValueError("no cell")))


@pytest.mark.parametrize("name", ["suggest", "sample", "mutate", "from_string"])
def test_what_is_no_architecture_is_refused(name):
    with pytest.raises(PluginError, match=f"'mine': {name} gives NoneType, not an Architecture"):
        call(name, lambda *_: None)


def test_defects_of_what_ships_are_not_the_users(monkeypatch):
    monkeypatch.setattr(sys.modules[ConvNetSpace.__module__], "Architecture", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ConvNetSpace().sample(make_generator(0))


class Dynamic(Grid):
    """The choices of one name depend on another."""

    def suggest(self, trial):
        depth = trial.suggest_int("depth", 1, 3)
        return Architecture(
            self.name, [depth, trial.suggest_categorical("w", (8, 12) if depth < 3 else (8, 16))]
        )


class Backwards(Grid):
    """An empty range."""

    def suggest(self, trial):
        return Architecture(self.name, [trial.suggest_int("depth", 3, 1), 0])


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (Dynamic(), "at the parameter 'w' .*give each list a name of its own.*dynamic value space"),
        (Backwards(), "at the parameter 'depth' .*ValueError: .*low"),
    ],
)
def test_the_parameter_is_named(space, words, log):
    with pytest.raises(PluginError, match=f"'grid' fails in suggest {words}"):
        search(make_task(space=space), log)


class Refusing(Grid):
    """Rules out part of its choices."""

    def suggest(self, trial):
        found = super().suggest(trial)
        if not self.allows(found):
            raise optuna.TrialPruned("odd")
        return found

    def sample(self, generator):
        x, y = torch.randint(self.side, (2,), generator=generator).tolist()
        found = Architecture(self.name, [x, y])
        if not self.allows(found):
            raise optuna.TrialPruned
        return found

    def allows(self, architecture):
        return architecture.genotype[0] % 2 == 0


class Closed(Refusing):
    """Rules out everything."""

    def allows(self, architecture):
        return False


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "regularized_evolution"])
def test_what_a_space_rules_out_is_infeasible(sampler, log):
    storage = InMemoryStorage()
    outcome = search(make_task(space=Refusing(), sampler=sampler), log, storage)
    assert len(outcome.trials) == 12
    assert all(Refusing().allows(evaluation.architecture) for _, evaluation, _ in outcome.trials)
    pruned = [each for each in optuna_trials(storage) if each.state is TrialState.PRUNED]
    assert outcome.num_infeasible == len(pruned) > 0
    reasons = {each.user_attrs["reason"] for each in pruned}
    assert reasons == {"ruled out by the search space: odd"}


def test_a_space_that_rules_out_all_is_refused(log):
    with pytest.raises(StudyError, match="'grid' ruled out all of 300 proposals"):
        search(make_task(space=Closed()), log)
    with pytest.raises(PluginError, match="'grid': sample ruled out 1000 draws in a row"):
        Closed().sample(make_generator(0))


def test_what_a_space_rules_out_is_drawn_again():
    generator = make_generator(0)
    drawn = [Refusing().sample(generator).genotype[0] for _ in range(50)]
    assert set(drawn) == {0, 2, 4, 6, 8}


@pytest.mark.parametrize(
    ("number", "plain"),
    [(np.int64(8), 8), (np.float32(0.5), 0.5), (np.bool_(True), True), (torch.tensor(3), 3)],
)
def test_single_numbers_of_arrays_are_plain_ones(number, plain):
    assert Architecture("s", {"w": [number]}) == Architecture("s", {"w": [plain]})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.arange(3), r"a genotype holds a ndarray \(\[0 1 2\]\)"),
        (object, "a genotype holds a type"),
        (math.nan, "ValueError: .*not JSON compliant"),
        ({(1, 2): 3}, "TypeError: keys must be"),
    ],
)
def test_what_no_genotype_can_hold_is_refused(value, words):
    with pytest.raises(PluginError, match=f"'mine' fails in sample .*{words}"):
        call("sample", lambda self, generator: Architecture(self.name, {"w": value}))


@dataclass(frozen=True, kw_only=True)
class Checked(SearchSpace):
    """Looks at its options."""

    width: int = 8

    name = "checked"
    sample = suggest = build = lambda self, *_: None

    def __post_init__(self):
        if self.width < 0:
            raise ValueError("negative")
        {8: 1, 16: 2}[self.width]


@pytest.mark.parametrize(
    ("width", "words"), [(3, "'checked' fails in __post_init__ .*KeyError: 3"), (-1, "negative")]
)
def test_options_that_a_space_cannot_take_are_a_fault_of_the_configuration(width, words):
    with pytest.raises(ConfigError, match=words):
        read_options(Checked, {"width": width})
