# SPDX-License-Identifier: Apache-2.0
"""Reads a PostgreSQL mirror for an audit: the rows behind the views, by ranges of keys.

Ranges of keys, and not of pages, because others may be writing: an update moves a row to another
page, never to another key. Each range is one statement and so one moment. Rows come by `COPY`, as
text, and become columns without Python per row. Only `SELECT` on the tables of the mirror's schema
is needed.
"""

# ruff: noqa: S608  (SQL is made of constants and of names that are quoted)

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
from collections.abc import Iterator, Sequence

import psycopg
import pyarrow as pa
import pyarrow.csv

from dynabeam.transforms.audit.mirror_reader import MirrorReader, StoredRows, check_keys
from dynabeam.transforms.audit.mirror_schema import RAW, MirrorShape
from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.sinks.postgresql.connection import (
    Connection,
    PostgresSettings,
    connect,
    execute,
    sink_error,
)
from dynabeam.transforms.sinks.postgresql.meta import TABLES, read_held
from dynabeam.transforms.sinks.postgresql.names import (
    ColumnNames,
    qualified,
    quoted_text,
    rows_name,
)
from dynabeam.transforms.sinks.postgresql.values import index_keys, set_aside, without_nul
from dynabeam.transforms.sinks.row_layout import RowOptions
from dynabeam.transforms.values.column_types import ColumnTypes, NumberType
from dynabeam.transforms.values.json_sql import query, quoted_name

__all__ = ["PART_ROWS", "PostgreSQLReader"]

PART_ROWS = 250_000
_PIECE_BYTES = 8 << 20
_HEAD = ("_key", "_version", "_event_time", "_deleted")
_DECIMAL = re.compile(r"numeric\(([0-9]+),([0-9]+)\)")


class PostgreSQLReader(MirrorReader):
    """The rows of a PostgreSQL mirror."""

    cells_are_text = True

    def describe(self, table: Table) -> MirrorShape | None:
        """What the mirror says of a table."""
        settings = self._settings
        with self._connected() as connection:
            if read_held(connection, settings) is None:
                raise SinkError(
                    "there is no mirror in this schema",
                    where=settings.where,
                    found=settings.schema,
                )
            row = execute(
                connection,
                # A mirror of an earlier release has no names of columns.
                "SELECT keys, options, attributes, relation, to_jsonb(t) ->> 'columns' FROM "
                f"{qualified(settings.schema, TABLES)} t WHERE name = {quoted_text(table.name)}",
            ).fetchone()
        if row is None:
            return None
        check_keys(table, row[0], settings.where)
        options = json.loads(row[1])
        return MirrorShape(
            table,
            RowOptions(options["layout"], _number_type(options["numbers"]), options["nested"]),
            ColumnTypes.from_json(json.loads(row[2])),
            has_raw=True,
            details={"relation": row[3], "columns": row[4]},
        )

    def parts(self, shape: MirrorShape) -> Sequence[str]:
        """Ranges of keys, as hex digits of their bounds."""
        rows = self._rows(shape)
        with self._connected() as connection:
            found = execute(
                connection,
                "SELECT greatest(reltuples, 0)::bigint, pg_relation_size(oid) > 0 FROM pg_class "
                f"WHERE oid = {quoted_text(rows)}::regclass",
            ).fetchone()
            if found is None or not found[1]:
                return []
            parts = int(found[0]) // PART_ROWS + 1
            bounds = self._bounds(connection, rows, parts) if parts > 1 else []
        edges = ["", *bounds, ""]
        return [f"{low}-{high}" for low, high in itertools.pairwise(edges)]

    def read(self, shape: MirrorShape, part: str) -> Iterator[StoredRows]:
        """Reads a range of keys."""
        low, _, high = part.partition("-")
        names = ColumnNames.from_json(shape.details["columns"])
        bounds = [
            f"_key {compare} '\\x{bound}'::bytea"
            for compare, bound in ((">=", low), ("<", high))
            if bound
        ]
        cells = [
            "encode(_key, 'hex')",
            "_version",
            "(extract(epoch FROM _event_time) * 1000000)::bigint",
            "_deleted",
            *(_cell(names.of(name), tag) for name, tag in shape.tags.items()),
            f"{quoted_name(shape.rest)}::text",
            f"encode({RAW}, 'hex')",
        ]
        sql = (
            f"COPY (SELECT {', '.join(cells)} FROM {self._rows(shape)} "
            f"WHERE {' AND '.join(bounds) or 'true'}) TO STDOUT (FORMAT csv)"
        )
        with self._connected() as connection, connection.cursor() as cursor:
            waiting = io.BytesIO()
            with cursor.copy(sql.encode()) as copied:
                # The server sends whole rows.
                for row in copied:
                    waiting.write(row)
                    if waiting.tell() >= _PIECE_BYTES:
                        yield _stored_rows(waiting, shape)
                        waiting = io.BytesIO()
            if waiting.tell():
                yield _stored_rows(waiting, shape)

    def lay_out(self, shape: MirrorShape, keys: pa.Array, images: pa.Array) -> pa.Table:
        """Items in the mirror's columns."""
        images, aside = set_aside(images, whole=shape.options.layout == "packed")
        typed = shape.layout().rows(keys, images, grow=False)
        for each in shape.table.keys.attributes:
            if each.type == "S" and each.name in shape.tags:
                at = typed.column_names.index(each.name)
                column = without_nul(typed.column(at).combine_chunks())
                typed = typed.set_column(at, each.name, column)
        return typed.append_column(RAW, aside)

    def stored_keys(self, keys: pa.Array) -> pa.Array:
        """Keys as the index has them: long ones are cut."""
        return index_keys(keys)

    @property
    def _settings(self) -> PostgresSettings:
        uri = self.sink.uri
        return PostgresSettings.of(uri, uri.option("schema", "dynabeam"), 0.0)

    def _rows(self, shape: MirrorShape) -> str:
        return qualified(self._settings.schema, rows_name(shape.details["relation"]))

    def _bounds(self, connection: Connection, rows: str, parts: int) -> list[str]:
        """Keys that cut the table into parts of about one size, of a sample of its pages."""
        shares = ", ".join(f"{at / parts:.6f}" for at in range(1, parts))
        found = execute(
            connection,
            f"SELECT DISTINCT encode(unnest(percentile_disc(ARRAY[{shares}]::float8[]) "
            f"WITHIN GROUP (ORDER BY _key)), 'hex') FROM {rows} TABLESAMPLE SYSTEM (2) ORDER BY 1",
        ).fetchall()
        return [row[0] for row in found if row[0]]

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Connection]:
        settings = self._settings
        try:
            with connect(settings) as connection:
                yield connection
        except psycopg.Error as error:
            raise sink_error(settings, error) from error


