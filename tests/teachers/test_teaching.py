"""Teachers are trained once by the one training loop, kept by content, and refused in sentences."""

import json
import threading
from dataclasses import replace

import pytest
import torch
from filelock import FileLock
from safetensors import safe_open
from torch._dynamo.exc import BackendCompilerFailed

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.transforms import normalise
from nas_proxy.errors import ConfigError, DataError, DivergedError, ProxyFileError
from nas_proxy.interfaces import DistillContext
from nas_proxy.networks.catalogue import NetworkSettings, build_network
from nas_proxy.reproducibility import derive_seed, isolated_rng, make_generator
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.teachers import training
from nas_proxy.teachers.training import obtain_teacher, obtain_teachers
from nas_proxy.testing import tiny_dataset
from nas_proxy.testing._common import global_generators_untouched
from nas_proxy.train.loop import train
from nas_proxy.train.measuring import measure
from nas_proxy.train.teacher_settings import TeacherSettings
from nas_proxy.train.training_set import TrainingSet
from tests.teachers.helpers import CELL, NETWORK, of_images, settings, short, teach

CPU = torch.device("cpu")


@pytest.fixture
def trainings(monkeypatch):
    """Counts how often the loop is called."""
    calls = []

    def counted(*arguments, **options):
        calls.append(arguments)
        return train(*arguments, **options)

    monkeypatch.setattr(training, "train", counted)
    return calls


def weights(teacher):
    return torch.cat([value.flatten() for value in teacher.network.state_dict().values()])


# Trained by the loop


def test_a_teacher_is_what_the_loop_makes_of_its_network():
    dataset, told = tiny_dataset(), short(num_steps=20)
    teacher = teach(train=told, seed=5)
    with isolated_rng(derive_seed("teacher", 5)):
        network = build_network(NETWORK, dataset.spec)
        generator = make_generator(derive_seed("teaching", 5))
        train(network, TrainingSet.of(dataset), told, generator)
    expected = torch.cat([value.flatten() for value in network.state_dict().values()])
    assert torch.equal(weights(teacher), expected)


@pytest.mark.exhaustive
def test_a_compiled_training_makes_the_same_teacher_but_for_rounding():
    plain, compiled = teach(seed=5), teach(seed=5, compile=True)
    assert (weights(compiled) - weights(plain)).abs().max() < 1e-4
    assert compiled.recipe["compile"] is True
    assert "compile" not in plain.recipe
    assert compiled.id != plain.id


def test_what_cannot_be_compiled_is_one_sentence(monkeypatch):
    def compile_nothing(network):
        def call(images):
            raise BackendCompilerFailed(None, OSError("no C++ compiler"), None)

        return call

    monkeypatch.setattr(torch, "compile", compile_nothing)
    with pytest.raises(ConfigError, match="cannot be compiled .* set compile: false") as raised:
        teach(compile=True)
    assert "\n" not in str(raised.value)


def test_it_has_learnt_the_classes():
    dataset, told = tiny_dataset(), short(num_steps=60, batch_size=24)
    network = NetworkSettings(name="convnet", width=8, depth=2)
    teacher = teach(train=told, network=network)
    assert measure(teacher.network, dataset, told).accuracy > 0.9
    answers = teacher.logits(normalise(dataset.images, dataset.spec)).argmax(dim=1)
    assert float((answers == dataset.labels).float().mean()) > 0.9


def test_it_says_what_it_is_and_what_it_cost():
    teacher = teach(train=short(num_steps=None, num_epochs=2))
    assert teacher.description == "ConvNet, depth 2, width 4, instance norm, 2 epochs on tiny"
    assert teacher.train_seconds > 0
    assert teacher.cost_name == f"teaching {teacher.description} [{teacher.id[:6]}]"
    assert teacher.licence == ""
    assert not teacher.knows_imagenet
    assert json.loads(json.dumps(teacher.recipe)) == teacher.recipe
    assert teacher.device == CPU
    assert teacher.spec.source_hash == tiny_dataset().spec.source_hash


def test_progress_is_told_and_names_the_teacher():
    told = []
    context = DistillContext(progress=lambda *arguments: told.append(arguments))
    obtain_teacher(settings(train=short(num_steps=50)), tiny_dataset(), context)
    note = "teaching ConvNet, depth 2, width 4, instance norm, 50 steps on tiny"
    assert told == [(20, 50, note), (40, 50, note), (50, 50, note)]


def test_global_generators_and_images_are_left_alone(tmp_path):
    dataset = tiny_dataset()
    before = dataset.images.clone()
    for cache in (None, tmp_path, tmp_path):  # trained, trained and kept, read
        with global_generators_untouched("teaching"):
            teach(dataset, cache=cache, network=replace(NETWORK, norm="batch"))
    assert torch.equal(dataset.images, before)


