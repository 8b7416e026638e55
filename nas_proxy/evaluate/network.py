"""Building an architecture's network, training it, and reading its signals."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nas_proxy.devices import is_out_of_memory, release_memory
from nas_proxy.errors import EvaluationError, StudyError, UserError, required
from nas_proxy.evaluate._kept import KeptTraining
from nas_proxy.evaluate.trained_signals import EvaluationData, SignalObserver, step_at
from nas_proxy.interfaces import Builder, TransferSpace, ZeroCostScore
from nas_proxy.knowledge_distillation.prepared import LoadedKnowledgeDistillation, train_student
from nas_proxy.reproducibility import content_hash, derive_seed, isolated_rng, make_generator
from nas_proxy.scores.suite import measure_scores
from nas_proxy.train.loop import TrainResult
from nas_proxy.train.phases import Phase, num_steps_of
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import Architecture, DatasetSpec, Evaluation, Fidelity, Status

# Torch's own advice names no option of ours; by what its errors say, in lower case.
_ADVICE = {
    "view size is not compatible": (
        " Call reshape or flatten in the network, or set train.channels_last: false"
    ),
    "bfloat16": "; bfloat16 does not suit this network: set train.precision: float32",
}
_NUM_VERIFIED = 8  # images on which kept weights have to give the network's own answers


@dataclass(frozen=True)
class Pause:
    """Where trainings stop, to be continued by another evaluation.

    Attributes:
        folder: Where their state lies meanwhile.
        percentage: Of the steps, a checkpoint of the settings; None: they go on to the end.
    """

    folder: Path
    percentage: int | None


@dataclass(frozen=True, eq=False)
class LoadedWarmUp:
    """Steps on other images, which come before a training and have a schedule of their own.

    Attributes:
        training_set: The other images.
        num_steps: How many.
    """

    training_set: TrainingSet
    num_steps: int

    def before(self, phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
        """Those of a training with these steps first, which train what its first phase trains."""
        settings = replace(phases[0].settings, num_steps=self.num_steps, num_epochs=None)
        first = replace(
            phases[0], name="warm-up", settings=settings, training_set=self.training_set
        )
        return (first, *phases)


@dataclass(frozen=True, eq=False)
class NetworkEvaluator:
    """Measures an architecture by building its network.

    Attributes:
        space: At full size; zero-cost scores see its networks like this.
        scores: Zero-cost signals to measure, by the names they are reported under.
        score_images: Normalised images for them, `(n, c, h, w)`, and their classes, `(n,)`.
        spec: The real data set's, at full image size.
        settings: How networks are trained.
        fidelity: What one evaluation costs.
        evaluation_data: What networks are trained on and measured with; None measures zero-cost
            signals alone.
        keep_confusion: Whether evaluations carry the confusion matrix.
        keep: Folder in which the weights of each training stay, and from which a training that was
            killed continues; None keeps nothing.
        knowledge_distillation: What networks learn beside the labels; None: nothing.
        cuda_graph: Do training steps as one CUDA graph each where that can be done.
        pause: Where trainings continue and stop; None: each is done in one go.
        only_seed: Position of the only one of the seeds that is trained; None: all are.
        warm_up: Steps on other images, which come first; None: none.
    """

    space: Builder
    scores: Mapping[str, ZeroCostScore]
    score_images: tuple[Tensor, Tensor]
    spec: DatasetSpec
    settings: TrainSettings
    fidelity: Fidelity
    evaluation_data: EvaluationData | None = None
    keep_confusion: bool = False
    keep: Path | None = None
    knowledge_distillation: LoadedKnowledgeDistillation | None = None
    cuda_graph: bool = False
    pause: Pause | None = None
    only_seed: int | None = None
    warm_up: LoadedWarmUp | None = None

    def evaluate(self, architecture: Architecture, seed: int) -> Evaluation:
        """Measure all signals; whatever goes wrong makes a failed evaluation with its reason.

        One that pauses is `PARTIAL`, with the signals of the checkpoints until there.

        Raises:
            StudyError: If what was kept of a training is damaged or belongs to another one.
            OSError: If it cannot be kept.
        """
        evaluation = Evaluation(architecture, self.fidelity, seed, Status.FAILED)
        started, worked = time.perf_counter(), time.process_time()
        try:
            signals, costs = self._zero_cost(architecture, seed)
            if self.evaluation_data is not None:
                evaluation = self._trained(evaluation)
            evaluation = replace(
                evaluation,
                status=Status.COMPLETE if self._paused_at is None else Status.PARTIAL,
                rung=self._paused_at or 0,
                signals={**signals, **evaluation.signals},
                signal_seconds={**costs, **evaluation.signal_seconds},
            )
        except (Exception, SystemExit) as error:
            if self._state_folder is not None and isinstance(error, StudyError | OSError):
                raise  # the disk's fault, not the architecture's
            evaluation = replace(evaluation, reason=failure_reason(error))
        if evaluation.status is Status.FAILED:
            # Out here: the error holds on to what it was raised among.
            release_memory(self.device)
        return replace(
            evaluation,
            seconds=time.perf_counter() - started,
            core_seconds=time.process_time() - worked,
        )

    @property
    def device(self) -> torch.device:
        """Where networks are built."""
        return self.score_images[0].device

    @property
    def _state_folder(self) -> Path | None:
        return self.keep if self.pause is None else self.pause.folder

    @property
    def _paused_at(self) -> int | None:
        return None if self.pause is None else self.pause.percentage

    def _zero_cost(
        self, architecture: Architecture, seed: int
    ) -> tuple[dict[str, float], dict[str, float]]:
        signals, seconds = measure_scores(
            self.scores,
            lambda: self.space.build(architecture, self.spec).to(self.device),
            *self.score_images,
            seed=derive_seed("weights", seed),
        )
        return {name: _finite(name, value) for name, value in signals.items()}, seconds

    def _trained(self, evaluation: Evaluation) -> Evaluation:
        """The evaluation with the signals of `num_seeds` trainings, averaged."""
        started = time.perf_counter()
        seed_signals, results, confusions = [], [], []
        every = range(self.settings.num_seeds)
        for index in every if self.only_seed is None else (self.only_seed,):
            signals, result, confusion = self._train_once(
                evaluation.architecture, training_seed(evaluation.seed, index)
            )
            seed_signals.append(signals)
            results.append(result)
            confusions.append(confusion)
        confusion_rows = torch.stack(confusions).sum(dim=0).tolist() if self.keep_confusion else ()
        return replace(
            evaluation,
            signals={name: _mean([s[name] for s in seed_signals]) for name in seed_signals[0]},
            seed_signals=tuple(seed_signals),
            train_losses=tuple(
                _mean(step) for step in zip(*(r.losses for r in results), strict=True)
            ),
            phases=results[0].phases,
            confusion=tuple(map(tuple, confusion_rows)),
            signal_seconds={"training": time.perf_counter() - started},
        )

    def _train_once(
        self, architecture: Architecture, seed: int
    ) -> tuple[Mapping[str, float], TrainResult, Tensor]:
        data = required(self.evaluation_data, "evaluation_data")
        space = at_fidelity(self.space, self.settings)
        folder = self._state_folder
        kept = None if folder is None else KeptTraining.of(folder, architecture, seed)
        generator = make_generator(seed, self.device)
        # Everything inside: a candidate's own dropout draws from the global generator too.
        with isolated_rng(seed):
            spec, training_set = data.measured_on.spec, data.training_set
            network = space.build(architecture, spec).to(self.device)
            phases = phases_of(space, architecture, self.settings)
            if self.warm_up is not None:
                phases = self.warm_up.before(phases)
            num_steps = num_steps_of(phases, len(training_set))
            measurements = None if kept is None else kept.measurements_file
            observer = SignalObserver(network, data, self.settings, num_steps, seed, measurements)
            checkpoint = None if kept is None else kept.checkpoint(self._identity(phases))
            knowledge_distillation, seconds = self.knowledge_distillation, 0.0
            if knowledge_distillation is not None:
                knowledge_distillation, seconds = knowledge_distillation.after_generations(
                    lambda: space.build(architecture, spec).to(self.device),
                    training_set,
                    phases,
                    seed,
                    checkpoint,
                )
            paused_at = self._paused_at
            result = train_student(
                knowledge_distillation,
                network,
                training_set,
                phases,
                generator,
                observer,
                checkpoint=checkpoint,
                until=None if paused_at is None else step_at(paused_at, num_steps),
                graphed=self.cuda_graph,
            )
            if paused_at is None:
                signals, measured = observer.finish(result)
                confusion = measured.confusion
            else:
                signals, confusion = observer.at_checkpoints(result), torch.empty(0)
        if self.keep is not None and kept is not None:
            kept.save(network)
            with isolated_rng(derive_seed("restored", seed)):
                fresh = space.build(architecture, spec).to(self.device)
            shown = torch.arange(min(_NUM_VERIFIED, len(training_set)), device=self.device)
            kept.verify(network, fresh, training_set.batch(shown)[0])
        signals["train_seconds"] = seconds + result.train_seconds
        signals["images_seen"] = float(result.images_seen)
        return signals, result, confusion

    def _identity(self, phases: Sequence[Phase]) -> str:
        """What the weights after a training depend on, beside architecture and seed."""
        recorded = [[phase.name, asdict(phase.settings)] for phase in phases]
        taught = (
            [] if self.knowledge_distillation is None else [self.knowledge_distillation.identity]
        )
        return content_hash(self.fidelity.to_json(), recorded, *taught)


def training_seed(seed: int, index: int = 0) -> int:
    """The seed of one of the trainings of an evaluation with `seed`."""
    return derive_seed("training", seed, index)


def at_fidelity(space: Builder, settings: TrainSettings) -> Builder:
    """The space as trainings with `settings` see it: with the options that they reduce."""
    if not settings.space_fidelity:
        return space
    return replace(space, **dict(settings.space_fidelity))  # type: ignore[type-var]


def phases_of(
    space: Builder, architecture: Architecture, settings: TrainSettings
) -> tuple[Phase, ...]:
    """How the network of an architecture is trained."""
    if isinstance(space, TransferSpace):
        return space.training_phases(architecture, settings)
    return (Phase("training", settings),)


def failure_reason(error: BaseException) -> str:
    """Why an evaluation failed, on one line."""
    text = (str(error).strip() or "no message").splitlines()[0]
    if isinstance(error, EvaluationError | UserError):
        return text
    if is_out_of_memory(error):
        return f"does not fit in memory: {text}"
    advice = next((words for sign, words in _ADVICE.items() if sign in text.lower()), "")
    return f"{type(error).__name__}: {text}{advice}"


def _finite(name: str, value: float) -> float:
    number = float(value)  # a plug-in may answer with a tensor, which the log could not hold
    if not math.isfinite(number):
        raise EvaluationError(f"signal {name} is not finite ({number})")
    return number


def _mean(values: list[float] | tuple[float, ...]) -> float:
    return sum(values) / len(values)
