# SPDX-License-Identifier: Apache-2.0
"""One writer of a PostgreSQL mirror: its connection and what it knows of the tables.

The connection is made when it is needed, and made again when it is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import msgspec
import pyarrow as pa

from dynabeam.transforms.errors import SinkError, ValueDecodeError
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.key_range import KeyRange
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.sinks.postgresql.connection import (
    Connection,
    PostgresSettings,
    connect,
    execute,
    persistently,
    transaction_left,
)
from dynabeam.transforms.sinks.postgresql.meta import Held, read_held, write_held
from dynabeam.transforms.sinks.postgresql.refusals import refusal_of
from dynabeam.transforms.sinks.postgresql.table import PURGE_ROWS, STAGING_SQL, MirrorTable
from dynabeam.transforms.sinks.refused import refused_row
from dynabeam.transforms.sinks.unfit_images import refused_images, split_unfit, without_unfit

__all__ = ["MOST_REFUSED", "PIECE_BYTES", "GatheredRows", "MirrorWriter", "refuse_other_owner"]

PIECE_BYTES = 8 << 20
"""Rows are merged once this many bytes of them have gathered: bounds memory and transactions."""
MOST_REFUSED = 1000
"""If more rows of one piece are refused, the table is at fault and not they: the run fails."""
_ABOUT_ROWS = (
    *(SinkError, ValueDecodeError, pa.ArrowInvalid),
    # Of images: no JSON, no UTF-8, or deeper than can be decoded.
    *(msgspec.DecodeError, UnicodeError, RecursionError),
)
_PURGE_EVERY_SECONDS = 3600.0
_PURGE_PIECES = 20
_COLUMNS = ("key", "version", "op", "event_time", "new", "ttl")

T = TypeVar("T")


class MirrorWriter:
    """Merges rows into a mirror, through server restarts; to be closed. For one thread at a time.

    Args:
        settings: The mirror.
        new_table: Makes the `MirrorTable` of a table.
        state_id: The state directory that the mirror must belong to; None for any.
        tombstone_days: Age at which tombstones are removed; 0 keeps them.
    """

    def __init__(
        self,
        settings: PostgresSettings,
        new_table: Callable[[Table], MirrorTable],
        state_id: str | None,
        tombstone_days: int = 0,
    ) -> None:
        self._settings = settings
        self._new_table = new_table
        self._state_id = state_id
        self._tombstone_days = tombstone_days
        self._connection: Connection | None = None
        self._tables: dict[Table, MirrorTable] = {}
        self._purged: dict[Table, float] = {}

    def merge(self, table: Table, rows: pa.RecordBatch) -> int:
        """Applies rows of one table, durably; returns how many changed the mirror.

        Raises:
            SinkError: If PostgreSQL refuses, or is not there for `retry_seconds`.
        """
        written = self._persistently(
            f"table {table.name}",
            lambda connection: self._open(connection, table).merge(connection, rows),
        )
        self._purge_if_due(table)
        return written

    def remove_older_generations(
        self, table: Table, generation: int, changed_since_us: int, key_range: KeyRange | None
    ) -> int:
        """See `Sink.remove_older_generations`."""
        return self._persistently(
            f"table {table.name}",
            lambda connection: self._open(connection, table).remove_older_generations(
                connection, generation, changed_since_us, key_range
            ),
        )

    def remove_tombstones(self, table: Table, days: int) -> int:
        """Removes one piece of the tombstones that are older."""
        return self._persistently(
            f"table {table.name}",
            lambda connection: self._open(connection, table).remove_tombstones(connection, days),
        )

    def record(self, held: Held) -> None:
        """Records the last round, or that the run has none."""
        self._persistently("", lambda connection: write_held(connection, self._settings, held))

    def record_continuous(self) -> None:
        """Records that a run without rounds writes the mirror."""
        held = self._persistently("", lambda connection: read_held(connection, self._settings))
        assert held is not None
        if not held.continuous:
            self.record(Held(held.round, continuous=True))

    def close(self) -> None:
        """Closes the connection; the next call would make another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _persistently(self, where: str, work: Callable[[Connection], T]) -> T:
        return persistently(
            self._settings, where, lambda: work(self._connected()), self._leave_transaction
        )

    def _connected(self) -> Connection:
        if self._connection is None:
            connection = connect(self._settings)
            try:
                self._check_owner(connection)
                execute(connection, STAGING_SQL)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _leave_transaction(self) -> None:
        if self._connection is not None and not transaction_left(self._connection):
            self.close()

    def _check_owner(self, connection: Connection) -> None:
        held = read_held(connection, self._settings)
        if held is None:
            raise SinkError(
                "there is no mirror in this schema",
                where=self._settings.where,
                found=self._settings.schema,
                hint="It is made when a run starts: start again with a new state directory",
            )
        if self._state_id is not None:
            refuse_other_owner(held, self._state_id, self._settings)

    def _open(self, connection: Connection, table: Table) -> MirrorTable:
        opened = self._tables.get(table)
        if opened is None:
            opened = self._new_table(table)
            opened.open(connection)
            self._tables[table] = opened
        return opened

    def _purge_if_due(self, table: Table) -> None:
        now = time.monotonic()
        if not self._tombstone_days or now < self._purged.get(table, 0.0):
            return
        self._purged[table] = now + _PURGE_EVERY_SECONDS
        for _ in range(_PURGE_PIECES):
            if self.remove_tombstones(table, self._tombstone_days) < PURGE_ROWS:
                return