# Kept by content


def test_a_second_request_trains_nothing_and_gives_the_same(tmp_path, trainings):
    first = teach(cache=tmp_path)
    second = teach(cache=tmp_path)
    assert len(trainings) == 1
    assert second.id == first.id
    assert torch.equal(weights(second), weights(first))
    assert second.train_seconds == first.train_seconds > 0
    assert second.cost_name == first.cost_name
    assert torch.equal(second.seen, first.seen)


def test_a_kept_teacher_is_the_one_that_is_trained_without_a_cache(tmp_path):
    assert teach(cache=tmp_path).id == teach().id
    assert teach().id == teach().id


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"train": short(num_steps=5)},
        {"train": short(learning_rate=0.06)},
        {"train": short(augmentation=Augmentation())},
        {"train": short(image_size=6)},
        {"train": short(label_smoothing=0.1)},
        {"network": replace(NETWORK, width=8)},
        {"network": replace(NETWORK, norm="none")},
        {"architecture": CELL, "train": short(space_fidelity={"num_cells": 1})},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_another_recipe_gives_another(tmp_path, trainings, changes):
    first, second = teach(cache=tmp_path), teach(cache=tmp_path, **changes)
    assert len(trainings) == 2
    assert first.id != second.id
    assert first.cost_name != second.cost_name


def test_other_data_gives_another(tmp_path, trainings):
    whole = tiny_dataset()
    half = of_images(whole, whole.images[:12], whole.labels[:12])
    renamed = replace(whole, spec=replace(whole.spec, class_names=("a", "b", "c")))
    scaled = replace(whole, spec=replace(whole.spec, std=(0.5, 0.5, 0.5)))
    ids = {teach(dataset, cache=tmp_path).id for dataset in (whole, half, renamed, scaled)}
    assert len(ids) == len(trainings) == 4


def test_several_come_in_the_order_in_which_they_are_asked_for(tmp_path, trainings):
    wanted = [settings(seed=seed) for seed in (2, 0, 2, 1)]
    context = DistillContext(cache=tmp_path)
    found = obtain_teachers(wanted, tiny_dataset(), context)
    assert [t.recipe["seed"] for t in found] == [2, 0, 2, 1]
    assert len(trainings) == 3
    assert len({t.id for t in found}) == 3


def test_settings_are_keys_of_a_mapping():
    wanted = [settings(), settings(seed=1), settings(), settings(train=short(image_size=6))]
    assert list(dict.fromkeys(wanted)) == [wanted[0], wanted[1], wanted[3]]


def test_half_a_file_in_the_cache_is_named_and_never_used(tmp_path, trainings):
    teach(cache=tmp_path)
    (file,) = (tmp_path / "teachers").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ProxyFileError, match=rf"{file.name} is truncated.*delete it to train anew"):
        teach(cache=tmp_path)
    file.unlink()
    teach(cache=tmp_path)
    assert len(trainings) == 2


def test_a_kill_while_the_file_is_written_leaves_none(tmp_path, monkeypatch, trainings):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            teach(cache=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors*"))
    teach(cache=tmp_path)
    assert len(trainings) == 2


def test_one_waits_while_another_trains_the_same_teacher(tmp_path, trainings):
    # What the other process will have written, under the name that it will have.
    teach(cache=tmp_path / "written")
    (kept,) = (tmp_path / "written" / "teachers").glob("*.safetensors")
    folder = tmp_path / "shared" / "teachers"
    folder.mkdir(parents=True)
    found, notes = [], []

    def ask():
        context = DistillContext(
            cache=tmp_path / "shared", progress=lambda done, total, note="": notes.append(note)
        )
        found.append(obtain_teacher(settings(), tiny_dataset(), context))

    # Threads that open a lock by themselves wait for one another as processes do.
    with FileLock(folder / f"{kept.stem}.lock"):
        waiting = threading.Thread(target=ask)
        waiting.start()
        while waiting.is_alive() and not notes:
            waiting.join(0.01)
        assert not found
        (folder / kept.name).write_bytes(kept.read_bytes())
    waiting.join()
    assert notes == ["waiting for another process, which trains the same teacher"]
    assert len(trainings) == len(found) == 1


# Architectures of a search space


def test_an_architecture_is_built_by_its_space_at_the_fidelity(tmp_path):
    told = short(space_fidelity={"num_cells": 1, "channels": 4})
    teacher = teach(cache=tmp_path, architecture=CELL, train=told)
    space = NASBench201Space(num_cells=1, channels=4)
    network = space.build(space.from_string(CELL), tiny_dataset().spec)
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    own = {name: value.shape for name, value in teacher.network.state_dict().items()}
    assert own == {f"network.{name}": shape for name, shape in shapes.items()}
    assert teacher.description == f"nasbench201 {CELL}, 4 steps on tiny"
    network.load_state_dict(
        {k.removeprefix("network."): v for k, v in teacher.network.state_dict().items()}
    )
    images = torch.randn(4, 3, 8, 8, generator=make_generator(0))
    torch.testing.assert_close(teacher.logits(images), network.eval()(images))
    torch.testing.assert_close(teacher.embed(images), network.embed(images))
    assert teach(cache=tmp_path, architecture=CELL, train=told).id == teacher.id


def test_a_batch_norm_teacher_answers_for_each_image_by_itself():
    told = short(space_fidelity={"num_cells": 1, "channels": 4})
    teacher = teach(architecture=CELL, train=told)
    images = torch.randn(4, 3, 8, 8, generator=make_generator(0))
    alone = torch.cat([teacher.logits(image[None]) for image in images])
    torch.testing.assert_close(teacher.logits(images), alone)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "|conv~0|"}, r"'\|conv~0\|' is no cell of NAS-Bench-201"),
        (
            {"architecture": CELL, "train": short(space_fidelity={"num_cell": 1})},
            "'num_cell' is not a fidelity of the space 'nasbench201'; did you mean 'num_cells'",
        ),
    ],
)
def test_an_architecture_that_cannot_be_is_refused(trainings, changes, said):
    with pytest.raises(ConfigError, match=said):
        teach(**changes)
    assert not trainings


