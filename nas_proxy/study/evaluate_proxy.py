"""What is a proxy data set worth, whatever made it? No stage of a study: it runs on request alone.

Networks are measured on test images here; nothing that is found goes back into a search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypedDict

from nas_proxy.core.costs import CostMeter
from nas_proxy.core.environment import hardware, versions
from nas_proxy.core.nested import set_values
from nas_proxy.data.proxy_dataset import Labelling, ProxyDataset
from nas_proxy.data.proxy_summary import ProxySummary
from nas_proxy.data.whitening import Whitening
from nas_proxy.distill.herding import Herding
from nas_proxy.distill.measured import distill_and_label
from nas_proxy.distill.random_subset import random_control
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory, training_fidelity
from nas_proxy.evaluate_proxy.accuracy import (
    AS_IS,
    FULL,
    HARD,
    RANDOM,
    Condition,
    network_accuracies,
    stability,
)
from nas_proxy.evaluate_proxy.replay import ReplayResult, run_replay
from nas_proxy.evaluate_proxy.result import LearnerMemory, ProxyAccuracy, ProxyReplay
from nas_proxy.interfaces import DistillContext, DistillTask
from nas_proxy.networks.catalogue import FixedNetworks, describe
from nas_proxy.report.evaluate_proxy_figures import write_accuracy_figures, write_replay_figure
from nas_proxy.reproducibility import derive_seed, make_generator
from nas_proxy.statistics.accuracy import SeedMean
from nas_proxy.study.config import StudyConfig
from nas_proxy.study.context import StudyContext
from nas_proxy.study.logged_datasets import distilled_images
from nas_proxy.study.stage_folder import StageFolder
from nas_proxy.teachers.labelling import labels_like, save_teachers
from nas_proxy.teachers.leakage import check_leakage
from nas_proxy.teachers.settings import LabelSettings
from nas_proxy.teachers.teacher import Teacher
from nas_proxy.teachers.training import obtain_teachers
from nas_proxy.tracking import Tracker
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture, Evaluation

VERSION = 1
Task = Literal["accuracy", "replay"]


def run_evaluate_proxy(
    study: StudyContext, file: Path, task: Task, *, force: bool
) -> ProxyAccuracy | ProxyReplay:
    """Find out what the proxy data set `file` is worth, write it, and return it.

    Raises:
        ProxyFileError: If the file is damaged or of other classes or another image shape.
        StudyError: If an earlier result was written by another version of nas_proxy.
    """
    proxy_dataset = ProxyDataset.load(file)
    proxy_dataset.check_fits(study.splits.spec)
    settings = _settings_of(study.config, task)
    study.tracker.study.params(set_values({"evaluate_proxy": settings}))
    study.tracker.study.dataset(distilled_images(proxy_dataset), f"evaluated: {task}")
    result_file = study.layout.proxy_result(proxy_dataset.id, task)
    folder = StageFolder(
        result_file.parent,
        VERSION,
        {
            "proxy_dataset": proxy_dataset.id,
            "evaluate_proxy": settings,
            "data": study.splits.spec.source_hash,
            "seed": study.config.seed,
        },
    )
    if folder.open(force=force):
        evaluation = _ProxyEvaluation(study, file, proxy_dataset, folder.path)
        found = _accuracy(evaluation) if task == "accuracy" else _replay(evaluation)
        found.write(result_file)
        folder.finish()
    if task == "accuracy":
        accuracy = ProxyAccuracy.read(result_file)
        _log_accuracy(study.tracker, accuracy)
        _log_files(study.tracker, [result_file, *write_accuracy_figures(accuracy, folder.path)])
        return accuracy
    replay = ProxyReplay.read(result_file)
    _log_replay(study.tracker, replay)
    _log_files(study.tracker, [result_file, *write_replay_figure(replay, folder.path)])
    return replay


def _settings_of(config: StudyConfig, task: Task) -> dict[str, Any]:
    """What of the section matters to a task; the other one's settings may change."""
    section = dict(config.resolved["evaluate_proxy"])
    replay = section.pop("replay")
    return {"replay": replay} if task == "replay" else section


