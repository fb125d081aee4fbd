# SPDX-License-Identifier: Apache-2.0
"""Connections to PostgreSQL: what a sink's URI says of them, their session, their errors.

The URI is libpq's: `postgresql://user@host:port/database?sslmode=verify-full`, several hosts
separated by commas, no host for the local socket. What it does not say comes from where libpq takes
it: `PGHOST`, `PGPASSWORD`, `~/.pgpass`, a service file. Secrets are resolved when a connection is
made and kept nowhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import unquote

import psycopg
from psycopg.pq import TransactionStatus

from dynabeam.transforms.errors import ConfigurationError, DynabeamError, SinkError
from dynabeam.transforms.secrets import is_reference, resolve_secrets
from dynabeam.transforms.sinks.uri import SinkUri

__all__ = [
    "LIBPQ_OPTIONS",
    "Connection",
    "PostgresSettings",
    "connect",
    "connected",
    "execute",
    "persistently",
    "sink_error",
    "transaction_left",
]

Connection = psycopg.Connection[tuple[Any, ...]]
T = TypeVar("T")

LIBPQ_OPTIONS = frozenset(
    {
        "host",
        "hostaddr",
        "port",
        "user",
        "password",
        "passfile",
        "service",
        "connect_timeout",
        "application_name",
        "options",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "tcp_user_timeout",
        "target_session_attrs",
        "load_balance_hosts",
        "require_auth",
        "channel_binding",
        "gssencmode",
        "krbsrvname",
        "sslmode",
        "sslnegotiation",
        "sslcert",
        "sslkey",
        "sslpassword",
        "sslrootcert",
        "sslcrl",
        "sslcrldir",
        "sslsni",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
    }
)
"""Options of the URI that libpq gets as they are, references to secrets resolved."""

_DEFAULTS = {
    "application_name": "dynabeam",
    # A host that died without a word is noticed within a minute, so that a retry begins.
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
_SECRETS = ("password", "sslpassword")

_SESSION = """
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SET client_min_messages = warning;
SET default_transaction_isolation = 'read committed';
SET TimeZone = 'UTC';
SELECT set_config('synchronous_commit', 'on', false)
  WHERE current_setting('synchronous_commit') = 'off'
"""
# The last one: a bundle that has ended is durable, whatever the role's default is; stronger levels
# than `on` are left alone.

_NEVER = 1 << 30
_PREPARED = 500
"""Statements that a connection keeps planned, one a table; each takes some 100 kB of the server."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
# Connection lost, too few resources, rolled back, taken away by an operator, lock not had in time,
# and a server that became a standby: the name may lead to the new primary.
_PASSING_CLASSES = ("08", "40", "53", "57")
_PASSING = ("55P03", "25006")


@dataclasses.dataclass(frozen=True)
class PostgresSettings:
    """Where the database is and how it is spoken to. Holds references to secrets, no secrets.

    Attributes:
        parameters: libpq's connection parameters.
        schema: Schema of everything that is ours.
        retry_seconds: How long what may pass is tried again before it is an error.
        name: The sink for people.
    """

    parameters: tuple[tuple[str, str], ...]
    schema: str
    retry_seconds: float
    name: str

    @property
    def where(self) -> str:
        """The sink's option, for errors."""
        return f"--sink={self.name}"

    @property
    def place(self) -> str:
        """Hosts, ports and database, without the user; names of hosts ignore case."""
        known = dict(self.parameters)
        hosts = known.get("host", "").lower().split(",")
        ports = known.get("port", "5432").split(",")
        ports = ports if len(ports) == len(hosts) else ports[:1] * len(hosts)
        pairs = ",".join(f"{host}:{port}" for host, port in zip(hosts, ports, strict=True))
        return f"postgresql://{pairs}/{known.get('dbname', '')}?schema={self.schema}"

    @classmethod
    def of(cls, uri: SinkUri, schema: str, retry_seconds: float) -> PostgresSettings:
        """Reads the connection parameters of a URI.

        Raises:
            ConfigurationError: If it holds a secret in clear.
        """
        options = {name: value for name, value in uri.options if name in LIBPQ_OPTIONS}
        for name in _SECRETS:
            if not is_reference(options.get(name, "${env:X}")):
                raise ConfigurationError(
                    f"the URI holds a {name} in clear",
                    where=f"--sink={uri.scheme}://{uri.authority}",
                    hint=f"Write it by reference, e.g. ?{name}=${{env:PGPASSWORD}}",
                )
        parameters = {**_DEFAULTS, **_of_authority(uri), **options}
        if uri.path:
            parameters["dbname"] = uri.path
        return cls(tuple(parameters.items()), schema, retry_seconds, str(uri))