# Checkpoints


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "teacher.safetensors"
    teach(train=short(num_steps=7)).save(path)
    return path


def test_a_checkpoint_is_read_and_not_trained(checkpoint, trainings):
    teacher = teach(checkpoint=str(checkpoint))
    assert not trainings
    assert teacher.id == teach(train=short(num_steps=7)).id
    with safe_open(str(checkpoint), framework="pt") as file:
        recorded = json.loads(file.metadata()["nas_proxy"])
    assert teacher.train_seconds == recorded["train_seconds"] > 0


def test_a_checkpoint_of_another_study_knows_how_the_images_are_normalised(checkpoint):
    dataset = tiny_dataset()
    other = replace(dataset, spec=replace(dataset.spec, mean=(0.1,) * 3, std=(0.7,) * 3))
    own, adapted = teach(checkpoint=str(checkpoint)), teach(other, checkpoint=str(checkpoint))
    assert adapted.id == own.id
    torch.testing.assert_close(
        adapted.logits(normalise(dataset.images, other.spec)),
        own.logits(normalise(dataset.images, dataset.spec)),
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_classes": 4}, "whose classes is c0, c1, c2, but tiny here has c0, c1, c2, c3"),
        ({"image_shape": (3, 16, 16)}, "whose image shape is 3, 8, 8, but tiny here has 3, 16, 16"),
    ],
)
def test_a_checkpoint_of_other_classes_or_sizes_is_refused(checkpoint, options, said):
    with pytest.raises(DataError, match=said):
        teach(tiny_dataset(**options), checkpoint=str(checkpoint))


def test_a_missing_or_damaged_checkpoint_is_refused(tmp_path, checkpoint):
    missing = tmp_path / "none.safetensors"
    with pytest.raises(
        ProxyFileError, match=f"the teacher file {missing} does not exist; name one"
    ):
        teach(checkpoint=str(missing))
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    with pytest.raises(ProxyFileError, match="truncated or damaged"):
        teach(checkpoint=str(checkpoint))


# Faults


def test_a_teacher_that_diverges_says_which_and_what_to_lower(tmp_path):
    told = short(num_steps=30, learning_rate=1e30, schedule="constant")
    said = (
        r"the teacher ConvNet, depth 2, width 4, no norm, 30 steps on tiny diverged: the training "
        r"loss is not finite from step \d+ on; lower its train.learning_rate \(now 1e\+30\)"
    )
    with pytest.raises(DivergedError, match=said):
        teach(cache=tmp_path, network=replace(NETWORK, norm="none"), train=told)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "needs exactly one of network, architecture, pretrained, checkpoint; got none"),
        ({"network": NETWORK, "architecture": CELL}, "got network and architecture"),
        ({"network": NETWORK, "checkpoint": "a"}, "got network and checkpoint"),
        ({"network": NETWORK, "train": short(num_seeds=2)}, "leave train.num_seeds"),
        ({"network": NETWORK, "train": short(num_val_images=9)}, "train.num_val_images out"),
        (
            {"network": NETWORK, "train": short(space_fidelity={"num_cells": 1})},
            "train.space_fidelity reduces an architecture of a search space, but this teacher has",
        ),
        (
            {"checkpoint": "a", "seed": 1},
            "the teacher a is trained already; leave train, compile and seed",
        ),
        ({"checkpoint": "a", "train": short()}, "the teacher a is trained already"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        TeacherSettings(**options)
