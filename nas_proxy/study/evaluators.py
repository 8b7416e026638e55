"""How a study measures architectures: which evaluators it has, and one way to run them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.sources import DataSettings
from nas_proxy.errors import PluginError, StudyError, UserError
from nas_proxy.evaluate.executors import EvaluatorFactory, Executor, evaluate_jobs
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory, WarmUp, training_fidelity
from nas_proxy.evaluate.log import EvaluationLog, Failures
from nas_proxy.interfaces import SearchSpace, ZeroCostScore
from nas_proxy.registry import SCORES
from nas_proxy.scores.signals import base_signal, trained_among, zero_cost_among
from nas_proxy.study.arithmetic import StudyArithmetic
from nas_proxy.study.display import Display
from nas_proxy.study.in_flight import in_flight
from nas_proxy.study.logs import StudyLogs
from nas_proxy.teachers.labelling import teacher_files
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture, DatasetSpec, Evaluation, Fidelity, Progress

_FIRST_LOOK = 5  # evaluations before it is said that most fail

TrainOn = Literal["proxy", "full_data", "nothing"]
Split = Literal["search_val", "test"]


@dataclass(frozen=True)
class EvaluatorFactories:
    """Descriptions of the evaluators that a study needs, on its images and its space.

    Attributes:
        data: The real images, as workers find them.
        spec: Of these.
        num_train_images: How many of them are trained on.
        space: Where architectures come from.
        device: Such as `cpu`.
        proxy_file: The study's proxy data set; it need not be there before it is asked for.
        arithmetic: Decides the precision and the memory layout that settings leave open.
        cuda_graph: Do training steps as one CUDA graph each where that can be done.
        num_slots: Processes that evaluate on that device at the same time.
    """

    data: DataSettings
    spec: DatasetSpec
    num_train_images: int
    space: SearchSpace
    device: str
    proxy_file: Path
    arithmetic: StudyArithmetic
    cuda_graph: bool = False
    num_slots: int = 1

    def measuring(
        self,
        signals: Sequence[str],
        *,
        train_on: TrainOn,
        settings: TrainSettings,
        score_images: Literal["real", "distilled"] = "real",
        warm_up: int = 0,
    ) -> NetworkEvaluatorFactory:
        """Measures `signals`; trains only if one of them needs it.

        Args:
            signals: Trained and zero-cost ones.
            train_on: What is trained on.
            settings: How.
            score_images: What zero-cost scores look at.
            warm_up: Steps on the distilled set before those on the full data.
        """
        trained = trained_among(signals)
        if trained and train_on == "proxy":
            factory = self.on_proxy_dataset(self.proxy_file, settings)
        elif trained and train_on == "full_data":
            factory = self._warmed_up(self.on_full_data(settings, "search_val"), warm_up)
        else:
            fidelity = Fidelity("", 0, 0, self.spec.image_shape[1])
            factory = self._factory(settings, None, fidelity)
        return replace(
            factory,
            scores=zero_cost_scores(signals),
            requested=tuple(base_signal(signal) for signal in trained),
            teachers=self._teachers(trained),
            score_on=self.proxy_file if score_images == "distilled" else None,
        )

    def on_proxy_dataset(self, file: Path, settings: TrainSettings) -> NetworkEvaluatorFactory:
        """Trains on any proxy data set of the study's images, such as a control."""
        proxy_dataset = ProxyDataset.load(file)
        proxy_dataset.check_source(self.spec)
        num_images = len(proxy_dataset.labels)
        fidelity = training_fidelity(settings, self.spec, proxy_dataset.id, num_images)
        return self._factory(settings, file, fidelity)

    def on_full_data(self, settings: TrainSettings, judged_by: Split) -> NetworkEvaluatorFactory:
        """Trains on all search-training images."""
        spec = self.spec
        fidelity = training_fidelity(settings, spec, spec.source_hash, self.num_train_images)
        return replace(self._factory(settings, "search_train", fidelity), judged_by=judged_by)

    def _warmed_up(
        self, factory: NetworkEvaluatorFactory, num_steps: int
    ) -> NetworkEvaluatorFactory:
        """With steps on the distilled set first."""
        if not num_steps:
            return factory
        proxy_dataset, fidelity = ProxyDataset.load(self.proxy_file), factory.fidelity
        if proxy_dataset.zca is not None:
            raise StudyError(
                "the distilled images are ZCA-whitened, and those of the stream are not; leave "
                "warm_up out, or distil with zca: null"
            )
        fidelity = replace(
            fidelity,
            dataset_id=f"{proxy_dataset.id}, {fidelity.dataset_id}",
            num_steps=fidelity.num_steps and num_steps + fidelity.num_steps,
        )
        return replace(factory, fidelity=fidelity, warm_up=WarmUp(self.proxy_file, num_steps))

    def _factory(
        self,
        settings: TrainSettings,
        train_on: Path | Literal["search_train"] | None,
        fidelity: Fidelity,
    ) -> NetworkEvaluatorFactory:
        if train_on is not None:
            settings = self.arithmetic.settle(settings)
        return NetworkEvaluatorFactory(
            data=self.data,
            space=self.space,
            scores={},
            settings=settings,
            train_on=train_on,
            device=self.device,
            fidelity=fidelity,
            cuda_graph=self.cuda_graph,
            num_slots=self.num_slots,
        )

    def _teachers(self, trained: Sequence[str]) -> tuple[Path, ...]:
        """Files of the teachers that lie beside the proxy data set, if a signal needs them."""
        if "teacher_agreement" not in map(base_signal, trained):
            return ()
        found = teacher_files(self.proxy_file)
        if not found:
            raise StudyError(
                "the signal teacher_agreement needs a teacher, but the distilled set has none; set "
                "distill.labels.kind to soft and name distill.labels.teachers, or leave the signal "
                "out"
            )
        return found


