"""A function of a trial and a specification is a search space; everything else is derived."""

import math
from collections import Counter
from dataclasses import replace

import optuna
import pytest
import torch
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from torch import nn

from nas_proxy import search_space
from nas_proxy.define_by_run.trial import draw
from nas_proxy.errors import PluginError, UserError
from nas_proxy.evaluate.sample import draw_architectures
from nas_proxy.evaluate.table import read_table
from nas_proxy.graphs.encoding import encode_architecture
from nas_proxy.interfaces import SearchSpace
from nas_proxy.processes import pack, unpack
from nas_proxy.registry import SEARCH_SPACES
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.testing import SPACE_CHECKS, tiny_dataset
from nas_proxy.types import Architecture
from tests.define_by_run import spaces
from tests.define_by_run.spaces import GOOD, head

SPEC = tiny_dataset(image_shape=(1, 8, 8)).spec


def name_of(value):
    return value.__name__.removeprefix("check_")


def drawn(space, num, seed=0):
    generator = make_generator(seed)
    return [space.sample(generator) for _ in range(num)]


def contracts():
    """All of one; of the others what is typical of them, and the rest exhaustively."""
    for function in GOOD:
        for check in SPACE_CHECKS:
            typical = function is spaces.layers or (name_of(function), name_of(check)) in (
                ("pruned", "suggesting"),
                ("pruned", "mutating"),
                ("lazy", "weights"),
                ("lazy", "encoding"),
                ("measured", "training_small"),
            )
            marks = [] if typical else [pytest.mark.exhaustive]
            made = f"{name_of(function)}-{name_of(check)}"
            yield pytest.param(function, check, id=made, marks=marks)


def mostly(*typical):
    """All functions, of which those that are not typical are run exhaustively."""
    for function in GOOD:
        marks = [] if function in typical else [pytest.mark.exhaustive]
        yield pytest.param(function, id=name_of(function), marks=marks)


@pytest.mark.parametrize(("function", "check"), list(contracts()))
def test_it_keeps_the_contract(function, check):
    check(search_space(function), 3)


@pytest.mark.parametrize("function", list(mostly(spaces.floats, spaces.conditional)))
def test_its_text_leads_back_whatever_the_values(function):
    space = search_space(function)
    for architecture in drawn(space, 12):
        text = space.to_string(architecture)
        assert space.from_string(text) == architecture
        assert len(text.splitlines()) == 1
        if '"' not in text:
            backwards = " , ".join(reversed(text.split(","))).replace("=", " = ")
            assert space.from_string(backwards) == architecture


def test_the_text_is_as_the_function_asks():
    space = search_space(spaces.plain)
    architecture = Architecture(space.name, {"activation": "tanh", "kernel": 3, "width": 4})
    assert space.to_string(architecture) == "width=4,kernel=3,activation=tanh"
    assert space.describe(architecture) == "width=4, kernel=3, activation=tanh"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "at its end"),
        ("width", "there should be '='"),
        ("width=4,kernel=3", "'activation' is missing, which is one of 'relu', 'tanh'"),
        ("width=4,kernel=3,activation=gelu", "'activation' cannot be 'gelu'"),
        ("width=5,kernel=3,activation=relu", "'width' cannot be 5: it is .* 2 to 8 in steps of 2"),
        ("width=4.0,kernel=3,activation=relu", "'width' cannot be 4.0"),
        ("width=True,kernel=3,activation=relu", "'width' cannot be True"),
        ("width=4,kernel=3,activation=relu,widthh=4", "'widthh' is not asked .* mean 'width'"),
        ("width=4,width=4,kernel=3,activation=relu", "'width' twice"),
        ("width=4,kernel=3,activation=re:lu", "at ':lu' there should be ','"),
        ('width=4,kernel="3",activation=relu', "'kernel' cannot be '3'"),
        ("width=4,kernel=3_,activation=relu", "a number"),
    ],
)
def test_a_wrong_text_is_said_in_a_sentence(text, fault):
    with pytest.raises(ValueError, match=fault) as caught:
        search_space(spaces.plain).from_string(text)
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_ruled_out_has_no_text():
    with pytest.raises(ValueError, match="ruled out"):
        search_space(spaces.pruned).from_string("width=8,depth=3")


