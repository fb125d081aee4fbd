# SPDX-License-Identifier: Apache-2.0
"""The rows of a DuckDB mirror: its tables, and how a round is merged into them.

A round is merged in pieces of bounded size, so that memory depends neither on the round nor on the
table. Each piece: newest row per key; look its keys up in the table; drop what is not newer than
what is stored; delete the rows that lose; insert.

A look-up first finds the places of the rows whose `_key_hash`, 32 bits of a hash of the key, is one
of the piece's, and then reads key and version of those places alone. So of a row that no change is
about four bytes are read and not some eighty: a small round costs nearly the same whatever the size
of the table. An index would find it at once, but DuckDB has to keep all of an index in memory.
"""

# ruff: noqa: S608  (SQL is made of constants and of names that are quoted)

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.order import newest_per_key
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.sinks.base import Sweep
from dynabeam.transforms.sinks.duckdb.database import (
    META,
    ROWS,
    create_meta,
    first_row,
    read_held,
    registered,
    write_held,
)
from dynabeam.transforms.sinks.mirror_rows import (
    KEY,
    GatheredRows,
    Merged,
    SqlTypes,
    refuse_missing_images,
    refuse_other_form,
    rows_of,
)
from dynabeam.transforms.sinks.mirror_sink import Held, OpenMirror
from dynabeam.transforms.sinks.row_layout import (
    VERSION_COLUMNS,
    RowLayout,
    RowOptions,
    appended,
    version_columns,
)
from dynabeam.transforms.values.buckets import bucket_numbers
from dynabeam.transforms.values.column_types import ColumnTypes
from dynabeam.transforms.values.json_sql import quoted_name

__all__ = ["PIECE_BYTES", "MirrorTable", "MirrorTables", "RoundRows"]

PIECE_BYTES = 32 << 20
"""Rows are merged once this many bytes of them have gathered."""

_TYPES = ("VARCHAR", "VARCHAR", "TIMESTAMPTZ", "BOOLEAN", "BOOLEAN")
_METADATA = dict(zip(VERSION_COLUMNS, _TYPES, strict=True))
KEY_HASH = "_key_hash"
"""`bucket_numbers(_key, 2**32)`. Files of format 1 lack it."""
_HASHES = 1 << 32
_OLDER = (
    "NOT _deleted AND _version < $version "
    "AND ($since = 0 OR (_op <> 'r' AND epoch_us(_event_time) >= $since))"
)
_JSON = {"ARROW:extension:name": "arrow.json", "ARROW:extension:metadata": ""}
"""Says that a text column is JSON: https://arrow.apache.org/docs/format/CanonicalExtensions.html"""
# DuckDB's own name of a row's place: an attribute of that name would hide it.
_RESERVED = (KEY, KEY_HASH, *_METADATA, "rowid")


class RoundRows(GatheredRows):
    """Gathers the blocks of a round per table and merges them piece by piece.

    Args:
        tables: The tables.
        sink: The sink for people.
        piece_bytes: Rows are merged once so many bytes of them have gathered, default
            `PIECE_BYTES`. A larger block is cut.
    """

    def __init__(self, tables: MirrorTables, sink: str, piece_bytes: int | None = None) -> None:
        super().__init__(sink, PIECE_BYTES if piece_bytes is None else piece_bytes)
        self._tables = tables

    def add(self, block: Block) -> None:
        """Takes one block, part by part if it is large."""
        for rows in _cut(block.rows, self._piece_bytes):
            super().add(block.with_rows(rows))

    def merge(self, table: Table, blocks: Sequence[Block]) -> Merged:
        """Merges a piece."""
        opened = self._tables.open(table)
        before = opened.unfit_numbers
        written = opened.merge(rows_of(blocks))
        return Merged(written, opened.unfit_numbers - before)


