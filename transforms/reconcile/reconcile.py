# SPDX-License-Identifier: Apache-2.0
"""Reconcile: the snapshot and the stream of one table meet here, per hash bucket.

Every stream change passes (a changelog wants them all, a mirror guards itself). While a snapshot of
the table is pending, the newest version of each key that the stream changed is remembered, deletes
included, and a snapshot row that loses against it is dropped and counted. Once the watermark has
passed the snapshot's time and its one-minute fuzz, no older row can arrive: the memory is dropped
and nothing is remembered any more; a bounded input drops it at its end. What stays per bucket is a
mark of some 40 bytes that says up to when snapshots are over.

Promise: at least once in, at least once out; nothing but superseded snapshot rows is ever dropped.

State per bucket: a group of `transforms.runtime.keyed_memory`, with runs of Arrow and LZ4. Cost per
remembered key: its encoding plus 49 bytes of version in the state before compression, and about 250
bytes in the worker's memory. Only ReadModifyWrite and Bag state and an event-time timer are used,
because only these work on every runner.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
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

from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.order import newest_per_key, supersedes, without_stale
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.runtime.arrow_ipc import encode_stream, open_stream
from dynabeam.transforms.runtime.keyed_memory import GroupCells, GroupCopy, KeyedMemory, RunFormat
from dynabeam.transforms.runtime.state_cache import skip_deep_sizing
from dynabeam.transforms.runtime.timers import ceil_to_millis
from dynabeam.transforms.telemetry.metric_names import NAMESPACE
from dynabeam.transforms.telemetry.process_metrics import process_metrics

__all__ = ["Reconcile", "Reconciled"]

_BLOCKS = "blocks"
_REPORTS = "reports"
_RUN_SCHEMA = pa.schema([("key", pa.binary()), ("version", pa.binary())])
_VALUE_BYTES = 230
"""A version, and what both objects and their places in a dict take beside the bytes of the key."""

_OVER = b"snapshots over until "


@dataclasses.dataclass(frozen=True)
class Reconciled:
    """What `Reconcile` gives.

    Attributes:
        blocks: `PCollection[Block]`: all stream changes, and the snapshot rows that are not stale.
        reports: `PCollection[Report]` of kind `reconcile`, fields `stale` and `kept` (rows).
    """

    blocks: Any
    reports: Any


class Reconcile(beam.PTransform):
    """Applies the order rule per table and bucket: `PCollection[Block]` → `Reconciled`."""

    def expand(self, blocks: Any) -> Reconciled:
        """Groups by table and bucket and drops stale snapshot rows."""
        out = (
            blocks
            | "ByTableAndBucket" >> beam.Map(_with_group).with_output_types(tuple[str, Block])
            | "OrderRule"
            >> beam.ParDo(_OrderRuleFn())
            .with_output_types(Block, reports=Report)
            .with_outputs(_REPORTS, main=_BLOCKS)
        )
        return Reconciled(out[_BLOCKS], out[_REPORTS])


def _with_group(block: Block) -> tuple[str, Block]:
    return block.group, block


def _pairs(rows: pa.RecordBatch) -> Iterable[tuple[bytes, bytes]]:
    return zip(rows.column("key").to_pylist(), rows.column("version").to_pylist(), strict=True)


def _encode_run(known: Mapping[bytes, bytes]) -> bytes:
    columns = [pa.array(known.keys(), pa.binary()), pa.array(known.values(), pa.binary())]
    return encode_stream(pa.record_batch(columns, schema=_RUN_SCHEMA), _RUN_SCHEMA)


def _decode_run(stream: bytes) -> Iterable[tuple[bytes, bytes]]:
    with open_stream(stream) as reader:
        return _pairs(reader.read_next_batch())


_RUNS = RunFormat(_encode_run, _decode_run, supersedes, _VALUE_BYTES)


class _OrderRuleFn(beam.DoFn):
    TOKEN = ReadModifyWriteStateSpec("token", beam.coders.BytesCoder())
    RUNS = BagStateSpec("runs", beam.coders.BytesCoder())
    MERGED = BagStateSpec("merged", beam.coders.BytesCoder())
    EVICT = TimerSpec("evict", TimeDomain.WATERMARK)

    def __init__(self) -> None:
        self._remembered = Metrics.distribution(NAMESPACE, "remembered_keys")
        self._memory: KeyedMemory[bytes, None] = KeyedMemory(_RUNS)

    def setup(self) -> None:
        """Prepares the process for state."""
        skip_deep_sizing()

    def process(
        self,
        element: tuple[str, Block],
        token: Any = beam.DoFn.StateParam(TOKEN),
        runs: Any = beam.DoFn.StateParam(RUNS),
        merged: Any = beam.DoFn.StateParam(MERGED),
        evict: Any = beam.DoFn.TimerParam(EVICT),
    ) -> Iterator[Any]:
        """Passes a stream block and remembers its keys; filters a snapshot block."""
        group, block = element
        cells = GroupCells(token, runs, merged)
        if block.header.source == "stream":
            if block.header.snapshot_until_us > _over_until_us(token.read()):
                copy = self._memory.recall(group, cells)
                fresh = _fresh(block.rows, copy.known)
                if fresh:
                    self._memory.update(copy, fresh, cells)
                self._count(group, block.header.table.name, copy)
                evict.set(ceil_to_millis(block.header.snapshot_until_us))
            yield block
            return
        rows = without_stale(block.rows, self._memory.recall(group, cells).known)
        stale = block.rows.num_rows - rows.num_rows
        counts = {"stale": stale, "kept": rows.num_rows}
        yield beam.pvalue.TaggedOutput(
            _REPORTS, Report("reconcile", block.header.table.name, counts)
        )
        if rows.num_rows:
            yield block.with_rows(rows)

    @on_timer(EVICT)
    def forget(
        self,
        token: Any = beam.DoFn.StateParam(TOKEN),
        runs: Any = beam.DoFn.StateParam(RUNS),
        merged: Any = beam.DoFn.StateParam(MERGED),
        at: Any = beam.DoFn.TimestampParam,
        group: Any = beam.DoFn.KeyParam,
    ) -> None:
        """Drops the memory of one bucket: no older row can arrive any more."""
        # The in-memory copy needs no clearing: without its token in the state it is never used.
        token.write(_OVER + str(at.micros).encode())
        runs.clear()
        merged.clear()
        process_metrics().forget(group)

    def _count(self, group: str, table: str, copy: GroupCopy[bytes, None]) -> None:
        self._remembered.update(len(copy.known))
        process_metrics().remember(group, table, len(copy.known), copy.state_bytes)


def _over_until_us(stored: bytes | None) -> int:
    """Up to when snapshots are over, microseconds since 1970; 0 if the state does not say it."""
    if stored is None or not stored.startswith(_OVER):
        return 0
    return int(stored.removeprefix(_OVER))


def _fresh(rows: pa.RecordBatch, known: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The newest version of each key, where it is newer than what is known."""
    newest = newest_per_key(rows.select(["key", "version"]))
    return dict(_pairs(without_stale(newest, known)))
