# SPDX-License-Identifier: Apache-2.0
"""`AuditTables`: the graph that compares a mirror with an export and the stream.

```
SnapshotRequests ─► PollExport ────► ReadExportFiles ─► DigestExport ─┐
StreamSources ──► ReadStream ─┬─► HotKeys ┄┄ (side input) ┄┄┄┄┄┄┄┄┄┄┄┄┤
                              └─► DigestStream ───────────────────────┼─► ByBucket ─► Compare
MirrorParts ─► ReadMirror ────────────────────────────────────────────┘
```

The truth is what the order rule makes of the export and of the stream's changes since before its
time: the newest change of a key if the stream has one, else the export's row. So the keys of the
stream (the *hot* ones, 8 bytes each) are known before anything else is read. A row of any other key
is added to the sums of its bucket where it is read, and never travels; rows of hot keys travel,
without their contents, and are compared one by one. Equal sums prove a bucket.

The second pass is the same graph with a `focus`: all rows of the buckets that were not equal travel
with their contents, and are compared item by item.

Every row is laid out, normalised and digested where it is read, in vectorised code. Memory: a batch
on each worker, some bytes per hot key, and in a second pass the rows in focus.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from dynabeam.transforms.audit.bucket_digests import GatheredBuckets, split_group
from dynabeam.transforms.audit.compare import compare_bucket
from dynabeam.transforms.audit.mirror_reader import MirrorReader, StoredRows, open_reader
from dynabeam.transforms.audit.mirror_schema import MirrorShape
from dynabeam.transforms.audit.row_digests import FACTS, Hashes, digested, key_hashes, truth_rows
from dynabeam.transforms.audit.verdict import CommonPoint
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.export.acquire import Acquisition
from dynabeam.transforms.export.ensure_export import EnsureExport
from dynabeam.transforms.export.manifest import Verify
from dynabeam.transforms.export.read_files import ReadExportFiles
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.stream.read_stream import ReadStream

__all__ = ["AuditPlan", "AuditTables", "Audited", "TablePlan"]

_ROWS = tuple[str, bytes]


@dataclasses.dataclass(frozen=True)
class TablePlan:
    """How one table is audited.

    Attributes:
        shape: The table in the mirror, as `MirrorShape.to_json` writes it.
        point: The common point.
        focus: Buckets to compare item by item; None for a first pass over all.
    """

    shape: str
    point: CommonPoint
    focus: frozenset[int] | None = None


@dataclasses.dataclass(frozen=True)
class AuditPlan:
    """How a mirror is audited; travels with the graph.

    Attributes:
        sink: The mirror's URI, secrets by reference.
        buckets: Buckets per table.
        examples: Differences of each kind that are kept per bucket, at most.
        tables: Table → its plan.
    """

    sink: str
    buckets: int
    examples: int
    tables: Mapping[str, TablePlan]


@dataclasses.dataclass(frozen=True)
class Audited:
    """What `AuditTables` gives.

    Attributes:
        reports: `PCollection[Report]`: of kind `audit`, one per bucket that has rows: `bucket` and
            the fields of `BucketComparison`; and those of the readers, `export`, `file`, `stream`.
        dead_letters: `PCollection[DeadLetter]`: what of the truth could not be read.
    """

    reports: Any
    dead_letters: Any


class AuditTables(beam.PTransform):
    """`{"requests", "sources", "parts"}` → `Audited`; `sources` may be left out.

    `requests` is a `PCollection[SnapshotRequest]` of complete exports, `sources` one of
    `ReaderSpec`, `parts` one of `"<table>/<part>"`, the parts that the mirror's reader names.

    Args:
        plan: What is compared, and how.
        access: Where and as whom AWS is called; None if exports are read without AWS.
        verify: What checksums and counts that do not agree are.
    """

    def __init__(self, plan: AuditPlan, access: AwsAccess | None, *, verify: Verify) -> None:
        super().__init__()
        self._plan = plan
        self._access = access
        self._verify: Verify = verify

    def expand(self, elements: Mapping[str, Any]) -> Audited:
        """Reads both sides and compares them."""
        how = Acquisition(access=self._access, verify=self._verify)
        ensured = elements["requests"] | "EnsureExport" >> EnsureExport(how, wait=False)
        export = ensured.slices | "ReadExportFiles" >> ReadExportFiles(verify=self._verify)
        reports = [ensured.reports, export.reports]
        letters = [export.dead_letters]
        gathered = []
        if "sources" in elements:
            assert self._access is not None
            spread = elements["sources"] | "SpreadReaders" >> beam.Reshuffle()
            stream = spread | "ReadStream" >> ReadStream(self._access, until="tip")
            reports.append(stream["reports"])
            letters.append(stream["dead_letters"])
            hashes = stream["blocks"] | "HashKeys" >> beam.ParDo(
                _HashKeysFn(self._plan)
            ).with_output_types(tuple[str, bytes])
            gathered.append(stream["blocks"] | "DigestStream" >> self._digest(_DigestStreamFn))
        else:
            nothing = elements["requests"].pipeline | "NoStream" >> beam.Create([])
            hashes = nothing | "NoKeys" >> beam.Map(_as_it_is).with_output_types(tuple[str, bytes])
        hot = beam.pvalue.AsDict(hashes | "HotKeys" >> beam.CombinePerKey(_joined))
        gathered.append(export.blocks | "DigestExport" >> self._digest(_DigestExportFn, hot))
        gathered.append(
            elements["parts"]
            | "SpreadParts" >> beam.Reshuffle()
            | "ReadMirror" >> self._digest(_ReadMirrorFn, hot)
        )
        found = (
            gathered
            | "BothSides" >> beam.Flatten()
            | "ByBucket" >> beam.GroupByKey()
            | "Compare" >> beam.ParDo(_CompareFn(self._plan)).with_output_types(Report)
        )
        all_reports = (*reports, found) | "Reports" >> beam.Flatten()
        all_reports.element_type = Report
        all_letters = tuple(letters) | "DeadLetters" >> beam.Flatten()
        all_letters.element_type = DeadLetter
        return Audited(all_reports, all_letters)

    def _digest(self, kind: type[_DigestFn], *hot: Any) -> Any:
        return beam.ParDo(kind(self._plan), *hot).with_output_types(tuple[str, bytes])


def _as_it_is(element: Any) -> Any:
    return element


def _joined(hashes: Iterable[bytes]) -> bytes:
    """Hashes of keys, sorted, each once."""
    found = [np.frombuffer(each, np.int64) for each in hashes]
    return np.unique(np.concatenate(found)).tobytes() if found else b""


class _HashKeysFn(beam.DoFn):
    """The hashes of a block's keys, as the mirror spells them."""

    def __init__(self, plan: AuditPlan) -> None:
        self._plan = plan

    def process(self, element: Block) -> Iterator[_ROWS]:
        keys = open_reader(self._plan.sink).stored_keys(element.rows.column("key"))
        yield element.header.table.name, np.unique(key_hashes(keys)).tobytes()


