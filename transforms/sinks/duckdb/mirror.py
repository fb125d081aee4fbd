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
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import apache_beam as beam
import duckdb
import pyarrow as pa

from dynabeam.transforms.errors import ConfigurationError, SinkError, ValueDecodeError
from dynabeam.transforms.model.block import Block, BlockCoder
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.sinks.base import Capabilities, Round, Sweep
from dynabeam.transforms.sinks.duckdb import rows as duckdb_rows
from dynabeam.transforms.sinks.duckdb.database import (
    DatabaseSettings,
    open_database,
    read_held,
    transaction,
    write_format,
    write_held,
)
from dynabeam.transforms.sinks.duckdb.rows import MirrorTables, RoundRows
from dynabeam.transforms.sinks.mirror_sink import AllAtOnce, Held, MirrorSink, OpenMirror
from dynabeam.transforms.sinks.row_layout import LAYOUT_OPTIONS, row_options
from dynabeam.transforms.sinks.unfit_images import (
    Split,
    fitting,
    split_malformed,
    split_undecodable,
)
from dynabeam.transforms.sinks.uri import SinkUri, refuse_home
from dynabeam.transforms.storage import filesystem

__all__ = ["DuckDBMirror"]

_OPTIONS = frozenset({"memory_limit", "threads", "retry_seconds", *LAYOUT_OPTIONS})
_MEMORY = re.compile(r"[0-9]+ ?([KMGT]i?B)", re.IGNORECASE)
_RETRY_SECONDS = "300"
_MEMORY_MB = 128


class DuckDBMirror(MirrorSink):
    """One row per key, the latest version, in a DuckDB file.

    Raises:
        ConfigurationError: If the URI names no file or an option is wrong.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(kind="mirror")
    elsewhere = "another file"
    nothing_there = "the mirror is empty"
    start_anew = (
        "Give the file that belongs to this state directory, or start with a new file and a new "
        "state directory"
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

    @contextlib.contextmanager
    def looking(self) -> Iterator[OpenMirror | None]:
        """Opens the file, if there is one."""
        if not os.path.isfile(self._settings.path):
            yield None
            return
        with open_database(self._settings) as connection:
            yield self._tables(connection)

    @contextlib.contextmanager
    def writing(self, *, creates: bool = False, keeps: bool = True) -> Iterator[OpenMirror]:
        """Opens the file for one transaction.

        It is closed again: only one process can hold it, and that is a worker's turn next.
        """
        if creates:
            self._make_folder()
        with (
            open_database(self._settings, create=creates) as connection,
            contextlib.suppress(_UnchangedError),
            transaction(connection),
        ):
            tables = self._tables(connection)
            yield tables
            if not keeps:
                raise _UnchangedError
            tables.add_key_hashes()
            write_format(connection)

    def write(self, current: Round) -> beam.PTransform[Any, Any]:
        """Applies all blocks in one transaction of one call."""
        return _ApplyRound(self, current)

    def sweep(self, table: Table, sweep: Sweep) -> int:
        """Marks live rows as deleted, in one transaction."""
        with open_database(self._settings) as connection, transaction(connection):
            return self._tables(connection).open(table).sweep(sweep)

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
            held = read_held(connection)
            if held is not None:
                self.refuse_other_owner(held.round.state_id, current.state_id)
            with transaction(connection):
                rows = RoundRows(self._tables(connection), self.name, piece_bytes)
                for block in blocks:
                    rows.add(block)
                reports = rows.finish()
                write_held(connection, Held(current))
        return reports

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
        refused: list[Report] = []

        def fit(split: Split) -> Iterator[Block]:
            refused.clear()  # of a try before, which was rolled back
            return fitting(blocks(), split, self.place, refused)

        try:
            written = self._apply_in_memory(lambda: fit(split_malformed), current)
            return [*written, *refused]  # noqa: TRY300 - the list grows as the blocks are taken
        except (SinkError, ValueDecodeError, pa.ArrowInvalid) as error:
            if _lacked_memory(error):
                raise
            for _ in fit(split_undecodable):
                """Only what is refused is looked for."""
            if not refused:
                raise
        written = self._apply_in_memory(lambda: fit(split_undecodable), current)
        return [*written, *refused]

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

    def _tables(self, connection: duckdb.DuckDBPyConnection) -> MirrorTables:
        given = self.uri.option("numbers", "") != ""
        return MirrorTables(connection, self._options, self.name, numbers_given=given)

    def not_there(self, committed: Round, *, joins: bool) -> str:
        """Looks at the folder of a file that is not there yet, and at its own."""
        where = f"--sink={self.name}"
        if committed.number > 0 and not joins and not os.path.exists(self._settings.path):
            raise SinkError(
                f"the mirror does not exist, but the state directory says round {committed.number}",
                where=where,
                expected=f"round {committed.number} of state directory {committed.state_id}",
                found=self._settings.path,
                hint=self.start_anew,
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
        if os.path.exists(self._settings.path):
            return ""
        return f"the file will be created below {filesystem.nearest_existing(self._settings.path)}"

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


_LOGGER = logging.getLogger(__name__)
_SMALLEST_PIECE = 512 << 10
_MOST_MEMORY_MB = 1024


def _lacked_memory(error: BaseException) -> bool:
    cause = error.__cause__
    # A commit that lacks memory fails as a transaction; its text is that of lacking memory.
    return isinstance(cause, duckdb.OutOfMemoryException) or (
        isinstance(cause, duckdb.Error) and "Increasing the memory limit" in str(cause)
    )


_WRITABLE = "Give a file in another folder, or the permission to write this one"


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
        apply = beam.ParDo(_ApplyFn(self._sink, self._round)).with_output_types(Report)
        return encoded | "OneWriter" >> AllAtOnce() | "Apply" >> apply


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
        return (_CODER.decode(each) for each in encoded if each)


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
    # Absolute, because a worker may run in another folder.
    return DatabaseSettings(
        os.path.abspath(uri.path), memory, uri.positive("threads", 2), str(uri), _retry_seconds(uri)
    )


def _retry_seconds(uri: SinkUri) -> float:
    text = uri.option("retry_seconds", _RETRY_SECONDS)
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        raise ConfigurationError(
            "retry_seconds is no number of seconds", where=f"--sink={uri.text}", found=text
        )
    return float(text)
