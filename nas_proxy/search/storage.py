"""Where Optuna keeps a study, and opening it there."""

from __future__ import annotations

import secrets
import warnings
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from nas_proxy.core.files import drop_partial_line, write_atomically
from nas_proxy.errors import StudyError, masked
from nas_proxy.search.database import open_database
from nas_proxy.search.pareto import SCORE
from nas_proxy.search.settings import SearchSettings

_OBJECTIVES = "objectives"  # user attribute of Optuna's study


def open_storage(storage: str, folder: Path) -> optuna.storages.BaseStorage:
    """Optuna's storage: a journal in `folder`, repaired if a kill cut its last line, or a URL.

    Raises:
        StudyError: If the journal is damaged before its last line, or a database does not open.
    """
    if storage != "journal":
        return open_database(storage)
    path = folder / "optuna_journal.log"
    drop_partial_line(path)
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except ValueError as error:
        raise StudyError(
            f"{path} is damaged ({error}); move it away to search again with the evaluations that "
            "are finished, of which none is repeated"
        ) from error


def driver_id(storage: str, folder: Path) -> str:
    """Whose trials of a database are those of the search in `folder`; empty for a journal.

    Raises:
        OSError: If the folder cannot be written.
    """
    if storage == "journal":
        return ""
    path = folder / "driver"
    if not path.is_file():
        write_atomically(path, secrets.token_hex(8))
    return path.read_text()


def open_optuna_study(
    settings: SearchSettings, study_name: str, storage: optuna.storages.BaseStorage | str
) -> optuna.Study:
    """A new study or the one that is there; whoever asks it for trials gives it a sampler.

    Args:
        settings: The objectives.
        study_name: Optuna's.
        storage: Where the study is kept.

    Raises:
        StudyError: If the storage cannot be opened, or holds a study with other objectives.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # progress is shown by the caller
    objectives = list(settings.objectives)
    try:
        study = optuna.create_study(
            study_name=study_name,
            storage=storage,
            directions=["maximize" if name == SCORE else "minimize" for name in objectives],
            load_if_exists=True,
        )
        known = [SCORE] if study.get_trials(deepcopy=False) else objectives
        known = study.user_attrs.get(_OBJECTIVES, known)
        if known == objectives:
            study.set_user_attr(_OBJECTIVES, objectives)
            _name_metrics(study, objectives)
    except Exception as error:  # a driver's own exceptions, whichever database it is
        if isinstance(error, OSError):
            raise
        raise StudyError(masked(f"search.storage {storage!r} cannot be opened: {error}")) from error
    if known != objectives:
        shown = masked(repr(storage))
        raise StudyError(
            f"search.storage {shown} holds a study {study_name!r} with other objectives "
            f"({known} -> {objectives}); choose another study_name"
        )
    return study


def _name_metrics(study: optuna.Study, names: list[str]) -> None:
    """Say what dashboards and tables are to call the objectives."""
    if study.metric_names != names:
        with warnings.catch_warnings():  # it may change, and says so at each call
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(names)