@dataclass(frozen=True)
class EvaluationRunner:
    """Evaluates architectures where the study evaluates; what is on disk is not done again.

    Attributes:
        executor: Where evaluations run.
        logs: Where they are kept.
        display: Where a person looks.
        seed: Of every evaluation that names no other.
        in_flight: File of what they cost while they have no result.
    """

    executor: Executor
    logs: StudyLogs
    display: Display
    seed: int
    in_flight: Path

    def run(
        self,
        title: str,
        factory: EvaluatorFactory,
        architectures: Sequence[Architecture],
        log: Path,
        *,
        seed: int | None = None,
    ) -> list[Evaluation]:
        """Evaluate each architecture once, one evaluation for each, in their order."""
        chosen = self.seed if seed is None else seed
        jobs = [(architecture, chosen) for architecture in architectures]
        return self.run_jobs(title, factory, jobs, log)

    def run_jobs(
        self,
        title: str,
        factory: EvaluatorFactory,
        jobs: Sequence[tuple[Architecture, int]],
        log: Path,
    ) -> list[Evaluation]:
        """The same for architectures with a seed each."""
        kept = self.logs.evaluations(log)
        workers = self.executor.num_workers
        with (
            self.display.progress(title) as progress,
            in_flight(self.in_flight, title, [kept], workers),
        ):
            alarm = _Alarm(title, jobs, kept, self.display, progress)
            return evaluate_jobs(self.executor, factory, jobs, kept, alarm)


@dataclass
class _Alarm:
    """Shows progress, and says as soon as it is seen that most evaluations fail, and why.

    Attributes:
        title: Of the work.
        jobs: All of it.
        log: Where results arrive.
        display: Where it is said.
        progress: Where it is shown how far the work is.
        num_known: Results that were there at the beginning: nothing is said again of these alone.
        is_said: Whether it was.
    """

    title: str
    jobs: Sequence[tuple[Architecture, int]]
    log: EvaluationLog
    display: Display
    progress: Progress
    num_known: int = -1
    is_said: bool = False

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self.progress(done, total, note)
        if self.num_known < 0:
            self.num_known = done
        if self.is_said or done == self.num_known or done < min(total, _FIRST_LOOK):
            return
        found = [self.log.get(*job) for job in dict.fromkeys(self.jobs)]
        failures = Failures.among([each for each in found if each is not None])
        if failures.most:
            self.is_said = True
            self.display.say(f"{self.title}: {failures}")


def zero_cost_scores(signals: Sequence[str]) -> dict[str, ZeroCostScore]:
    """The plug-ins behind those `signals` that need no training, by signal."""
    return {name: _zero_cost_score(name) for name in zero_cost_among(tuple(signals))}


def _zero_cost_score(name: str) -> ZeroCostScore:
    kind = SCORES.get(name)
    try:
        return kind()
    except UserError:
        raise
    except (TypeError, ValueError) as error:  # such as options without defaults, which none gets
        raise PluginError(f"the score {name!r} cannot be made: {error}") from error
