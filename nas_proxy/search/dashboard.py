"""A search in Optuna's dashboard: the verdict as the study's note, and starting it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from nas_proxy.core.extras import is_installed, missing_words
from nas_proxy.errors import UserError
from nas_proxy.search.database import open_database

# Where optuna-dashboard keeps a study's note, which it need not be installed for.
_VERSION, _PART = "dashboard:note_ver", "dashboard:note_str:"
_PART_LENGTH = 2045  # characters that every database can hold in one attribute
_OURS = "# nas_proxy"  # how our notes begin; what a person wrote stays


def write_note(storage: optuna.storages.BaseStorage | str, study_name: str, text: str) -> bool:
    """Set the note of a study, as Markdown, unless a person wrote one there.

    Args:
        storage: Or its URL.
        study_name: Optuna's.
        text: Of the note.

    Returns:
        Whether it is there now.

    Raises:
        Exception: Whatever the storage raises; a `KeyError` if it has no such study.
    """
    opened = optuna.storages.get_storage(storage)
    study_id = opened.get_study_id_from_name(study_name)
    known = opened.get_study_system_attrs(study_id)
    parts = {key: str(value) for key, value in known.items() if key.startswith(_PART)}
    order = sorted(parts, key=lambda key: int(key.removeprefix(_PART)))
    before, body = "".join(parts[key] for key in order), f"{_OURS}\n\n{text}"
    if before and not before.startswith(_OURS):
        return False
    if before != body:
        num = max(-(-len(body) // _PART_LENGTH), len(parts))  # an empty part ends a longer note
        for index in range(num):
            part = body[index * _PART_LENGTH : (index + 1) * _PART_LENGTH]
            opened.set_study_system_attr(study_id, f"{_PART}{index}", part)
        opened.set_study_system_attr(study_id, _VERSION, int(known.get(_VERSION, 0)) + 1)
    return True


def launch_dashboard(
    results: Path,
    study_name: str | None = None,
    storage: str | None = None,
    port: int = 8080,
    announce: Callable[[str], None] = lambda page: None,
) -> None:
    """Serve optuna-dashboard on 127.0.0.1 until Ctrl-C.

    Args:
        results: Folder that studies share.
        study_name: Which of them; None: the one that was searched last.
        storage: URL of a database, where a study has one; None: the study's journal.
        port: To listen on.
        announce: Told the address of the study's page.

    Raises:
        UserError: If optuna-dashboard is not installed, there is nothing to show, or the port is
            taken.
    """
    if not is_installed("dashboard"):
        raise UserError(missing_words("dashboard"))
    from optuna_dashboard import wsgi

    if storage is None:
        # As it is, for a search may be writing to it.
        backend = JournalFileBackend(str(_journal(results, study_name)))
        opened: optuna.storages.BaseStorage = JournalStorage(backend)
    else:
        opened = open_database(storage)
    studies = opened.get_all_studies()
    place = f"studies/{studies[0]._study_id}" if len(studies) == 1 else ""
    page = f"http://127.0.0.1:{port}/dashboard/{place}"
    try:
        server = make_server("127.0.0.1", port, wsgi(opened), _Server, _QuietHandler)
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port} cannot be used ({error}): choose another one") from error
    with server, suppress(KeyboardInterrupt):
        announce(page)
        server.serve_forever()


class _Server(ThreadingMixIn, WSGIServer):
    """Answers several questions at a time; none of them holds up the end."""

    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    """Writes no line for each question."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def _journal(results: Path, study_name: str | None) -> Path:
    found = {path.parents[1].name: path for path in results.glob("*/search/optuna_journal.log")}
    if study_name is not None and study_name not in found:
        known = f"; there are {', '.join(sorted(found))}" if found else ""
        raise UserError(f"no search of a study {study_name!r} is kept in {results}{known}")
    if not found:
        raise UserError(
            f"no search is kept in {results} yet: run a study first, or pass --uri where "
            "search.storage is a database"
        )
    newest = max(found.values(), key=lambda path: path.stat().st_mtime)
    return found.get(study_name or "", newest)