class _DigestFn(beam.DoFn):
    """Digests rows of one side where they are read: the base of three."""

    side: str

    def __init__(self, plan: AuditPlan) -> None:
        self._plan = plan
        self._reader: MirrorReader = open_reader(plan.sink)
        self._shapes: dict[str, MirrorShape] = {}
        self._gathered: dict[str, GatheredBuckets] = {}
        self._hot: dict[str, tuple[bytes, Hashes]] = {}

    def start_bundle(self) -> None:
        """Starts from scratch."""
        self._gathered = {}

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Gives what has gathered."""
        window = GlobalWindow()
        for each in self._gathered.values():
            for pair in each.finish():
                yield WindowedValue(pair, window.max_timestamp(), [window])

    def shape(self, table: str) -> MirrorShape:
        """The table in the mirror."""
        if table not in self._shapes:
            self._shapes[table] = MirrorShape.from_json(self._plan.tables[table].shape)
        return self._shapes[table]

    def is_hot(self, table: str, hashes: Hashes, hot: Mapping[str, bytes]) -> Any:
        """Which keys the stream has changed."""
        encoded = hot.get(table, b"")
        if self._hot.get(table, (b"", None))[0] is not encoded:
            self._hot[table] = (encoded, np.frombuffer(encoded, np.int64))
        known = self._hot[table][1] if encoded else np.zeros(0, np.int64)
        if not len(known):
            return np.zeros(len(hashes), np.bool_)
        at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        return known[at] == hashes

    def truth(self, block: Block, hot: Mapping[str, bytes] | None) -> Iterator[_ROWS]:
        """Adds a block of the truth; of a stream's every key is hot (`hot` is None)."""
        table = block.header.table.name
        shape, reader = self.shape(table), self._reader
        rows = truth_rows(block.rows, block.header.origin.get("shard_id", ""))
        canonical = rows.column("key")
        keys = reader.stored_keys(canonical)
        hashes = key_hashes(keys)
        wanted = self._wanted(table, hashes)
        if wanted is not None:
            mask = pa.array(wanted)
            rows, canonical, keys = (each.filter(mask) for each in (rows, canonical, keys))
            hashes = hashes[wanted]
        if not len(hashes):
            return
        stored = StoredRows(
            keys,
            rows.column("version"),
            rows.column("event_us"),
            rows.column("deleted"),
            reader.lay_out(shape, canonical, rows.column("new")),
        )
        found = digested(stored, rows.column("shard"), shape, are_text=False)
        is_hot = np.ones(len(hashes), np.bool_) if hot is None else self.is_hot(table, hashes, hot)
        yield from self.add(table, hashes, is_hot, found)

    def add(self, table: str, hashes: Hashes, is_hot: Any, found: pa.Table) -> Iterator[_ROWS]:
        """Adds digested rows: to the sums, or as they are."""
        gathered = self._gathered.get(table)
        if gathered is None:
            gathered = GatheredBuckets(table, self._plan.buckets, self.side)
            self._gathered[table] = gathered
        buckets = hashes % self._plan.buckets
        if self._plan.tables[table].focus is not None:
            yield from gathered.add_rows(buckets, found)
            return
        live = ~found.column("deleted").to_numpy().astype(np.bool_)
        cold = live & ~is_hot
        gathered.add_digests(
            buckets[cold],
            *(found.column(half).to_numpy()[cold] for half in ("lower", "upper")),
        )
        facts = found.select(FACTS.names).filter(pa.array(is_hot))
        yield from gathered.add_rows(buckets[is_hot], facts)

    def _wanted(self, table: str, hashes: Hashes) -> Any:
        focus = self._plan.tables[table].focus
        if focus is None:
            return None
        return np.isin(hashes % self._plan.buckets, np.fromiter(focus, np.int64, len(focus)))


