"""A PostgreSQL server of the test's own, from a wheel."""

import platform
import subprocess

import pytest


class Server:
    """A server in a folder, which can be stopped and started.

    Args:
        folder: Where its data lie; short, for its socket lies there too.
    """

    def __init__(self, folder):
        why = "pgserver, a PostgreSQL in a wheel, is not installed"
        pgserver = pytest.importorskip("pgserver", reason=why)
        if platform.machine() not in ("x86_64", "AMD64"):
            pytest.skip(f"pgserver has no PostgreSQL for {platform.machine()}")
        self._control = pgserver.pg_ctl
        try:
            self._server = pgserver.get_server(folder, cleanup_mode=None)
        except subprocess.TimeoutExpired:  # a busy machine: it is starting
            self._server = pgserver.get_server(folder, cleanup_mode=None)
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            pytest.skip(f"PostgreSQL does not start here: {error}")
        self._socket = self._server.get_postmaster_info().socket_dir

    @property
    def url(self):
        return self._server.get_uri()

    def stop(self):
        """At once, as by a power cut: whatever is going on is cut off."""
        self._run("-m", "immediate", "stop")

    def start(self):
        options = f'-k {self._socket} -h ""'  # no address of a network
        self._run("-l", str(self._server.log), "-o", options, "start")

    def _run(self, *words):
        server = self._server
        self._control(["-w", "-t", "60", *words], pgdata=server.pgdata, user=server.system_user)
