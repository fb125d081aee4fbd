# SPDX-License-Identifier: Apache-2.0
"""One writer of a PostgreSQL mirror: its connection and what it knows of the tables.

The connection is made when it is needed, and made again when it is lost.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
import pyarrow as pa

from dynabeam.transforms.errors import SinkError, ValueDecodeError
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.sinks.base import Sweep
from dynabeam.transforms.sinks.mirror_rows import GatheredRows, Merged, rows_of
from dynabeam.transforms.sinks.mirror_sink import Held
from dynabeam.transforms.sinks.postgresql.connection import (
    Connection,
    PostgresSettings,
    connect,
    execute,
    persistently,
    transaction_left,
)
from dynabeam.transforms.sinks.postgresql.meta import read_held, write_held
from dynabeam.transforms.sinks.postgresql.refusals import refusal_of
from dynabeam.transforms.sinks.postgresql.table import PURGE_ROWS, STAGING_SQL, MirrorTable
from dynabeam.transforms.sinks.refused import refused_row
from dynabeam.transforms.sinks.unfit_images import fitting, split_undecodable, split_unfit

__all__ = ["MOST_REFUSED", "PIECE_BYTES", "MirrorWriter", "PostgreSQLRows"]

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
# Halves of surrogate pairs have a place in `_raw`.
_SPLIT = functools.partial(split_unfit, columns=("new",), half_pairs=True)
_SPLIT_UNDECODABLE = functools.partial(split_undecodable, half_pairs=True)

T = TypeVar("T")


class MirrorWriter:
    """Merges rows into a mirror, through server restarts; to be closed. For one thread at a time.

    Args:
        settings: The mirror.
        new_table: Makes the `MirrorTable` of a table.
        check_owner: Refuses a mirror of the wrong state directory.
        tombstone_days: Age at which tombstones are removed; 0 keeps them.
    """

    def __init__(
        self,
        settings: PostgresSettings,
        new_table: Callable[[Table], MirrorTable],
        check_owner: Callable[[Held], None],
        tombstone_days: int = 0,
    ) -> None:
        self._settings = settings
        self._new_table = new_table
        self._check_owner = check_owner
        self._tombstone_days = tombstone_days
        self._connection: Connection | None = None
        self._tables: dict[Table, MirrorTable] = {}
        self._purged: dict[Table, float] = {}

    def merge(self, table: Table, rows: pa.RecordBatch) -> Merged:
        """Applies rows of one table, durably.

        Raises:
            SinkError: If PostgreSQL refuses, or is not there for `retry_seconds`.
        """
        merged = self._persistently(
            f"table {table.name}",
            lambda connection: self._open(connection, table).merge(connection, rows),
        )
        self._purge_if_due(table)
        return merged

    def sweep(self, table: Table, sweep: Sweep) -> int:
        """See `Sink.remove_older_generations`."""
        return self._persistently(
            f"table {table.name}",
            lambda connection: self._open(connection, table).sweep(connection, sweep),
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
                self._check_mirror(connection)
                execute(connection, STAGING_SQL)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _leave_transaction(self) -> None:
        if self._connection is not None and not transaction_left(self._connection):
            self.close()

    def _check_mirror(self, connection: Connection) -> None:
        held = read_held(connection, self._settings)
        if held is None:
            raise SinkError(
                "there is no mirror in this schema",
                where=self._settings.where,
                found=self._settings.schema,
                hint="It is made when a run starts: start again with a new state directory",
            )
        self._check_owner(held)

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


class PostgreSQLRows(GatheredRows):
    """Has the blocks that gathered merged by a writer.

    A row that the database refuses for what is in it is found by halving its piece, so that all
    others are written, and becomes a dead letter (`transforms.sinks.refused`).

    Args:
        writer: What merges.
        sink: The sink for people.
        place: The sink's place, which dead letters name.
    """

    def __init__(self, writer: MirrorWriter, sink: str, place: str = "") -> None:
        super().__init__(sink, PIECE_BYTES)
        self._writer = writer
        self._place = place or sink

    def add(self, block: Block) -> None:
        """Takes one block; rows that cannot be written are refused at once."""
        for fit in fitting([block], _SPLIT, self._place, self.refused):
            name = fit.header.table.name
            if newest_us := fit.newest_event_us:
                self.newest_us[name] = max(newest_us, self.newest_us.get(name, 0))
            super().add(fit)

    def merge(self, table: Table, blocks: Sequence[Block]) -> Merged:
        """Merges a piece.

        What is repeated after a lost connection may count as stale. `unfit_numbers` counts stale
        rows too: the server drops them after they are laid out.

        Raises:
            SinkError: As `MirrorWriter.merge`, or so many rows are refused that it is not them.
        """
        return self._merge_what_fits(table, blocks, most=len(self.refused) + MOST_REFUSED)

    def _merge_what_fits(self, table: Table, blocks: Sequence[Block], most: int) -> Merged:
        rows = rows_of(blocks)
        try:
            return self._writer.merge(table, rows)
        except (ValueDecodeError, pa.ArrowInvalid):
            # JSON that nobody can decode, such as a number that no computer holds.
            refused: list[Report] = []
            fit = list(fitting(blocks, _SPLIT_UNDECODABLE, self._place, refused))
            if not refused:
                raise
            self.refused += refused
            return self._merge_what_fits(table, fit, most) if fit else Merged(0)
        except _ABOUT_ROWS as error:
            refusal = refusal_of(error)
            if refusal is None or len(self.refused) >= most:
                raise
            if rows.num_rows == 1:
                self.refused.append(
                    refused_row(
                        blocks[0],
                        0,
                        sink=self._place,
                        reason=str(error),
                        error=refusal.error,
                        severity=refusal.severity,
                    )
                )
                return Merged(0)
        first, second = (self._merge_what_fits(table, half, most) for half in _halves(blocks))
        return Merged(first.written + second.written, first.unfit_numbers + second.unfit_numbers)


def _halves(blocks: Sequence[Block]) -> tuple[Sequence[Block], Sequence[Block]]:
    middle = len(blocks) // 2
    if middle:
        return blocks[:middle], blocks[middle:]
    (block,) = blocks
    middle = block.rows.num_rows // 2
    return [block.with_rows(block.rows.slice(0, middle))], [
        block.with_rows(block.rows.slice(middle))
    ]
