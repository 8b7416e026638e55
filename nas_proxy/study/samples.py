"""The architectures that a study sets aside: those that recipes learn from, those that judge."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

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
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture
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
        self.architectures = _draw_sample(config, settings, self._table, runner.logs)

    @property
    def name(self) -> str:
        """What the references are, in words."""
        if self._table is not None:
            return self._table.name
        length = self._factory().fidelity.length
        return f"validation accuracy after full-data training ({length})"

    @property
    def training(self) -> TrainSettings | None:
        """How references are trained; None where they are read from a table."""
        return self._settings.reference.train

    @property
    def num_known(self) -> int:
        """How many of the sample are trained already, failed ones included."""
        if self._table is not None:
            return len(self.architectures)
        log = self._runner.logs.evaluations(self._log)
        return sum(log.get(a, self._config.seed) is not None for a in self.architectures)

    def of(self, architectures: Sequence[Architecture]) -> dict[Architecture, float]:
        """References of some of the sample; those whose training failed are missing."""
        if self._table is not None:
            return {a: self._table.values[a] for a in architectures}
        title = "training the calibration sample"
        done = self._runner.run(title, self._factory(), architectures, self._log)
        return {e.architecture: e.signals[_SIGNAL] for e in done if e.complete}

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
        key = content_hash(
            self._config.resolved["calibrate"]["reference"],
            self._config.space.fingerprint(),
            self._factories.spec.source_hash,
            length=12,
        )
        return self._config.layout.sample_references(key)


def _calibration_table(config: StudyConfig, settings: CalibrateSettings) -> TruthTable | None:
    """The references of the calibration sample; None where they are trained."""
    reference = settings.reference
    if reference.table is None:
        return None
    path, columns = Path(reference.table), (reference.architecture, reference.value)
    return read_table(path, config.space, *columns, section="calibrate")


def _draw_sample(
    config: StudyConfig, settings: CalibrateSettings, table: TruthTable | None, logs: StudyLogs
) -> list[Architecture]:
    """The calibration sample.

    What made a search calibrate again comes first, as far as its references are known.

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
    return list(dict.fromkeys([*added, *drawn]))


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
    if calibration is not None:
        with _named("calibrate.num_architectures"):
            learned_from = _draw_sample(config, calibration, known, logs)
    if validation is not None:
        with _named("validate.num_architectures"):
            draw_validation(config, validation, table, excluded=learned_from)


def draw_validation(
    config: StudyConfig,
    settings: ValidateSettings,
    table: TruthTable | None,
    *,
    excluded: Collection[Architecture],
) -> list[Architecture]:
    """The validation's architectures, drawn uniformly.

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
        settings.num_architectures,
        make_generator(derive_seed("validation", config.seed)),
        among=None if table is None else list(table.values),
        excluded=excluded,
    )


@contextmanager
def _named(options: str) -> Iterator[None]:
    """Say which options ask for what could not be drawn."""
    try:
        yield
    except StudyError as error:
        raise DataError(f"{options}: {error}") from error
