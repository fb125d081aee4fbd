# SPDX-License-Identifier: Apache-2.0
"""The tables of a PostgreSQL mirror: their columns, and how rows are merged into them.

Several writers do this at once, so:

* A merge locks the table against new columns, then looks whether it knows all columns; if not, it
  lets go, reads them and lays its rows out anew. Otherwise an update could leave the old value of a
  column in place that it has never heard of.
* Rows are merged in order of key, so two merges never wait for each other in a circle.
* Who adds columns locks the table's entry first, so two never add the same one, then view and rows
  in the order in which a query locks them. It waits only a moment: if someone's query runs for
  hours, the attribute stays in `_other` until later, and writers do not queue up behind a lock.
"""

# ruff: noqa: S608  (SQL is made of constants and of names that are quoted)

from __future__ import annotations

import json
import time
from functools import cached_property

import psycopg
import pyarrow as pa

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.model.order import newest_per_key
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.sinks.base import Sweep
from dynabeam.transforms.sinks.mirror_rows import (
    KEY,
    Merged,
    SqlTypes,
    refuse_missing_images,
    refuse_other_form,
)
from dynabeam.transforms.sinks.postgresql.connection import Connection, PostgresSettings, execute
from dynabeam.transforms.sinks.postgresql.merge import (
    DELETED_AT,
    MergeStatements,
    merge_document,
    merge_rows,
    merge_statements,
    staging_sql,
)
from dynabeam.transforms.sinks.postgresql.meta import TABLES, raise_format
from dynabeam.transforms.sinks.postgresql.names import (
    ColumnNames,
    column_name,
    qualified,
    quoted_text,
    relation_name,
    rows_name,
)
from dynabeam.transforms.sinks.postgresql.small_batch import SmallBatchLayout
from dynabeam.transforms.sinks.postgresql.sweep import sweep_rows
from dynabeam.transforms.sinks.postgresql.values import index_keys, set_aside, without_nul
from dynabeam.transforms.sinks.row_layout import (
    VERSION_COLUMNS,
    RowLayout,
    RowOptions,
    appended,
    version_columns,
    with_keys,
)
from dynabeam.transforms.values.column_types import ColumnTypes
from dynabeam.transforms.values.json_sql import quoted_name

__all__ = ["MAX_COLUMNS", "PURGE_ROWS", "STAGING_SQL", "MirrorTable"]

MAX_COLUMNS = 300
"""Attributes of one table that get a column, the key's included. A row has to fit in a page, 8,160
bytes; a value can be moved out of the row only if it is longer than 24 bytes. So each column may
cost 24 bytes, and 300 of them and ours always fit, where 1,600, the most there can be, may not."""

_RAW = "_raw"
_TYPES = ('text COLLATE "C"', "text", "timestamptz", "boolean", "boolean")
_METADATA = dict(zip(VERSION_COLUMNS, _TYPES, strict=True))
_RESERVED = (
    *(KEY, _RAW, *_METADATA, DELETED_AT),
    # Every table of PostgreSQL has columns of these names already.
    *("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid", "oid"),
)
STAGING_SQL = staging_sql(MAX_COLUMNS + len(_RESERVED))

_ENTRY_LOCK, _TABLE_LOCK = "20s", "3s"
_GROW_AGAIN_SECONDS = 30.0
PURGE_ROWS = 5000


