"""SRe2L stopped and continued, and what it refuses."""

import json
from dataclasses import replace

import pytest
import torch

from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.data.augment import Augmentation
from nas_proxy.distill.common import memory
from nas_proxy.distill.common.recovery import Recovery
from nas_proxy.distill.statistical_matching import StatisticalMatching
from nas_proxy.errors import ConfigError, DivergedError
from nas_proxy.interfaces import DistillContext
from nas_proxy.networks.catalogue import NetworkSettings
from nas_proxy.teachers.training import obtain_teacher
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.teacher_settings import PretrainedSettings, TeacherSettings
from tests.distill.helpers_recovery import SQUEEZED, distill, squeezed


@pytest.mark.exhaustive
def test_two_workers_make_the_identical_set_from_where_one_was_killed(tmp_path, saves_always):
    options = {"batch_size": 3, "num_steps": 3}
    alone = distill(4, **options)
    path = tmp_path / "checkpoint.safetensors"

    def stop(done, total, note=""):
        if note.startswith("loss") and done == 4:  # the first batch is done, the second is not
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(4, context=DistillContext(progress=stop, checkpoint=path), **options)
    steps = []
    context = DistillContext(
        num_workers=2, checkpoint=path, progress=lambda *told: steps.append(told[:2])
    )
    assert distill(4, context=context, **options).id == alone.id
    assert steps[-3:] == [(6, 12), (9, 12), (12, 12)]


# Stopping and going on


@pytest.fixture
def saves_always(monkeypatch):
    """Every step is worth a checkpoint."""
    monkeypatch.setattr(Checkpointer, "save_if_due", Checkpointer.save)


@pytest.mark.parametrize("stop_at", [1, 4, 5, 6, 12])
def test_a_killed_run_ends_with_the_identical_set(tmp_path, saves_always, stop_at):
    options = {"batch_size": 2, "num_steps": 5, "networks": (SQUEEZED, squeezed(seed=1))}
    undisturbed = distill(2, **options)
    path = tmp_path / "checkpoint.safetensors"
    seen = []

    def stop(done, total, note=""):
        if total == 15 and not note.startswith("teaching"):
            seen.append((done, total))
            if done == stop_at:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(2, context=DistillContext(progress=stop, checkpoint=path), **options)
    killed_after = len(seen)
    seen.clear()
    resumed = distill(
        2,
        context=DistillContext(
            progress=lambda *told: seen.append(told[:2]) if told[1] == 15 else None,
            checkpoint=path,
        ),
        **options,
    )
    assert resumed.id == undisturbed.id
    assert seen[0] == (stop_at + 1, 15)  # not a step is done twice
    assert killed_after + len(seen) == 15
    assert not path.exists()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(
    tmp_path, monkeypatch, saves_always
):
    options = {"batch_size": 2, "num_steps": 5}
    undisturbed = distill(2, **options)
    path, calls = tmp_path / "checkpoint.safetensors", []
    sound = Recovery.loss

    def broken(recovery, teacher, images, classes):
        calls.append(1)
        loss = sound(recovery, teacher, images, classes)
        return loss * float("nan") if len(calls) == 5 + 3 else loss

    monkeypatch.setattr(Recovery, "loss", broken)
    monkeypatch.setattr(Recovery, "attempt", lambda *_: None)  # before the batches, for its memory
    sentence = (
        "statistical_matching: batch 2 of 3 diverged at step 3 of 5: the loss is not finite; "
        r"lower distill.image_learning_rate \(now 0.25\); .*checkpoint.safetensors keeps"
    )
    with pytest.raises(DivergedError, match=sentence):
        distill(2, context=DistillContext(checkpoint=path), **options)
    monkeypatch.setattr(Recovery, "loss", sound)
    assert distill(2, context=DistillContext(checkpoint=path), **options).id == undisturbed.id


# What is refused


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (squeezed(norm="instance"), "ConvNet, depth 2, width 4, instance norm"),
        (TeacherSettings(network=NetworkSettings(name="mlp")), "MLP"),
        (TeacherSettings(pretrained=PretrainedSettings(name="alexnet")), "alexnet of torchvision"),
    ],
)
def test_a_network_without_batch_norm_is_refused_before_any_training(settings, name):
    sentence = f"the network {name} has none; name another, or one of convnet, resnet18"
    with pytest.raises(ConfigError, match=sentence) as caught:
        StatisticalMatching(networks=(SQUEEZED, settings))
    assert "mlp" not in str(caught.value).split("one of")[1]


def test_cells_of_nasbench_have_it():
    cell = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|avg_pool_3x3~2|"
    StatisticalMatching(networks=(TeacherSettings(architecture=cell),))


def test_a_file_with_a_network_without_it_is_refused(tmp_path):
    file = tmp_path / "teacher.safetensors"
    obtain_teacher(squeezed(norm="group"), tiny_dataset(), DistillContext()).save(file)
    networks = (TeacherSettings(checkpoint=str(file)),)
    with pytest.raises(ConfigError, match=r"teacher\.safetensors has none"):
        distill(networks=networks)


def test_no_network_at_all_is_refused():
    with pytest.raises(ConfigError, match="at least one network"):
        StatisticalMatching(networks=())


def test_a_batch_that_does_not_fit_is_refused_before_the_first_step(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda device: 10 * 2**20)
    monkeypatch.setattr(
        memory.BatchMemory, "measure", lambda *_: memory.BatchMemory(0.0, 4 * 2**20)
    )
    monkeypatch.setattr(Recovery, "__call__", lambda *_: pytest.fail("it starts all the same"))
    with pytest.raises(ConfigError, match="a batch of 6 images .* distill.batch_size to at most 2"):
        distill(2)
    with pytest.raises(ConfigError, match="each of 2 workers.* to at most 1,"):
        distill(2, context=DistillContext(num_workers=2))


def test_running_out_of_memory_later_gives_the_same_sentence(monkeypatch):
    def fail(recovery, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Recovery, "__call__", fail)
    with pytest.raises(ConfigError, match="a batch of 6 images.* distill.batch_size to at most 5"):
        distill(2)


def test_the_record_names_the_networks_and_what_they_cost():
    made = distill(augmentation=Augmentation(flip=True))
    (record,) = made.networks
    assert record.description.startswith("ConvNet, depth 2, width 4, batch norm")
    assert {"distilling"} < made.costs.keys()
    assert made.augmentation == Augmentation(flip=True)
    assert made.learning_rate_rule.optimiser == "adamw"
    json.dumps(made.card())
    assert replace(made, costs={}).id == made.id
