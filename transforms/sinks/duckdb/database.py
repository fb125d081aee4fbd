# SPDX-License-Identifier: Apache-2.0
"""The DuckDB file of a mirror: opening it, and what it knows of its state directory.

Everything of ours that people do not query is in two schemas: `_dynabeam` (what the mirror knows of
itself) and `_dynabeam_rows` (the rows behind the views).
"""

# ruff: noqa: S608  (SQL is made of constants and of names that are quoted)

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.runtime.stored_format import check_format
from dynabeam.transforms.sinks.base import Round
from dynabeam.transforms.sinks.mirror_sink import Held

__all__ = [
    "FORMAT",
    "META",
    "ROWS",
    "DatabaseSettings",
    "create_meta",
    "first_row",
    "open_database",
    "read_held",
    "registered",
    "transaction",
    "write_format",
    "write_held",
]

FORMAT = 2
"""1: tables of rows have no `_key_hash`; they are given it when a run begins."""
_READABLE = (1, FORMAT)
META = "_dynabeam"
"""Schema of the tables that describe the mirror."""
ROWS = "_dynabeam_rows"
"""Schema of the tables that hold the rows, tombstones included."""

_LOGGER = logging.getLogger(__name__)
_PAUSE_SECONDS = 0.25
_HOLDER = re.compile(
    r"held in (?P<program>.*?) ?\(PID (?P<process>[0-9]+)\)(?: by user (?P<user>[^.\s]+))?"
)

_CREATE = f"""
CREATE SCHEMA IF NOT EXISTS {META};
CREATE SCHEMA IF NOT EXISTS {ROWS};
CREATE TABLE IF NOT EXISTS {META}.last_round (
    format INTEGER NOT NULL, state_id VARCHAR NOT NULL, round UBIGINT NOT NULL,
    attempt VARCHAR NOT NULL, applied TIMESTAMPTZ NOT NULL
);
CREATE TABLE IF NOT EXISTS {META}.tables (
    name VARCHAR NOT NULL, arn VARCHAR NOT NULL, keys VARCHAR NOT NULL, options VARCHAR NOT NULL,
    attributes VARCHAR NOT NULL
);
"""


@dataclasses.dataclass(frozen=True)
class DatabaseSettings:
    """Where the file is and what DuckDB may use.

    Attributes:
        path: Absolute path of the file.
        memory_limit: DuckDB's own notation, e.g. `512MB`. What exceeds it is spilled to
            `<path>.tmp`.
        threads: Threads of one query.
        name: The sink for people.
        retry_seconds: How long opening is tried again while another connection holds the file.
    """

    path: str
    memory_limit: str
    threads: int
    name: str
    retry_seconds: float = 0.0


