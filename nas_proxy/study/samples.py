"""The architectures that a study sets aside: those that recipes learn from, those that judge."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
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
        self._table, self.architectures = draw_sample(config, settings, runner.logs)

    @property
    def name(self) -> str:
        """What the references are, in words."""
        reference = self._settings.reference
        if self._table is not None:
            return f"{reference.value} of {Path(reference.table or '').name}"
        length = self._factory().fidelity.length
        return f"validation accuracy after full-data training ({length})"

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


def draw_sample(
    config: StudyConfig, settings: CalibrateSettings, logs: StudyLogs
) -> tuple[TruthTable | None, list[Architecture]]:
    """The calibration sample, and the table of its references; None where they are trained.

    What made a search calibrate again comes first, as far as its references are known.

    Raises:
        DataError: If the table is missing or unreadable.
        StudyError: If there are not as many architectures as are asked for.
    """
    reference, table = settings.reference, None
    if reference.table is not None:
        table = read_table(
            Path(reference.table),
            config.space,
            reference.architecture,
            reference.value,
            section="calibrate",
        )
    drawn = draw_architectures(
        config.space,
        settings.num_architectures,
        make_generator(derive_seed("calibration", config.seed)),
        among=None if table is None else list(table.values),
    )
    checked = logs.evaluations(config.layout.guard_log(config.layout.before_recalibration.name))
    added = [e.architecture for e in checked if table is None or e.architecture in table.values]
    return table, list(dict.fromkeys([*added, *drawn]))


def check_samples(config: StudyConfig, logs: StudyLogs) -> None:
    """Find out before hours are spent whether tables can be used and samples can be drawn.

    The calibration's and the validation's have no network in common, so one table must hold both.

    Raises:
        DataError: If a table is missing or unreadable, or there are too few architectures; the
            message names the option.
    """
    learned_from: list[Architecture] = []
    if config.calibration is not None:
        with _named("calibrate.num_architectures"):
            _, learned_from = draw_sample(config, config.calibration, logs)
    if config.validation is None:
        return
    table, reference = None, config.validation.reference
    if reference.table is not None:
        columns = (reference.architecture, reference.value, reference.second_value)
        table, _ = read_references(Path(reference.table), config.space, *columns)
    with _named("validate.num_architectures"):
        draw_validation(config, config.validation, table, excluded=learned_from)


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
