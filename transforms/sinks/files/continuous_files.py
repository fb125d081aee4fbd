# SPDX-License-Identifier: Apache-2.0
"""The file changelog of a run that never ends: blocks gather in state, then become one whole file.

Path of a file: `<table>/dynabeam_round=continuous-<day>/part-<digest>.<extension>`. The day (UTC)
is that of the arrival of its oldest block. The folder is named like that of a catch-up round,
because readers that take folders for partitions (DuckDB, Spark, Athena) refuse a table whose
partitions have different names; its value is no number, so what is done to rounds is never done to
it.

What a reader sees:

* A file appears whole, under its final name, and never changes or goes away.
* Every change is in a file no later than `HELD_SECONDS` after it, as the sink's watermark counts.
* Without a failure each change is there once per delivery. After one, the runner goes back to its
  last checkpoint and delivers again what came since. What of that had been written already is there
  a second time, as the same row with the same `_version`, unless the same changes happen to meet in
  a file again: that file then replaces itself. So after a restore from an old savepoint all that
  was written since is there twice. Repeats change nothing for "newest `_version` of a key"; a query
  that counts changes picks one row per key and `_version`.

Why a name is made of the content, and why nothing is ever overwritten by something else or removed:
a name made of a counter in the state would let a repeated flush replace the first one, but not
every writer that repeats a flush is the one that the runner believes in. A worker that lost its
runner (a long pause, a cut network) can finish its write of file 7 after its successor, which met
other blocks, wrote and checkpointed file 7: it would put changes out of sight that nobody delivers
again. The same holds for removing "leftovers" above the counter, and both destroy what the stream
cannot deliver again once it is older than 24 hours. Workers share no lock that could forbid it. A
name that stands for one set of changes needs none: whoever writes it, and however often, writes the
same changes. A bundle that fails again and again therefore also leaves one file, not many.

State per table and writer: a bag of blocks as `BlockCoder` encodes them, and a cell of 25 bytes;
both are empty right after a file was written, so there is nothing that has to be kept for ever.
Only ReadModifyWrite and Bag state and an event-time timer are used, because only these work on
every runner.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics.metric import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import (
    BagStateSpec,
    ReadModifyWriteStateSpec,
    TimerSpec,
    on_timer,
)
from apache_beam.transforms.window import GlobalWindow, GlobalWindows

from dynabeam.transforms.errors import SinkError, ValueDecodeError
from dynabeam.transforms.model.block import Block, BlockCoder
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.runtime.clock import WallClock, now_us
from dynabeam.transforms.runtime.state_cache import skip_deep_sizing
from dynabeam.transforms.runtime.timers import ceil_to_millis
from dynabeam.transforms.sinks.base import HELD_SECONDS
from dynabeam.transforms.sinks.files.change_writer import ChangeWriter
from dynabeam.transforms.sinks.files.staging import RoundFiles
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.telemetry.metric_names import NAMESPACE
from dynabeam.transforms.telemetry.process_metrics import process_metrics

__all__ = ["GATHER_BYTES", "ContinuousFiles", "Gathered", "WriteContinuously", "content_digest"]

GATHER_BYTES = 32 << 20
"""A file is written once this many bytes of changes, not compressed, have gathered in one writer.

