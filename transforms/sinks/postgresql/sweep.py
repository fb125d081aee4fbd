# SPDX-License-Identifier: Apache-2.0
"""The sweep of a table of a PostgreSQL mirror: rows of older generations become tombstones.

Rows are locked in order of key, as merges do it, and looked at again behind the lock: what came in
between stays. A sweep of a range of keys goes piece by piece, each a transaction of its own, which
may be repeated; keys are judged by their canonical form, so it is exact for every type of key.
"""

# ruff: noqa: S608  (SQL is made of constants and of names that are quoted)

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone

import psycopg
import pyarrow as pa

from dynabeam.transforms.sinks.base import Sweep
from dynabeam.transforms.sinks.postgresql.connection import Connection, execute
from dynabeam.transforms.sinks.postgresql.merge import DELETED_AT
from dynabeam.transforms.sinks.postgresql.names import quoted_text
from dynabeam.transforms.values.json_sql import quoted_name

__all__ = ["sweep_rows"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_PIECE_ROWS = 20_000


def sweep_rows(connection: Connection, rows: str, columns: Iterable[str], sweep: Sweep) -> int:
    """Sweeps, see `Sink.remove_older_generations`.

    Args:
        connection: In no transaction.
        rows: The table that holds the rows, as SQL names it.
        columns: Those that a tombstone has no value in.
        sweep: Which rows.

    Returns:
        How many rows were live.
    """
    version, key_range = sweep.version, sweep.key_range
    older = f"NOT r._deleted AND r._version < '{version}'"
    if sweep.changed_since_us:
        since = (_EPOCH + timedelta(microseconds=sweep.changed_since_us)).isoformat()
        older += f" AND r._op <> 'r' AND r._event_time >= {quoted_text(since)}::timestamptz"
    gone = "".join(f"{quoted_name(each)} = NULL, " for each in columns)

    def removal(which: str) -> str:
        return (
            f"WITH old AS (SELECT r._key FROM {rows} r WHERE {which} ORDER BY 1 FOR UPDATE) "
            f"UPDATE {rows} r SET {gone}_op = 'd', _ttl = false, _deleted = true, "
            f"{DELETED_AT} = now(), _version = '{version}' FROM old WHERE r._key = old._key "
            f"AND {older}"
        )

    if key_range is None:
        return execute(connection, removal(older)).rowcount
    removed, low = 0, key_range.low
    while True:
        cursor = psycopg.RawCursor(connection)
        listing = (
            f"SELECT r._key FROM {rows} r WHERE {older} AND r._key >= $1 AND r._key < $2 "
            f"ORDER BY 1 LIMIT {_PIECE_ROWS}"
        )
        found = cursor.execute(listing.encode(), (low, key_range.high)).fetchall()
        if not found:
            return removed
        inside = sweep.inside(pa.array([key for (key,) in found], pa.binary())).to_pylist()
        if inside:
            listed = removal(f"r._key = ANY ($1) AND {older}")
            removed += cursor.execute(listed.encode(), (inside,)).rowcount
        low = found[-1][0] + b"\x00"
