"""What is no search space, or fails, is said in one sentence: who, which choice, which line."""

import random
from functools import lru_cache, partial

import optuna
import pytest
import torch
from torch import nn

from nas_proxy import plugin_calls, search_space
from nas_proxy.errors import PluginError
from nas_proxy.evaluate.sample import draw_architectures
from nas_proxy.reproducibility import make_generator
from nas_proxy.testing import tiny_dataset
from nas_proxy.types import Architecture, Splits
from tests.define_by_run import spaces
from tests.define_by_run.spaces import head

SPEC = tiny_dataset(image_shape=(1, 8, 8)).spec


def net(width, spec):
    return nn.Sequential(nn.Conv2d(spec.image_shape[0], width, 1), nn.ReLU(), *head(width, spec))


def only_trial(trial):
    return nn.Linear(1, 1)


async def waits(trial, spec):
    return net(4, spec)


def yields(trial, spec):
    yield net(4, spec)


def grabs(trial, spec, **options):
    return net(4, spec)


def many(trial, spec, *widths):
    return net(4, spec)


def required(trial, spec, *, width):
    return net(width, spec)


def named(trial, spec, name="x"):
    return net(4, spec)


def holds_class(trial, spec, activation=nn.ReLU):
    return net(4, spec)


def annotated(trial, spec, width: "Width" = 3):  # noqa: F821
    return net(width, spec)


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (only_trial, r"only_trial\(trial\) cannot be called with .* function of \(trial, spec\)"),
        (waits, "is async"),
        (yields, "has a yield"),
        (grabs, r"takes \*\*options"),
        (many, r"takes \*widths"),
        (required, "takes 'width' .* give it a default"),
        (named, "has an option 'name'"),
        (holds_class, "option 'activation' .* no configuration can hold"),
        (annotated, "cannot be read: NameError: name 'Width'"),
        (partial(net, 4), "is not a search space: .* or write a function"),
        (nn.Linear, "is not a search space"),
        (3, "3 is not a search space"),
        (
            "tests.define_by_run.spaces:plains",
            "no class or function 'plains'; did you mean 'plain'",
        ),
        ("tests.define_by_run.spaces:WIDTHS", "is not a search space"),
        ("plain", "unknown search space 'plain'"),
    ],
)
def test_what_is_no_search_space_is_refused_at_once(function, fault):
    with pytest.raises(PluginError, match=fault) as caught:
        search_space(function)
    assert len(str(caught.value).splitlines()) == 1


def gives_list(trial, spec):
    return [trial.suggest_int("width", 1, 3)]


def gives_nothing(trial, spec):
    net(trial.suggest_int("width", 1, 3), spec)


def asks_nothing(trial, spec):
    return net(4, spec)


def divides(trial, spec):
    width = trial.suggest_int("width", 4, 6)
    return net(width // 0, spec)


def exits(trial, spec):
    trial.suggest_int("width", 4, 6)
    raise SystemExit(3)


def dynamic(trial, spec):
    depth = trial.suggest_int("depth", 1, 2)
    return net(trial.suggest_categorical("width", [4, 6][:depth]), spec)


def twice(trial, spec):
    trial.suggest_int("width", 1, 3)
    return net(trial.suggest_int("width", 1, 4), spec)


def other_kind(trial, spec):
    if trial.suggest_categorical("flag", [True, False]):
        return net(trial.suggest_int("width", 4, 6), spec)
    return net(round(trial.suggest_float("width", 4, 6)), spec)


def doubled(trial, spec):
    return net(trial.suggest_categorical("width", [4, 4]), spec)


def holds_tuples(trial, spec):
    return net(trial.suggest_categorical("sizes", [(4, 4), (6, 6)])[0], spec)


def empty(trial, spec):
    return net(trial.suggest_categorical("width", []), spec)


def upside_down(trial, spec):
    return net(trial.suggest_int("width", 6, 4), spec)


def numbered(trial, spec):
    return net(trial.suggest_int(3, 4, 6), spec)


def counts(trial, spec):
    return net(trial.suggest_int("width", 4, 6) + trial.number, spec)


def not_a_number(trial, spec):
    return net(1 + int(trial.suggest_float("width", 1.0, float("nan"))), spec)


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (gives_list, "gives list, and not an nn.Module"),
        (gives_nothing, "gives nothing, and not an nn.Module; end the function with return"),
        (asks_nothing, "asks its trial for nothing"),
        (divides, r"with width=\d for 32x32 images \(test_wrong_functions.py, line \d+\): ZeroDiv"),
        (exits, r"with width=\d .*calls sys.exit\(3\)"),
        (dynamic, r"parameter 'width' \(test_wrong.* not the same in every trial, .*width_of_"),
        (twice, "parameter 'width' .* asked for twice .* from 1 to 3 and .* from 1 to 4"),
        (other_kind, "parameter 'width' .* distribution kind"),
        (doubled, "parameter 'width' .* the choice 4 stands there twice"),
        (holds_tuples, "parameter 'sizes' .* is a tuple, .* look that up in a dict"),
        (empty, "parameter 'width' .* one or more elements"),
        (upside_down, "parameter 'width' .*low <= high"),
        (numbered, "named by a text, not by 3"),
        (counts, "it has no trial.number"),
        (not_a_number, "'width' cannot be nan"),
    ],
)
def test_a_function_that_fails_says_where(function, fault):
    space = search_space(function)
    with pytest.raises(PluginError, match=fault) as caught:
        draw_architectures(space, 20, make_generator(0))
    assert len(str(caught.value).splitlines()) == 1
    assert space.name in str(caught.value)