@dataclass(frozen=True)
class _ProxyEvaluation:
    """One appraisal at work."""

    study: StudyContext
    file: Path
    proxy_dataset: ProxyDataset
    folder: Path

    @cached_property
    def labels(self) -> LabelSettings:
        """What gives other images the kind of labels that the set has."""
        return labels_like(self.proxy_dataset, self.file, self.study.config.labels)

    @cached_property
    def context(self) -> DistillContext:
        return DistillContext(cache=self.study.layout.cache)

    def random_images(self, index: int) -> ProxyDataset:
        """As many random images with the same kind of labels."""
        return random_control(
            self.proxy_dataset,
            self.labels,
            self.study.splits.search_train,
            seed=derive_seed("random images", self.study.config.seed, index),
            context=self.context,
        )

    @cached_property
    def teachers(self) -> list[Teacher]:
        """Those of the labels, after making sure that none has seen held-out images."""
        if self.labels.kind == "hard":
            return []
        study = self.study
        with study.display.progress("teachers") as progress:
            context = replace(self.context, progress=progress)
            found = obtain_teachers(self.labels.teachers, study.splits.search_train, context)
        check_leakage(found, study.splits, allow=self.labels.allow_leakage)
        return found

    def file_of(self, condition: Condition, index: int) -> Path | Literal["search_train"]:
        """What the networks of a condition train on; it is written if it is not there yet."""
        if condition == FULL:
            return "search_train"
        if condition == AS_IS:
            return self.file
        hard = condition == HARD
        path = self.folder / ("hard_labels.safetensors" if hard else f"random_{index}.safetensors")
        if not path.is_file():
            made = with_hard_labels(self.proxy_dataset) if hard else self.random_images(index)
            if made.labelling.per == "view":
                save_teachers(self.teachers, path)
            made.save(path)
        return path

    def evaluations(self, condition: Condition) -> dict[Architecture, list[Evaluation]]:
        """Every network, one evaluation for each seed."""
        study, settings = self.study, self.study.config.evaluate_proxy
        space = FixedNetworks()
        architectures = [space.architecture(network) for network in settings.networks]
        train = settings.train_settings(self.proxy_dataset)
        if condition == FULL:
            train = settings.full_data_settings(self.proxy_dataset)
        log = self.folder / f"{condition.replace(' ', '_')}.jsonl"
        found: dict[Architecture, list[Evaluation]] = {a: [] for a in architectures}
        for index in range(settings.num_seeds):
            seed = derive_seed("evaluate proxy", study.config.seed, index)
            factory = self._factory(self.file_of(condition, index), train)
            title = f"{condition}, seed {index + 1} of {settings.num_seeds}"
            done = study.runner.run(title, factory, architectures, log, seed=seed)
            for architecture, evaluation in zip(architectures, done, strict=True):
                found[architecture].append(evaluation)
        return found

    def _factory(
        self, train_on: Path | Literal["search_train"], train: TrainSettings
    ) -> NetworkEvaluatorFactory:
        study, proxy_dataset = self.study, self.proxy_dataset
        spec, num_images = study.splits.spec, len(proxy_dataset.labels)
        if train_on == "search_train":
            num_images = len(study.splits.search_train)
        return NetworkEvaluatorFactory(
            data=study.config.data,
            space=FixedNetworks(),
            scores={},
            settings=train,
            train_on=train_on,
            judged_by="test",
            device=study.config.device,
            fidelity=training_fidelity(train, spec, proxy_dataset.id, num_images),
            keep_confusion=True,
        )


def with_hard_labels(proxy_dataset: ProxyDataset) -> ProxyDataset:
    """The same images with the classes that they were made for as labels."""
    return replace(proxy_dataset, labels=proxy_dataset.classes, labelling=Labelling())


class _Circumstances(TypedDict):
    """What every result states; see `ProxyEvaluation`."""

    proxy_dataset: ProxySummary
    classes: tuple[str, ...]
    settings: Mapping[str, Any]
    num_seeds: int
    hardware: str
    versions: Mapping[str, str]


def _circumstances(evaluation: _ProxyEvaluation) -> _Circumstances:
    study = evaluation.study
    return {
        "proxy_dataset": ProxySummary.of(evaluation.proxy_dataset),
        "classes": evaluation.proxy_dataset.spec.class_names,
        "settings": study.config.resolved["evaluate_proxy"],
        "num_seeds": study.config.evaluate_proxy.num_seeds,
        "hardware": hardware(study.device),
        "versions": versions(),
    }


