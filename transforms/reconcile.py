# SPDX-License-Identifier: Apache-2.0
"""Reconcile: the snapshot and the stream of one table meet here, per hash bucket.

Every stream change passes (a changelog wants them all, a mirror guards itself). While a snapshot of
the table is pending, the newest version of each key that the stream changed is remembered, deletes
included, and a snapshot row that loses against it is dropped and counted. Once the watermark has
passed the snapshot's time and its one-minute fuzz, no older row can arrive and the memory is
dropped, and nothing is remembered any more; a bounded input drops it at its end. What stays per
bucket is a mark of some 40 bytes that says up to when snapshots are over.

Promise: at least once in, at least once out; nothing but superseded snapshot rows is ever dropped.

State per bucket: an 8-byte token and a bag of runs (Arrow, LZ4). They are read only if this worker
has no in-memory copy with the same token, and written once per block. Cost per remembered key: its
encoding plus 49 bytes of version in the state before compression, and about 250 bytes in the
worker's memory. Only ReadModifyWrite and Bag state and an event-time timer are used, because only
these work on every runner.
"""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Iterator
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

from transforms.arrow_stream import encoded, opened
from transforms.block import Block
from transforms.event_timers import not_before
from transforms.metrics import NAMESPACE
from transforms.order import newest_per_key, without_stale
from transforms.reports import Report
from transforms.state_weight import weigh_quickly
from transforms.telemetry.figures import figures

__all__ = ["Reconcile", "Reconciled"]

_BLOCKS = "blocks"
_REPORTS = "reports"
_RUN_SCHEMA = pa.schema([("key", pa.binary()), ("version", pa.binary())])
_GROUPS_IN_MEMORY = 256
_MAX_RUNS = 64
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


@dataclasses.dataclass
class _Memory:
    """The newest versions known in one bucket, as of the state with this token and these runs."""

    token: bytes | None
    known: dict[bytes, bytes]
    runs: int
    bytes: int


class _OrderRuleFn(beam.DoFn):
    TOKEN = ReadModifyWriteStateSpec("token", beam.coders.BytesCoder())
    RUNS = BagStateSpec("runs", beam.coders.BytesCoder())
    EVICT = TimerSpec("evict", TimeDomain.WATERMARK)

    def __init__(self) -> None:
        self._remembered = Metrics.distribution(NAMESPACE, "remembered_keys")
        self._memories: collections.OrderedDict[str, _Memory] = collections.OrderedDict()

    def setup(self) -> None:
        """Prepares the process for state."""
        weigh_quickly()

    def process(
        self,
        element: tuple[str, Block],
        token: Any = beam.DoFn.StateParam(TOKEN),
        runs: Any = beam.DoFn.StateParam(RUNS),
        evict: Any = beam.DoFn.TimerParam(EVICT),
    ) -> Iterator[Any]:
        """Passes a stream block and remembers its keys; filters a snapshot block."""
        group, block = element
        if block.header.source == "stream":
            if block.header.snapshot_until_us > _over_until_us(token.read()):
                memory = self._recall(group, token, runs)
                self._remember(memory, block.rows, token, runs)
                self._tell(group, block.header.table.name, memory)
                evict.set(not_before(block.header.snapshot_until_us))
            yield block
            return
        rows = without_stale(block.rows, self._recall(group, token, runs).known)
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
        at: Any = beam.DoFn.TimestampParam,
        group: Any = beam.DoFn.KeyParam,
    ) -> None:
        """Drops the memory of one bucket: no older row can arrive any more."""
        # The in-memory copy needs no clearing: without its token in the state it is never used.
        token.write(_OVER + str(at.micros).encode())
        runs.clear()
        figures().forget(group)

    def _tell(self, group: str, table: str, memory: _Memory) -> None:
        self._remembered.update(len(memory.known))
        figures().remember(group, table, len(memory.known), memory.bytes)

    def _recall(self, group: str, token: Any, runs: Any) -> _Memory:
        stored = token.read()
        if stored is None or stored.startswith(_OVER):
            return self._keep(group, _Memory(None, {}, 0, 0))
        memory = self._memories.get(group)
        if memory is None or memory.token != stored:
            # Another worker, or an earlier attempt of this bundle, wrote the state last.
            written = list(runs.read())
            known: dict[bytes, bytes] = {}
            for run in written:
                _merge(known, _decode_run(run))
            memory = _Memory(stored, known, len(written), sum(map(len, written)))
        return self._keep(group, memory)

    def _keep(self, group: str, memory: _Memory) -> _Memory:
        self._memories[group] = memory
        self._memories.move_to_end(group)
        if len(self._memories) > _GROUPS_IN_MEMORY:
            self._memories.popitem(last=False)
        return memory

    def _remember(self, memory: _Memory, rows: pa.RecordBatch, token: Any, runs: Any) -> None:
        newest = newest_per_key(rows.select(["key", "version"]))
        fresh = without_stale(newest, memory.known)
        if fresh.num_rows == 0:
            return
        _merge(memory.known, fresh)
        if memory.runs >= _MAX_RUNS:
            # Superseded entries pile up in the bag: write the whole memory as one run instead.
            runs.clear()
            run = _encode_run(_as_run(memory.known))
            memory.runs, memory.bytes = 1, len(run)
        else:
            run = _encode_run(fresh)
            memory.runs, memory.bytes = memory.runs + 1, memory.bytes + len(run)
        runs.add(run)
        # Random, so that the memory of a bundle that failed never matches what its retry wrote.
        memory.token = os.urandom(8)
        token.write(memory.token)


def _over_until_us(stored: bytes | None) -> int:
    """Up to when snapshots are over, microseconds since 1970; 0 if the state does not say it."""
    if stored is None or not stored.startswith(_OVER):
        return 0
    return int(stored.removeprefix(_OVER))


def _merge(known: dict[bytes, bytes], run: pa.RecordBatch) -> None:
    fresh = without_stale(newest_per_key(run), known)
    known.update(
        zip(fresh.column("key").to_pylist(), fresh.column("version").to_pylist(), strict=True)
    )


def _as_run(known: dict[bytes, bytes]) -> pa.RecordBatch:
    return pa.record_batch(
        [pa.array(known.keys(), pa.binary()), pa.array(known.values(), pa.binary())],
        schema=_RUN_SCHEMA,
    )


def _encode_run(run: pa.RecordBatch) -> bytes:
    return encoded(run.cast(_RUN_SCHEMA), _RUN_SCHEMA)


def _decode_run(stream: bytes) -> pa.RecordBatch:
    with opened(stream) as reader:
        return reader.read_next_batch()