It bounds the state of a writer, and what a worker decodes at once.
"""

_HELD_US = HELD_SECONDS * 1_000_000
# In whole milliseconds, as timers are set.
_LAST_TIMER_US: int = GlobalWindow().max_timestamp().micros // 1000 * 1000
_CODER = BlockCoder()
_CELL = struct.Struct(">BQqq")
_CELL_FORMAT = 1
_DIGEST_BYTES = 16


@dataclasses.dataclass(frozen=True)
class Gathered:
    """What is known of the blocks in the bag without reading them.

    Attributes:
        size: Their bytes, decoded.
        oldest_us: The least of their timestamps, microseconds since 1970.
        since_us: When the first of them arrived, by a worker's clock.
    """

    size: int
    oldest_us: int
    since_us: int

    def and_one(self, size: int, timestamp_us: int) -> Gathered:
        """With one more block."""
        return Gathered(self.size + size, min(self.oldest_us, timestamp_us), self.since_us)

    @property
    def timer_us(self) -> int:
        """Event time at which they must be written."""
        return min(self.oldest_us + _HELD_US, _LAST_TIMER_US)

    def is_due(self, now_us: int, max_bytes: int) -> bool:
        """True if they are to be written now, as enough has gathered or the first waits long."""
        return self.size >= max_bytes or now_us - self.since_us >= _HELD_US

    def encode(self) -> bytes:
        """The state cell: format (1 byte), then the three numbers, 8 bytes each, big-endian."""
        return _CELL.pack(_CELL_FORMAT, self.size, self.oldest_us, self.since_us)

    @classmethod
    def decode(cls, cell: bytes) -> Gathered:
        """Reads what `encode` wrote.

        Raises:
            ValueDecodeError: If it is of another format.
        """
        if cell[:1] != bytes([_CELL_FORMAT]) or len(cell) != _CELL.size:
            raise ValueDecodeError(
                "the state of a changelog's writer has an unknown format",
                where="continuous files",
                expected=_CELL_FORMAT,
                found=cell[:64],
                hint="Upgrade Dynabeam on the workers",
            )
        return cls(*_CELL.unpack(cell)[1:])


def content_digest(rows: Sequence[pa.RecordBatch]) -> str:
    """A name for a set of changes: the same in whatever order and pieces they come."""
    batch = pa.concat_batches(rows).sort_by([("key", "ascending"), ("version", "ascending")])
    return hashlib.blake2b(batch.serialize(), digest_size=_DIGEST_BYTES).hexdigest()


class ContinuousFiles:
    """Writes gathered blocks as whole files.

    Args:
        files: The changelog's folder.
        name: The sink for people.
        state_id: Identity of the state directory that the folder belongs to.
        make_writer: Makes a writer that puts all blocks of one table into one file of a folder.
    """

    def __init__(
        self,
        files: RoundFiles,
        name: str,
        state_id: str,
        make_writer: Callable[[str], ChangeWriter],
    ) -> None:
        self._files = files
        self._name = name
        self._state_id = state_id
        self._make_writer = make_writer
        self._checked = False

    def write(self, blocks: Iterable[Block], since_us: int) -> list[Report]:
        """Writes the blocks; when it returns they are durable and visible.

        Args:
            blocks: Of one table; if it was made anew under its name, each gets its own file.
            since_us: When the first of them arrived, microseconds since 1970.

        Returns:
            One report of kind `sink` per file, one of kind `refused` per row left out.

        Raises:
            SinkError: If they cannot be written, or the folder belongs to another state directory.
        """
        self._check_once()
        tables: dict[Table, list[Block]] = {}
        for block in blocks:
            tables.setdefault(block.header.table, []).append(block)
        day = datetime.datetime.fromtimestamp(since_us // 1_000_000, datetime.timezone.utc).date()
        return [
            report
            for table, each in tables.items()
            for report in self._write_file(table, each, day)
        ]

    def _write_file(self, table: Table, blocks: list[Block], day: datetime.date) -> list[Report]:
        writer = self._make_writer(self._files.continuous_staging_folder())
        try:
            for block in blocks:
                writer.add(block)
            files = writer.finish()
            if not files:
                return writer.refused
            (staged,) = files
            extension = os.path.basename(staged.path).partition(".")[2]
            digest = content_digest([block.rows for block in blocks])
            target = self._files.continuous_path(table.name, day, f"part-{digest}.{extension}")
            filesystem.move(staged.path, target, SinkError)
        except Exception:
            _abandon(writer)
            raise
        counts = {"rows": staged.rows, "written": staged.rows, "stale": 0}
        if unfit := writer.unfit_numbers[table.name]:
            counts["unfit_numbers"] = unfit
        if newest_us := max(block.newest_event_us for block in blocks):
            counts["newest_event_us"] = newest_us
        return [Report("sink", table.name, {"sink": self._name, **counts}), *writer.refused]

    def _check_once(self) -> None:
        """A worker may see another disk than the machine that started the run."""
        if self._checked:
            return
        marker = self._files.read_marker()
        if marker is None or marker.state_id != self._state_id:
            raise SinkError(
                "the worker does not find the changelog that the run was started with",
                where=f"--sink={self._name}",
                expected=f"the marker of state directory {self._state_id}",
                found="none" if marker is None else marker.state_id,
                hint="Name a folder that every worker sees, e.g. in an object store",
            )
        self._checked = True


class WriteContinuously(beam.PTransform):
    """`PCollection[Block]`, without end, to files: gives `PCollection[Report]` of kind `sink`.

    Each report tells of one file (`rows`, `written`), so it comes when the changes are durable.

    Args:
        files: What writes.
        writers: How many writers share a table. Each writes about one file per `HELD_SECONDS` of
            event time in which its share changed, or more if they are large.
        max_bytes: A file is written once this many bytes of changes have gathered.
    """

    def __init__(self, files: ContinuousFiles, writers: int, max_bytes: int) -> None:
        super().__init__()
        self._files = files
        self._writers = writers
        self._max_bytes = max_bytes

    def expand(self, blocks: Any) -> Any:
        """Gathers the blocks per table and writer, whatever window they come in, and writes."""
        return (
            blocks
            # State dies with its window: no block may be in one that ends.
            | "InGlobalWindow" >> beam.WindowInto(GlobalWindows())
            | "ByTableAndWriter"
            >> beam.Map(_with_writer, self._writers).with_output_types(tuple[str, Block])
            | "GatherAndWrite"
            >> beam.ParDo(_GatherFn(self._files, self._max_bytes)).with_output_types(Report)
        )


class _GatherFn(beam.DoFn):
    CELL = ReadModifyWriteStateSpec("gathered", beam.coders.BytesCoder())
    BLOCKS = BagStateSpec("blocks", beam.coders.BytesCoder())
    HELD = TimerSpec("held", TimeDomain.WATERMARK)

    def __init__(self, files: ContinuousFiles, max_bytes: int, clock: WallClock = now_us) -> None:
        self._files = files
        self._max_bytes = max_bytes
        self._clock = clock
        self._written = Metrics.counter(NAMESPACE, "changelog_files")

    def setup(self) -> None:
        """Prepares the process for state."""
        skip_deep_sizing()

    def process(
        self,
        element: tuple[str, Block],
        timestamp: Any = beam.DoFn.TimestampParam,
        cell: Any = beam.DoFn.StateParam(CELL),
        bag: Any = beam.DoFn.StateParam(BLOCKS),
        held: Any = beam.DoFn.TimerParam(HELD),
    ) -> Iterator[Report]:
        """Keeps one block, or writes it with all that were kept."""
        block, at_us = element[1], self._clock()
        if block.rows.num_rows == 0:
            return
        stored = cell.read()
        before = Gathered.decode(stored) if stored else Gathered(0, timestamp.micros, at_us)
        gathered = before.and_one(block.rows.nbytes, timestamp.micros)
        if gathered.is_due(at_us, self._max_bytes):
            yield from self._write([*_decoded(bag), block], gathered, cell, bag)
            return
        bag.add(_CODER.encode(block))
        cell.write(gathered.encode())
        if stored is None or gathered.timer_us < before.timer_us:
            held.set(ceil_to_millis(gathered.timer_us))

    @on_timer(HELD)
    def write_held(
        self,
        cell: Any = beam.DoFn.StateParam(CELL),
        bag: Any = beam.DoFn.StateParam(BLOCKS),
    ) -> Iterator[Report]:
        """Writes what is kept. Nothing is, if it was written before the timer was due."""
        stored = cell.read()
        if stored is not None:
            yield from self._write(_decoded(bag), Gathered.decode(stored), cell, bag)

    def _write(
        self, blocks: Iterable[Block], gathered: Gathered, cell: Any, bag: Any
    ) -> Iterator[Report]:
        # Durable first: if the worker dies before the state is cleared, the blocks come again.
        reports = self._files.write(blocks, gathered.since_us)
        files = sum(each.kind == "sink" for each in reports)
        self._written.inc(files)
        process_metrics().add("changelog_files", files)
        bag.clear()
        cell.clear()
        yield from reports


def _with_writer(block: Block, writers: int) -> tuple[str, Block]:
    # Buckets are hashes of keys: all changes of a key have one writer.
    return f"{block.header.table.name}/{block.header.bucket % writers}", block


def _decoded(bag: Any) -> Iterator[Block]:
    for encoded in bag.read():
        yield _CODER.decode(encoded)


def _abandon(writer: ChangeWriter) -> None:
    """Closes and removes what a writer staged that has failed: the first error is the one to show.

    What cannot be removed now is removed by `recover` when the next run starts.
    """
    with contextlib.suppress(SinkError):
        filesystem.delete([each.path for each in writer.finish()], SinkError)
