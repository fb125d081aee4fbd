# SPDX-License-Identifier: Apache-2.0
"""The rows of a DuckDB mirror: its tables, and how a round is merged into them.

A round is merged in pieces of bounded size, so that memory depends neither on the round nor on the
table. Each piece: newest row per key; look its keys up in the table (a join whose build side is the
piece); drop what is not newer than what is stored; delete the rows that lose; insert.
"""

# ruff: noqa: S608  (SQL is made of constants and of names that are quoted)

from __future__ import annotations

import json
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from transforms.block import Block
from transforms.errors import SinkError
from transforms.key_range import KeyRange
from transforms.order import newest_per_key
from transforms.sinks.duckdb_database import META, ROWS, first_row
from transforms.sinks.row_layout import RowLayout, RowOptions
from transforms.tables import Table
from transforms.values.column_types import ColumnTypes
from transforms.values.json_sql import quoted_name
from transforms.version import encode_version

__all__ = ["PIECE_BYTES", "MirrorTable", "MirrorTables", "RoundRows"]

PIECE_BYTES = 32 << 20
"""Rows are merged once this many bytes of them have gathered."""

_METADATA = {
    "_version": "VARCHAR",
    "_op": "VARCHAR",
    "_event_time": "TIMESTAMPTZ",
    "_ttl": "BOOLEAN",
    "_deleted": "BOOLEAN",
}
_KEY = "_key"
_OLDER = (
    "NOT _deleted AND _version < $version "
    "AND ($since = 0 OR (_op <> 'r' AND epoch_us(_event_time) >= $since))"
)
# DuckDB's own name of a row's place: an attribute of that name would hide it.
_RESERVED = (_KEY, *_METADATA, "rowid")


class RoundRows:
    """Gathers the blocks of a round per table and merges them piece by piece."""

    def __init__(self, tables: MirrorTables) -> None:
        self._tables = tables
        self._waiting: dict[str, tuple[Table, list[pa.RecordBatch]]] = {}
        self._bytes: dict[str, int] = {}
        self._counts: dict[str, dict[str, int]] = {}

    def add(self, block: Block) -> None:
        """Takes one block; merges the largest gathered piece if enough is gathered."""
        if block.rows.num_rows == 0:
            return
        table = block.header.table
        self._waiting.setdefault(table.name, (table, []))[1].append(block.rows)
        self._bytes[table.name] = self._bytes.get(table.name, 0) + block.rows.nbytes
        while sum(self._bytes.values()) >= PIECE_BYTES:
            self._merge(max(self._bytes, key=lambda name: self._bytes[name]))

    def finish(self) -> dict[str, dict[str, int]]:
        """Merges what is left.

        Returns:
            Per table `rows` that arrived, `written` rows that changed the mirror, and `stale` rows
            that lost against a higher version, stored or in the same round.
        """
        for name in list(self._waiting):
            self._merge(name)
        return self._counts

    def _merge(self, name: str) -> None:
        table, batches = self._waiting.pop(name)
        del self._bytes[name]
        rows = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
        written = self._tables.open(table).merge(rows)
        counts = self._counts.setdefault(name, {"rows": 0, "written": 0, "stale": 0})
        counts["rows"] += rows.num_rows
        counts["written"] += written
        counts["stale"] += rows.num_rows - written


