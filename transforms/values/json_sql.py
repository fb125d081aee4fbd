# SPDX-License-Identifier: Apache-2.0
"""An in-memory DuckDB per thread, as a vectorised decoder of JSON over Arrow columns.

Why DuckDB: its JSON functions are the quickest exact decoder measured (see
`tests/benchmarks/unpack_images.py`), keep nested values as text, take JSON pointers and so any
attribute name, and keep rows aligned with the input.

The connection sees nothing but the Arrow tables it is given: no files, no extensions beyond the
built-in JSON, no Python variables. One thread, because the runner already runs many of us.
"""

from __future__ import annotations

import threading

import duckdb
import pyarrow as pa

__all__ = ["query", "quoted_name", "quoted_text"]

_SETTINGS = {
    "threads": "1",
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
}

_local = threading.local()


def query(sql: str, table: pa.Table) -> pa.Table:
    """Run SQL over one Arrow table, named `input` in the SQL, in input order.

    Raises:
        duckdb.Error: As DuckDB says.
    """
    connection = _connection()
    try:
        connection.register("input", table)
        found = connection.sql(sql).to_arrow_table()
        connection.unregister("input")
    except BaseException:
        # What state the connection is in is unknown: the next query gets a new one. To take the
        # table off might fail too and hide the cause.
        _local.connection = None
        raise
    return found


def quoted_text(text: str) -> str:
    """Return text as a constant SQL expression."""
    # Some versions' parsers end at a U+0000 (DuckDB 1.5, the newest for Python 3.10).
    parts = ("'" + part.replace("'", "''") + "'" for part in text.split("\x00"))
    joined = " || chr(0) || ".join(parts)
    return f"({joined})" if "\x00" in text else joined


def quoted_name(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _connection() -> duckdb.DuckDBPyConnection:
    connection: duckdb.DuckDBPyConnection | None = getattr(_local, "connection", None)
    if connection is None:
        connection = duckdb.connect(":memory:", config=dict(_SETTINGS))
        _local.connection = connection
    return connection