def test_optunas_trials_fail_alike():
    space, study = search_space(divides), optuna.create_study()
    with pytest.raises(PluginError, match=r"with width=\d .*ZeroDivisionError"):
        space.suggest(study.ask())


def by_chance(trial, spec):
    return net(trial.suggest_int("width", 4, 6) + random.randrange(1000), spec)


def by_torchs_chance(trial, spec):
    return net(trial.suggest_int("width", 4, 6) + int(torch.randint(1000, ())), spec)


def asks_by_chance(trial, spec):
    width = trial.suggest_int("width", 4, 6)
    return net(width + trial.suggest_int(f"more_{random.randrange(10**6)}", 0, 1), spec)


CALLS = []


def counts_calls(trial, spec):
    CALLS.append(1)
    return net(trial.suggest_int("width", 4, 6) + len(CALLS), spec)


@pytest.mark.parametrize("function", [by_chance, by_torchs_chance, asks_by_chance, counts_calls])
def test_what_does_not_depend_on_its_choices_alone_is_found_at_the_first_draw(function):
    with pytest.raises(PluginError, match="must depend on its choices alone"):
        search_space(function).sample(make_generator(0))


@lru_cache
def built_before(width):
    return net(width, SPEC)


def cached(trial, spec):
    return built_before(trial.suggest_int("width", 4, 6))


def test_a_network_that_was_built_before_is_refused():
    space = search_space(cached)
    with pytest.raises(PluginError, match="built before"):
        space.build(space.sample(make_generator(0)), SPEC)


def ranges_by_size(trial, spec):
    return net(trial.suggest_int("width", 4, spec.image_shape[1]), spec)


def more_for_colour(trial, spec):
    extra = trial.suggest_int("extra", 0, 1) if spec.image_shape[0] == 3 else 0
    return net(trial.suggest_int("width", 4, 6) + extra, spec)


def less_for_colour(trial, spec):
    extra = trial.suggest_int("extra", 0, 1) if spec.image_shape[0] == 1 else 0
    return net(trial.suggest_int("width", 4, 6) + extra, spec)


def pruned_by_size(trial, spec):
    width = trial.suggest_int("width", 4, 6)
    if spec.image_shape[1] < 16:
        raise optuna.TrialPruned
    return net(width, spec)


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (ranges_by_size, "'width' "),
        (more_for_colour, "'extra' is a whole number from 0 to 1 the one time and nothing"),
        (less_for_colour, "'extra' is missing"),
        (pruned_by_size, "TrialPruned"),
    ],
)
def test_choices_that_depend_on_the_images_are_refused_before_a_study_starts(function, fault):
    space = search_space(function)
    dataset = tiny_dataset(image_shape=(1, 8, 8))
    with pytest.raises(PluginError, match=f"8x8x1 and 3 classes than for 32x32x3 .*{fault}"):
        space.check_images(Splits(dataset, dataset, dataset))
    same = tiny_dataset(num_classes=5, image_shape=(3, 32, 32))
    space.check_images(Splits(same, same, same))


def too_deep(trial, spec):
    stride = trial.suggest_categorical("stride", [1, 2])
    if spec.image_shape[1] < 16:
        raise ValueError("too small")
    return net(4 * stride, spec)


def test_an_error_for_some_images_alone_fails_the_candidate():
    space = search_space(too_deep)
    dataset = tiny_dataset()
    space.check_images(Splits(dataset, dataset, dataset))
    fault = r"with stride=\d for 8x8 images \(test_wrong_functions.py, line \d+\): .*too small"
    with pytest.raises(PluginError, match=fault):
        space.build(space.sample(make_generator(0)), dataset.spec)


@pytest.mark.parametrize(
    ("genotype", "fault"),
    [
        ({"width": 4, "kernel": 3}, "'activation' is missing"),
        ({"width": 5, "kernel": 3, "activation": "relu"}, "'width' cannot be 5"),
        ({"width": 4, "kernel": 3, "activation": "relu", "more": 1}, "'more' is not asked for"),
        ([4, 3, "relu"], "mappings"),
    ],
)
def test_an_architecture_of_another_space_is_refused(genotype, fault):
    space = search_space(spaces.plain)
    for use in (space.describe, space.to_string, lambda a: space.build(a, SPEC)):
        with pytest.raises(PluginError, match=fault):
            use(Architecture(space.name, genotype))


def test_all_may_not_be_ruled_out(monkeypatch):
    monkeypatch.setattr(plugin_calls, "_MAX_DRAWS", 20)

    def never(trial, spec):
        trial.suggest_int("width", 1, 3)
        raise optuna.TrialPruned

    with pytest.raises(PluginError, match="ruled out 20 draws"):
        search_space(never).sample(make_generator(0))
    with pytest.raises(optuna.TrialPruned):
        search_space(never).suggest(optuna.trial.FixedTrial({"width": 1}))


def test_memory_that_runs_out_is_no_fault_of_the_function():
    def large(trial, spec):
        trial.suggest_int("width", 1, 3)
        raise MemoryError

    with pytest.raises(MemoryError):
        search_space(large).build(Architecture("large", {"width": 1}), SPEC)
