# SPDX-License-Identifier: Apache-2.0
"""A mirror in a PostgreSQL database: `postgresql://user@host:5432/database` (also `postgres://`).

Delivery promise: once a bundle has ended, its rows are committed. When all that was delivered is
applied, `SELECT * FROM dynabeam."<table>"` has exactly one row per item that the changes leave,
made of the change with the highest version of its key. Replays, other orders, several writers at
once and rows that arrive late change nothing, also after a delete: the database itself applies a
row only if its version is higher than the one stored for its key, and a deleted key stays as a
tombstone. Rows are merged in transactions of one table and up to 8 MB, so a reader may see a round
half applied, but never half a row. What may pass (a lost connection, a restart or failover, a
deadlock, too many connections) is tried again for `retry_seconds`; after that it is an error and
the runner's turn.

What is in the database, all of it in one schema:

* `"<table>"`: a view, the live rows. The key attributes first; `_other`, a JSON object of what does
  not fit its column, exactly as DynamoDB JSON (`layout=unpacked`), or `item`, the item as DynamoDB
  JSON (`layout=packed`); `_raw`; `_version`, `_op`, `_event_time`, `_ttl`, `_deleted`; then
  (unpacked) one typed column per top-level attribute in the order in which they were met. New ones
  come last because only so a view keeps its grants and what was built on it.
* `_raw bytea`: what neither `text` nor `jsonb` can hold because there is a U+0000 in it, as it
  came: the whole item (packed; `item` is null then), or an object of those attributes (unpacked;
  their columns are null then). Null in all other rows. `convert_from(_raw, 'UTF8')` shows it.
* `"<table>$rows"`: the rows behind the view, deleted keys included, with `_key` and, for
  tombstones, `_deleted_at`. Indexes of your own belong here; nothing of ours touches them.
* `"$mirror"`, `"$tables"`: what the mirror knows of itself: state directory, last round, columns.

Why `_key` (`bytea`, the canonical key) is the primary key and not the key attributes: it is the
same bytes for `1e3` and `1000`, holds U+0000, and fits an index also where the attributes do not.

| DynamoDB | column |
|---|---|
| S | `text` |
| N | `numeric`, which holds all 38 digits of any number; or see `numbers` |
| B, BOOL | `bytea`, `boolean` |
| SS, NS, BS | `text[]`, `numeric[]`, `bytea[]` |
| L, M | `jsonb`: the payload, as DynamoDB JSON or plain |

An attribute has the type of the first value met; values of others go to `_other`, as do NULL, what
is beyond 300 columns, names that are taken (by us, by PostgreSQL: `ctid`, `xmin` ..., or by a
column that somebody added to `"<table>$rows"`), and for a time attributes that are new while
someone's query holds the table. Names over 63 bytes are shortened, see
`transforms.sinks.postgresql.names`; `"$tables"` has them whole.

Tombstones are removed `tombstone_days` after they were made. The default, 36, is safe because
nothing brings an older row later than that: a stream keeps 24 hours, and an export, full or
incremental, reaches back 35 days at most. A savepoint or an export request that is older must not
be taken up again with a mirror that has forgotten: use `tombstone_days=keep` for those.

Options: `layout` unpacked | packed; `numbers` numeric | decimal(p,s) | text; `nested` dynamodb |
plain; `schema` dynabeam; `tombstone_days` 36 | keep; `retry_seconds` 120; and libpq's: `sslmode`,
`sslrootcert`, `target_session_attrs` ... A password comes by reference (`user:${env:NAME}@host`,
`?password=${file:PATH}`) or from where libpq looks (`PGPASSWORD`, `~/.pgpass`). PostgreSQL 12 or
newer. Across a network: `?sslmode=verify-full&sslrootcert=/path/to/ca.pem`; libpq's default,
`prefer`, takes what a server offers, plain text and strangers' certificates too. Session state is
used (a temporary table), so a pool in between must pool whole sessions.

Least privilege: a role of its own that owns nothing else.

```sql
CREATE ROLE dynabeam LOGIN;
GRANT CONNECT, TEMPORARY ON DATABASE app TO dynabeam;
CREATE SCHEMA dynabeam;
GRANT USAGE, CREATE ON SCHEMA dynabeam TO dynabeam;
-- readers:
GRANT USAGE ON SCHEMA dynabeam TO analyst;
GRANT SELECT ON dynabeam.orders TO analyst;
```
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, TypeVar

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp

from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.sinks.base import Capabilities, Round, Sweep
from dynabeam.transforms.sinks.mirror_sink import AllAtOnce, Held, MirrorSink, OpenMirror
from dynabeam.transforms.sinks.postgresql.connection import (
    LIBPQ_OPTIONS,
    Connection,
    PostgresSettings,
    connected,
    execute,
)
from dynabeam.transforms.sinks.postgresql.meta import (
    TABLES,
    add_columns_of_names,
    check_server,
    create_meta,
    read_held,
    write_held,
)
from dynabeam.transforms.sinks.postgresql.names import qualified, rows_name
from dynabeam.transforms.sinks.postgresql.table import PURGE_ROWS, MirrorTable
from dynabeam.transforms.sinks.postgresql.writer import MirrorWriter, PostgreSQLRows
from dynabeam.transforms.sinks.row_layout import LAYOUT_OPTIONS, RowOptions, row_options
from dynabeam.transforms.sinks.uri import SinkUri
from dynabeam.transforms.values.column_types import NumberType

__all__ = ["PostgreSQLMirror"]

_OPTIONS = frozenset({"schema", "tombstone_days", "retry_seconds", *LAYOUT_OPTIONS, *LIBPQ_OPTIONS})
_NUMERIC = "numeric"
_TOMBSTONE_DAYS = 36
_RETRY_SECONDS = 120
_SCHEMA = re.compile(r"(?!pg_)[a-zA-Z_][a-zA-Z0-9_]{0,62}")

T = TypeVar("T")


class PostgreSQLMirror(MirrorSink):
    """One row per key, the latest version, in a schema of a PostgreSQL database.

    Raises:
        ConfigurationError: If an option is wrong or holds a secret in clear.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(kind="mirror", continuous=True)
    elsewhere = "another schema"
    nothing_there = "the schema holds no mirror"
    start_anew = (
        "Name the database and schema that belong to this state directory, or start with a new "
        "schema and a new state directory"
    )

    def __init__(self, uri: SinkUri) -> None:
        super().__init__(uri)
        schema = uri.option("schema", "dynabeam")
        if not _SCHEMA.fullmatch(schema):
            raise ConfigurationError(
                "schema is no plain name",
                where=f"--sink={uri.text}",
                expected="letters, digits and _, at most 63, not beginning with pg_",
                found=schema,
            )
        self._settings = PostgresSettings.of(
            uri, schema, uri.positive("retry_seconds", _RETRY_SECONDS, most_digits=6)
        )
        uri.refuse_unknown(_OPTIONS)
        self._options, self._numbers = _row_options(uri)
        self._tombstone_days = _tombstone_days(uri)

    @property
    def place(self) -> str:
        """Host, port, database and schema."""
        return self._settings.place

    @property
    def resolved(self) -> str:
        """Hosts, database and schema."""
        return self.place

    @contextlib.contextmanager
    def looking(self) -> Iterator[OpenMirror]:
        """Connects."""
        with connected(self._settings) as connection:
            yield _OpenPostgreSQL(self, connection)

    @contextlib.contextmanager
    def writing(self, *, creates: bool = False, keeps: bool = True) -> Iterator[OpenMirror]:
        """Connects and checks the server; each step is a transaction of its own, if it is kept."""
        with connected(self._settings) as connection:
            check_server(connection, self._settings)
            undone = connection.transaction(force_rollback=True)
            with contextlib.nullcontext() if keeps else undone:
                yield _OpenPostgreSQL(self, connection)

    def write(self, current: Round) -> beam.PTransform[Any, Any]:
        """Applies the blocks wherever they are, then records the round."""
        return _ApplyRound(self, current)

    def write_continuously(self, state_id: str) -> beam.PTransform[Any, Any]:
        """Applies the blocks wherever they are; durable when a bundle ends."""
        return _Apply(self, state_id)

    @property
    def tombstone_days(self) -> int:
        """Age in days at which tombstones are removed; 0 keeps them."""
        return self._tombstone_days

    def sweep(self, table: Table, sweep: Sweep) -> int:
        """Marks live rows as deleted."""
        return self._once(lambda writer: writer.sweep(table, sweep))

    def remove_tombstones(self, table: Table, days: int) -> int:
        """Removes the tombstones that were made more than `days` days ago.

        Writers do this by themselves, see `tombstone_days`.

        Returns:
            How many were removed.

        Raises:
            SinkError: If the mirror cannot be written.
        """

        def remove(writer: MirrorWriter) -> int:
            removed = 0
            while True:
                piece = writer.remove_tombstones(table, days)
                removed += piece
                if piece < PURGE_ROWS:
                    return removed

        return self._once(remove)

    def apply(self, blocks: Iterable[Block], current: Round) -> list[Report]:
        """Applies blocks and records the round.

        Args:
            blocks: In any order; taken one at a time, so they may be decoded on the way.
            current: The round.

        Returns:
            One report of kind `sink` per table, and one of kind `refused` per row that the
            database refused.

        Raises:
            SinkError: If the mirror cannot be written or belongs to another state directory.
        """
        writer = self.writer(current.state_id)
        try:
            gathered = PostgreSQLRows(writer, self.name, self.place)
            for block in blocks:
                gathered.add(block)
            reports = gathered.finish()
            writer.record(Held(current))
        finally:
            writer.close()
        return reports

    def writer(self, state_id: str | None) -> MirrorWriter:
        """A writer for one thread, for this state directory's mirror; nothing is connected yet."""

        def check_owner(held: Held) -> None:
            if state_id is not None:
                self.refuse_other_owner(held.round.state_id, state_id)

        return MirrorWriter(self._settings, self.mirror_table, check_owner, self._tombstone_days)

    def mirror_table(self, table: Table) -> MirrorTable:
        """A table of the mirror, for one writer."""
        return MirrorTable(table, self._options, self._numbers, self._settings)

    @property
    def settings(self) -> PostgresSettings:
        """Where the mirror is."""
        return self._settings

    def _once(self, work: Callable[[MirrorWriter], T]) -> T:
        writer = self.writer(None)
        try:
            return work(writer)
        finally:
            writer.close()