def _number_type(text: str) -> NumberType:
    match = _DECIMAL.fullmatch(text)
    return NumberType(int(match[1]), int(match[2])) if match else NumberType.parse("text")


def _cell(column: str, tag: str) -> str:
    name = quoted_name(column)
    if tag == "B":
        return f"encode({name}, 'hex')"
    if tag == "BS":
        # PostgreSQL spells a member `\xhh`.
        return f"replace(to_jsonb({name}::text[])::text, '\\\\x', '')"
    if tag in ("SS", "NS"):
        return f"to_jsonb({name}::text[])::text"
    return f"{name}::text"


def _stored_rows(copied: io.BytesIO, shape: MirrorShape) -> StoredRows:
    """Rows of CSV, in which an empty text has quotes and a null has none."""
    size = copied.tell()
    copied.seek(0)
    names = [f"c{at}" for at in range(len(_HEAD) + len(shape.names))]
    texts = pa.csv.read_csv(
        copied,
        pa.csv.ReadOptions(use_threads=False, block_size=size + 1, column_names=names),
        pa.csv.ParseOptions(newlines_in_values=True),
        pa.csv.ConvertOptions(
            column_types={each: pa.string() for each in names},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    raw = names[-1]
    binary = query(
        f"SELECT unhex(c0) AS k, decode(unhex({raw})) AS raw FROM input",
        texts.select(["c0", raw]),
    )
    stored = texts.select(names[len(_HEAD) : -1]).append_column("raw", binary.column("raw"))
    return StoredRows(
        keys=binary.column("k").combine_chunks(),
        versions=texts.column("c1").combine_chunks().cast(pa.binary()),
        event_us=texts.column("c2").combine_chunks().cast(pa.int64()),
        deleted=pa.compute.equal(texts.column("c3"), "t").combine_chunks(),
        stored=stored.rename_columns(shape.names),
    )