def connect(settings: PostgresSettings) -> Connection:
    """Opens a connection that commits each statement unless told otherwise.

    Raises:
        psycopg.Error: If it cannot be opened.
        ConfigurationError: If a secret cannot be read.
    """
    parameters = {
        name: resolve_secrets(value, option=settings.where) for name, value in settings.parameters
    }
    # Prepared is only what asks for it: other statements are several in one string, or rare.
    connection = psycopg.connect(autocommit=True, prepare_threshold=_NEVER, **parameters)  # type: ignore[arg-type]
    connection.prepared_max = _PREPARED
    try:
        execute(connection, _SESSION)
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def connected(settings: PostgresSettings) -> Iterator[Connection]:
    """A connection for one use; what PostgreSQL says becomes an error for people.

    Raises:
        SinkError: Whatever PostgreSQL refuses, there and in what is done with the connection.
    """
    try:
        with contextlib.closing(connect(settings)) as connection:
            yield connection
    except psycopg.Error as error:
        raise sink_error(settings, error) from error


def execute(
    connection: Connection, sql: str, parameters: tuple[object, ...] | None = None
) -> psycopg.Cursor[tuple[Any, ...]]:
    """Runs SQL; several statements if there are no parameters. The cursor is at the first result.

    Raises:
        psycopg.Error: As the server says.
    """
    return connection.execute(sql.encode(), parameters)


def transaction_left(connection: Connection) -> bool:
    """Rolls back what is open; returns whether the connection can be used further."""
    if connection.closed:
        return False
    try:
        if connection.info.transaction_status != TransactionStatus.IDLE:
            connection.rollback()
    except psycopg.Error:
        return False
    return not connection.closed


def persistently(
    settings: PostgresSettings, where: str, work: Callable[[], T], leave: Callable[[], None]
) -> T:
    """Does work that may be repeated, again as long as its error may pass.

    Args:
        settings: How long is tried: `retry_seconds` from the first error on.
        where: What the work is about, for the error.
        work: Connects if it has to; applied twice it changes nothing more.
        leave: Called after each error: ends an open transaction, drops a dead connection.

    Raises:
        SinkError: If the error does not pass, or not in time.
    """
    pause, deadline = _FIRST_PAUSE, 0.0
    while True:
        try:
            return work()
        except psycopg.Error as error:
            leave()
            if not _may_pass(error):
                raise sink_error(settings, error, where) from error
            now = time.monotonic()
            deadline = deadline or now + settings.retry_seconds
            if now >= deadline:
                raise sink_error(settings, error, where, tried=True) from error
        except BaseException:
            leave()
            raise
        # Not all writers at once.
        time.sleep(min(pause * (0.5 + random.random()), max(deadline - now, 0.0)))  # noqa: S311
        pause = min(2 * pause, _LONGEST_PAUSE)


def sink_error(
    settings: PostgresSettings, error: psycopg.Error, where: str = "", *, tried: bool = False
) -> DynabeamError:
    """What PostgreSQL says, as an error for people."""
    what = " ".join(str(error).split())
    if tried:
        what = f"still failing after {settings.retry_seconds:g} s: {what}"
    return SinkError(
        f"PostgreSQL: {what}",
        where=f"{settings.where}, {where}" if where else settings.where,
        hint=_hint(settings, error),
    )


def _hint(settings: PostgresSettings, error: psycopg.Error) -> str:
    if error.sqlstate == "42501":
        return (
            f"Give the role its permissions: GRANT USAGE, CREATE ON SCHEMA {settings.schema}; the "
            "tables in it must be its own"
        )
    if error.sqlstate in ("42P01", "42703", "3F000"):
        return "Something of the mirror was dropped by hand: start with a new schema"
    if error.sqlstate is None or error.sqlstate.startswith(("08", "57")):
        return "See that the server runs, and that host, port, database, user and password fit"
    if error.sqlstate.startswith("53"):
        return "Give the server more disk, memory or connections (max_connections)"
    return ""


def _may_pass(error: psycopg.Error) -> bool:
    if error.sqlstate is not None:
        return error.sqlstate in _PASSING or error.sqlstate[:2] in _PASSING_CLASSES
    # Errors of libpq itself have no code: no connection, or it is lost.
    return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))


def _of_authority(uri: SinkUri) -> dict[str, str]:
    found: dict[str, str] = {}
    login, _, places = uri.authority.rpartition("@")
    user, _, password = login.partition(":")
    if user:
        found["user"] = unquote(user)
    if password:
        found["password"] = unquote(password)
    hosts, ports = [], []
    for place in places.split(",") if places else []:
        # The last colon that is not inside an IPv6 address in brackets.
        match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::([0-9]*))?", place)
        if match is None:
            raise ConfigurationError("not a host and port", where=f"--sink={uri.text}", found=place)
        hosts.append(unquote(match[1].strip("[]")))
        ports.append(match[2] or "5432")
    if hosts:
        found.update(host=",".join(hosts), port=",".join(ports))
    return found
