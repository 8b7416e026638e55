"""Whole studies on spaces that are functions: of a file, and of a session that has no file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from nas_proxy import load_model, search_space
from nas_proxy.core.plugin_source import file_hash, function_hash, source_hash
from nas_proxy.define_by_run import definition
from nas_proxy.errors import ModelFileError, StudyError
from nas_proxy.export.model_file import DeployedModel, ModelOrigin, save_model
from nas_proxy.processes import map_in_processes, pack, unpack
from nas_proxy.registry import SEARCH_SPACES
from nas_proxy.reproducibility import make_generator
from nas_proxy.search.result import SearchResult
from nas_proxy.study.config import load_config
from nas_proxy.study.pipeline import run_pipeline
from nas_proxy.testing import tiny_dataset
from tests.define_by_run import spaces
from tests.helpers.display import Quiet

FUNCTION = '''
import optuna
from torch import nn

FACTOR = 1

def network(trial, spec, max_depth: int = 2):
    """Small networks."""
    width = FACTOR * trial.suggest_categorical("width", [4, 6, 8])
    depth = trial.suggest_int("depth", 1, max_depth)
    if width == 4 and depth == 2:
        raise optuna.TrialPruned
    channels, layers = spec.image_shape[0], []
    for number in range(depth):
        size = trial.suggest_categorical(f"kernel_{number}", [1, 3])
        layers += [nn.Conv2d(channels, width, size, padding=size // 2), nn.ReLU()]
        channels = width
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, spec.num_classes)
    )
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my_space.py").write_text(FUNCTION)
    return tmp_path


def run(folder, last, **search):
    train = {"num_steps": 2, "batch_size": 8, "learning_rate": 0.02}
    train |= {"precision": "float32", "channels_last": False}
    config = {
        "study_name": "s",
        "results": str(folder / "results"),
        "data": {"name": "digits", "images_per_class": 20},
        "distill": {"name": "random_subset", "images_per_class": 2},
        "space": {"name": f"{folder}/my_space.py:network", "max_depth": 2},
        "train": train,
        "score": {"signals": ["val_loss"]},
        "search": {"n_trials": 6, "sampler": "tpe", **search},
        "validate": {"num_architectures": 6, "reference": {"train": {"num_steps": 2}}},
        "retrain": {"num_seeds": 1, "num_architectures": 1, "train": {"num_steps": 2}},
        "tracking": {"enabled": False},
    }
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    display = Quiet()
    run_pipeline(load_config(folder / "c.yaml"), display, last=last)
    result = SearchResult.read(folder / "results/s/search/search.json")
    return result, display.said


def found(result):
    return [(row.description, row.score) for row in result.trials]


@pytest.mark.exhaustive
def test_workers_find_what_one_process_finds_of_the_same_questions(folder):
    result, said = run(folder, "search", sampler="random", executor="processes", num_workers=2)
    assert result.num_failed == 0
    assert "width=4, depth=2" not in str(found(result))
    again, said = run(folder, "search", sampler="random", executor="processes", num_workers=2)
    assert "search: finished already" in said
    (folder / "serial").mkdir()
    (folder / "serial" / "my_space.py").write_text(FUNCTION)
    serial, _ = run(folder / "serial", "search", sampler="random")
    alone, together = dict(found(serial)), dict(found(result))
    assert alone.keys() & together.keys()
    assert all(alone[each] == together[each] for each in alone.keys() & together.keys())


def test_an_edited_function_is_refused(folder):
    run(folder, "search")
    (folder / "my_space.py").write_text(FUNCTION.replace("FACTOR = 1", "FACTOR = 2"))
    with pytest.raises(StudyError, match=r"the code of .*my_space.py:network has changed"):
        run(folder, "search")


@pytest.mark.parametrize("sampler", ["regularized_evolution", "nsga2"])
@pytest.mark.exhaustive
def test_every_sampler_takes_conditional_choices(folder, sampler):
    small = {"population_size": 4}
    small |= {"tournament_size": 2} if sampler == "regularized_evolution" else {}
    result, _ = run(folder, "search", n_trials=12, sampler=sampler, **small)
    assert result.num_failed == 0
    assert len(result.trials) > 6


@pytest.mark.exhaustive
def test_a_whole_study_ends_with_a_model_that_loads(folder):
    _, said = run(folder, "report", executor="processes", num_workers=2)
    assert any("width=" in each for each in said)
    file = folder / "results/s/retrain/champion/model.safetensors"
    (folder / "elsewhere.py").write_text(FUNCTION)
    images = torch.rand(2, 1, 8, 8)
    expected = load_model(file)(images)
    assert torch.equal(load_model(file, space=f"{folder}/elsewhere.py:network")(images), expected)


def test_a_model_of_a_function_is_loaded_by_the_function(tmp_path):
    def network(trial, spec, *, max_width=8):
        return spaces.plain(trial, spec, max_width)

    space = search_space(network, name="model of a test", options={"max_width": 6})
    architecture, spec = space.sample(make_generator(0)), tiny_dataset().spec
    model = DeployedModel(
        space.build(architecture, spec), ModelOrigin.of(space, architecture, spec)
    )
    save_model(model, tmp_path / "model.safetensors")
    images = torch.rand(2, *spec.image_shape)
    for meant in (network, None, "model of a test"):
        assert torch.equal(
            load_model(tmp_path / "model.safetensors", space=meant)(images), model(images)
        )
    SEARCH_SPACES._classes.pop("model of a test")
    with pytest.raises(ModelFileError, match="'model of a test', which is not there: .*FILE.py"):
        load_model(tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match="'conditional' does not know the options"):
        load_model(tmp_path / "model.safetensors", space=spaces.conditional)


def of_a_session(width):
    block = nn.Conv2d

    def network(trial, spec):
        size = trial.suggest_categorical("size", [1, 3])
        first = block(spec.image_shape[0], width, size, padding=size // 2)
        return nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.LazyLinear(spec.num_classes))

    return network


def test_a_process_that_has_never_seen_a_function_makes_it_of_what_it_is_sent(monkeypatch):
    space = search_space(of_a_session(3), name="sent by value")
    sent = pack(space)
    monkeypatch.setattr(definition, "_BY_TOKEN", {})
    first, second = unpack(sent), unpack(sent)
    assert type(first) is type(second) is not type(space)
    assert first == second
    assert described(first) == described(space)


@pytest.mark.exhaustive
def test_workers_know_a_function_without_a_module_by_value():
    found = [search_space(of_a_session(width), name=f"lent {width}") for width in (3, 4)]
    theirs = list(map_in_processes(described, found, 2))
    assert theirs == [described(space) for space in found]
    assert len({fingerprint for fingerprint, _ in theirs}) == 2


def described(space):
    """What a worker makes of a space."""
    architecture = space.sample(make_generator(0))
    return space.fingerprint(), str(space.build(architecture, tiny_dataset().spec))


SESSION = """
from torch import nn

