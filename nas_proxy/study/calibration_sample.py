"""Architectures whose full training is known: what recipes are raced on and learned from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nas_proxy.calibrate.settings import CalibrateSettings
from nas_proxy.errors import StudyError, required
from nas_proxy.evaluate.executors import evaluate_all
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.evaluate.sample import draw_architectures
from nas_proxy.evaluate.table import TruthTable, read_table
from nas_proxy.interfaces import CalibrationSample
from nas_proxy.reproducibility import content_hash, derive_seed, make_generator
from nas_proxy.search.guard import GUARD_LOG
from nas_proxy.study.config import StudyConfig
from nas_proxy.study.context import StudyContext
from nas_proxy.types import Architecture

# The search that found a fault with the recipe. What its guard checked joins the sample by the
# folder's being there: one renaming does it all, so no kill can leave half of it done.
BEFORE_RECALIBRATION = "search_before_recalibration"
_FOLDER = "calibration_sample"
_SIGNAL = "val_accuracy"


class SampleReferences:
    """The calibration sample of a study, and what full training reached on it.

    Trainings are measured on the search-validation images; the test split is not touched. What is
    finished lies in a log of the study's folder and is not done again.

    Args:
        study: The study.
        settings: Its section `calibrate`.
    """

    def __init__(self, study: StudyContext, settings: CalibrateSettings) -> None:
        self._study = study
        self._settings = settings
        self._table, self.architectures = draw_sample(study.config, settings)

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
        log = EvaluationLog(self._folder() / "reference.jsonl")
        with self._study.display.progress("training the calibration sample") as progress:
            done = evaluate_all(
                self._study.executor,
                self._factory(),
                architectures,
                self._study.seed,
                log,
                progress,
            )
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
                f"{self._folder() / 'reference.jsonl'} for the reasons, and change "
                "calibrate.reference.train"
            )
        return CalibrationSample(
            space=self._study.config.space,
            architectures=tuple(references),
            references=tuple(references.values()),
        )

    def _factory(self) -> NetworkEvaluatorFactory:
        train = required(self._settings.reference.train, "calibrate.reference.train")
        return self._study.full_data_factory(train, "search_val")

    def _folder(self) -> Path:
        """One for each kind of reference: another training leaves another log."""
        config = self._study.config
        key = content_hash(
            config.resolved["calibrate"]["reference"],
            config.space.fingerprint(),
            self._study.splits.spec.source_hash,
            length=12,
        )
        return config.folder / _FOLDER / key


def draw_sample(
    config: StudyConfig, settings: CalibrateSettings
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
    checked = EvaluationLog(config.folder / BEFORE_RECALIBRATION / GUARD_LOG)
    added = [e.architecture for e in checked if table is None or e.architecture in table.values]
    return table, list(dict.fromkeys([*added, *drawn]))


def sample_logs(study_folder: Path) -> list[Path]:
    """Where the trainings of calibration samples are logged."""
    return sorted((study_folder / _FOLDER).glob("*/*.jsonl"))
