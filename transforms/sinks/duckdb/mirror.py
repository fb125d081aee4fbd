# SPDX-License-Identifier: Apache-2.0
"""A mirror in one DuckDB file: `duckdb:///mirror.duckdb` (relative), `duckdb:////data/m.duckdb`.

Delivery promise: after a committed round, `SELECT * FROM "<table>"` has exactly one row per item
that the delivered changes leave, made of the change with the highest version of its key. Replays,
other orders and rows that arrive late change nothing, also after a delete: each row is applied only
if its version is higher than what is stored for its key, and a deleted key stays as a tombstone. A
round is one transaction, so a failing run shows nothing half-done; a crash between the mirror's
commit and the state directory's leaves the mirror one round ahead, and repeating the round changes
nothing.

What is in the file:

* `main."<table>"`: a view, the live rows. The key attributes first, then (`layout=unpacked`) one
  typed column per top-level attribute and `_other`, a JSON object of everything that does not fit
  its column, exactly as DynamoDB JSON, or (`layout=packed`) `item`, the item as DynamoDB JSON; then
  `_version`, `_op`, `_event_time`, `_ttl`, `_deleted`.
* `_dynabeam_rows."<table>"`: the rows behind the view, deleted keys included (`_deleted`), with the
  canonical `_key`.
* `_dynabeam`: what the mirror knows of itself: state directory, last round, tables, columns.

Why tombstones share the table with the rows: the guard is then one lookup by key, and a tombstone
costs little more than key and version, because its other columns are null. There is no primary key,
because DuckDB keeps such an index in memory and it grows with the table: a merge looks the round's
keys up by a hash of 32 bits (see `transforms.sinks.duckdb.rows`).

Options: `layout` unpacked | packed; `numbers` decimal(38,18) | decimal(p,s) | text; `nested`
dynamodb | plain; `memory_limit` 128MB (DuckDB's; what exceeds it is spilled beside the file; if it
is not given, a round of very large items may take up to 1 GB);
`threads` 2; `retry_seconds` 300: how long a run waits for others that hold the file, readers too.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import apache_beam as beam
import duckdb
import pyarrow as pa

from dynabeam.transforms.errors import ConfigurationError, SinkError, ValueDecodeError
from dynabeam.transforms.model.block import Block, BlockCoder
from dynabeam.transforms.model.key_range import KeyRange
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.model.version import decode_version
from dynabeam.transforms.sinks.base import Capabilities, Round, Sink, SinkPosition
from dynabeam.transforms.sinks.duckdb import rows as duckdb_rows
from dynabeam.transforms.sinks.duckdb.database import (
    META,
    ROWS,
    DatabaseSettings,
    create_meta,
    first_row,
    open_database,
    read_round,
    transaction,
    write_format,
    write_round,
)
from dynabeam.transforms.sinks.duckdb.rows import MirrorTables, RoundRows
from dynabeam.transforms.sinks.row_layout import LAYOUT_OPTIONS, row_options
from dynabeam.transforms.sinks.unfit_images import refused_images, split_malformed, without_unfit
from dynabeam.transforms.sinks.uri import SinkUri, refuse_home
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.values.json_sql import quoted_name

__all__ = ["DuckDBMirror"]

_OPTIONS = frozenset({"memory_limit", "threads", "retry_seconds", *LAYOUT_OPTIONS})
_MEMORY = re.compile(r"[0-9]+ ?([KMGT]i?B)", re.IGNORECASE)
_RETRY_SECONDS = "300"
_MEMORY_MB = 128
_MARK = b""
"""Stands beside the blocks, so that a round without changes is recorded too."""


class DuckDBMirror(Sink):
    """One row per key, the latest version, in a DuckDB file.

    Raises:
        ConfigurationError: If the URI names no file or an option is wrong.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        kind="mirror", upsert=True, delete=True, version_guard=True, single_process=True
    )

    def __init__(self, uri: SinkUri) -> None:
        super().__init__(uri)
        uri.refuse_unknown(_OPTIONS)
        self._options = row_options(uri)
        self._settings = _settings(uri)

    def without_waiting(self) -> DuckDBMirror:
        """The same mirror; a file that others hold is an error at once."""
        found = copy.copy(self)
        found._settings = dataclasses.replace(self._settings, retry_seconds=0.0)
        return found

    @property
    def place(self) -> str:
        """The file's absolute path."""
        return os.path.realpath(self._settings.path)

    def position(self, committed: Round) -> SinkPosition | None:
        """The last round, as the file says; None if there is no file or no mirror in it."""
        del committed
        if not os.path.isfile(self._settings.path):
            return None
        with open_database(self._settings) as connection:
            held = read_round(connection)
        return None if held is None else SinkPosition(held.state_id, held.number)

    def examine(self, tables: Sequence[Table], committed: Round, *, joins: bool = False) -> str:
        """Opens the file for writing and closes it unchanged; or looks at the folder for it."""
        self._check_folder(committed, joins=joins)
        if not os.path.exists(self._settings.path):
            there = filesystem.nearest_existing(self._settings.path)
            return f"the file will be created below {there}"
        with open_database(self._settings) as connection:
            held = read_round(connection)
            with contextlib.suppress(_UnchangedError), transaction(connection):
                self._prepare(connection, tables, committed, joins=joins)
                raise _UnchangedError
        if held is None:
            return "a DuckDB file without a mirror"
        return f"a mirror, round {held.number}"

    def check(self, tables: Sequence[Table], committed: Round, *, joins: bool = False) -> None:
        """Checks that the file can be written and fits the state directory; creates it if new.

        The file is closed again: only one process can hold it, and that is a worker's turn next.

        Raises:
            SinkError: If the file cannot be opened for writing, belongs to another state directory,
                cannot hold a table, or, unless the sink joins, lacks committed rounds or is more
                than one round ahead.
        """
        self._check_folder(committed, joins=joins)
        self._make_folder()
        creates = joins or committed.number == 0
        with (
            open_database(self._settings, create=creates) as connection,
            transaction(connection),
        ):
            known = self._prepare(connection, tables, committed, joins=joins)
            for table in tables:
                known.open(table).add_key_hashes()
            write_format(connection)

    def newest_generation(self, table: Table) -> int:
        """The highest generation of the table's rows, deleted ones included."""
        if not os.path.exists(self._settings.path):
            return 0
        with open_database(self._settings) as connection:
            if read_round(connection) is None:
                return 0
            known = first_row(
                connection,
                f"SELECT name FROM {META}.tables WHERE name = ?",  # noqa: S608
                [table.name],
            )
            if known is None:
                return 0
            rows = f"{ROWS}.{quoted_name(table.name)}"
            newest = first_row(connection, f"SELECT max(_version) FROM {rows}")  # noqa: S608
        assert newest is not None
        return decode_version(newest[0].encode())[0] if newest[0] else 0

    def recover(self, committed: Round) -> None:
        """Nothing to do: an interrupted round was rolled back, or is applied and repeats safely."""

    def write(self, current: Round) -> beam.PTransform[Any, Any]:
        """Applies all blocks in one transaction of one call."""
        return _ApplyRound(self, current)

    def publish(self, current: Round) -> None:
        """Nothing to do: the rows became visible when the round's transaction was committed."""

    def remove_older_generations(
        self,
        table: Table,
        generation: int,
        changed_since_us: int = 0,
        key_range: KeyRange | None = None,
    ) -> int:
        """Marks live rows of older generations as deleted, see `Sink.remove_older_generations`."""
        with open_database(self._settings) as connection, transaction(connection):
            tables = self._tables(connection)
            return tables.open(table).remove_older_generations(
                generation, changed_since_us, key_range
            )

    def apply(
        self,
        blocks: Iterable[Block],
        current: Round,
        piece_bytes: int | None = None,
        memory_limit: str = "",
    ) -> list[Report]:
        """Applies blocks and records the round, in one transaction.

        Args:
            blocks: In any order; taken one at a time, so they may be decoded on the way.
            current: The round.
            piece_bytes: How much is merged at once, see `RoundRows`.
            memory_limit: Another limit than the sink's.

        Returns:
            One report of kind `sink` per table.

        Raises:
            SinkError: If the file cannot be written or holds another state directory's rows.
        """
        limit = memory_limit or self._settings.memory_limit
        settings = dataclasses.replace(self._settings, memory_limit=limit)
        with open_database(settings) as connection:
            self._check_owner(read_round(connection), current)
            with transaction(connection):
                tables = self._tables(connection)
                rows = RoundRows(tables, piece_bytes)
                for block in blocks:
                    rows.add(block)
                counts = rows.finish()
                write_round(connection, current)
        return [
            Report("sink", table, {"sink": self.name, **fields})
            for table, fields in sorted(counts.items())
        ]

    def apply_what_fits(
        self, blocks: Callable[[], Iterable[Block]], current: Round
    ) -> list[Report]:
        """Applies blocks as `apply`; rows with images that cannot be laid out become dead letters.

        Images that are no JSON objects are left out beforehand: DuckDB would take some of them
        (`[1,]`, `NaN`), as long as nothing else in the round makes it fail.

        Args:
            blocks: Gives the blocks, as often as it is called.
            current: The round.

        Returns:
            One report of kind `sink` per table, one of kind `refused` per row left out.

        Raises:
            SinkError: As `apply`.
        """
        malformed: list[Report] = []
        try:
            fit = self._apply_in_memory(lambda: self._well_formed(blocks(), malformed), current)
            return [*fit, *malformed]  # noqa: TRY300 - the list grows as the blocks are taken
        except (SinkError, ValueDecodeError, pa.ArrowInvalid) as error:
            if _lacked_memory(error):
                raise
            # The transaction was rolled back: nothing of the round is there.
            refused = [each for block in blocks() for each in refused_images(block, self.place)]
            if not refused:
                raise
        fit = self._apply_in_memory(lambda: map(without_unfit, blocks()), current)
        return [*fit, *refused]

    def _well_formed(self, blocks: Iterable[Block], malformed: list[Report]) -> Iterator[Block]:
        """The blocks without rows that are no JSON objects, which `malformed` gets."""
        malformed.clear()  # of a try before, which was rolled back
        for block in blocks:
            fit, refused = split_malformed(block, self.place)
            malformed += refused
            yield fit

    def _apply_in_memory(
        self, blocks: Callable[[], Iterable[Block]], current: Round
    ) -> list[Report]:
        """Applies blocks; where memory does not suffice, all of them again in smaller pieces.

        An error aborts DuckDB's transaction, so it is the whole round that is tried again. What the
        pieces are changes nothing of what the rows become. A commit takes up to 2,048 rows of a
        round at once, whatever the pieces, and 2,048 rows of 400 KB are 800 MB; so a limit that
        nobody gave is raised too, up to `_MOST_MEMORY_MB`.
        """
        piece_bytes, memory_mb = duckdb_rows.PIECE_BYTES, _MEMORY_MB
        limit_is_given = self.uri.option("memory_limit", "") != ""
        while True:
            limit = self._settings.memory_limit if limit_is_given else f"{memory_mb}MB"
            try:
                return self.apply(blocks(), current, piece_bytes, limit)
            except SinkError as error:
                if not _lacked_memory(error):
                    raise
                if piece_bytes <= _SMALLEST_PIECE and (
                    limit_is_given or memory_mb >= _MOST_MEMORY_MB
                ):
                    raise SinkError(
                        f"memory_limit={limit} is too little: {error.what}",
                        where=f"--sink={self.name}",
                        hint="Give more, as in ?memory_limit=2GB",
                    ) from error
            piece_bytes = max(piece_bytes // 4, _SMALLEST_PIECE)
            memory_mb = min(memory_mb * 2, _MOST_MEMORY_MB)
            _LOGGER.warning(
                "--sink=%s: memory_limit=%s is too little for this round; trying again with "
                "pieces of %d KiB and %s",
                self.name,
                limit,
                piece_bytes >> 10,
                "the same limit" if limit_is_given else f"{memory_mb}MB",
            )

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A read-only connection to the mirror, for looking at it between rounds."""
        return duckdb.connect(self._settings.path, read_only=True)

    def _prepare(
        self,
        connection: duckdb.DuckDBPyConnection,
        tables: Sequence[Table],
        committed: Round,
        *,
        joins: bool,
    ) -> MirrorTables:
        """Compares the rounds, creates what is missing, opens the tables; in a transaction."""
        held = read_round(connection)
        self._check_owner(held, committed)
        if not joins:
            self._check_round(held, committed)
        create_meta(connection)
        if held is None or joins:
            write_round(connection, committed)
        known = self._tables(connection)
        for table in tables:
            known.open(table)
        return known

    def _tables(self, connection: duckdb.DuckDBPyConnection) -> MirrorTables:
        given = self.uri.option("numbers", "") != ""
        return MirrorTables(connection, self._options, self.name, numbers_given=given)

    def _check_folder(self, committed: Round, *, joins: bool) -> None:
        where = f"--sink={self.name}"
        if committed.number > 0 and not joins and not os.path.exists(self._settings.path):
            raise SinkError(
                f"the mirror does not exist, but the state directory says round {committed.number}",
                where=where,
                expected=f"round {committed.number} of state directory {committed.state_id}",
                found=self._settings.path,
                hint=_START_ANEW,
            )
        folder = os.path.dirname(self._settings.path)
        there = filesystem.nearest_existing(folder)
        if not os.path.isdir(there):
            raise SinkError(
                "the folder cannot be created: a file is in the way",
                where=where,
                found=there,
                hint=_WRITABLE,
            )
        if os.path.isdir(self._settings.path):
            raise SinkError(
                "the path is that of a folder, and a mirror is a file",
                where=where,
                found=self._settings.path,
                hint="Add the name of a file, e.g. mirror.duckdb",
            )
        if not os.access(there, os.W_OK | os.X_OK):
            # DuckDB writes its log beside the file.
            raise SinkError(
                "the folder cannot be written", where=where, found=there, hint=_WRITABLE
            )

    def _make_folder(self) -> None:
        folder = os.path.dirname(self._settings.path)
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise SinkError(
                f"the folder cannot be created: {error.strerror}",
                where=f"--sink={self.name}",
                found=folder,
                hint=_WRITABLE,
            ) from error

    def _check_round(self, held: Round | None, committed: Round) -> None:
        where = f"--sink={self.name}"
        number = 0 if held is None else held.number
        if number < committed.number:
            raise SinkError(
                "the mirror is empty" if number == 0 else "the mirror is behind",
                where=where,
                expected=f"round {committed.number}, as the state directory says",
                found=f"round {number}",
                hint=_START_ANEW,
            )
        if number > committed.number + 1:
            raise SinkError(
                "the mirror is ahead: the state directory was set back",
                where=where,
                expected=f"round {committed.number} or {committed.number + 1}",
                found=f"round {number}",
                hint=_START_ANEW,
            )

    def _check_owner(self, held: Round | None, current: Round) -> None:
        if held is not None and held.state_id != current.state_id:
            raise SinkError(
                f"the mirror belongs to state directory {held.state_id}",
                where=f"--sink={self.name}",
                expected=current.state_id,
                found=held.state_id,
                hint="Use the state directory that belongs to it, or another file",
            )


_LOGGER = logging.getLogger(__name__)
_SMALLEST_PIECE = 512 << 10
_MOST_MEMORY_MB = 1024


def _lacked_memory(error: BaseException) -> bool:
    cause = error.__cause__
    # A commit that lacks memory fails as a transaction; its text is that of lacking memory.
    return isinstance(cause, duckdb.OutOfMemoryException) or (
        isinstance(cause, duckdb.Error) and "Increasing the memory limit" in str(cause)
    )


_WRITABLE = "Give a file in another folder, or the right to write this one"
_START_ANEW = (
    "Give the file that belongs to this state directory, or start with a new file and a new state "
    "directory"
)


class _UnchangedError(Exception):
    """Ends a transaction that was only to be tried."""


class _ApplyRound(beam.PTransform):
    def __init__(self, sink: DuckDBMirror, current: Round) -> None:
        super().__init__()
        self._sink = sink
        self._round = current

    def expand(self, blocks: Any) -> Any:
        """Brings all blocks of the round to one call, because DuckDB has one writer."""
        encoded = (
            blocks
            # As bytes: a runner decodes a group's values before the call, and blocks are larger
            # decoded. The call decodes one at a time.
            | "Encode" >> beam.Map(_encoded).with_output_types(tuple[str, bytes])
        )
        mark = blocks.pipeline | "Mark" >> beam.Create([("", _MARK)]).with_output_types(
            tuple[str, bytes]
        )
        return (
            (encoded, mark)
            | "WithMark" >> beam.Flatten()
            | "OneWriter" >> beam.GroupByKey()
            | "Apply" >> beam.ParDo(_ApplyFn(self._sink, self._round)).with_output_types(Report)
        )


_CODER = BlockCoder()


def _encoded(block: Block) -> tuple[str, bytes]:
    return "", _CODER.encode(block)


class _ApplyFn(beam.DoFn):
    def __init__(self, sink: DuckDBMirror, current: Round) -> None:
        self._sink = sink
        self._round = current

    def process(self, element: tuple[str, Iterable[bytes]]) -> Iterator[Report]:
        """Applies the round; the file is open only during this call."""
        yield from self._sink.apply_what_fits(lambda: self._decoded(element[1]), self._round)

    def _decoded(self, encoded: Iterable[bytes]) -> Iterator[Block]:
        return (_CODER.decode(each) for each in encoded if each != _MARK)


def _settings(uri: SinkUri) -> DatabaseSettings:
    if uri.authority or not uri.path:
        raise ConfigurationError(
            "the URI names no file of this machine",
            where=f"--sink={uri.text}",
            hint="Write duckdb:///m.duckdb (relative) or duckdb:////folder/m.duckdb (absolute)",
        )
    refuse_home(uri)
    memory = uri.option("memory_limit", f"{_MEMORY_MB}MB")
    if not _MEMORY.fullmatch(memory):
        raise ConfigurationError(
            "memory_limit is no size",
            where=f"--sink={uri.text}",
            expected="512MB, 2GB ...",
            found=memory,
        )
    threads = uri.option("threads", "2")
    if not threads.isdecimal() or int(threads) == 0:
        raise ConfigurationError(
            "threads is no positive number", where=f"--sink={uri.text}", found=threads
        )
    # Absolute, because a worker may run in another folder.
    return DatabaseSettings(
        os.path.abspath(uri.path), memory, int(threads), str(uri), _retry_seconds(uri)
    )


def _retry_seconds(uri: SinkUri) -> float:
    text = uri.option("retry_seconds", _RETRY_SECONDS)
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        raise ConfigurationError(
            "retry_seconds is no number of seconds", where=f"--sink={uri.text}", found=text
        )
    return float(text)
