# SPDX-License-Identifier: Apache-2.0
"""`VerifyChain`: changes that the stream lost, seen by the changes around them.

Every record carries the image before it. If that is not the image after the last known change of
its key, a change in between is missing: a gap of kind `chain`. It sees lost inserts, updates and
deletes of a key that changes again and that changed before, within what is remembered: since the
start (in catch-up mode, of the round), and at most `KEYS` keys a table; those that changed longest
ago are forgotten first. It does not see a loss after which the key never changes,
one before the first change that was read of a key, nor several that cancel each other out. Rows of
snapshots are not compared.

Items are compared by digest (`transforms.values.digests`), which is computed where blocks are read;
only key, version, time and two digests of 16 bytes are shuffled. State per bucket: a group of
`transforms.runtime.keyed_memory`, and a cell with the rows that do not fit (yet). Cost per
remembered key: its encoding plus 73 bytes in the state before compression, and about 350 bytes in
the worker's memory. Only ReadModifyWrite and Bag state and an event-time timer are used, because
only these work on every runner.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

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

from dynabeam.transforms.model.block import SCHEMA, Block, BlockHeader
from dynabeam.transforms.model.gap import Gap, GapKind, GapPolicy
from dynabeam.transforms.model.gap_handler import GapHandler
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.model.version import decode_version
from dynabeam.transforms.reconcile.chain_links import LINK_RUNS, Break, ChainWindows, Link, Row
from dynabeam.transforms.runtime.keyed_memory import (
    CACHE_BYTES,
    GroupCells,
    GroupCopy,
    KeyedMemory,
)
from dynabeam.transforms.runtime.state_cache import skip_deep_sizing
from dynabeam.transforms.runtime.timers import ceil_to_millis
from dynabeam.transforms.telemetry.metric_names import NAMESPACE
from dynabeam.transforms.values.digests import item_digest
from dynabeam.transforms.values.keys import decode_key

__all__ = ["KEYS", "VerifyChain"]

KEYS = 200_000
"""Keys of a table that are remembered."""

_CACHE_BYTES = 2 * CACHE_BYTES
"""All `KEYS` of a table with long keys: one table alone never has to read its state again."""

_REPORTED = 10
"""Breaks of a bucket that are reported one by one, each time that it is judged."""


class VerifyChain(beam.PTransform):
    """`PCollection[Block]` → `PCollection[Report]` of kind `gap`, for the blocks of streams.

    Args:
        policy_of: The policy of a table; picklable.
        keys: Keys of a table that are remembered.
        gap_handler: Notified of what stops the run; None to notify nobody.

    Raises:
        GapError: While running, if a change is missing and the table's policy is to stop.
    """

    def __init__(
        self,
        policy_of: Callable[[str], GapPolicy],
        keys: int = KEYS,
        gap_handler: GapHandler | None = None,
    ) -> None:
        super().__init__()
        self._fn = _ChainFn(policy_of, keys, gap_handler)

    def expand(self, blocks: Any) -> Any:
        """Digests, groups by table and bucket, and compares."""
        return (
            blocks
            | "Digest" >> beam.FlatMap(_digests).with_output_types(tuple[str, Block])
            | "Compare" >> beam.ParDo(self._fn).with_output_types(Report)
        )


def _digests(block: Block) -> Iterator[tuple[str, Block]]:
    """A stream block with digests in place of images, and without what nobody compares."""
    if block.header.source != "stream":
        return
    rows = block.rows
    columns = {name: rows.column(name) for name in ("key", "version", "op", "event_time", "ttl")}
    for name in ("old", "new"):
        images = rows.column(name).to_pylist()
        digests = [b"" if each is None else item_digest(each) for each in images]
        columns[name] = pa.array(digests, pa.binary())
    columns["envelope"] = pa.nulls(rows.num_rows, pa.binary())
    batch = pa.record_batch([columns[each.name] for each in SCHEMA], schema=SCHEMA)
    yield block.group, block.with_rows(batch)


class _ChainFn(beam.DoFn):
    TOKEN = ReadModifyWriteStateSpec("token", beam.coders.BytesCoder())
    RUNS = BagStateSpec("runs", beam.coders.BytesCoder())
    MERGED = BagStateSpec("merged", beam.coders.BytesCoder())
    WINDOWS = ReadModifyWriteStateSpec("windows", beam.coders.BytesCoder())
    JUDGE = TimerSpec("judge", TimeDomain.WATERMARK)

    def __init__(
        self, policy_of: Callable[[str], GapPolicy], keys: int, gap_handler: GapHandler | None
    ) -> None:
        self._policy_of = policy_of
        self._gap_handler = gap_handler
        self._keys = keys
        self._gaps = Metrics.counter(NAMESPACE, "chain_gaps")
        self._memory: KeyedMemory[Link, ChainWindows] = KeyedMemory(LINK_RUNS, _CACHE_BYTES)

    def setup(self) -> None:
        """Prepares the process for state."""
        skip_deep_sizing()

    def process(  # noqa: PLR0917 - Beam passes each cell of the state by itself
        self,
        element: tuple[str, Block],
        token: Any = beam.DoFn.StateParam(TOKEN),
        runs: Any = beam.DoFn.StateParam(RUNS),
        merged: Any = beam.DoFn.StateParam(MERGED),
        windows: Any = beam.DoFn.StateParam(WINDOWS),
        judge: Any = beam.DoFn.TimerParam(JUDGE),
    ) -> None:
        """Adds the rows of a block to the chains of their keys."""
        group, block = element
        cells, max_keys = GroupCells(token, runs, merged), self._max_keys(block.header)
        copy = self._memory.recall(group, cells, max_keys)
        waiting = _windows(copy, windows)
        fresh: dict[bytes, Link] = {}
        rows = block.rows
        times = rows.column("event_time").cast(pa.int64()).to_pylist()
        columns = (rows.column(name).to_pylist() for name in ("key", "version", "old", "new"))
        for key, version, old, new, event_us in zip(*columns, times, strict=True):
            row = Row(version, old, new, event_us)
            if waiting.add(key, row, fresh.get(key) or copy.known.get(key)):
                # In the order of their changes, the latest last.
                fresh.pop(key, None)
                fresh[key] = row.link
        if fresh or waiting:
            self._memory.update(copy, fresh, cells, max_keys)
        if waiting:
            windows.write(_encode_header(block.header) + waiting.encode())
            _set(judge, waiting)

    @on_timer(JUDGE)
    def judge(  # noqa: PLR0917 - as above
        self,
        at: Any = beam.DoFn.TimestampParam,
        token: Any = beam.DoFn.StateParam(TOKEN),
        runs: Any = beam.DoFn.StateParam(RUNS),
        merged: Any = beam.DoFn.StateParam(MERGED),
        windows: Any = beam.DoFn.StateParam(WINDOWS),
        judge: Any = beam.DoFn.TimerParam(JUDGE),
    ) -> Iterator[Report]:
        """Judges the rows that waited: what is older than the watermark has arrived.

        Raises:
            GapError: A change is missing, and the table's policy is to stop.
        """
        header = _decode_header(windows.read())
        cells, max_keys = GroupCells(token, runs, merged), self._max_keys(header)
        copy = self._memory.recall(header.group, cells, max_keys)
        waiting = _windows(copy, windows)
        found = list(waiting.breaks(at.micros))
        self._memory.update(copy, {}, cells, max_keys)
        windows.write(_encode_header(header) + waiting.encode())
        if waiting:
            _set(judge, waiting)
        self._gaps.inc(len(found))
        for place, each in enumerate(found[:_REPORTED]):
            more = len(found) - _REPORTED if place == _REPORTED - 1 else 0
            gap = _gap(header, each, more)
            if self._policy_of(gap.table) is GapPolicy.FAIL:
                self._stop(gap)
            yield gap.report()

    def _max_keys(self, header: BlockHeader) -> int:
        return max(1, self._keys // header.buckets)

    def _stop(self, gap: Gap) -> NoReturn:
        error = gap.error()
        if self._gap_handler is not None:
            self._gap_handler.on_fatal(gap.table, error)
        raise error


def _windows(copy: GroupCopy[Link, ChainWindows], cell: Any) -> ChainWindows:
    """The windows of the group: the worker's if the copy is current, else read from the state."""
    if copy.extra is None:
        stored = None if copy.token is None else cell.read()
        copy.extra = ChainWindows.decode((stored or b"\n").partition(b"\n")[2])
    return copy.extra


