"""Checks that any network of a search space can be the student of every kind of distillation."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import nn

from nas_proxy.errors import ConfigError
from nas_proxy.interfaces import SearchSpace
from nas_proxy.knowledge_distillation.feature_maps import examine
from nas_proxy.knowledge_distillation.objective import make_objective
from nas_proxy.knowledge_distillation.prepared import LoadedKnowledgeDistillation, train_student
from nas_proxy.knowledge_distillation.settings import KnowledgeDistillationSettings, TermSettings
from nas_proxy.knowledge_distillation.teachers import Generation, Teachers
from nas_proxy.networks.catalogue import NetworkName, NetworkSettings, build_network
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.testing._common import blame, require, tiny_dataset
from nas_proxy.train.phases import Phase
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.teacher_settings import TeacherSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import Architecture, DatasetSpec

_NUM_STEPS = 2
_NETWORKS: tuple[NetworkName, ...] = ("convnet", "resnet18")
_TEACHERS = tuple(
    TeacherSettings(network=NetworkSettings(name=name, width=4)) for name in _NETWORKS
)


def _one(
    kind: str, variant: str | None = None, num_teachers: int = 1
) -> KnowledgeDistillationSettings:
    term = TermSettings(kind=kind, variant=variant)
    return KnowledgeDistillationSettings(terms=(term,), teachers=_TEACHERS[:num_teachers])


DISTILLATIONS: Mapping[str, KnowledgeDistillationSettings] = MappingProxyType(
    {
        "response": _one("response"),
        "decoupled": _one("response", "decoupled"),
        "generations": _one("self", "generations", 0),
        "exits": _one("self", "exits", 0),
        "mean": _one("multi_teacher", "mean", 2),
        "val_accuracy": _one("multi_teacher", "val_accuracy", 2),
        "val_loss": _one("multi_teacher", "val_loss", 2),
        "confidence": _one("multi_teacher", "confidence", 2),
        "attention": _one("attention"),
        "relational": _one("relational"),
        "all together": KnowledgeDistillationSettings(
            teachers=_TEACHERS[:1],
            terms=(
                TermSettings(kind="response"),
                TermSettings(kind="attention"),
                TermSettings(kind="relational"),
                TermSettings(kind="self", variant="exits"),
            ),
        ),
    }
)
"""Every kind and variant at its published settings, with small teachers, and several at once."""


def check_distillation(space: SearchSpace, kind: str, num_samples: int) -> None:
    """Sampled architectures learn from teachers by one kind, without knowing of it.

    Args:
        space: Whose networks are students.
        kind: One of `DISTILLATIONS`.
        num_samples: Architectures to draw.

    Raises:
        AssertionError: At the first broken promise, in one sentence.
    """
    generator = make_generator(0)
    for architecture in dict.fromkeys(space.sample(generator) for _ in range(num_samples)):
        _check_student(space, architecture, DISTILLATIONS[kind], kind)


def _check_student(
    space: SearchSpace,
    architecture: Architecture,
    settings: KnowledgeDistillationSettings,
    kind: str,
) -> None:
    dataset = tiny_dataset()
    where = f"{space.name}: {architecture.genotype_json}, taught by {kind},"
    training_set = TrainingSet.of(dataset)
    phases = (Phase("training", TrainSettings(num_steps=_NUM_STEPS, learning_rate=1e-4)),)

    def build() -> nn.Module:
        return space.build(architecture, dataset.spec)

    with isolated_rng(0):
        student = build()
        number = len(settings.all_teachers)
        trained = tuple(_teacher(name, dataset.spec) for name in _NETWORKS[:number])
        teachers = Teachers(trained, (0.6, 0.5)[:number], (0.9, 1.2)[:number])
        if _has_no_maps_for(student, dataset.spec, settings):
            try:
                make_objective(settings, student, teachers, training_set, phases, make_generator(0))
            except ConfigError:
                return
            raise AssertionError(f"{where} has too few feature maps, and nobody says so")
        before = _weights(student)
        weights_before = [_weights(teacher.network) for teacher in trained]
        with blame(f"{where} cannot be trained"):
            knowledge_distillation, _ = LoadedKnowledgeDistillation(
                settings, teachers
            ).after_generations(build, training_set, phases, seed=1)
            result = train_student(
                knowledge_distillation, student, training_set, phases, make_generator(0)
            )
    after = _weights(student)
    require(len(result.losses) == _NUM_STEPS, f"{where} does not train for as long as it is told")
    require(after.keys() == before.keys(), f"{where} has other weights afterwards than before")
    changed = any(not torch.equal(after[name], before[name]) for name in before)
    require(changed, f"{where} learns nothing")
    finite = all(bool(value.isfinite().all()) for value in after.values())
    require(finite, f"{where} has weights that are not finite")
    for teacher, weights in zip(trained, weights_before, strict=True):
        same = all(torch.equal(weights[k], v) for k, v in teacher.network.state_dict().items())
        require(same, f"{where} changes its teacher")
    for network in (student, *(teacher.network for teacher in trained)):
        hooked = any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
        require(not hooked, f"{where} leaves hooks behind")


def _has_no_maps_for(
    student: nn.Module, spec: DatasetSpec, settings: KnowledgeDistillationSettings
) -> bool:
    """Whether a term needs feature maps that the student's images are too small for."""
    num_maps = len(examine(student, spec.image_shape, "the student").feature_maps)
    needed = {"attention": 1, "exits": 2}
    return any(num_maps < needed.get(t.variant or t.kind, 0) for t in settings.terms)


def _teacher(name: NetworkName, spec: DatasetSpec) -> Generation:
    network = build_network(NetworkSettings(name=name, width=4), spec)
    return Generation(network.eval().requires_grad_(False), spec.class_names, spec.image_shape)


def _weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}