def test_a_table_of_truth_names_architectures_by_their_texts(tmp_path):
    space = search_space(spaces.conditional)
    path = tmp_path / "table.csv"
    path.write_text('name,top1\n"kind=conv,kernel=3",.9\n"units=4,kind=mlp",.7\nkind=conv,.5\n')
    table = read_table(path, space, "name", "top1")
    found = {space.to_string(each): value for each, value in table.values.items()}
    assert found == {"kind=conv,kernel=3": 0.9, "kind=mlp,units=4": 0.7}
    assert "1 of 3 rows" in " ".join(table.notices)
    assert "'kernel' is missing" in " ".join(table.notices)


# --- drawing --------------------------------------------------------------------------------


def values(distribution, num=2000):
    generator = make_generator(0)
    return [draw(distribution, generator) for _ in range(num)]


def test_numbers_with_log_are_uniform_in_the_logarithm():
    logs = torch.tensor(values(FloatDistribution(0.01, 0.5, log=True))).log()
    low, high = math.log(0.01), math.log(0.5)
    assert low <= logs.min() <= logs.max() <= high
    assert abs(float(logs.mean()) - (low + high) / 2) < 0.1
    assert abs(float(logs.std()) - (high - low) / math.sqrt(12)) < 0.05


def test_steps_are_drawn_alike_and_the_last_is_among_them():
    for distribution, expected in (
        (FloatDistribution(0, 0.3, step=0.1), [0.0, 0.1, 0.2, 0.3]),
        (IntDistribution(2, 8, step=2), [2, 4, 6, 8]),
        (CategoricalDistribution([True, None, 1, "1"]), [True, None, 1, "1"]),
    ):
        found = Counter(repr(each) for each in values(distribution))
        assert len(found) == len(expected)
        assert min(found.values()) > 0.2 * found.total()


def test_whole_numbers_with_log_are_drawn_as_optuna_draws_them():
    distribution = IntDistribution(2, 16, log=True)
    ours = Counter(values(distribution))
    assert set(ours) == set(range(2, 17))
    sampler = optuna.samplers.RandomSampler(seed=1)
    theirs = Counter(sampler.sample_independent(None, None, "x", distribution) for _ in range(2000))
    assert all(abs(ours[value] - theirs[value]) < 100 for value in ours)


def test_a_neighbour_differs_in_one_choice_and_what_depends_on_it():
    space = search_space(spaces.layers)
    generator = make_generator(3)
    for architecture in drawn(space, 15):
        genotype = architecture.genotype
        other = space.mutate(architecture, generator).genotype
        common = genotype.keys() & other.keys()
        changed = {name for name in common if genotype[name] != other[name]}
        if "depth" in changed:
            assert changed <= {"depth", "bottleneck"}
            assert sum(name.startswith("width") for name in other) == other["depth"]
        else:
            assert len(changed) == 1
            assert genotype.keys() == other.keys()


def test_what_is_ruled_out_is_neither_drawn_nor_a_neighbour():
    space = search_space(spaces.pruned)
    generator = make_generator(0)
    architectures = drawn(space, 30)
    architectures += [space.mutate(each, generator) for each in architectures]
    assert all(a.genotype["width"] * a.genotype["depth"] <= 12 for a in architectures)
    trial = optuna.trial.FixedTrial({"width": 8, "depth": 3})
    with pytest.raises(optuna.TrialPruned):
        space.suggest(trial)


def test_a_single_architecture_has_no_neighbour():
    space = search_space(single)
    with pytest.raises(UserError, match="holds a single architecture"):
        space.mutate(space.sample(make_generator(0)), make_generator(0))


def single(trial, spec):
    return nn.Sequential(*head(spec.image_shape[0] * trial.suggest_categorical("one", [1]), spec))


