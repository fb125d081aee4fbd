# SPDX-License-Identifier: Apache-2.0
"""The DuckDB file of a mirror: opening it, and what it knows of its state directory.

Everything of ours that people do not query is in two schemas: `_dynabeam` (what the mirror knows of
itself) and `_dynabeam_rows` (the rows behind the views).
"""

# ruff: noqa: S608  (SQL is made of constants and of names that are quoted)

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import duckdb

from transforms.errors import SinkError
from transforms.sinks.base import Round

__all__ = [
    "FORMAT",
    "META",
    "ROWS",
    "DatabaseSettings",
    "create_meta",
    "first_row",
    "open_database",
    "read_round",
    "transaction",
    "write_round",
]

FORMAT = 1
META = "_dynabeam"
"""Schema of the tables that describe the mirror."""
ROWS = "_dynabeam_rows"
"""Schema of the tables that hold the rows, tombstones included."""

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
    """

    path: str
    memory_limit: str
    threads: int
    name: str


@contextlib.contextmanager
def open_database(
    settings: DatabaseSettings, *, create: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Opens the file for writing and closes it in any case: only one process can hold it.

    Raises:
        SinkError: If there is no such file (unless `create`), it is no DuckDB file, another process
            holds it, or DuckDB refuses what is done with it.
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
    try:
        connection = duckdb.connect(settings.path, config=config)
    except duckdb.Error as error:
        raise _cannot_open(settings, error) from error
    try:
        # Times are shown and cast in UTC, whatever the machine's zone is.
        connection.execute("SET TimeZone = 'UTC'")
        yield connection
    except duckdb.Error as error:
        raise SinkError(f"DuckDB refuses: {error}", where=where) from error
    finally:
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


def create_meta(connection: duckdb.DuckDBPyConnection) -> None:
    """Creates the schemas and tables of ours that are missing."""
    connection.execute(_CREATE)


def read_round(connection: duckdb.DuckDBPyConnection) -> Round | None:
    """The last round that the mirror holds; None if the file is not a mirror yet.

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
    if row[0] != FORMAT:
        raise SinkError(
            "the mirror has an unknown format",
            expected=FORMAT,
            found=row[0],
            mend="Upgrade Dynabeam",
        )
    return Round(row[1], row[2], row[3])


def write_round(connection: duckdb.DuckDBPyConnection, current: Round) -> None:
    """Records a round as the last one that the mirror holds."""
    connection.execute(f"DELETE FROM {META}.last_round")
    connection.execute(
        f"INSERT INTO {META}.last_round VALUES (?, ?, ?, ?, now())",
        [FORMAT, current.state_id, current.number, current.attempt],
    )


def _cannot_open(settings: DatabaseSettings, error: duckdb.Error) -> SinkError:
    text = str(error)
    where = f"--sink={settings.name}"
    if "onflicting lock" in text:
        return SinkError(
            f"another process holds the file: {text}",
            where=where,
            mend="Close the other connection; DuckDB lets one process write, or several read",
        )
    if "different configuration" in text:
        return SinkError(
            "this process holds the file with other settings",
            where=where,
            mend="Close the other connection first",
        )
    if "not a valid DuckDB database" in text:
        return SinkError("the file is not a DuckDB database", where=where, found=settings.path)
    return SinkError(f"the file cannot be opened: {text}", where=where, found=settings.path)
