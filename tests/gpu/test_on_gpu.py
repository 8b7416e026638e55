"""What only a real GPU shows. Everything else that it does is in `test_device_mistakes.py`."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from nas_proxy.core.environment import PeakMemory, available_memory, hardware
from nas_proxy.data.augment import Augmentation
from nas_proxy.data.transforms import normalise
from nas_proxy.devices import StepGraph
from nas_proxy.evaluate.executors import evaluate_all, open_executor
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.export.folder import export_model
from nas_proxy.export.model_file import ModelOrigin, load_model
from nas_proxy.registry import SCORES
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.train.graphed import NUM_REHEARSALS
from nas_proxy.train.loop import train
from nas_proxy.train.measuring import measure
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from tests.gpu.helpers import CELL, CPU, factory_on, images_on, needs_gpu, network_on

pytestmark = [pytest.mark.gpu, needs_gpu]

GPU = torch.device("cuda:0")
STEPS = 12
ILL_CONDITIONED = ("grasp",)  # a small difference of large sums


def settings(**changes):
    fixed = {"num_steps": STEPS, "batch_size": 24, "learning_rate": 0.02, "precision": "float32"}
    return TrainSettings(**{**fixed, **changes})


def losses(device, used, *, graphed=False, network=None):
    """Of a training on all images in each step, so that their order is no matter."""
    model = network_on(device) if network is None else network
    generator = make_generator(0, device)
    return train(model, TrainingSet.of(images_on(device)), used, generator, graphed=graphed)


def test_the_loop_learns_what_it_learns_on_a_cpu():
    network, other = network_on(CPU), network_on(GPU)
    expected, found = (
        losses(CPU, settings(), network=network),
        losses(GPU, settings(), network=other),
    )
    assert found.losses == pytest.approx(expected.losses, rel=2e-2)
    on_cpu, on_gpu = (
        measure(n, images_on(d), settings()) for n, d in ((network, CPU), (other, GPU))
    )
    assert on_gpu.loss == pytest.approx(on_cpu.loss, rel=2e-2)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bfloat16"},
        {"channels_last": True},
        {"precision": "bfloat16", "channels_last": False},
    ],
    ids=str,
)
def test_precision_and_layout_learn_the_same(changes):
    expected = losses(GPU, settings())
    assert losses(GPU, settings(**changes)).losses == pytest.approx(expected.losses, rel=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bfloat16"},
        {"optimiser": "adamw", "learning_rate": 0.001},
        {"augmentation": Augmentation(crop=0.125, flip=True, cutout=0.5), "batch_size": 8},
        {"augmentation": Augmentation(resized_crop=0.5, rotation=15.0, colour_jitter=0.3)},
    ],
    ids=str,
)
def test_a_graph_gives_the_losses_of_the_loop(changes):
    eager = losses(GPU, settings(**changes))
    found = losses(GPU, settings(**changes), graphed=True)
    assert found.num_graphed_steps == STEPS - NUM_REHEARSALS
    assert found.losses == pytest.approx(eager.losses, rel=2e-2)


def test_a_graph_leaves_no_memory_behind():
    losses(GPU, settings(), graphed=True)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        losses(GPU, settings(), graphed=True)
    assert torch.cuda.memory_allocated() <= before + 2**20


def test_dropout_draws_anew_in_each_step_of_a_graph():
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 3)).to(GPU)
    used = settings(learning_rate=1e-9, schedule="constant", weight_decay=0.0)
    found = losses(GPU, used, graphed=True, network=network)
    assert found.num_graphed_steps == STEPS - NUM_REHEARSALS
    assert len(set(found.losses)) == STEPS


@pytest.mark.parametrize(
    "augmentation", [{"mixup": 0.5}, {"cutmix": 0.5}, {"dsa": "color_crop"}], ids=str
)
def test_what_needs_the_host_goes_step_by_step(augmentation, caplog):
    used = settings(augmentation=Augmentation(**augmentation))
    assert losses(GPU, used, graphed=True).num_graphed_steps == 0
    graphed = losses(GPU, settings(), graphed=True)  # the next one is none the worse
    assert graphed.num_graphed_steps == STEPS - NUM_REHEARSALS


def test_what_makes_the_host_wait_is_seen_before_it_is_recorded():
    graph = StepGraph(GPU, make_generator(0, GPU))
    value = torch.ones(3, device=GPU)
    assert not graph.rehearse(lambda: value.mul_(2))
    assert graph.rehearse(lambda: float(value.sum()))
    assert graph.rehearse(lambda: torch.tensor([1.0], device=GPU))


class Hungry(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        logits = self.network(images)
        held = torch.empty(2**28, device=images.device)  # 1 GiB
        return logits + torch.empty(2**50, device=images.device)[:1] + held[:1]


def test_a_candidate_that_does_not_fit_gives_its_memory_back():
    factory = factory_on(GPU)
    evaluator = factory.build()
    architecture = factory.space.from_string(CELL)

    class TooLarge:
        def build(self, architecture, spec):
            return Hungry(factory.space.build(architecture, spec))

    assert evaluator.evaluate(architecture, 0).complete
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    plain = replace(evaluator.settings, space_fidelity={})
    failed = replace(evaluator, space=TooLarge(), settings=plain, scores={})
    found = failed.evaluate(architecture, 0)
    assert found.reason.startswith("does not fit in memory: ")
    assert torch.cuda.memory_reserved() < before + 2**28
    assert evaluator.evaluate(architecture, 0).complete


def test_several_processes_evaluate_on_one_gpu(tmp_path):
    torch.zeros(1, device=GPU)  # this process uses the GPU too, so that a fork of it could not
    factory = replace(factory_on(GPU), num_slots=2)
    generator = make_generator(0)
    architectures = list({factory.space.sample(generator) for _ in range(6)})
    with open_executor("processes", 2) as executor:
        found = evaluate_all(
            executor, factory, architectures, 0, EvaluationLog(tmp_path / "log.jsonl")
        )
    evaluator = factory.build()
    for evaluation in found:
        assert evaluation.complete, evaluation.reason
        alone = evaluator.evaluate(evaluation.architecture, 0)
        assert evaluation.signals["val_loss"] == pytest.approx(alone.signals["val_loss"], rel=0.05)


@pytest.mark.parametrize("name", SCORES.names())
def test_a_score_is_that_of_a_cpu(name):
    space = factory_on(CPU).space
    found = []
    for device in (CPU, GPU):
        dataset = images_on(device)
        with isolated_rng(0):
            network = space.build(space.from_string(CELL), dataset.spec)
        images = normalise(dataset.images, dataset.spec)
        with isolated_rng(1):
            score = SCORES.get(name)()
            found.append(score.measure_labelled(network.to(device), images, dataset.labels))
    if name in ILL_CONDITIONED:
        assert abs(found[1]) < float("inf")
    else:
        assert found[1] == pytest.approx(found[0], rel=5e-2)


def test_a_network_of_the_gpu_is_exported(tmp_path):
    factory = factory_on(GPU)
    spec, architecture = images_on(GPU).spec, factory.space.from_string(CELL)
    with isolated_rng(0):
        network = factory.space.build(architecture, spec).to(GPU).eval()
    images = images_on(GPU).images
    origin = ModelOrigin.of(factory.space, architecture, spec)
    export_model(network, origin, images, tmp_path, formats=())
    colours = images.cpu().float() / 255
    expected = load_model(tmp_path / "model.safetensors")(colours)
    assert next(network.parameters()).device == GPU
    found = load_model(tmp_path / "model.safetensors").to(GPU)(colours.to(GPU))
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-2, atol=1e-2)


def test_memory_of_the_gpu_is_measured():
    memory = PeakMemory(GPU)
    held = torch.empty(2**26, device=GPU)
    del held
    assert memory.mib >= 256
    assert available_memory(GPU) > 2**30
    assert hardware(GPU) == torch.cuda.get_device_name(0)


def test_the_global_generator_of_the_gpu_is_put_back():
    torch.rand(1, device=GPU)
    before = torch.cuda.get_rng_state(GPU)
    with isolated_rng(3):
        first = torch.rand(2, device=GPU)
    assert torch.equal(torch.cuda.get_rng_state(GPU), before)
    with isolated_rng(3):
        assert torch.equal(torch.rand(2, device=GPU), first)
