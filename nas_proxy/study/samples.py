"""The architectures that a study sets aside: those that recipes learn from, those that judge."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nas_proxy.calibrate.settings import CalibrateSettings
from nas_proxy.errors import DataError, StudyError, required
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory
from nas_proxy.evaluate.sample import draw_architectures
from nas_proxy.evaluate.table import TruthTable, read_references, read_table
from nas_proxy.interfaces import CalibrationSample
from nas_proxy.reproducibility import content_hash, derive_seed, make_generator
from nas_proxy.study.config import StudyConfig
from nas_proxy.study.evaluators import EvaluationRunner, EvaluatorFactories
from nas_proxy.study.logs import StudyLogs
from nas_proxy.study.taken import (
    Taken,
    check_studies,
    take,
    take_registered,
    write_identity,
    write_trainings,
)
from nas_proxy.tracking.registry.recipes import RecipeRegistry
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture, Evaluation
from nas_proxy.validate.settings import ValidateSettings

_SIGNAL = "val_accuracy"


class SampleReferences:
    """The calibration sample of a study, and what full training reached on it.

    Trainings are measured on the search-validation images; the test split is not touched. What is
    finished lies in a log of the study's folder and is not done again.

    Args:
        config: The study's configuration.
        settings: Its section `calibrate`.
        runner: Trains what has to be trained.
        factories: Of these trainings.
    """

    def __init__(
        self,
        config: StudyConfig,
        settings: CalibrateSettings,
        runner: EvaluationRunner,
        factories: EvaluatorFactories,
    ) -> None:
        self._config = config
        self._settings = settings
        self._runner = runner
        self._factories = factories
        self._table = _calibration_table(config, settings)
        self.taken = self._take()
        self._known = {e.architecture: e for each in self.taken for e in each.evaluations}
        self.architectures = _draw_sample(
            config, settings, self._table, runner.logs, first=list(self._known)
        )

    @property
    def name(self) -> str:
        """What the references are, in words."""
        if self._table is not None:
            return self._table.name
        length = self._factory().fidelity.length
        return f"validation accuracy after full-data training ({length})"

    @property
    def set_aside(self) -> list[Architecture]:
        """What the studies that were taken from have looked at."""
        return _of_space(self._config, (a for each in self.taken for a in each.set_aside))

    @property
    def never_judging(self) -> list[Architecture]:
        """All that must not judge what was learned or chosen here."""
        return list(dict.fromkeys([*self.architectures, *self.set_aside]))

    def paid_elsewhere(self, num: int | None = None) -> dict[str, list[Evaluation]]:
        """The trainings among the first `num` of the sample that other studies paid for, by study.

        Args:
            num: None: of the whole sample.
        """
        used = set(self.architectures[:num])
        by_study: dict[str, list[Evaluation]] = {}
        for each in self.taken:
            own = [e for e in each.evaluations if self._known[e.architecture] is e]
            by_study[each.source] = [e for e in own if e.architecture in used]
        return by_study

    def save(self, folder: Path, architectures: Sequence[Architecture]) -> None:
        """Write the trainings of some of the sample beside a recipe, for whoever takes from it."""
        if self._table is None:
            log, seed = self._runner.logs.evaluations(self._log), self._config.seed
            found = [self._known.get(a) or log.get(a, seed) for a in architectures]
            complete = [each for each in found if each is not None and each.complete]
            write_trainings(folder, complete, self._identity)

    def taken_words(self, num: int) -> list[str]:
        """One sentence for each study that paid for some of the first `num` references."""
        return [
            f"{len(found)} of the {num} references were taken from the {study}, which paid "
            "for them."
            for study, found in self.paid_elsewhere(num).items()
        ]

    @property
    def training(self) -> TrainSettings | None:
        """How references are trained; None where they are read from a table."""
        return self._settings.reference.train

    @property
    def num_known(self) -> int:
        """How many of the sample are trained already, here or elsewhere, failed ones included."""
        if self._table is not None:
            return len(self.architectures)
        log = self._runner.logs.evaluations(self._log)
        seed = self._config.seed
        return sum(a in self._known or log.get(a, seed) is not None for a in self.architectures)

    def of(self, architectures: Sequence[Architecture]) -> dict[Architecture, float]:
        """References of some of the sample; those whose training failed are missing."""
        if self._table is not None:
            return {a: self._table.values[a] for a in architectures}
        missing, found = [a for a in architectures if a not in self._known], dict(self._known)
        if missing:
            title = "training the calibration sample"
            done = self._runner.run(title, self._factory(), missing, self._log)
            write_identity(self._log, self._identity)
            found |= {e.architecture: e for e in done if e.complete}
        return {a: found[a].signals[_SIGNAL] for a in architectures if a in found}

    def _take(self) -> list[Taken]:
        reference, layout = self._settings.reference, self._config.layout
        if not (reference.studies or reference.registered):
            return []
        asked = self._key, self._identity
        registry = RecipeRegistry(self._config.tracking, self._config.results)
        load = partial(registry.load, space=self._config.space, spec=self._factories.spec)
        registered = {n: re.sub(r"[^\w.-]", "_", f"registered_{n}") for n in reference.registered}
        with TemporaryDirectory() as scratch:  # for the copies of who only looks

            def folder(name: str) -> Path:
                own = layout.taken(name)
                is_there = (own / f"{self._key}.jsonl").is_file()
                looks_only = self._runner.logs.look_only and not is_there
                return Path(scratch) / own.name if looks_only else own

            return [
                *(take(layout, folder(name), name, *asked) for name in reference.studies),
                *(take_registered(folder(own), n, load, *asked) for n, own in registered.items()),
            ]

    def whole(self) -> CalibrationSample:
        """All of it, for a distiller that learns from it.

        Raises:
            StudyError: If no training succeeded.
        """
        references = self.of(self.architectures)
        if not references:
            raise StudyError(
                "no full-data training of the calibration sample succeeded; look at "
                f"{self._log} for the reasons, and change calibrate.reference.train"
            )
        return CalibrationSample(
            space=self._config.space,
            architectures=tuple(references),
            references=tuple(references.values()),
        )

    def _factory(self) -> NetworkEvaluatorFactory:
        train = required(self._settings.reference.train, "calibrate.reference.train")
        return self._factories.on_full_data(train, "search_val")

    @property
    def _log(self) -> Path:
        """One for each kind of reference: another training leaves another log."""
        return self._config.layout.sample_references(self._key)

    @property
    def _key(self) -> str:
        """Of the kind of reference, whoever trained it."""
        reference = dict(self._config.resolved["calibrate"]["reference"])
        del reference["studies"], reference["registered"]
        space, spec = self._config.space.fingerprint(), self._factories.spec
        return content_hash(reference, space, spec.source_hash, length=12)

    @property
    def _identity(self) -> dict[str, Any]:
        """The same, for people, with the precision that was settled on here."""
        return {
            "train": dict(self._config.resolved["calibrate"]["reference"]["train"]),
            "precision": self._factory().settings.precision,
            "space": self._config.space.fingerprint(),
            "images": self._factories.spec.source_hash,
        }


def _of_space(config: StudyConfig, architectures: Iterable[Architecture]) -> list[Architecture]:
    """Without networks of other spaces, such as a ResNet that others were compared with."""
    return [a for a in architectures if a.space == config.space.name]


def _calibration_table(config: StudyConfig, settings: CalibrateSettings) -> TruthTable | None:
    """The references of the calibration sample; None where they are trained."""
    reference = settings.reference
    if reference.table is None:
        return None
    path, columns = Path(reference.table), (reference.architecture, reference.value)
    return read_table(path, config.space, *columns, section="calibrate")


def _draw_sample(
    config: StudyConfig,
    settings: CalibrateSettings,
    table: TruthTable | None,
    logs: StudyLogs,
    *,
    first: Sequence[Architecture] = (),
) -> list[Architecture]:
    """The calibration sample.

    What made a search calibrate again comes first, as far as its references are known.

    Args:
        config: The study.
        settings: Its section `calibrate`.
        table: Of the references; None where they are trained.
        logs: Of the study.
        first: Drawn and trained for the calibration of other studies; they count.

    Raises:
        StudyError: If there are not as many architectures as are asked for.
    """
    drawn = draw_architectures(
        config.space,
        settings.num_architectures,
        make_generator(derive_seed("calibration", config.seed)),
        among=None if table is None else list(table.values),
    )
    checked = logs.evaluations(config.layout.guard_log(config.layout.before_recalibration.name))
    added = [e.architecture for e in checked if table is None or e.architecture in table.values]
    sample = list(dict.fromkeys([*first, *drawn]))[: settings.num_architectures]
    return list(dict.fromkeys([*added, *sample]))


def check_samples(config: StudyConfig, logs: StudyLogs, say: Callable[[str], None]) -> None:
    """Find out before hours are spent whether tables can be used and samples can be drawn.

    The calibration's and the validation's have no network in common, so one table must hold both.

    Args:
        config: The study.
        logs: Of its evaluations.
        say: Told what of the tables is left out, each thing once.

    Raises:
        DataError: If a table is missing or unreadable, or there are too few architectures; the
            message names the option.
    """
    calibration, validation = config.calibration, config.validation
    known = None if calibration is None else _calibration_table(config, calibration)
    table, again = None, None
    reference = None if validation is None else validation.reference
    if reference is not None and reference.table is not None:
        columns = (reference.architecture, reference.value, reference.second_value)
        table, again = read_references(Path(reference.table), config.space, *columns)
    tables = [each for each in (known, table, again) if each is not None]
    for notice in dict.fromkeys(notice for each in tables for notice in each.notices):
        say(notice)
    learned_from: list[Architecture] = []
    if config.recipe == "configured" and config.score.combine != "single":
        draw_score_reference(config, config.score.num_reference)
    if calibration is not None:
        with named_options("calibrate.num_architectures"):
            learned_from = _draw_sample(config, calibration, known, logs)
        looked_at = check_studies(config.layout, calibration.reference.studies)
        learned_from += _of_space(config, looked_at)
    if validation is not None:
        with named_options("validate.num_architectures"):
            draw_validation(config, validation, table, excluded=learned_from)


def draw_score_reference(config: StudyConfig, num: int) -> list[Architecture]:
    """The architectures among which a `rank_mean` ranks, and from which a cascade learns.

    Raises:
        DataError: If there are not so many; the message names the option.
    """
    own = "score" if config.recipe == "configured" else "the recipe's score"
    hint = " (at least 4), or rank by one signal alone, which needs none: combine: single"
    with named_options(f"{own}.num_reference", hint):
        generator = make_generator(derive_seed("score reference", config.seed))
        return draw_architectures(config.space, num, generator)


def draw_validation(
    config: StudyConfig,
    settings: ValidateSettings,
    table: TruthTable | None,
    *,
    excluded: Collection[Architecture],
) -> list[Architecture]:
    """The validation's architectures, drawn uniformly; more of them begin with the fewer.

    Args:
        config: The study.
        settings: Its section `validate`.
        table: Of the references; None where they are trained.
        excluded: What had a part in the ranking; see `draw_architectures`.

    Raises:
        StudyError: If there are not so many.
    """
    return draw_architectures(
        config.space,
        settings.max_architectures,
        make_generator(derive_seed("validation", config.seed)),
        among=None if table is None else list(table.values),
        excluded=excluded,
    )


@contextmanager
def named_options(options: str, hint: str = "") -> Iterator[None]:
    """Say which options ask for what could not be drawn, and what else can be done."""
    try:
        yield
    except StudyError as error:
        raise DataError(f"{options}: {error}{hint}") from error