class _OpenPostgreSQL(OpenMirror):
    def __init__(self, sink: PostgreSQLMirror, connection: Connection) -> None:
        self._sink = sink
        self._settings = sink.settings
        self._connection = connection

    def held(self) -> Held | None:
        return read_held(self._connection, self._settings)

    def create(self, held: Held) -> None:
        with self._connection.transaction():
            create_meta(self._connection, self._settings)
            self.record(held)

    def record(self, held: Held) -> None:
        write_held(self._connection, self._settings, held)

    def make_room(self) -> None:
        add_columns_of_names(self._connection, self._settings)

    def open(self, table: Table) -> None:
        self._sink.mirror_table(table).open(self._connection)

    def newest_version(self, table: Table) -> str | None:
        tables = qualified(self._settings.schema, TABLES)
        found = execute(
            self._connection,
            f"SELECT relation FROM {tables} WHERE name = %s",  # noqa: S608
            (table.name,),
        ).fetchone()
        if found is None:
            return None
        rows = qualified(self._settings.schema, rows_name(found[0]))
        newest = execute(self._connection, f"SELECT max(_version) FROM {rows}").fetchone()  # noqa: S608
        assert newest is not None
        return newest[0] or None

    def describe(self, held: Held | None) -> str:
        release = self._connection.info.server_version // 10000
        return f"PostgreSQL {release}, " + ("no mirror yet" if held is None else "a mirror")