def _accuracy(evaluation: _ProxyEvaluation) -> ProxyAccuracy:
    """Test accuracies of the fixed networks under every condition."""
    settings = evaluation.study.config.evaluate_proxy
    evaluation.teachers  # noqa: B018 - before hours are spent: a leak ends it
    soft = evaluation.proxy_dataset.has_soft_labels
    conditions = [AS_IS, *([HARD] if soft else []), RANDOM, FULL]
    found = {condition: evaluation.evaluations(condition) for condition in conditions}
    space = FixedNetworks()
    networks = [
        network_accuracies(
            network,
            {name: each[space.architecture(network)] for name, each in found.items()},
            hard_label_weight=settings.hard_label_weight,
        )
        for network in settings.networks
    ]
    train = settings.train_settings(evaluation.proxy_dataset)
    return ProxyAccuracy(
        **_circumstances(evaluation),
        protocol="its own settings" if settings.train is not None else settings.protocol,
        num_steps=train.steps_for(len(evaluation.proxy_dataset.labels)),
        networks=tuple(networks),
        stability=stability(networks),
        seconds={
            name: sum(e.seconds for each in per_network.values() for e in each)
            for name, per_network in found.items()
        },
    )


def _replay(evaluation: _ProxyEvaluation) -> ProxyReplay:
    """The set, herding and random images of the same number as the memory of a learner."""
    study, settings = evaluation.study, evaluation.study.config.evaluate_proxy.replay
    evaluation.teachers  # noqa: B018 - before hours are spent: a leak ends it
    memories = {
        "the proxy data set": [_as_seen(evaluation)] * settings.num_seeds,
        "herding": [_herded(evaluation)] * settings.num_seeds,
        "random images": [evaluation.random_images(index) for index in range(settings.num_seeds)],
    }
    found = []
    for name, each in memories.items():
        results: list[ReplayResult] = []
        for index, memory in enumerate(each):
            with study.display.progress(f"{name}, learner {index + 1}") as progress:
                seed = derive_seed("replay", study.config.seed, index)
                results.append(
                    run_replay(memory, study.splits, settings, seed=seed, progress=progress)
                )
        found.append(
            LearnerMemory(
                name=name,
                after_each_task=tuple(result.after_each_task for result in results),
                final_accuracy=SeedMean.of([r.after_each_task[-1] for r in results]),
                forgetting=SeedMean.of([result.forgetting for result in results]),
                seconds=sum(result.seconds for result in results),
            )
        )
    return ProxyReplay(
        **_circumstances(evaluation),
        memories=tuple(found),
        num_tasks=settings.num_tasks,
        learner=describe(settings.network),
    )


def _as_seen(evaluation: _ProxyEvaluation) -> ProxyDataset:
    """The set as images beside which real ones can stand in a batch: not whitened."""
    proxy_dataset = evaluation.proxy_dataset
    if proxy_dataset.zca is None:
        return proxy_dataset
    whitening = Whitening.fit(evaluation.study.splits.search_train, proxy_dataset.zca)
    return replace(
        proxy_dataset,
        images=whitening.undo(proxy_dataset.training_images()),
        images_per_class=proxy_dataset.images_per_class * proxy_dataset.decode_factor**2,
        decode_factor=1,
        zca=None,
    )


def _herded(evaluation: _ProxyEvaluation) -> ProxyDataset:
    """As many images by herding, with the same kind of labels."""
    real, study = evaluation.study.splits.search_train, evaluation.study
    herding = Herding(network=study.config.evaluate_proxy.replay.embedding)
    with study.display.progress("choosing images by herding") as progress:
        context = replace(evaluation.context, progress=progress, costs=CostMeter())
        task = DistillTask(
            dataset=real,
            images_per_class=evaluation.proxy_dataset.images_per_class,
            generator=make_generator(derive_seed("herded memory", study.config.seed)),
            context=context,
        )
        return distill_and_label(herding, task, evaluation.labels)


def _log_accuracy(tracker: Tracker, result: ProxyAccuracy) -> None:
    for network in result.networks:
        for condition, figure in network.accuracies.items():
            name = f"evaluate_proxy/{network.network}/{condition}"
            tracker.study.metrics({f"{name}/test_accuracy": figure.mean})


def _log_replay(tracker: Tracker, result: ProxyReplay) -> None:
    for memory in result.memories:
        name = f"replay/{memory.name}"
        tracker.study.metrics(
            {
                f"{name}/final_accuracy": memory.final_accuracy.mean,
                f"{name}/forgetting": memory.forgetting.mean,
            }
        )


def _log_files(tracker: Tracker, files: Sequence[Path]) -> None:
    for file in files:
        tracker.study.artifact(file, "evaluate_proxy")
