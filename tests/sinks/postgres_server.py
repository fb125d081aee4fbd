# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL server for tests, on a free port, with a data folder of its own.

```python
with PostgresServer() as server:
    server.create_database("mine")
    psycopg.connect(server.uri("mine"))
    server.restart()
```

It needs PostgreSQL's programs: of `PATH` or of Debian's package, which is installed if we are root
and apt-get is there. The server never runs as root. Every role may log in without a password, but
members of the role `with_password` need theirs. Nothing is durable (fsync is off): a restart keeps
the data, a crash of the machine does not.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import glob
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest

__all__ = ["PostgresMissingError", "PostgresServer", "server_for_tests"]

_OWNER = "postgres"
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "127.0.0.1",
    "max_connections": "100",
    "log_lock_waits": "on",
    "log_min_messages": "warning",
}
_HOST_RULES = (
    "host all +with_password 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"
)


class PostgresMissingError(RuntimeError):
    """PostgreSQL's programs are not there and cannot be installed."""


class PostgresServer:
    """A running server; `stop` it, or use it as a context manager.

    Raises:
        PostgresMissingError: If PostgreSQL is not there and cannot be installed.
    """

    def __init__(self) -> None:
        self._programs = find_programs()
        self._as_owner = ["runuser", "-u", _OWNER, "--"] if os.geteuid() == 0 else []
        self.user = _OWNER
        self._folder = Path(tempfile.mkdtemp(prefix="dynabeam-postgres-"))
        self._data = self._folder / "data"
        self.port = _free_port()
        if self._as_owner:
            shutil.chown(self._folder, _OWNER)
        self._create()
        self.start()
        atexit.register(self.stop)

    def __enter__(self) -> PostgresServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def uri(self, database: str = "postgres", user: str = _OWNER) -> str:
        """The URI of a database, for libpq and for a sink (add `?options`)."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres", user: str = _OWNER) -> psycopg.Connection:
        """A connection that commits each statement."""
        return psycopg.connect(self.uri(database, user), autocommit=True)

    def create_database(self, name: str) -> None:
        """Creates an empty database."""
        with self.connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}"')

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        self._control("start")

    def stop(self) -> None:
        """Stops the server and removes its data; repeating it does nothing."""
        atexit.unregister(self.stop)
        if self._folder.exists():
            self.halt()
            shutil.rmtree(self._folder)

    def halt(self, mode: str = "immediate") -> None:
        """Stops the server, data kept: `start` brings it back.

        Args:
            mode: `immediate` (as if it crashed; connections are cut) or `fast`.
        """
        if (self._data / "postmaster.pid").exists():
            self._control("stop", "-m", mode)

    def restart(self, mode: str = "immediate") -> None:
        """Stops the server, cutting all connections, and starts it on the same port."""
        self.halt(mode)
        self.start()

    def log(self) -> str:
        """What the server has logged."""
        return (self._folder / "log").read_text("utf-8")

    def _create(self) -> None:
        self._run("initdb", "-D", self._data, "-U", _OWNER, "-E", "UTF8", "--auth=trust",
                  "--locale-provider=libc", "--locale=C.UTF-8", "--no-sync")  # fmt: skip
        settings = {**_SETTINGS, "port": self.port, "unix_socket_directories": self._folder}
        with (self._data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        rules = self._data / "pg_hba.conf"
        rules.write_text(_HOST_RULES + rules.read_text("utf-8"), encoding="utf-8")

    def _control(self, *words: str) -> None:
        self._run("pg_ctl", "-D", self._data, "-l", self._folder / "log", "-w", "-t", "60", *words)

    def _run(self, program: str, *words: object) -> None:
        command = [*self._as_owner, str(self._programs / program), *map(str, words)]
        # To a file: the server inherits the output, and a pipe would stay open with it.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(command, cwd="/", stdout=output, stderr=output, check=False)
            output.seek(0)
            if done.returncode != 0:
                said = output.read().decode("utf-8", "replace")
                raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{said}")


def find_programs() -> Path:
    """The folder of `initdb` and `pg_ctl`; installs Debian's package if it can.

    Raises:
        PostgresMissingError: If there is none.
    """
    found = _installed_programs()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        # One at a time: apt-get gives up at once if another test process runs it.
        with open(os.path.join(tempfile.gettempdir(), "dynabeam-apt.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = _installed_programs() or _install()
    if found is None:
        raise PostgresMissingError(
            "PostgreSQL's initdb and pg_ctl are not there (Debian: apt-get install postgresql)"
        )
    return found


def _install() -> Path | None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update", "-qq"], ["install", "-y", "-qq", "postgresql"]):
        subprocess.run(["apt-get", *words], env=environment, stdout=subprocess.DEVNULL, check=False)
    return _installed_programs()


def _installed_programs() -> Path | None:
    def release(path: str) -> int:
        number = path.split("/")[-3]
        return int(number) if number.isdecimal() else 0

    of_debian = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=release, reverse=True)
    in_path = shutil.which("initdb")
    for initdb in [*of_debian, *([in_path] if in_path else [])]:
        folder = Path(initdb).resolve().parent
        if (folder / "pg_ctl").exists():
            return folder
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@functools.cache
def _shared() -> PostgresServer | str:
    try:
        return PostgresServer()
    except PostgresMissingError as error:
        return str(error)


def server_for_tests() -> PostgresServer:
    """The one server of this test process, started at the first call, stopped at its end.

    Where there is no PostgreSQL the test is skipped, in CI it fails.
    """
    server = _shared()
    if isinstance(server, str):
        if os.environ.get("CI"):
            pytest.fail(server)
        pytest.skip(server)
    return server
