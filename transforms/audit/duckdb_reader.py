# SPDX-License-Identifier: Apache-2.0
"""Reads a DuckDB mirror for an audit: the rows behind the views, by ranges of their places.

The file is opened for reading only, so no other process may be writing it: between two rounds it is
closed. All parts see the same rows, because nobody can write meanwhile.
"""

# ruff: noqa: S608  (SQL is made of constants and of names that are quoted)

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa

from dynabeam.transforms.audit.mirror_reader import BATCH_ROWS, MirrorReader, StoredRows, check_keys
from dynabeam.transforms.audit.mirror_schema import MirrorShape
from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.sinks.duckdb.database import META, ROWS, first_row, read_held
from dynabeam.transforms.sinks.row_layout import RowOptions
from dynabeam.transforms.values.column_types import ColumnTypes, NumberType
from dynabeam.transforms.values.json_sql import quoted_name

__all__ = ["DuckDBReader"]

_PART_ROWS = 245_760
"""Rows of a part: two row groups of DuckDB's."""


class DuckDBReader(MirrorReader):
    """The rows of a DuckDB mirror."""

    def describe(self, table: Table) -> MirrorShape | None:
        """What the mirror says of a table."""
        with self._connected() as connection:
            if read_held(connection) is None:
                raise SinkError("the file is no mirror of Dynabeam's", where=self._where)
            row = first_row(
                connection,
                f"SELECT keys, options, attributes FROM {META}.tables WHERE name = ?",
                [table.name],
            )
            if row is None:
                return None
            check_keys(table, row[0], self._where)
            last = first_row(connection, f"SELECT max(rowid) FROM {_rows(table)}")
        assert last is not None
        options = json.loads(row[1])
        options["numbers"] = NumberType(**options["numbers"])
        types = ColumnTypes.from_json(json.loads(row[2]))
        rows = 0 if last[0] is None else int(last[0]) + 1
        return MirrorShape(table, RowOptions(**options), types, details={"rows": rows})

    def parts(self, shape: MirrorShape) -> Sequence[str]:
        """Ranges of row places."""
        rows: int = shape.details["rows"]
        return [f"{first}-{first + _PART_ROWS}" for first in range(0, rows, _PART_ROWS)]

    def read(self, shape: MirrorShape, part: str) -> Iterator[StoredRows]:
        """Reads a range of row places."""
        first, _, end = part.partition("-")
        columns = ", ".join(quoted_name(each) for each in shape.names)
        with self._connected() as connection:
            for begin in range(int(first), int(end), BATCH_ROWS):
                found = connection.sql(
                    "SELECT _key, encode(coalesce(_version, '')), "
                    "coalesce(epoch_us(_event_time), 0), coalesce(_deleted, true), "
                    f"{columns} FROM {_rows(shape.table)} "
                    f"WHERE rowid >= {begin} AND rowid < {min(begin + BATCH_ROWS, int(end))}"
                ).to_arrow_table()
                keys, versions, event_us, deleted = (
                    found.column(at).combine_chunks() for at in range(4)
                )
                stored = pa.table(found.columns[4:], names=shape.names)
                yield StoredRows(keys, versions, event_us, deleted, stored)

    def lay_out(self, shape: MirrorShape, keys: pa.Array, images: pa.Array) -> pa.Table:
        """Items in the mirror's columns."""
        return shape.layout().rows(keys, images, grow=False)

    @property
    def _where(self) -> str:
        return f"--sink={self.sink.name}"

    @contextlib.contextmanager
    def _connected(self) -> Iterator[duckdb.DuckDBPyConnection]:
        path = self.sink.place
        if not os.path.exists(path):
            raise SinkError("the mirror does not exist", where=self._where, found=path)
        config = {
            "memory_limit": self.sink.uri.option("memory_limit", "128MB"),
            "threads": self.sink.uri.option("threads", "2"),
            # Not beside the file: its folder may be for reading only.
            "temp_directory": os.path.join(tempfile.gettempdir(), "dynabeam-audit.tmp"),
            "autoinstall_known_extensions": "false",
            "python_enable_replacements": "false",
        }
        try:
            connection = duckdb.connect(path, read_only=True, config=config)
        except duckdb.Error as error:
            raise SinkError(
                f"the mirror cannot be read: {error}",
                where=self._where,
                hint="Audit between two rounds: DuckDB lets one process write, or several read",
            ) from error
        try:
            connection.execute("SET TimeZone = 'UTC'")
            yield connection
        except duckdb.Error as error:
            raise SinkError(f"DuckDB refuses: {error}", where=self._where) from error
        finally:
            connection.close()


def _rows(table: Table) -> str:
    return f"{ROWS}.{quoted_name(table.name)}"