import nas_proxy

SIZES = [1, 3]

class Block(nn.Module):
    def __init__(self, channels, size):
        super().__init__()
        self.layer = nn.Conv2d(channels, channels, size, padding=size // 2)

    def forward(self, images):
        return images + self.layer(images)

def network(trial, spec):
    block = Block(spec.image_shape[0], trial.suggest_categorical("size", SIZES))
    return nn.Sequential(block, nn.Flatten(), nn.LazyLinear(spec.num_classes))

from tests.define_by_run.test_studies import described, map_in_processes
space = nas_proxy.search_space(network)
theirs = list(map_in_processes(described, [space, space, space], 2))
assert theirs == [described(space)] * 3, theirs
print(space.name)
"""


@pytest.mark.exhaustive
def test_workers_know_a_function_of_a_session(tmp_path):
    """With a class and a value that it uses from there."""
    done = subprocess.run(
        [sys.executable, "-c", SESSION],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "network\n"


# --- identity -------------------------------------------------------------------------------


def in_session(text):
    """What `network` of a session is, whose cells are `text`."""
    names = {"__name__": "__main__"}
    exec(compile(text, "<cell>", "exec"), names)
    return names["network"]


CELL = """
FACTOR = {factor}
UNUSED = {unused}
TABLE = {{"a": [1, {entry}]}}
class Block:
    size = {size}
    def forward(self, x):
        return x + {added}
def helper(x):
    return x * {times}
def network(trial, spec, *, option={option}):
    return [Block().forward(helper(FACTOR)) for _ in TABLE]
"""
CELL_VALUES = {
    "factor": 1, "unused": 1, "entry": 1, "size": 1, "added": 1, "times": 1, "option": 1,
}  # fmt: skip


@pytest.mark.parametrize("changed", CELL_VALUES)
def test_of_a_session_counts_what_the_function_uses(changed):
    before, same, after = (
        function_hash(in_session(CELL.format(**values)))
        for values in (CELL_VALUES, CELL_VALUES, {**CELL_VALUES, changed: 2})
    )
    assert before == same
    assert (before != after) == (changed != "unused")


def test_of_a_file_the_file_counts(folder):
    kind = SEARCH_SPACES.get(f"{folder}/my_space.py:network")
    assert source_hash(kind) == file_hash(folder / "my_space.py")
    assert function_hash(search_space) is None