class GatheredRows:
    """Gathers blocks per table and has them merged piece by piece.

    A row that the database refuses for what is in it is found by halving its piece, so that all
    others are written, and becomes a dead letter (`transforms.sinks.refused`).

    Args:
        writer: What merges.
        sink: The sink for people.
        place: The sink's place, which dead letters name.
    """

    def __init__(self, writer: MirrorWriter, sink: str, place: str = "") -> None:
        self._writer = writer
        self._sink = sink
        self._place = place or sink
        self._waiting: dict[Table, list[Block]] = {}
        self._bytes: dict[Table, int] = {}
        self._counts: dict[str, dict[str, int]] = {}
        self._refused: list[Report] = []
        self._newest_us: dict[str, int] = {}

    def add(self, block: Block) -> None:
        """Takes one block; merges what has gathered most if enough is gathered."""
        # Halves of surrogate pairs have a place in `_raw`.
        block, refused = split_unfit(block, self._place, ("new",), half_pairs=True)
        self._refused += refused
        if block.rows.num_rows == 0:
            return
        table = block.header.table
        self._waiting.setdefault(table, []).append(block)
        self._bytes[table] = self._bytes.get(table, 0) + block.rows.nbytes
        if newest_us := block.newest_event_us:
            self._newest_us[table.name] = max(newest_us, self._newest_us.get(table.name, 0))
        while sum(self._bytes.values()) >= PIECE_BYTES:
            self._merge(max(self._bytes, key=lambda each: self._bytes[each]))

    def finish(self) -> Iterator[Report]:
        """Merges what is left.

        Yields:
            A report of kind `sink` per table: `rows` that arrived, `written` rows that changed the
            mirror, `stale` rows that lost against a higher version, stored or in the same bundle. A
            merge repeated after a lost connection may call stale what it had written. And
            `newest_event_us`, see `Sink.write`. Beside them a report of kind `refused` for each row
            that was.

        Raises:
            SinkError: As `MirrorWriter.merge`, or so many rows are refused that it is not them.
        """
        for table in list(self._waiting):
            self._merge(table)
        for name, fields in sorted(self._counts.items()):
            if name in self._newest_us:
                fields["newest_event_us"] = self._newest_us[name]
            yield Report("sink", name, {"sink": self._sink, **fields})
        yield from self._refused

    def _merge(self, table: Table) -> None:
        blocks = self._waiting.pop(table)
        del self._bytes[table]
        before = len(self._refused)
        written = self._merge_what_fits(table, blocks, most=before + MOST_REFUSED)
        refused = len(self._refused) - before
        rows = sum(each.rows.num_rows for each in blocks)
        counts = self._counts.setdefault(table.name, {"rows": 0, "written": 0, "stale": 0})
        counts["rows"] += rows
        counts["written"] += written
        counts["stale"] += rows - written - refused

    def _merge_what_fits(self, table: Table, blocks: Sequence[Block], most: int) -> int:
        batches = [each.rows.select(list(_COLUMNS)) for each in blocks]
        rows = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
        try:
            return self._writer.merge(table, rows)
        except (ValueDecodeError, pa.ArrowInvalid):
            # JSON that nobody can decode, such as a number that no computer holds.
            refused = [
                each
                for block in blocks
                for each in refused_images(block, self._place, half_pairs=True)
            ]
            if not refused:
                raise
            self._refused += refused
            fit = [without_unfit(each, half_pairs=True) for each in blocks]
            fit = [each for each in fit if each.rows.num_rows]
            return self._merge_what_fits(table, fit, most) if fit else 0
        except _ABOUT_ROWS as error:
            refusal = refusal_of(error)
            if refusal is None or len(self._refused) >= most:
                raise
            if rows.num_rows == 1:
                self._refused.append(
                    refused_row(
                        blocks[0],
                        0,
                        sink=self._place,
                        reason=str(error),
                        error=refusal.error,
                        severity=refusal.severity,
                    )
                )
                return 0
        first, second = _halves(blocks)
        return self._merge_what_fits(table, first, most) + self._merge_what_fits(
            table, second, most
        )


def _halves(blocks: Sequence[Block]) -> tuple[Sequence[Block], Sequence[Block]]:
    middle = len(blocks) // 2
    if middle:
        return blocks[:middle], blocks[middle:]
    (block,) = blocks
    middle = block.rows.num_rows // 2
    return [block.with_rows(block.rows.slice(0, middle))], [
        block.with_rows(block.rows.slice(middle))
    ]


def refuse_other_owner(held: Held, state_id: str, settings: PostgresSettings) -> None:
    """Checks that a mirror belongs to a state directory.

    Raises:
        SinkError: If it belongs to another one.
    """
    if held.round.state_id != state_id:
        raise SinkError(
            f"the mirror belongs to state directory {held.round.state_id}",
            where=settings.where,
            expected=state_id,
            found=held.round.state_id,
            hint="Use the state directory that belongs to it, or another schema",
        )