@contextlib.contextmanager
def open_database(
    settings: DatabaseSettings, *, create: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Opens the file for writing and closes it in any case: only one process can hold it.

    While others hold it, be it only for reading, opening is tried again for `retry_seconds`.

    Raises:
        SinkError: If there is no such file (unless `create`), it is no DuckDB file, another process
            goes on holding it, or DuckDB refuses what is done with it.
    """
    where = f"--sink={settings.name}"
    if not create and not os.path.exists(settings.path):
        raise SinkError("the file does not exist", where=where, found=settings.path)
    config = {
        "memory_limit": settings.memory_limit,
        "threads": str(settings.threads),
        "temp_directory": settings.path + ".tmp",
        "preserve_insertion_order": "false",
        "autoinstall_known_extensions": "false",
        "python_enable_replacements": "false",
    }
    connection = _connect(settings, config)
    try:
        # Times are shown and cast in UTC, whatever the machine's zone is.
        connection.execute("SET TimeZone = 'UTC'")
        yield connection
    except BaseException as error:
        with contextlib.suppress(duckdb.Error):
            # Why it failed is what counts, not that closing fails too.
            connection.close()
        if isinstance(error, duckdb.Error):
            raise SinkError(f"DuckDB refuses: {error}", where=where) from error
        raise
    connection.close()


def first_row(
    connection: duckdb.DuckDBPyConnection, sql: str, parameters: object = None
) -> tuple[Any, ...] | None:
    """Runs SQL and returns the first row of its result, None if it is empty."""
    # All rows are fetched: a result that is left half-read blocks the connection.
    rows = connection.execute(sql, parameters).fetchall()
    return rows[0] if rows else None


@contextlib.contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Commits at the end, or rolls everything back."""
    connection.begin()
    try:
        yield
    except BaseException:
        with contextlib.suppress(duckdb.Error):
            # A failed commit has ended the transaction already.
            connection.rollback()
        raise
    connection.commit()


@contextlib.contextmanager
def registered(connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> Iterator[None]:
    """Shows an Arrow table under a name, inside a transaction.

    A failing statement aborts the transaction, and then nothing can be taken off but by rolling
    back: to try would hide the cause behind "transaction is aborted".
    """
    connection.register(name, table)
    yield
    connection.unregister(name)


def create_meta(connection: duckdb.DuckDBPyConnection) -> None:
    """Creates the schemas and tables of ours that are missing."""
    connection.execute(_CREATE)


def read_held(connection: duckdb.DuckDBPyConnection) -> Held | None:
    """What the mirror holds; None if the file is not a mirror yet.

    Raises:
        SinkError: If another version of Dynabeam wrote the file in a form unknown here.
    """
    found = first_row(
        connection,
        "SELECT 1 FROM duckdb_tables() WHERE NOT temporary AND database_name = current_database() "
        f"AND schema_name = '{META}' AND table_name = 'last_round'",
    )
    if found is None:
        return None
    row = first_row(
        connection,
        f"SELECT format, state_id, round, attempt FROM {META}.last_round",
    )
    if row is None:
        return None
    document, hint = {"format": row[0]}, "Upgrade Dynabeam"
    check_format(document, _READABLE, what="the mirror", where="", error=SinkError, hint=hint)
    return Held(Round(row[1], row[2], row[3]))


def write_held(connection: duckdb.DuckDBPyConnection, held: Held) -> None:
    """Records what the mirror holds."""
    connection.execute(f"DELETE FROM {META}.last_round")
    connection.execute(
        f"INSERT INTO {META}.last_round VALUES (?, ?, ?, ?, now())",
        [FORMAT, held.round.state_id, held.round.number, held.round.attempt],
    )


def write_format(connection: duckdb.DuckDBPyConnection) -> None:
    """Records that the file has this version's form, which older versions must not write."""
    connection.execute(f"UPDATE {META}.last_round SET format = {FORMAT} WHERE format <> {FORMAT}")


def _connect(settings: DatabaseSettings, config: dict[str, str]) -> duckdb.DuckDBPyConnection:
    began, told = time.monotonic(), False
    while True:
        try:
            connection = duckdb.connect(settings.path, config=config)
        except duckdb.Error as error:
            waited = time.monotonic() - began
            if not _is_held(error) or waited >= settings.retry_seconds:
                raise _cannot_open(settings, error, waited) from error
            if not told:
                _LOGGER.warning(
                    "--sink=%s: %s holds the file; waiting up to %g s for it",
                    settings.name,
                    _holder(error),
                    settings.retry_seconds,
                )
                told = True
            time.sleep(min(_PAUSE_SECONDS, max(settings.retry_seconds - waited, 0.0)))
        else:
            if told:
                _LOGGER.warning(
                    "--sink=%s: the file is free after %.1f s",
                    settings.name,
                    time.monotonic() - began,
                )
            return connection


def _is_held(error: duckdb.Error) -> bool:
    text = str(error)
    return "onflicting lock" in text or "different configuration" in text


def _holder(error: duckdb.Error) -> str:
    """Who holds the file, in words: DuckDB names program, process and user where it can."""
    if "different configuration" in str(error):
        return "a connection of this process, with other settings,"
    found = _HOLDER.search(str(error))
    if found is None:
        return "another process"
    program, process, user = found["program"], found["process"], found["user"]
    return f"process {process} ({program or 'unknown program'}{f', user {user}' if user else ''})"


def _cannot_open(settings: DatabaseSettings, error: duckdb.Error, waited: float) -> SinkError:
    text = str(error)
    where = f"--sink={settings.name}"
    tried = f", {waited:.0f} s long" if waited >= 1 else ""
    if "onflicting lock" in text:
        return SinkError(
            f"another process holds the file{tried}: {_holder(error)}",
            where=where,
            found=text,
            hint="Close the other connection, or wait longer for it with retry_seconds=; DuckDB "
            "lets one process write, or several read",
        )
    if "different configuration" in text:
        return SinkError(
            f"this process holds the file with other settings{tried}",
            where=where,
            hint="Close the other connection first",
        )
    if "not a valid DuckDB database" in text:
        return SinkError("the file is not a DuckDB database", where=where, found=settings.path)
    return SinkError(f"the file cannot be opened: {text}", where=where, found=settings.path)
