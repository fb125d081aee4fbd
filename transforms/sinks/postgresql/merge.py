# SPDX-License-Identifier: Apache-2.0
"""How rows that are laid out are merged into a table of a PostgreSQL mirror.

Many are copied into a temporary table and merged from there: the quickest way per row, but four
statements, each waited for. A few go as one JSON document, the parameter of one statement that does
it all; its text is the same for any number of rows, so that it shows no data and is one entry in a
server's statistics. Both ways do the same:

* They lock the table against new columns before they look at the table's revision, and do nothing
  if it is not the one that the rows were laid out for.
* They merge the rows in the order in which they are given, which is the order of key.
* They replace a stored row only by one of a higher version.
"""

# ruff: noqa: S608  (SQL is made of constants and of names that are quoted)

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import psycopg
import pyarrow as pa

from dynabeam.transforms.sinks.mirror_rows import KEY
from dynabeam.transforms.sinks.postgresql.connection import Connection, execute
from dynabeam.transforms.sinks.postgresql.values import copy_text, json_rows
from dynabeam.transforms.values.json_sql import quoted_name

__all__ = [
    "DELETED_AT",
    "MergeStatements",
    "are_few",
    "merge_document",
    "merge_rows",
    "merge_statements",
    "staging_sql",
]

DELETED_AT = "_deleted_at"

SMALL_BATCH_ROWS = 100
FEW_BYTES = 1 << 20
"""Up to here rows are merged as one document. It breaks even at some 250 rows of 400 bytes, see
`tests/benchmarks/postgresql_merge.py`."""


def are_few(rows: pa.Table | pa.RecordBatch) -> bool:
    """Whether rows are merged as one document."""
    return rows.num_rows <= SMALL_BATCH_ROWS and rows.nbytes <= FEW_BYTES


_STAGING = "pg_temp.dynabeam_staging"


@dataclasses.dataclass(frozen=True)
class MergeStatements:
    """SQL of a merge.

    Attributes:
        columns: Names of the columns that the rows have, in order.
        few: Merges rows that are JSON ($1) if the revision is as expected ($2). Returns how many
            changed the table, and the revision.
        begin: Begins a transaction, locks the table and returns its revision.
        copy: Copies rows into the temporary table.
        merge: Merges what was copied and commits.
    """

    columns: Sequence[str]
    few: str
    begin: str
    copy: str
    merge: str


def merge_statements(
    columns: Mapping[str, str], *, name_of: Callable[[str], str], rows: str, revision: str
) -> MergeStatements:
    """Makes the SQL of merges into a table.

    Args:
        columns: SQL types of all its columns but `DELETED_AT`, by name, as rows have them in order.
        name_of: The name of such a column in the database.
        rows: The table.
        revision: A query of its revision.
    """
    names = [*(quoted_name(name_of(each)) for each in columns), DELETED_AT]
    places = {name: f"c{at}" for at, name in enumerate(columns)}
    cells = [f"{places[name]}::{kind}" for name, kind in columns.items()]
    cells.append(f"CASE WHEN {places['_deleted']}::boolean THEN now() END")
    into = f"INSERT INTO {rows} AS r ({', '.join(names)}) SELECT {', '.join(cells)} FROM"
    values = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
    newer = f"ON CONFLICT ({KEY}) DO UPDATE SET {values} WHERE excluded._version > r._version"
    fields = (
        f"{places[name]} {'text[]' if kind.endswith('[]') else 'text'}"
        for name, kind in columns.items()
    )
    document = f"json_to_recordset($1::json) AS document({', '.join(fields)})"
    return MergeStatements(
        columns=tuple(columns),
        # A statement locks its table when it is parsed, and takes its snapshot after that.
        few=f"WITH merged AS ({into} {document} WHERE ({revision}) = $2 {newer} RETURNING 1) "
        f"SELECT (SELECT count(*) FROM merged), ({revision})",
        # Whoever wants to add columns waits until this transaction ends, or we for them.
        begin=f"BEGIN; LOCK TABLE {rows} IN ROW EXCLUSIVE MODE; {revision}",
        copy=f"COPY {_STAGING} ({', '.join(places.values())}) FROM STDIN (FORMAT csv)",
        # Read as it was copied.
        merge=f"{into} {_STAGING} {newer}; COMMIT",
    )


def staging_sql(columns: int) -> str:
    """SQL of the temporary table: one for all tables of a connection, all text, never changed."""
    fields = ", ".join(f"c{at} text" for at in range(columns))
    return f"CREATE TEMPORARY TABLE {_STAGING} ({fields}) ON COMMIT DELETE ROWS"


def merge_rows(
    connection: Connection, sql: MergeStatements, revision: int, typed: pa.Table
) -> int | None:
    """Merges rows in a transaction of its own.

    Args:
        connection: In no transaction.
        sql: For the table.
        revision: The table's revision that the rows were laid out for.
        typed: Rows of different keys, in order of key.

    Returns:
        How many rows changed the table; None if its revision is another, and nothing was done.
    """
    if are_few(typed):
        return merge_document(connection, sql, revision, json_rows(typed))
    return _merge_copied(connection, sql, revision, typed)


def merge_document(
    connection: Connection, sql: MergeStatements, revision: int, document: str
) -> int | None:
    """`merge_rows` for a few rows that are a JSON document, as `json_rows` makes it."""
    cursor = psycopg.RawCursor(connection)
    # Near the tip the same few statements come again and again: planned once, they take half.
    cursor.execute(sql.few.encode(), (document, revision), prepare=True)
    found = cursor.fetchone()
    return found[0] if found is not None and found[1] == revision else None


def _merge_copied(
    connection: Connection, sql: MergeStatements, revision: int, typed: pa.Table
) -> int | None:
    locked = execute(connection, sql.begin)
    while locked.nextset():
        pass
    if locked.fetchone() != (revision,):
        execute(connection, "ROLLBACK")
        return None
    cursor = connection.cursor()
    with cursor.copy(sql.copy.encode()) as copy:
        copy.write(copy_text(typed))
    cursor.execute(sql.merge.encode())
    return cursor.rowcount
