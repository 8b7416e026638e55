"""Optuna's storage in a database that several machines reach, and that may be away for a while."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from nas_proxy.errors import StudyError, first_line, masked
from nas_proxy.search.settings import missing_driver

logger = logging.getLogger("nas_proxy")

PATIENCE_SECONDS = 3600.0  # without an answer, after which a study ends and can be gone on with
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0  # seconds between two tries


def open_database(url: str) -> BaseStorage:
    """The storage at a URL of SQLAlchemy.

    `postgresql://` is spoken to by psycopg, which the extra `postgres` brings. A server that goes
    away later is waited for, see `WaitingStorage`.

    Raises:
        StudyError: If it cannot be opened; the message holds no password.
    """
    if missing := missing_driver(url):
        raise StudyError(f"search.storage {masked(url)} {missing}")
    try:
        storage = _opened(_with_driver(url))
    except Exception as error:  # a driver's own exceptions, whichever database it is
        raise StudyError(
            masked(f"search.storage {url!r} cannot be opened: {reason_of(error)}")
        ) from error
    return storage


def _opened(url: str) -> BaseStorage:
    if url.startswith("sqlite"):
        return optuna.storages.get_storage(url)
    # A connection that a restart of the server has cut is noticed before it is used.
    rdb = RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    waiting: Any = WaitingStorage(optuna.storages.get_storage(rdb))
    return waiting  # type: ignore[no-any-return]


def _with_driver(url: str) -> str:
    """With the name of the driver, for SQLAlchemy would look for another one."""
    return re.sub(r"^postgres(ql)?:", "postgresql+psycopg:", url)


class WaitingStorage:
    """A storage of Optuna's that waits for its server, and does then what was asked for.

    What was asked for when the connection broke may have been done or not: it is done once. That
    holds as long as this process alone writes the trials that it made.

    Args:
        storage: In a database of a server.
        patience: Seconds that are waited.
        sleep: Waits; for tests.
    """

    def __init__(
        self,
        storage: BaseStorage,
        patience: float = PATIENCE_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._storage = storage
        self._patience = patience
        self._sleep = sleep
        self._newest: dict[int, int] = {}  # by study, the highest id of its trials that is known

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        return partial(self._patiently, found) if callable(found) else found

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """As of `BaseStorage`; one that was made although no answer came is found again."""
        if study_id not in self._newest:
            self._newest[study_id] = max(self._ids(study_id), default=-1)

        def again() -> int:
            trials = self._storage.get_all_trials(study_id, deepcopy=False)
            lost = [t for t in trials if t._trial_id > self._newest[study_id] and _is_bare(t)]
            return lost[-1]._trial_id if lost and template_trial is None else create()

        def create() -> int:
            return self._storage.create_new_trial(study_id, template_trial)

        made: int = self._patiently(create, again=again)
        self._newest[study_id] = max(made, self._newest[study_id])
        return made

    def set_trial_state_values(self, trial_id: int, *values: Any, **named: Any) -> bool:
        """As of `BaseStorage`; what is finished after a lost answer was finished by us."""

        def again() -> bool:
            try:
                return self._storage.set_trial_state_values(trial_id, *values, **named)
            except UpdateFinishedTrialError:
                return True

        first = partial(self._storage.set_trial_state_values, trial_id, *values, **named)
        return bool(self._patiently(first, again=again))

    def _ids(self, study_id: int) -> list[int]:
        trials = self._patiently(self._storage.get_all_trials, study_id, deepcopy=False)
        return [trial._trial_id for trial in trials]

    def _patiently(
        self,
        call: Callable[..., Any],
        *values: Any,
        again: Callable[[], Any] | None = None,
        **named: Any,
    ) -> Any:
        """What a call answers, asked `again` after the server was away."""
        asked: Callable[[], Any] = partial(call, *values, **named)
        began, pause = time.monotonic(), _FIRST_PAUSE
        away = False
        while True:
            try:
                found = asked()
                break
            except Exception as error:
                if not is_away(error):
                    raise
                waited = time.monotonic() - began
                if waited > self._patience:
                    raise StudyError(
                        f"search.storage has not answered for {waited:.0f} s ({reason_of(error)}); "
                        "nothing is lost: run the same command when it is back"
                    ) from error
                if not away:
                    logger.warning(
                        "search.storage does not answer (%s); the study waits for it",
                        reason_of(error),
                    )
                away, asked = True, again or asked
                self._sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        if away:
            logger.warning(
                "search.storage answers again after %.0f s; the study goes on",
                time.monotonic() - began,
            )
        return found


BaseStorage.register(WaitingStorage)


def is_away(error: BaseException) -> bool:
    """Whether an error says that the server is not there, not that it refuses something."""
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

    for each in _chain(error):
        if isinstance(each, DBAPIError):
            state = getattr(each.orig, "sqlstate", None) or ""
            # Without a state there was no server to give one; 08 and 57P: connection, shutdown.
            gone = state[:2] == "08" or state[:3] == "57P" or not state
            kind = isinstance(each, OperationalError | InterfaceError)
            return bool(each.connection_invalidated) or (gone and kind)
    return False


def reason_of(error: BaseException) -> str:
    """The first line of what the driver said, without passwords."""
    from sqlalchemy.exc import DBAPIError

    said = next((e.orig for e in _chain(error) if isinstance(e, DBAPIError) and e.orig), error)
    return masked(first_line(said))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _is_bare(trial: FrozenTrial) -> bool:
    """Whether nothing was done to a trial since it was made."""
    return trial.state is TrialState.RUNNING and not trial.params and not trial.user_attrs