def _cut(rows: pa.RecordBatch, piece_bytes: int) -> Iterator[pa.RecordBatch]:
    """Cuts rows into parts of about that size, of one row at least; none if there are no rows."""
    parts = max(1, -(-rows.nbytes // max(piece_bytes, 1)))
    step = max(1, -(-rows.num_rows // parts))
    for start in range(0, rows.num_rows, step):
        yield rows.slice(start, step)


class MirrorTables(OpenMirror):
    """An open mirror and its tables; all work is part of the caller's transaction."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        options: RowOptions,
        sink: str,
        *,
        numbers_given: bool = True,
    ) -> None:
        self._connection = connection
        self._options = options
        self._numbers_given = numbers_given
        self._where = f"--sink={sink}"
        self._open: dict[str, MirrorTable] = {}

    def open(self, table: Table) -> MirrorTable:
        """The table in the mirror, created if it is new.

        Raises:
            SinkError: If the mirror holds it with another key or other options, or another relation
                has its name (DuckDB's names ignore case).
        """
        if table.name not in self._open:
            known = self._known(table)
            opened = MirrorTable(self._connection, table, known or self._options)
            if known is not None:
                opened.load()
            else:
                self._refuse_foreign(table)
                opened.create()
            self._open[table.name] = opened
        return self._open[table.name]

    def held(self) -> Held | None:
        """What the mirror holds; None if the file is not a mirror yet."""
        return read_held(self._connection)

    def create(self, held: Held) -> None:
        """Creates the mirror without tables."""
        create_meta(self._connection)
        self.record(held)

    def record(self, held: Held) -> None:
        """Records what the mirror holds."""
        write_held(self._connection, held)

    def describe(self, held: Held | None) -> str:
        """What is in the file, for people."""
        return f"a mirror, round {held.round.number}" if held else "a DuckDB file without a mirror"

    def newest_version(self, table: Table) -> str | None:
        """The highest version of a table's rows; None if the mirror does not hold it, or none."""
        known = first_row(
            self._connection, f"SELECT name FROM {META}.tables WHERE name = ?", [table.name]
        )
        if known is None:
            return None
        rows = f"{ROWS}.{quoted_name(table.name)}"
        newest = first_row(self._connection, f"SELECT max(_version) FROM {rows}")
        assert newest is not None
        return newest[0] or None

    def add_key_hashes(self) -> None:
        """See `MirrorTable.add_key_hashes`, for all that are open."""
        for table in self._open.values():
            table.add_key_hashes()

    def _known(self, table: Table) -> RowOptions | None:
        """The options of a table that the mirror holds; None if it holds none of this name."""
        row = first_row(
            self._connection,
            f"SELECT name, keys, options FROM {META}.tables WHERE lower(name) = lower(?)",
            [table.name],
        )
        if row is None:
            return None
        options = self._options
        if not self._numbers_given:
            # The default was another one once; a column's type stays.
            numbers = RowOptions.from_json(row[2]).numbers
            options = dataclasses.replace(options, numbers=numbers)
        forms = {
            "name": (table.name, row[0]),
            "key": (json.dumps(table.keys.to_json()), row[1]),
            "options": (options.to_json(), row[2]),
        }
        refuse_other_form(forms, f"{self._where}, table {table.name}", "file")
        return options

    def _refuse_foreign(self, table: Table) -> None:
        row = first_row(
            self._connection,
            "SELECT table_type FROM information_schema.tables WHERE lower(table_name) = lower(?) "
            "AND table_schema = 'main' AND table_catalog = current_database()",
            [table.name],
        )
        if row is not None:
            raise SinkError(
                f"the file has a {row[0].lower()} of this name that is not Dynabeam's",
                where=f"{self._where}, table {table.name}",
                hint="Rename it, or mirror to another file",
            )


class MirrorTable:
    """One table of a mirror."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, table: Table, options: RowOptions
    ) -> None:
        self._connection = connection
        self._table = table
        self._options = options
        self._layout = RowLayout(table, options, _RESERVED)
        self._rows = f"{ROWS}.{quoted_name(table.name)}"
        numbers = options.numbers
        decimal = "VARCHAR" if numbers.is_text else f"DECIMAL({numbers.precision},{numbers.scale})"
        self._types = SqlTypes("VARCHAR", decimal, "BLOB", "BOOLEAN", "JSON")
        self._has_hashes = True

    def create(self) -> None:
        """Creates the table, its view and its entry."""
        fields = {
            **{name: self._types.of(tag) for name, tag in self._layout.columns().items()},
            self._layout.rest: "JSON",
            **_METADATA,
        }
        columns = ", ".join(f"{quoted_name(name)} {kind}" for name, kind in fields.items())
        self._connection.execute(
            f"CREATE TABLE {self._rows} "
            f"({KEY} BLOB NOT NULL, {KEY_HASH} UINTEGER NOT NULL, {columns})"
        )
        self._connection.execute(
            f"INSERT INTO {META}.tables VALUES (?, ?, ?, ?, ?)",
            [
                self._table.name,
                self._table.arn,
                json.dumps(self._table.keys.to_json()),
                self._options.to_json(),
                self._attributes(),
            ],
        )
        self._create_view()

    def load(self) -> None:
        """Reads which attributes have columns."""
        row = first_row(
            self._connection,
            f"SELECT attributes FROM {META}.tables WHERE name = ?",
            [self._table.name],
        )
        assert row is not None
        self._layout.restore(ColumnTypes.from_json(json.loads(row[0])))
        hashes = first_row(
            self._connection,
            "SELECT 1 FROM duckdb_columns() WHERE database_name = current_database() AND "
            f"schema_name = '{ROWS}' AND table_name = ? AND column_name = '{KEY_HASH}'",
            [self._table.name],
        )
        self._has_hashes = hashes is not None and not self._attribute_has_hash_name()

    def add_key_hashes(self) -> None:
        """Gives a table of format 1 its column `KEY_HASH`; merging works without, but slowly."""
        if self._has_hashes or self._attribute_has_hash_name():
            return
        self._connection.create_function(
            "dynabeam_key_hash", _key_hashes, ["BLOB"], "UINTEGER", type="arrow"
        )
        self._connection.execute(f"ALTER TABLE {self._rows} ADD COLUMN {KEY_HASH} UINTEGER")
        # A change of type writes the one column anew and keeps no old values, as an update would.
        self._connection.execute(
            f"ALTER TABLE {self._rows} ALTER COLUMN {KEY_HASH} SET DATA TYPE UINTEGER "
            f"USING dynabeam_key_hash({KEY})"
        )
        self._connection.remove_function("dynabeam_key_hash")
        self._has_hashes = True

    def _attribute_has_hash_name(self) -> bool:
        """Whether a table of format 1 gave an attribute the column's name."""
        return any(name.lower() == KEY_HASH for name in self._layout.columns())

    @property
    def unfit_numbers(self) -> int:
        """See `RowLayout.unfit_numbers`."""
        return self._layout.unfit_numbers

    def merge(self, rows: pa.RecordBatch) -> int:
        """Applies rows under the version guard.

        Args:
            rows: Changes with the columns of `transforms.model.block.SCHEMA`, in any order.

        Returns:
            How many rows changed the table.
        """
        refuse_missing_images(rows, f"table {self._table.name}")
        fresh = self._without_stale(newest_per_key(rows))
        if fresh.num_rows == 0:
            return 0
        table = self._as_columns(fresh)
        with registered(self._connection, "piece", self._with_json(table)):
            self._connection.execute(f"INSERT INTO {self._rows} BY NAME SELECT * FROM piece")
        return fresh.num_rows

    def sweep(self, sweep: Sweep) -> int:
        """Turns live rows whose version is of an older generation into tombstones.

        Returns:
            How many rows were live.
        """
        older = {"version": sweep.version, "since": sweep.changed_since_us}
        wanted = sweep.key_range
        if wanted is None:
            return self._remove(older)
        keys = self._connection.sql(
            f"SELECT {KEY} FROM {self._rows} WHERE {_OLDER} AND {KEY} >= $low AND {KEY} < $high",
            params=older | {"low": wanted.low, "high": wanted.high},
        ).to_arrow_table()
        inside = pa.table([sweep.inside(keys.column(0).combine_chunks())], names=[KEY])
        with registered(self._connection, "listed", inside):
            return self._remove(older, f"AND {KEY} IN (SELECT {KEY} FROM listed)")

    def _remove(self, older: dict[str, Any], which: str = "") -> int:
        attributes = [*self._layout.beside_key(), self._layout.rest]
        gone = "".join(f"{quoted_name(name)} = NULL, " for name in attributes)
        row = first_row(
            self._connection,
            f"UPDATE {self._rows} SET {gone} _op = 'd', _ttl = false, _deleted = true, "
            f"_version = $version WHERE {_OLDER} {which}",
            older,
        )
        assert row is not None
        return int(row[0])

    def _create_view(self) -> None:
        names = [*self._layout.columns(), self._layout.rest, *_METADATA]
        self._connection.execute(
            f"CREATE OR REPLACE VIEW main.{quoted_name(self._table.name)} AS "
            f"SELECT {', '.join(map(quoted_name, names))} FROM {self._rows} WHERE NOT _deleted"
        )

    def _without_stale(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Deletes stored rows that lose, and drops given rows that do."""
        places = pa.array(range(rows.num_rows), pa.int64())
        incoming = pa.table(
            [
                rows.column("key"),
                _key_hashes(rows.column("key")),
                rows.column("version").cast(pa.string()),
                places,
            ],
            names=["key", "hash", "version", "place"],
        )
        with registered(self._connection, "given", incoming):
            # A table of its own: the optimizer knows its size and builds the join from it.
            self._connection.execute("CREATE OR REPLACE TEMP TABLE incoming AS FROM given")
        stored = f"(SELECT rowid AS place, {KEY}, _version FROM {self._rows})"
        if self._has_hashes:
            # One step at a time: in one query the optimizer joins by key first and reads all keys.
            self._connection.execute(
                "CREATE OR REPLACE TEMP TABLE places AS SELECT rowid AS place "
                f"FROM {self._rows} WHERE {KEY_HASH} IN (SELECT hash FROM incoming)"
            )
            self._connection.execute(
                "CREATE OR REPLACE TEMP TABLE stored AS "
                f"SELECT rowid AS place, {KEY}, _version FROM {self._rows} "
                "WHERE rowid IN (SELECT place FROM places)"
            )
            stored = "stored"
        self._connection.execute(
            "CREATE OR REPLACE TEMP TABLE met AS "
            "SELECT i.place, b.place AS stored, i.version > b._version AS wins "
            f"FROM {stored} b JOIN incoming i ON b.{KEY} = i.key"
        )
        self._connection.execute(
            f"DELETE FROM {self._rows} WHERE rowid IN (SELECT stored FROM met WHERE wins)"
        )
        stale = self._connection.sql("SELECT place FROM met WHERE NOT wins").to_arrow_table()
        if stale.num_rows == 0:
            return rows
        return rows.filter(pc.invert(pc.is_in(places, value_set=stale["place"].combine_chunks())))

    def _as_columns(self, rows: pa.RecordBatch) -> pa.Table:
        """The rows as typed columns; columns that are new are added to the table."""
        before, columns_before = self._layout.types, self._layout.columns()
        typed = self._layout.rows(rows.column("key"), rows.column("new"))
        added = {k: v for k, v in self._layout.columns().items() if k not in columns_before}
        for name, tag in added.items():
            self._connection.execute(
                f"ALTER TABLE {self._rows} ADD COLUMN {quoted_name(name)} {self._types.of(tag)}"
            )
        if added:
            self._create_view()
        if self._layout.types is not before:
            self._connection.execute(
                f"UPDATE {META}.tables SET attributes = ? WHERE name = ?",
                [self._attributes(), self._table.name],
            )
        metadata = {KEY: rows.column("key"), **version_columns(rows)}
        if self._has_hashes:
            metadata[KEY_HASH] = _key_hashes(rows.column("key"))
        return appended(typed, metadata)

    def _with_json(self, typed: pa.Table) -> pa.Table:
        """The columns of JSON with that type, so that DuckDB takes them as they are.

        They are valid already. Casting text to JSON parses it again, and keeps what it parsed of
        2,048 rows at once: 80 MB of maps need more than the whole `memory_limit`.
        """
        tags = self._layout.columns()
        json_columns = {name for name, tag in tags.items() if tag in ("L", "M")}
        json_columns.add(self._layout.rest)
        fields = [
            field.with_metadata(_JSON) if field.name in json_columns else field
            for field in typed.schema
        ]
        return typed.cast(pa.schema(fields))

    def _attributes(self) -> str:
        return json.dumps(self._layout.types.to_json())


def _key_hashes(keys: pa.Array | pa.ChunkedArray) -> pa.Array:
    return pa.array(bucket_numbers(keys, _HASHES).astype(np.uint32))