def _set(timer: Any, windows: ChainWindows) -> None:
    due = windows.next_due_us()
    assert due is not None
    timer.set(ceil_to_millis(due))


def _gap(header: BlockHeader, found: Break, more: int) -> Gap:
    key = decode_key(found.key, header.table.keys)
    others = f"; and {more} more in hash bucket {header.bucket}" if more else ""
    return Gap(
        table=header.table.name,
        kind=GapKind.CHAIN,
        stream_arn=header.origin.get("stream_arn", ""),
        shard_id=header.origin.get("shard_id", ""),
        last_sequence=str(decode_version(found.before.version)[1]),
        from_us=found.before.event_us,
        to_us=found.after.event_us,
        generation=decode_version(found.after.version)[0],
        detail=(
            f"key {key}: the change {decode_version(found.after.version)[1]} begins with "
            f"{_item(found.after.old)}, the one known before ended with "
            f"{_item(found.before.digest)}{others}"
        ),
    )


def _item(digest: bytes) -> str:
    return f"item {digest.hex()}" if digest else "no item"


def _encode_header(header: BlockHeader) -> bytes:
    """The header as a line, before the windows."""
    return json.dumps(header.to_json(), separators=(",", ":")).encode() + b"\n"


def _decode_header(encoded: bytes) -> BlockHeader:
    return BlockHeader.from_json(json.loads(encoded.partition(b"\n")[0]))
