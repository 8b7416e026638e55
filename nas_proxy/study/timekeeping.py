"""Timing what a study's tasks are made of: a few steps of a few random candidates each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace

import torch

from nas_proxy.distill.timing import DistillCost, DistillTiming
from nas_proxy.errors import EvaluationError, UserError, required
from nas_proxy.evaluate.timing import ScoresTiming, TrainingCost, TrainingTiming
from nas_proxy.interfaces import Builder, CalibrationSample, Distiller, TransferSpace
from nas_proxy.networks.catalogue import FixedNetworks
from nas_proxy.processes import WorkerLostError, WorkerPool
from nas_proxy.reproducibility import derive_seed, isolated_rng, make_generator
from nas_proxy.retrain.contenders import resnet_of_size
from nas_proxy.statistics.words import duration
from nas_proxy.study.context import StudyContext
from nas_proxy.study.estimate import Timed
from nas_proxy.study.evaluators import zero_cost_scores
from nas_proxy.study.plan import DistillUnit, EvaluationUnit, SingleUnit, StagePlan
from nas_proxy.teachers.training import TeacherBuilder
from nas_proxy.train.schedules import image_size_at
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.teacher_settings import TeacherSettings
from nas_proxy.types import Architecture, Progress

_MOST_CANDIDATES = 32
_DISTILL_SHARE = 0.25  # of the time, for the iterations of the distiller
_OVERTIME = 1.5  # times the time, after which what still runs is ended
_JOB_SECONDS = 2.0  # for the steps of one candidate, if the time allows
_NORM_IMAGES = 512  # to which more training images make no difference


@dataclass(frozen=True)
class Kind:
    """Trainings of which one step takes the same, however many steps they have.

    Attributes:
        settings: With everything that makes no step dearer at its default.
        num_images: How many are trained on, as far as that makes a difference.
        network: Whose; see `EvaluationUnit`.
    """

    settings: TrainSettings
    num_images: int
    network: object


Job = TrainingTiming | ScoresTiming | DistillTiming
Answer = TrainingCost | dict[str, float] | DistillCost | str


def _answer(job: Job | None) -> Answer:
    """In a worker: what a job takes, or why it cannot be said; nothing, as soon as it is there."""
    if job is None:
        return ""
    try:
        return job.run()
    except EvaluationError as error:
        return str(error)


@dataclass
class Timekeeper:
    """Times what plans ask for, within a given time, and says what a unit costs.

    Attributes:
        study: Whose.
        seconds: For all of it; what has not begun by then is left out.
        num_workers: Processes that time at the same time, as many as the study trains in.
        progress: Told how far it is.
        failures: Reasons of candidates that could not be trained, each once.
        num_candidates: How many were timed.
    """

    study: StudyContext
    seconds: float
    num_workers: int
    progress: Progress
    failures: dict[str, int] = field(default_factory=dict)
    num_candidates: int = 0

    def __post_init__(self) -> None:
        """Nothing was timed yet."""
        self._trainings: dict[Kind, list[TrainingCost]] = {}
        self._scores: dict[str, list[float]] = {}
        self._distilling: DistillCost | str = "it was not timed"
        self._reasons: dict[Kind, str] = {}
        self._started = time.monotonic()
        self._durations: dict[Kind | None, list[float]] = {}

    @property
    def clock_share(self) -> float:
        """Seconds of the clock for each of a core, over all trainings that were timed."""
        costs = [cost for found in self._trainings.values() for cost in found]
        return statistics.fmean(cost.clock_share for cost in costs) if costs else 1.0

    # Measuring

    def measure(self, plans: Iterable[StagePlan]) -> None:
        """Time everything that is left to do in `plans`, as far as the time allows."""
        plans = list(plans)
        units = [unit for plan in plans for t in plan.tasks if t.left for unit in t.single_units]
        units += [s.unit for plan in plans for s in plan.savings if s.unit is not None]
        evaluations = [unit for unit in units if isinstance(unit, EvaluationUnit)]
        trained = [unit for unit in evaluations if unit.train is not None]
        kinds = list(dict.fromkeys(self._kind(u) for u in trained if not _is_unknown(u)))
        scores = tuple(dict.fromkeys(name for u in evaluations for name in u.scores))
        for kind in kinds:  # where it has to time first, that is no part of the time here
            if not isinstance(kind.network, TeacherSettings):
                self.study.arithmetic.settle(kind.settings)
        with WorkerPool(_answer, self.num_workers) as pool:
            self.progress(0, 1, "workers start")
            _result(pool.submit(None))
            self._started = time.monotonic()
            if any(isinstance(unit, DistillUnit) for unit in units):
                self._time_distilling(pool)
            if kinds or scores:
                self._time_candidates(pool, kinds, scores)

    @property
    def _spent(self) -> float:
        return time.monotonic() - self._started

    def _time_distilling(self, pool: WorkerPool[Job | None, Answer]) -> None:
        self.progress(0, 1, "the distiller")
        config, limit = self.study.config, _DISTILL_SHARE * self.seconds
        cache = self.study.layout.cache
        job = DistillTiming(
            data=config.data,
            distiller=config.distiller,
            images_per_class=config.images_per_class,
            labels=config.labels,
            calibration=self._any_sample(),
            space=config.space if config.distiller.draws_from_space else None,
            cache=cache if cache.is_dir() else None,
            seed=config.seed,
            device=config.device,
            num_threads=config.num_threads,
            seconds=limit,
        )
        future = pool.submit(job)
        # Its worker has to start and to load the images first.
        allowed = 2 * limit + min(10.0, self.seconds / 4)
        if not wait([future], timeout=allowed).done:
            future.cancel()
            self._distilling = _slow_words(config.distiller, limit)
            return
        found = _result(future)
        self._distilling = found if isinstance(found, DistillCost | str) else "it was not timed"

    def _any_sample(self) -> CalibrationSample | None:
        """The calibration sample with references that nobody measured: time does not ask."""
        sample = self.study.calibration_sample
        if sample is None or not self.study.config.distiller.needs_calibration:
            return None
        n = len(sample.architectures)
        references = torch.rand(n, generator=make_generator(0)).tolist()
        return CalibrationSample(
            space=self.study.config.space,
            architectures=tuple(sample.architectures),
            references=tuple(references),
        )

    def _time_candidates(
        self, pool: WorkerPool[Job | None, Answer], kinds: Sequence[Kind], scores: tuple[str, ...]
    ) -> None:
        """Candidate after candidate, each in every way, until the time is up."""
        space = self.study.config.space
        generator = make_generator(derive_seed("plan", self.study.config.seed))
        drawn = [space.sample(generator) for _ in range(_MOST_CANDIDATES)]
        keys: list[Kind | None] = [*kinds, *([None] if scores else [])]
        queue = [(key, number) for number in range(_MOST_CANDIDATES) for key in keys]
        self._trainings = {kind: [] for kind in kinds}
        left = max(0.0, self.seconds - self._spent)
        share = min(_JOB_SECONDS, left * self.num_workers / (4 * len(keys)))
        waiting: dict[Future[Answer], tuple[Kind | None, int, float]] = {}
        timed: set[int] = set()
        while queue or waiting:
            while queue and len(waiting) < self.num_workers:
                key, number = queue.pop(0)
                if not self._fits(key, number):
                    continue
                job = self._job(key, drawn[number], scores, share)
                if job is not None:
                    waiting[pool.submit(job)] = key, number, time.monotonic()
            allowed = max(0.0, _OVERTIME * self.seconds - self._spent)
            finished = wait(waiting, timeout=allowed, return_when=FIRST_COMPLETED).done
            if waiting and not finished:
                for future, (key, _, begun) in waiting.items():
                    future.cancel()
                    spent = time.monotonic() - begun
                    self._fail(key, f"three steps of a candidate take more than {spent:.0f} s")
                break
            for future in finished:
                key, number, begun = waiting.pop(future)
                self._durations.setdefault(key, []).append(time.monotonic() - begun)
                if self._note(key, _result(future)):
                    timed.add(number)
            self.progress(min(round(self._spent), round(self.seconds)), round(self.seconds))
        self.num_candidates = len(timed)

    def _fits(self, key: Kind | None, number: int) -> bool:
        """Whether there is time for another candidate; the first one may take all that is left."""
        known = self._durations.get(key)
        if number == 0 or known is None:
            return self._spent < self.seconds
        return self._spent + statistics.fmean(known) < self.seconds

    def _job(
        self, key: Kind | None, architecture: Architecture, scores: tuple[str, ...], share: float
    ) -> Job | None:
        study, config = self.study, self.study.config
        common = {
            "spec": study.splits.spec,
            "device": config.device,
            "num_threads": config.num_threads if config.search.executor == "serial" else 1,
        }
        space: Builder = config.space
        is_teacher = key is not None and isinstance(key.network, TeacherSettings)
        if key is None:
            named = zero_cost_scores(scores)
            return ScoresTiming(space=space, architecture=architecture, scores=named, **common)  # type: ignore[arg-type]
        settings = key.settings
        if isinstance(key.network, TeacherSettings):
            space = TeacherBuilder(key.network)  # reduced as it says itself
            settings = replace(settings, space_fidelity={})
        elif key.network == "resnet18":
            try:
                with isolated_rng(0):
                    network = space.build(architecture, study.splits.spec)
            except Exception as error:  # noqa: BLE001 - a space's own code may raise anything
                self._fail(key, str(error))
                return None
            size = sum(parameter.numel() for parameter in network.parameters())
            space, architecture = (
                FixedNetworks(),
                resnet_of_size(size, study.splits.spec).architecture,
            )
        return TrainingTiming(
            space=space,
            architecture=architecture,
            settings=settings if is_teacher else self.study.arithmetic.settle(settings),
            num_images=key.num_images,
            seconds=share,
            **common,  # type: ignore[arg-type]
        )

    def _note(self, key: Kind | None, found: Answer) -> bool:
        """Keep an answer; whether it is a figure."""
        if isinstance(found, str):
            self._fail(key, found)
            return False
        if isinstance(found, TrainingCost) and key is not None:
            self._trainings[key].append(found)
        elif isinstance(found, dict):
            for name, seconds in found.items():
                self._scores.setdefault(name, []).append(seconds)
        return True

    def _fail(self, key: Kind | None, reason: str) -> None:
        self.failures[reason] = self.failures.get(reason, 0) + 1
        if key is not None:
            self._reasons.setdefault(key, reason)

    # What it was found to cost

    def price(self, unit: SingleUnit) -> Timed | str:
        """What one unit costs, or why that is not known."""
        if isinstance(unit, DistillUnit):
            found = self._distilling
            if isinstance(found, str):
                return found
            workers = max(
                1, min(self.study.config.distill_workers, self.study.splits.spec.num_classes)
            )
            share = found.clock_share / workers
            missing = "" if found.is_whole else "its first part; what follows is not counted"
            return Timed((found.seconds,), share, found.peak_mib, missing, is_exact=True)
        if _is_unknown(unit):
            return "networks of torchvision are not timed"
        scores = self._scores_price(unit.scores)
        if isinstance(scores, str) or unit.train is None:
            return scores
        kind = self._kind(unit)
        costs = self._trainings.get(kind, [])
        if not costs:
            return self._reasons.get(kind, "there was no time to time it; raise --timing-seconds")
        added = statistics.fmean(scores.seconds) if unit.scores else 0.0
        return Timed(
            tuple(added + evaluation_seconds(unit, unit.train, cost) for cost in costs),
            statistics.fmean(cost.clock_share for cost in costs),
            max(cost.peak_mib for cost in costs),
            "without the answers of teachers in each step" if unit.is_taught else "",
        )

    def _scores_price(self, names: Sequence[str]) -> Timed | str:
        missing = [name for name in names if name not in self._scores]
        if missing:
            return f"there was no time to time {missing[0]}; raise --timing-seconds"
        each = zip(*(self._scores[name] for name in names), strict=True)
        return Timed(tuple(map(sum, each)) if names else (0.0,))

    def _kind(self, unit: EvaluationUnit) -> Kind:
        settings = required(unit.train, "a training")
        if unit.network == "space" and isinstance(self.study.config.space, TransferSpace):
            return Kind(settings, unit.num_images, unit.network)  # phases differ by their lengths
        plain = TrainSettings(num_steps=1)
        same = {
            name: getattr(plain, name)
            for name in ("num_epochs", "num_seeds", "checkpoints", "num_val_images", "schedule")
        }
        batch = min(settings.batch_size, unit.num_images)
        settings = replace(
            settings,
            **same,
            num_steps=1,
            batch_size=batch,
            learning_rate=plain.learning_rate,
            first_image_size=None,
        )
        num_images = min(unit.num_images, max(_NORM_IMAGES, batch))
        return Kind(settings, num_images, unit.network)


def _slow_words(distiller: Distiller, limit: float) -> str:
    """What is known of a method whose first two iterations took more than twice the limit."""
    num_steps = getattr(distiller, "num_steps", None)
    words = f"its first two iterations take more than {duration(2 * limit)}"
    return words if num_steps is None else f"{words}, all more than {duration(limit * num_steps)}"


def _is_unknown(unit: EvaluationUnit) -> bool:
    """Whether it is a teacher whose weights would have to be fetched."""
    return isinstance(unit.network, TeacherSettings) and unit.network.pretrained is not None


def evaluation_seconds(unit: EvaluationUnit, settings: TrainSettings, cost: TrainingCost) -> float:
    """A whole evaluation from its parts."""
    num_steps = cost.num_steps or settings.steps_for(unit.num_images)
    measuring = unit.num_measured * cost.image + cost.norms
    training = cost.setup + num_steps * cost.step * _size_share(settings, num_steps)
    return settings.num_seeds * (training + (1 + len(settings.checkpoints)) * measuring)


def _size_share(settings: TrainSettings, num_steps: int) -> float:
    """Pixels of the average step of a training whose images grow, as a share of the last one's."""
    first, full = settings.first_image_size, settings.image_size
    if first is None or full is None or first >= full:
        return 1.0
    sizes = (image_size_at(first, full, step, num_steps) for step in range(num_steps))
    return statistics.fmean(size * size for size in sizes) / full**2


def _result(future: Future[Answer]) -> Answer:
    try:
        return future.result()
    except (WorkerLostError, UserError) as error:
        return str(error)