class _DigestStreamFn(_DigestFn):
    """Changes of the stream."""

    side = "t"

    def process(self, element: Block) -> Iterator[_ROWS]:
        yield from self.truth(element, None)


class _DigestExportFn(_DigestFn):
    """Rows of the export."""

    side = "t"

    def process(self, element: Block, hot: Mapping[str, bytes]) -> Iterator[_ROWS]:
        yield from self.truth(element, hot)


class _ReadMirrorFn(_DigestFn):
    """Rows of the mirror, read part by part."""

    side = "m"

    def process(self, element: str, hot: Mapping[str, bytes]) -> Iterator[_ROWS]:
        table, _, part = element.partition("/")
        shape = self.shape(table)
        for rows in self._reader.read(shape, part):
            hashes = key_hashes(rows.keys)
            chosen, wanted = rows, self._wanted(table, hashes)
            if wanted is not None:
                chosen, hashes = rows.filter(pa.array(wanted)), hashes[wanted]
            if not len(hashes):
                continue
            nowhere = pa.repeat(pa.scalar(""), len(hashes))
            text = self._reader.cells_are_text
            found = digested(chosen, nowhere, shape, are_text=text)
            yield from self.add(table, hashes, self.is_hot(table, hashes, hot), found)


class _CompareFn(beam.DoFn):
    """Compares one bucket."""

    def __init__(self, plan: AuditPlan) -> None:
        self._plan = plan

    def process(self, element: tuple[str, Iterable[bytes]]) -> Iterator[Report]:
        group, values = element
        table, bucket = split_group(group)
        plan = self._plan.tables[table]
        found = compare_bucket(
            values, MirrorShape.from_json(plan.shape), plan.point, examples=self._plan.examples
        )
        yield Report("audit", table, {"bucket": bucket, **found.to_json()})