class MirrorTable:
    """One table of a mirror, as one writer sees it.

    Every method may fail with any `psycopg.Error` and may then be called again.

    Args:
        table: The table.
        options: How its rows are laid out; numbers as text if `numeric`.
        numbers: SQL type of numbers.
        settings: The mirror.
    """

    def __init__(
        self, table: Table, options: RowOptions, numbers: str, settings: PostgresSettings
    ) -> None:
        self._table = table
        self._options = options
        self._types = SqlTypes("text", numbers, "bytea", "boolean", "jsonb")
        self._settings = settings
        self._relation = relation_name(table.name)
        self._tables = qualified(settings.schema, TABLES)
        self._id = 0
        self._revision = 0
        # Attributes without a column, because somebody else's has their name.
        self._crowded_out: set[str] = set()
        self._layout = self._new_layout()
        self._names = ColumnNames().with_attributes(self._layout.columns())
        self._grow_after = 0.0

    @property
    def name(self) -> str:
        """The table's name."""
        return self._table.name

    def open(self, connection: Connection) -> None:
        """Reads what the mirror knows of the table; creates it if it is new.

        Raises:
            SinkError: If the mirror holds it with another key or other options, or another relation
                has its name.
        """
        if not self._load(connection):
            self._create(connection)
            if not self._load(connection):
                raise SinkError(
                    f"another table of the mirror has the view {self._relation!r}",
                    where=self._where,
                    hint="Mirror it to another schema",
                )

    def merge(self, connection: Connection, rows: pa.RecordBatch) -> Merged:
        """Applies rows under the version guard, in a transaction of its own.

        Args:
            connection: In no transaction.
            rows: Changes with the columns `key`, `version`, `op`, `event_time`, `new` and `ttl`,
                in any order.

        Raises:
            SinkError: If a change lacks the image that a mirror needs.
        """
        written = self._merge_few(connection, rows)
        if written is not None:
            return Merged(written, self._few.unfit_numbers)
        refuse_missing_images(rows, self._where)
        rows = newest_per_key(rows)
        while True:
            before = self._layout.unfit_numbers
            typed = self._lay_out(connection, rows)
            if typed is None:
                continue
            unfit = self._layout.unfit_numbers - before
            written = self._apply(connection, typed)
            if written is not None:
                return Merged(written, unfit)
            if not self._load(connection):
                raise SinkError(
                    "the mirror does not know this table any more",
                    where=self._where,
                    hint="Something was dropped by hand: start with a new schema",
                )

    def sweep(self, connection: Connection, sweep: Sweep) -> int:
        """Turns live rows whose version is of an older generation into tombstones."""
        gone = [*map(self._names.of, self._layout.beside_key()), self._layout.rest, _RAW]
        return sweep_rows(connection, self._rows, gone, sweep)

    def remove_tombstones(self, connection: Connection, days: int) -> int:
        """Removes some of the tombstones that were made more than `days` days ago.

        Returns:
            How many; `PURGE_ROWS` if there may be more.
        """
        found = execute(
            connection,
            f"DELETE FROM {self._rows} WHERE _key IN (SELECT _key FROM {self._rows} "
            f"WHERE {DELETED_AT} < now() - interval '{days:d} days' "
            f"ORDER BY {DELETED_AT} LIMIT {PURGE_ROWS} FOR UPDATE SKIP LOCKED)",
        )
        return found.rowcount

    def _new_layout(self, types: ColumnTypes | None = None) -> RowLayout:
        reserved = [*_RESERVED, *self._crowded_out]
        layout = RowLayout(self._table, self._options, reserved, max_columns=MAX_COLUMNS)
        if types is not None:
            layout.restore(types)
        return layout

    def _load(self, connection: Connection, lock: str = "") -> bool:
        row = execute(
            connection,
            # A mirror of an earlier release has no names.
            "SELECT id, revision, attributes, keys, options, relation, to_jsonb(t) ->> 'columns' "
            f"FROM {self._tables} t WHERE name = {quoted_text(self.name)} {lock}",
        ).fetchone()
        if row is None:
            return False
        forms = {
            "key": (json.dumps(self._table.keys.to_json()), row[3]),
            "options": (self._options_text(), row[4]),
        }
        refuse_other_form(forms, self._where, "schema")
        self._id, self._revision, self._relation = row[0], row[1], row[5]
        self._names = ColumnNames.from_json(row[6])
        self._layout = self._new_layout(ColumnTypes.from_json(json.loads(row[2])))
        for made_of_columns in ("_few", "_statements"):
            self.__dict__.pop(made_of_columns, None)
        return True

    def _options_text(self) -> str:
        return json.dumps(
            {**json.loads(self._options.to_json()), "numbers": self._types.number}, sort_keys=True
        )

    def _create(self, connection: Connection) -> None:
        with connection.transaction():
            # Another writer that creates it too waits here.
            found = execute(
                connection,
                f"INSERT INTO {self._tables} (name, relation, arn, keys, options, attributes, "
                "columns, revision) VALUES (%s, %s, %s, %s, %s, %s, %s, 1) "
                "ON CONFLICT DO NOTHING RETURNING id",
                (
                    self.name,
                    self._relation,
                    self._table.arn,
                    json.dumps(self._table.keys.to_json()),
                    self._options_text(),
                    json.dumps(self._layout.types.to_json()),
                    self._names.to_json(),
                ),
            )
            if found.fetchone() is None:
                return
            self._refuse_foreign(connection)
            keys = [(name, self._types.of(tag)) for name, tag in self._layout.columns().items()]
            fields = [*keys, (self._layout.rest, "jsonb"), (_RAW, "bytea")]
            columns = ", ".join(f"{self._quoted(name)} {kind}" for name, kind in fields)
            metadata = ", ".join(f"{name} {kind} NOT NULL" for name, kind in _METADATA.items())
            execute(
                connection,
                f"CREATE TABLE {self._rows} ({KEY} bytea PRIMARY KEY, {columns}, {metadata}, "
                f"{DELETED_AT} timestamptz); "
                f"CREATE INDEX ON {self._rows} ({DELETED_AT}) WHERE {DELETED_AT} IS NOT NULL",
            )
            self._create_view(connection)
            if self._names.stored or self._relation != self.name:
                raise_format(connection, self._settings)

    def _refuse_foreign(self, connection: Connection) -> None:
        names = f"{quoted_text(self._relation)}, {quoted_text(rows_name(self._relation))}"
        found = execute(
            connection,
            f"SELECT relname FROM pg_class WHERE relname IN ({names}) AND relnamespace = "
            f"{quoted_text(self._settings.schema)}::regnamespace",
        ).fetchone()
        if found is not None:
            raise SinkError(
                f"the schema has a relation {found[0]!r} that is not Dynabeam's",
                where=self._where,
                hint="Rename it, or mirror to another schema",
            )

    def _create_view(self, connection: Connection) -> None:
        """The live rows; new columns come last.

        A view can be replaced only so, and it has to be replaced, not dropped, for its grants and
        what others have built on it.
        """
        columns = list(self._layout.columns())
        first = [each.name for each in self._table.keys.attributes if each.name in columns]
        added = [name for name in columns if name not in first]
        names = [*first, self._layout.rest, _RAW, *_METADATA, *added]
        execute(
            connection,
            f"CREATE OR REPLACE VIEW {self._view} AS SELECT {', '.join(map(self._quoted, names))} "
            f"FROM {self._rows} WHERE NOT _deleted",
        )

    def _lay_out(self, connection: Connection, rows: pa.RecordBatch) -> pa.Table | None:
        """The rows as columns; None if the columns became others, so that it is to be repeated."""
        grow = time.monotonic() >= self._grow_after
        before, keys, images = self._layout.types, rows.column("key"), rows.column("new")
        packed = self._options.layout == "packed"
        if not packed:
            images = with_keys(keys, images, self._table.keys)
        images, aside = set_aside(images, whole=packed)
        typed = self._layout.rows(keys, images, grow=grow)
        if self._layout.types is not before:
            wanted = self._layout.types
            self._layout = self._new_layout(before)
            self._grow(connection, wanted)
            return None
        typed = appended(typed, {_RAW: aside, **version_columns(rows)})
        return typed.add_column(0, KEY, index_keys(keys))

    def _grow(self, connection: Connection, wanted: ColumnTypes) -> None:
        try:
            with connection.transaction():
                execute(connection, f"SET LOCAL lock_timeout = '{_ENTRY_LOCK}'")
                self._load(connection, "FOR UPDATE")
                known, columns = self._layout.types, self._layout.columns()
                self._reserve_taken(connection, wanted)
                self._layout.add(wanted)
                if self._layout.types is known:
                    return
                added = {k: v for k, v in self._layout.columns().items() if k not in columns}
                names, self._names = self._names, self._names.with_attributes(added)
                if added:
                    self._add_columns(connection, added)
                if self._names != names:
                    raise_format(connection, self._settings)
                execute(
                    connection,
                    f"UPDATE {self._tables} SET revision = revision + 1, attributes = %s, "
                    "columns = %s WHERE id = %s",
                    (json.dumps(self._layout.types.to_json()), self._names.to_json(), self._id),
                )
                self._revision += 1
        except psycopg.errors.LockNotAvailable:
            self._grow_after = time.monotonic() + _GROW_AGAIN_SECONDS
            self._load(connection)
        except BaseException:
            # What the layout has and the database has not must not be written.
            self._revision = 0
            raise

    def _reserve_taken(self, connection: Connection, wanted: ColumnTypes) -> None:
        """Keeps attributes from columns whose names are taken, whoever has added those."""
        known = self._layout.columns()
        found = execute(
            connection,
            "SELECT attname FROM pg_attribute WHERE NOT attisdropped "
            f"AND attrelid = {quoted_text(self._rows)}::regclass",
        ).fetchall()
        taken = {name for (name,) in found}
        for attribute in wanted.columns:
            if attribute in known:
                continue
            name = column_name(attribute)
            if name in taken:
                self._crowded_out.add(attribute)
            taken.add(name)
        types = self._layout.types
        self._layout = self._new_layout(types)

    def _add_columns(self, connection: Connection, added: dict[str, str]) -> None:
        columns = ", ".join(
            f"ADD COLUMN {self._quoted(name)} {self._types.of(tag)}" for name, tag in added.items()
        )
        execute(
            connection,
            f"SET LOCAL lock_timeout = '{_TABLE_LOCK}'; "
            f"LOCK TABLE {self._view} IN ACCESS EXCLUSIVE MODE; "
            f"ALTER TABLE {self._rows} {columns}",
        )
        self._create_view(connection)

    def _apply(self, connection: Connection, typed: pa.Table) -> int | None:
        """Merges rows that are in order of key; None if there are columns unknown here."""
        sql = self._statements
        assert typed.column_names == list(sql.columns)
        return merge_rows(connection, sql, self._revision, self._storable(typed))

    def _merge_few(self, connection: Connection, rows: pa.RecordBatch) -> int | None:
        """Merges rows in the quick way, if they can go it; None if nothing was done."""
        document = self._few.document(rows)
        if document is None:
            return None
        return merge_document(connection, self._statements, self._revision, document)

    def _storable(self, typed: pa.Table) -> pa.Table:
        """The key's columns without U+0000: the item, which has it too, has been set aside."""
        columns = self._layout.columns()
        for each in self._table.keys.attributes:
            # Of a key without a column the name is that of one of ours.
            if each.type == "S" and each.name in columns:
                at = typed.column_names.index(each.name)
                column = without_nul(typed.column(at).combine_chunks())
                typed = typed.set_column(at, each.name, column)
        return typed

    @cached_property
    def _few(self) -> SmallBatchLayout:
        return SmallBatchLayout(self._table.keys, self._layout, self._options)

    @cached_property
    def _statements(self) -> MergeStatements:
        attributes = {name: self._types.of(tag) for name, tag in self._layout.columns().items()}
        own = {_RAW: "bytea", **_METADATA}
        return merge_statements(
            {KEY: "bytea", **attributes, self._layout.rest: "jsonb", **own},
            name_of=self._names.of,
            rows=self._rows,
            revision=f"SELECT revision FROM {self._tables} WHERE id = {self._id}",
        )

    @property
    def _where(self) -> str:
        return f"{self._settings.where}, table {self.name}"

    @property
    def _view(self) -> str:
        return qualified(self._settings.schema, self._relation)

    @property
    def _rows(self) -> str:
        return qualified(self._settings.schema, rows_name(self._relation))

    def _quoted(self, attribute: str) -> str:
        return quoted_name(self._names.of(attribute))