class MirrorTables:
    """The tables of a mirror; all work is part of the caller's transaction."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, options: RowOptions, sink: str
    ) -> None:
        self._connection = connection
        self._options = options
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
            opened = MirrorTable(self._connection, table, self._options)
            if known:
                opened.load()
            else:
                self._refuse_foreign(table)
                opened.create()
            self._open[table.name] = opened
        return self._open[table.name]

    def _known(self, table: Table) -> bool:
        row = first_row(
            self._connection,
            f"SELECT name, keys, options FROM {META}.tables WHERE lower(name) = lower(?)",
            [table.name],
        )
        if row is None:
            return False
        asked = {
            "name": table.name,
            "key": json.dumps(table.keys.to_json()),
            "options": self._options.to_json(),
        }
        for (what, expected), found in zip(asked.items(), row, strict=True):
            if expected != found:
                raise SinkError(
                    f"the mirror holds this table with another {what}",
                    where=f"{self._where}, table {table.name}",
                    expected=expected,
                    found=found,
                    mend="Mirror it to a new file, with a new state directory",
                )
        return True

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
                mend="Rename it, or mirror to another file",
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

    def create(self) -> None:
        """Creates the table, its view and its entry."""
        fields = {
            **{name: self._column_type(tag) for name, tag in self._layout.columns().items()},
            self._layout.rest: "JSON",
            **_METADATA,
        }
        columns = ", ".join(f"{quoted_name(name)} {kind}" for name, kind in fields.items())
        self._connection.execute(f"CREATE TABLE {self._rows} ({_KEY} BLOB NOT NULL, {columns})")
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

    def merge(self, rows: pa.RecordBatch) -> int:
        """Applies rows under the version guard.

        Args:
            rows: Changes with the columns of `transforms.block.SCHEMA`, in any order.

        Returns:
            How many rows changed the table.
        """
        self._refuse_missing_images(rows)
        fresh = self._without_stale(newest_per_key(rows))
        if fresh.num_rows == 0:
            return 0
        table = self._as_columns(fresh)
        self._connection.register("piece", table)
        try:
            self._connection.execute(f"INSERT INTO {self._rows} BY NAME SELECT * FROM piece")
        finally:
            self._connection.unregister("piece")
        return fresh.num_rows

    def remove_older_generations(
        self, generation: int, changed_since_us: int, key_range: KeyRange | None
    ) -> int:
        """Turns live rows whose version is of an older generation into tombstones.

        Args:
            generation: The generation whose exports are applied in full.
            changed_since_us: 0 for all; else only rows of changes that were written then or later.
            key_range: Only rows of these keys; None for all.

        Returns:
            How many rows were live.
        """
        if key_range is not None:
            return self._remove_listed(generation, changed_since_us, key_range)
        return self._remove(generation, changed_since_us)

    def _remove_listed(self, generation: int, changed_since_us: int, key_range: KeyRange) -> int:
        bounds = {"low": key_range.low, "high": key_range.high}
        keys = self._connection.sql(
            f"SELECT {_KEY} FROM {self._rows} WHERE {_OLDER} AND {_KEY} >= $low AND {_KEY} < $high",
            params=_older(generation, changed_since_us) | bounds,
        ).to_arrow_table()
        inside = key_range.holds(keys.column(0).combine_chunks())
        self._connection.register("listed", keys.filter(inside))
        try:
            return self._remove(
                generation, changed_since_us, f"AND {_KEY} IN (SELECT {_KEY} FROM listed)"
            )
        finally:
            self._connection.unregister("listed")

    def _remove(self, generation: int, changed_since_us: int, which: str = "") -> int:
        keys = {each.name for each in self._table.keys.attributes}
        attributes = [
            name for name in (*self._layout.columns(), self._layout.rest) if name not in keys
        ]
        gone = "".join(f"{quoted_name(name)} = NULL, " for name in attributes)
        row = first_row(
            self._connection,
            f"UPDATE {self._rows} SET {gone} _op = 'd', _ttl = false, _deleted = true, "
            f"_version = $version WHERE {_OLDER} {which}",
            _older(generation, changed_since_us),
        )
        assert row is not None
        return int(row[0])

    def _create_view(self) -> None:
        names = [*self._layout.columns(), self._layout.rest, *_METADATA]
        self._connection.execute(
            f"CREATE OR REPLACE VIEW main.{quoted_name(self._table.name)} AS "
            f"SELECT {', '.join(map(quoted_name, names))} FROM {self._rows} WHERE NOT _deleted"
        )

    def _refuse_missing_images(self, rows: pa.RecordBatch) -> None:
        lacking = pc.and_(pc.is_null(rows.column("new")), pc.not_equal(rows.column("op"), "d"))
        if pc.any(lacking).as_py():
            raise SinkError(
                "a change that is no delete has no new image, which a mirror needs",
                where=f"table {self._table.name}",
                found=rows.filter(lacking).column("key")[0].as_py(),
                mend="Set the stream's view type to NEW_AND_OLD_IMAGES or NEW_IMAGE",
            )

    def _without_stale(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Deletes stored rows that lose, and drops given rows that do."""
        places = pa.array(range(rows.num_rows), pa.int64())
        incoming = pa.table(
            [rows.column("key"), rows.column("version").cast(pa.string()), places],
            names=["key", "version", "place"],
        )
        self._connection.register("given", incoming)
        try:
            # A table of its own: the optimizer knows its size and builds the join from it.
            self._connection.execute("CREATE OR REPLACE TEMP TABLE incoming AS FROM given")
        finally:
            self._connection.unregister("given")
        self._connection.execute(
            "CREATE OR REPLACE TEMP TABLE met AS "
            "SELECT i.place, b.rowid AS stored, i.version > b._version AS wins "
            f"FROM {self._rows} b JOIN incoming i ON b.{_KEY} = i.key"
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
                f"ALTER TABLE {self._rows} ADD COLUMN {quoted_name(name)} {self._column_type(tag)}"
            )
        if added:
            self._create_view()
        if self._layout.types is not before:
            self._connection.execute(
                f"UPDATE {META}.tables SET attributes = ? WHERE name = ?",
                [self._attributes(), self._table.name],
            )
        metadata = {
            _KEY: rows.column("key"),
            "_version": rows.column("version").cast(pa.string()),
            "_op": rows.column("op"),
            "_event_time": rows.column("event_time"),
            "_ttl": rows.column("ttl"),
            "_deleted": pc.equal(rows.column("op"), "d"),
        }
        for name, column in metadata.items():
            typed = typed.append_column(name, column)
        return typed

    def _attributes(self) -> str:
        return json.dumps(self._layout.types.to_json())

    def _column_type(self, tag: str) -> str:
        if tag in ("SS", "NS", "BS"):
            return f"{self._column_type(tag[0])}[]"
        numbers = self._options.numbers
        decimal = "VARCHAR" if numbers.is_text else f"DECIMAL({numbers.precision},{numbers.scale})"
        return {"N": decimal, "B": "BLOB", "BOOL": "BOOLEAN", "L": "JSON", "M": "JSON"}.get(
            tag, "VARCHAR"
        )


def _older(generation: int, changed_since_us: int) -> dict[str, Any]:
    """The parameters of `_OLDER`."""
    version = encode_version(generation).decode("ascii")
    return {"version": version, "since": changed_since_us}