@pytest.mark.parametrize("function", list(mostly(spaces.layers, spaces.measured, spaces.lazy)))
def test_nothing_that_is_asked_disturbs_the_global_generators(function):
    space = search_space(function)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    architecture = space.sample(make_generator(0))
    space.mutate(architecture, make_generator(0))
    space.from_string(space.to_string(architecture))
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_are_those_of_one_call_with_the_callers_seed():
    space = search_space(spaces.plain)
    architecture = space.sample(make_generator(0))
    with isolated_rng(7):
        network = space.build(architecture, SPEC)
    with isolated_rng(7):
        by_hand = spaces.plain(optuna.trial.FixedTrial(architecture.genotype), SPEC)
    assert torch.equal(network[0].weight, by_hand[0].weight)


def test_the_encoding_is_the_graphs():
    space = search_space(spaces.layers)
    architecture = space.sample(make_generator(0))
    assert torch.equal(space.encode(architecture), encode_architecture(space, architecture))
    assert type(space).encode is SearchSpace.encode


def test_architectures_are_drawn_until_there_are_no_more():
    space = search_space(spaces.pruned)
    allowed = [(w, d) for w in spaces.WIDTHS for d in (1, 2, 3) if w * d <= 12]
    found = draw_architectures(space, len(allowed), make_generator(0))
    assert {(a.genotype["width"], a.genotype["depth"]) for a in found} == set(allowed)


# --- options, names and identity -------------------------------------------------------------


def test_further_parameters_are_options():
    space = search_space(spaces.plain, options={"max_width": 2})
    assert {a.genotype["width"] for a in drawn(space, 10)} == {2}
    assert replace(space, max_width=4) == search_space(spaces.plain, options={"max_width": 4})
    with pytest.raises(PluginError, match="options of the space .*plain.: max_width: "):
        search_space(spaces.plain, options={"max_width": "many"})
    with pytest.raises(PluginError, match="max_widthh: Unexpected"):
        search_space(spaces.plain, options={"max_widthh": 3})


def test_a_function_of_a_module_is_called_as_a_configuration_calls_it():
    space = search_space(spaces.plain)
    assert space.name == "tests.define_by_run.spaces:plain"
    assert type(space) is SEARCH_SPACES.get(space.name)
    assert search_space(space) is space
    assert search_space(space.name) == space
    assert space.summary == "One convolution of some width."


def made_with(width):
    def network(trial, spec):
        kernel = trial.suggest_categorical("kernel", [1, 3])
        first = nn.Conv2d(spec.image_shape[0], width, kernel, padding=kernel // 2)
        return nn.Sequential(first, nn.ReLU(), *head(width, spec))

    return network


def test_what_a_function_was_given_where_it_was_made_is_part_of_its_identity():
    narrow, same, wide = (search_space(made_with(width)) for width in (4, 4, 8))
    assert narrow.fingerprint() == same.fingerprint() != wide.fingerprint()
    assert narrow.name == "network"


def test_a_function_without_a_name_in_a_module_travels_by_value():
    space = search_space(made_with(4))
    copy = unpack(pack(space))
    assert copy == space
    assert type(copy) is type(space)
    lent = search_space(lambda trial, spec: spaces.plain(trial, spec), name="lent")
    assert unpack(pack(lent)) == lent


def test_what_cannot_travel_is_said_in_a_sentence():
    import threading

    lock = threading.Lock()

    def locked(trial, spec):
        with lock:
            return spaces.plain(trial, spec)

    with pytest.raises(PluginError, match="'locked' cannot be sent to worker processes.*serial"):
        pack(search_space(locked))


def test_a_registered_function_stays_a_function(monkeypatch):
    monkeypatch.setattr(SEARCH_SPACES, "_classes", dict(SEARCH_SPACES._classes))
    network = SEARCH_SPACES.register("mine")(made_with(4))
    assert SEARCH_SPACES.get("mine").name == "mine"
    assert network.__name__ == "network"
    assert search_space("mine").sample(make_generator(0)).space == "mine"