class _Apply(beam.PTransform):
    def __init__(self, sink: PostgreSQLMirror, state_id: str, *, continuous: bool = True) -> None:
        super().__init__()
        self._fn = _ApplyFn(sink, state_id, continuous)

    def expand(self, blocks: Any) -> Any:
        """Blocks to reports."""
        return blocks | "Apply" >> beam.ParDo(self._fn).with_output_types(Report)


class _ApplyRound(beam.PTransform):
    def __init__(self, sink: PostgreSQLMirror, current: Round) -> None:
        super().__init__()
        self._sink = sink
        self._round = current

    def expand(self, blocks: Any) -> Any:
        """Applies all, and only then, behind a grouping, records the round; also an empty one."""
        reports = blocks | "Rows" >> _Apply(self._sink, self._round.state_id, continuous=False)
        none = beam.Map(lambda _: ("", b"")).with_output_types(tuple[str, bytes])
        record = beam.ParDo(_RecordFn(self._sink, self._round))
        _ = reports | "Applied" >> none | "All" >> AllAtOnce() | "Record" >> record
        return reports


class _ApplyFn(beam.DoFn):
    """Applies blocks; one connection per instance, so per thread of a worker, made when needed."""

    def __init__(self, sink: PostgreSQLMirror, state_id: str, continuous: bool) -> None:
        self._sink = sink
        self._state_id = state_id
        self._continuous = continuous
        self._writer: MirrorWriter | None = None
        self._gathered: PostgreSQLRows | None = None
        self._latest = MIN_TIMESTAMP

    def start_bundle(self) -> None:
        """Starts with nothing gathered, whatever became of the bundle before."""
        if self._writer is None:
            writer = self._sink.writer(self._state_id)
            if self._continuous:
                writer.record_continuous()
            self._writer = writer
        self._gathered = PostgreSQLRows(self._writer, self._sink.name, self._sink.place)
        self._latest = MIN_TIMESTAMP

    def process(
        self, block: Block, timestamp: Timestamp = beam.DoFn.TimestampParam
    ) -> Iterable[Report]:
        """Gathers, and merges what is enough."""
        assert self._gathered is not None
        self._latest = max(self._latest, timestamp)
        self._gathered.add(block)
        return ()

    def finish_bundle(self) -> Iterator[Any]:
        """Merges the rest: what the bundle was given is now durable."""
        assert self._gathered is not None
        for report in self._gathered.finish():
            yield GlobalWindows.windowed_value(report, self._latest)
        self._gathered = None

    def teardown(self) -> None:
        """Closes the connection."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _RecordFn(beam.DoFn):
    def __init__(self, sink: PostgreSQLMirror, current: Round) -> None:
        self._sink = sink
        self._round = current

    def process(self, element: tuple[str, Iterable[bytes]]) -> None:
        """Records the round."""
        del element
        self._sink.apply([], self._round)


def _row_options(uri: SinkUri) -> tuple[RowOptions, str]:
    """Layout and the SQL type of numbers; PostgreSQL reads `numeric` from canonical text."""
    if uri.option("numbers", _NUMERIC) == _NUMERIC:
        others = tuple(each for each in uri.options if each[0] != "numbers")
        options = row_options(dataclasses.replace(uri, options=others))
        return dataclasses.replace(options, numbers=NumberType.parse("text")), _NUMERIC
    try:
        options = row_options(uri)
    except ConfigurationError as error:
        if "decimal" not in error.hint:
            raise
        raise ConfigurationError(
            "numbers has an unknown type",
            where=f"--sink={uri.text}",
            expected="numeric | decimal(p,s) | text",
            found=uri.option("numbers", ""),
        ) from error
    numbers = options.numbers
    return options, "text" if numbers.is_text else f"numeric({numbers.precision},{numbers.scale})"


def _tombstone_days(uri: SinkUri) -> int:
    if uri.option("tombstone_days", "") == "keep":
        return 0
    return uri.positive("tombstone_days", _TOMBSTONE_DAYS, most_digits=6)
