"""After the ranking is judged: the best architectures are trained fully and become model files.

The search-validation images choose everything: which training of an architecture is exported, and
which architecture is recommended. The test images are looked at once, after that.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from nas_proxy.compress.result import CompressionResult
from nas_proxy.core.environment import hardware, versions
from nas_proxy.core.files import write_atomically
from nas_proxy.data.transforms import resize
from nas_proxy.errors import StudyError, required
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory
from nas_proxy.evaluate.final_test import FinalTestFactory, kept_network
from nas_proxy.evaluate.latency import Latency, measure_latency
from nas_proxy.evaluate.network import at_fidelity
from nas_proxy.export.folder import ExportedFile, export_model
from nas_proxy.export.model_file import ModelOrigin
from nas_proxy.interfaces import Builder, TransferSpace
from nas_proxy.knowledge_distillation.prepared import KnowledgeDistillation
from nas_proxy.networks.catalogue import FixedNetworks
from nas_proxy.report.retrain_figure import write_curves
from nas_proxy.reproducibility import content_hash, derive_seed
from nas_proxy.retrain.card import ModelCard
from nas_proxy.retrain.contenders import Contender, Drawn, best_of, median_of, resnet_of_size
from nas_proxy.retrain.result import (
    ModelFiles,
    RetrainResult,
    RetrainRow,
    TrainedContender,
    best_first,
    comparison,
    verdict,
)
from nas_proxy.retrain.settings import RetrainSettings
from nas_proxy.search.result import SearchResult
from nas_proxy.statistics.accuracy import over_images, over_seeds
from nas_proxy.study.compressed import compress_recommended
from nas_proxy.study.config import StudyConfig
from nas_proxy.study.context import StudyContext
from nas_proxy.study.knowledge_distillation import PreparedDistillation, retraining_distillation
from nas_proxy.study.layout import StudyLayout
from nas_proxy.study.logged_datasets import real_images
from nas_proxy.study.logged_models import log_compressed, log_contender, log_model
from nas_proxy.study.plan import StagePlan
from nas_proxy.study.sizes import network_sizes
from nas_proxy.study.sources import IMAGES, table_identity
from nas_proxy.study.stage import Condition, Section, Source, Stage
from nas_proxy.study.stage_folder import recorded_key
from nas_proxy.study.stage_plans import retraining_plan
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture, DatasetSpec, Evaluation
from nas_proxy.validate.values import Points, RankReport

_VALIDATES = Condition("if there is one", lambda config: config.validation is not None)


class Retrain(Stage):
    """Writes `retrain.json` and a folder for each model, the recommended one in `champion`."""

    name = "retrain"
    reads = (
        Section(name="retrain"),
        Section(name="validate", continued=("num_architectures", "stop"), when=_VALIDATES),
        # A longer search may find a better one.
        Section(name="search", keys=("n_trials",), growing="n_trials"),
    )
    sources = (
        IMAGES,
        Source(
            name="trials",
            stage="search",
            identity=lambda study: recorded_key(study.layout.stage("search")),
        ),
        Source(
            name="validation",
            stage="validate",
            identity=lambda study: content_hash(
                recorded_key(study.layout.stage("validate")),
                table_identity(required(study.config.validation, "validate").reference.table),
            ),
            when=_VALIDATES,
        ),
        # More of them may have another median.
        Source(
            name="architectures that judged",
            stage="validate",
            identity=lambda study: content_hash(
                [point.architecture_id for point in Points.read(study.layout.points).points]
            ),
            when=_VALIDATES,
            continued=True,
        ),
    )
    not_wanted = "the config has no section retrain; nothing is trained for use"

    def writes(self, layout: StudyLayout) -> Iterable[Path]:
        """What a user takes from here."""
        return (layout.retrain_result, *layout.retrain_pictures(), *layout.model_files())

    def is_wanted(self, config: StudyConfig) -> bool:
        """Whether networks are trained for use."""
        return config.retrain is not None

    def plan(self, study: StudyContext) -> StagePlan:
        """Every full training."""
        return retraining_plan(study, required(study.config.retrain, "the section retrain"))

    def run(self, study: StudyContext, folder: Path) -> None:
        """Train, choose, test and export."""
        settings = required(study.config.retrain, "the section retrain")
        result = _Retraining(study, settings).run()
        result.write(study.layout.retrain_result)
        study.display.say(f"retrain: {result.verdict}")
        study.display.say(f"model: {study.layout.model(0).resolve()}")


@dataclass(frozen=True)
class _Retraining:
    """One retraining at work."""

    study: StudyContext
    settings: RetrainSettings

    @cached_property
    def spec(self) -> DatasetSpec:
        """Of the images as networks see them."""
        spec, size = self.study.splits.spec, self.settings.train.image_size
        return spec if size is None else spec.with_image_size(size)

    @cached_property
    def seeds(self) -> list[int]:
        """Of the trainings of each network."""
        return [
            derive_seed("retrain", self.study.config.seed, i)
            for i in range(self.settings.num_seeds)
        ]

    @property
    def keep(self) -> Path:
        """The weights of every training."""
        return self.study.layout.trained_weights

    def run(self) -> RetrainResult:
        best, others = self._contenders()
        ready = self._knowledge_distillation(best[0].architecture)
        trained = self._train([*best, *others], ready.knowledge_distillation)
        ranked = best_first([each for each in trained if each.contender.role == "best"])
        if not ranked:
            reasons = {reason for each in trained for reason in each.failures}
            raise StudyError(
                f"none of the retrained architectures could be trained ({'; '.join(reasons)}); "
                "change retrain.train or retrain.knowledge_distillation, and pass --force"
            )
        compared = [each for each in trained if each.contender.role != "best"]
        failed = [each for each in trained if each.contender.role == "best" and not each.complete]
        # Everything has been chosen. From here on the test images are seen, once.
        ranked, compared = self._test(ranked), self._test(compared)
        for of_a_shorter_search in self.study.layout.stage("retrain").glob("runner_up_*"):
            shutil.rmtree(of_a_shorter_search)
        models = [self._model(each, place, ready) for place, each in enumerate(ranked)]
        versions = self._compressed(ranked[0])
        shutil.rmtree(self.keep / "unfinished", ignore_errors=True)
        rows = (*models, *(each.row() for each in (*failed, *compared)))
        images = real_images(self.study.config, self.study.splits)
        for row in rows:
            log_contender(self.study.tracker, row, images)
        figures = write_curves(rows, self.study.layout.stage("retrain"))
        for figure in figures:
            self.study.tracker.study.artifact(figure, "figures")
        finished = [each for each in compared if each.complete]
        return RetrainResult(
            verdict=verdict(ranked[0], finished),
            num_seeds=self.settings.num_seeds,
            rows=rows,
            knowledge_distillation=ready.record,
            compressed=versions,
            comparisons=tuple(comparison(ranked[0], each) for each in finished),
            test_images=len(self.study.splits.test),
            hardware=hardware(self.study.device),
        )

    def _compressed(self, trained: TrainedContender) -> CompressionResult | None:
        """Smaller versions of the recommended network, beside its files."""
        if self.settings.compress is None:
            return None
        architecture = trained.contender.architecture
        settings = self._train_settings(architecture)
        network = kept_network(
            self.study.config.space, architecture, self.spec, settings, self.keep,
            trained.chosen.seed,
        )  # fmt: skip
        made = compress_recommended(
            self.study,
            self.settings.compress.after(settings),
            network.to(self.study.device),
            self.spec.image_shape[1],
        )
        folder = self.study.layout.compressed
        log_compressed(self.study.tracker, trained.row(), made.versions, folder)
        return made

    def _contenders(self) -> tuple[list[Contender], list[Contender]]:
        found = SearchResult.read(self.study.layout.search_result).trials
        # With costs as objectives, another way to write a network down may be the cheaper one.
        by_costs = self.settings.pick is not None
        trials = [trial for trial in found if by_costs or not trial.same_as]
        drawn = self._uniform_sample()
        best = best_of(trials, drawn, self.settings)
        others = []
        if "median" in self.settings.comparisons:
            median = median_of(trials, drawn, best)
            if median is None:
                self.study.display.say("retrain: no trial is left to compare with as the median")
            else:
                others.append(median)
        if "resnet18" in self.settings.comparisons:
            num_params = self._sizes(best[0].architecture)["num_params"]
            others.append(resnet_of_size(int(num_params), self.spec))
        return best, others

    def _uniform_sample(self) -> list[Drawn]:
        """The validation's uniformly drawn architectures with the proxy's score of each."""
        layout = self.study.layout
        if self.study.config.validation is None:
            return []
        judged = RankReport.read(layout.rank_report).judged.name
        return [
            Drawn(point.architecture, point.description, point.scores[judged])
            for point in Points.read(layout.points).points
        ]

    def _knowledge_distillation(self, architecture: Architecture) -> PreparedDistillation:
        settings = self.settings.knowledge_distillation
        if settings is None:
            return PreparedDistillation()
        folder, job = self.study.layout.retrain_teachers, (architecture, self.seeds[0])
        return retraining_distillation(
            self.study, settings, folder, self._factory(architecture), job
        )

    def _train(
        self, contenders: Sequence[Contender], knowledge_distillation: KnowledgeDistillation | None
    ) -> list[TrainedContender]:
        log = self.study.layout.stage_log("retrain", "training")
        found: dict[Architecture, list[Evaluation]] = {}
        for is_fixed, what in ((False, "the space's networks"), (True, "networks made by hand")):
            chosen = [c.architecture for c in contenders if _is_fixed(c.architecture) == is_fixed]
            if not chosen:
                continue
            jobs = [(architecture, seed) for architecture in chosen for seed in self.seeds]
            factory = replace(
                self._factory(chosen[0]), knowledge_distillation=knowledge_distillation
            )
            for evaluation in self.study.runner.run_jobs(
                f"training fully: {what}", factory, jobs, log
            ):
                found.setdefault(evaluation.architecture, []).append(evaluation)
        return [
            TrainedContender(
                c, self._sizes(c.architecture), self.spec.class_names, found[c.architecture]
            )
            for c in contenders
        ]

    def _factory(self, architecture: Architecture) -> NetworkEvaluatorFactory:
        settings = self._train_settings(architecture)
        factory = self.study.factories.on_full_data(settings, "search_val")
        return replace(factory, space=self._space(architecture), keep=self.keep)

    def _test(self, trained: Sequence[TrainedContender]) -> list[TrainedContender]:
        """The same with every complete training measured on the test images."""
        log, tested = self.study.layout.stage_log("retrain", "test"), []
        for each in trained:
            architecture = each.contender.architecture
            trainings = self._factory(architecture)
            factory = FinalTestFactory(
                data=trainings.data,
                space=trainings.space,
                settings=trainings.settings,
                device=trainings.device,
                fidelity=trainings.fidelity,
                keep=self.keep,
            )
            jobs = [(architecture, training.seed) for training in each.complete]
            tests = self.study.runner.run_jobs("testing", factory, jobs, log)
            lost = next((test for test in tests if not test.complete), None)
            if lost is not None:
                raise StudyError(
                    f"a network could not be measured on the test images ({lost.reason}); "
                    f"delete {log} and run the same command again"
                )
            tested.append(replace(each, tests=tests))
        return tested

    def _model(
        self, trained: TrainedContender, place: int, ready: PreparedDistillation
    ) -> RetrainRow:
        """Export the chosen training, and log it; `place` 0 is the champion's."""
        contender, chosen = trained.contender, trained.chosen
        path = self.study.layout.model(place)
        space, settings = self.study.config.space, self._train_settings(contender.architecture)
        network = kept_network(
            space, contender.architecture, self.spec, settings, self.keep, chosen.seed
        )
        at_size = at_fidelity(space, settings)
        origin = ModelOrigin.of(at_size, contender.architecture, self.spec)  # type: ignore[arg-type]
        images = resize(self.study.splits.search_val.images, self.spec.image_shape[1])
        files = export_model(network, origin, images, path, self.settings.formats)
        card = self._card(trained, origin, files, self._latencies(network))
        licences = {**card.licences, **ready.licences}
        card = replace(card, licences=licences, knowledge_distillation=ready.record)
        write_atomically(path / "card.json", json.dumps(card.to_json(), indent=1))
        write_atomically(path / "card.md", card.to_markdown())
        position = trained.complete.index(chosen)
        row = trained.row(ModelFiles(path.name, files, position, card.test_accuracy))
        log_model(self.study, row, card, path, images[:2])
        return row

    def _card(
        self,
        trained: TrainedContender,
        origin: ModelOrigin,
        files: Sequence[ExportedFile],
        latencies: Sequence[Latency],
    ) -> ModelCard:
        chosen = trained.chosen
        test = next(each for each in trained.tests if each.seed == chosen.seed)
        num_correct = sum(row[label] for label, row in enumerate(test.confusion))
        num_images = sum(map(sum, test.confusion))
        accuracy = trained.test_accuracy
        return ModelCard(
            study_name=self.study.config.study_name,
            description=trained.contender.description,
            origin=origin,
            test_accuracy=over_images(num_correct, num_images),
            num_test_images=num_images,
            over_seeds=accuracy,
            over_seeds_interval=over_seeds(accuracy),
            val_accuracy=chosen.signals["val_accuracy"],
            num_params=int(trained.sizes["num_params"]),
            flops=int(trained.sizes["flops"]) if "flops" in trained.sizes else None,
            latencies=latencies,
            licences={"data": self.spec.licence, **self._licence_of_weights(trained.contender)},
            recipe=self.study.config.resolved["retrain"],
            train_seconds=chosen.signals["train_seconds"],
            hardware=hardware(self.study.device),
            files=files,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=versions(),
            base_rate=trained.base_rate,
        )

    def _licence_of_weights(self, contender: Contender) -> dict[str, str]:
        """Where the training started from, if that has terms."""
        space = self.study.config.space
        if not isinstance(space, TransferSpace):
            return {}
        record = space.weights_record(contender.architecture)
        return {f"weights ({record.source})": record.licence} if record.licence else {}

    def _latencies(self, network: nn.Module) -> list[Latency]:
        """On one CPU thread, and on the study's GPU if it has one."""
        devices = dict.fromkeys((torch.device("cpu"), self.study.device))
        found = [
            measure_latency(network.to(device), self.spec.image_shape, device=device)
            for device in devices
        ]
        network.cpu()
        return found

    def _space(self, architecture: Architecture) -> Builder:
        return FixedNetworks() if _is_fixed(architecture) else self.study.config.space

    def _train_settings(self, architecture: Architecture) -> TrainSettings:
        """The full recipe; a network that is in no space has none of its options to reduce."""
        train = self.settings.train
        return replace(train, space_fidelity={}) if _is_fixed(architecture) else train

    def _sizes(self, architecture: Architecture) -> dict[str, float]:
        space = at_fidelity(self._space(architecture), self._train_settings(architecture))
        images = resize(self.study.splits.search_train.images[:2], self.spec.image_shape[1])

        def say(words: str) -> None:
            self.study.display.say(f"retrain: {words}")

        return network_sizes(space, architecture, self.spec, images.float(), say=say)


def _is_fixed(architecture: Architecture) -> bool:
    return architecture.space == FixedNetworks.name
