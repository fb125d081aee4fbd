# SPDX-License-Identifier: Apache-2.0
"""The metrics of one process, from reports and from what its readers see.

Counts come from reports, which exist in any case; lag comes from the frontier that each reader
leaves here at the end of each slice: a reference in a dict, read only on request. What grows with
time (lag, age) is worked out at that moment, so a reader that has died is seen to lag.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.runtime.clock import WallClock, now_us
from dynabeam.transforms.stream.frontier import Frontier
from dynabeam.transforms.stream.progress import RETENTION_US, SeenReader, oldest_unread_shards
from dynabeam.transforms.telemetry.metric_names import SHARDS_PER_TABLE

__all__ = ["ProcessMetrics", "Sample", "increments", "process_metrics", "reader_of", "see_reader"]

_STREAM = ("changes", "empty_polls", "throttles")
_FORGET_US = 300 * 1_000_000

Labels: TypeAlias = tuple[str, ...]


class Sample(NamedTuple):
    """One value of a metric.

    Attributes:
        name: The metric's name, see `transforms.telemetry.metric_names`.
        labels: Values of its labels, in their order.
        value: The value, in the metric's unit.
    """

    name: str
    labels: Labels
    value: float


def reader_of(report: Report) -> SeenReader:
    """What a report of kind `stream` says of its reader."""
    fields = report.fields
    return SeenReader(
        table=report.table,
        stream_arn=fields["stream_arn"],
        reader=fields["reader"],
        readers=fields["readers"],
        frontier=Frontier.from_json(fields["frontier"]),
        behind=fields["behind"],
        caught_up=fields["caught_up"],
        newest_us=fields["newest_event_us"],
        seen_us=fields["at_us"],
        generation=fields.get("generation", 0),
    )


def increments(report: Report) -> Iterator[Sample]:
    """What a report adds to counters."""
    fields, table = report.fields, (report.table,)
    if report.kind == "stream":
        for name in _STREAM:
            yield Sample(name, table, fields[name])
        yield Sample("stream_bytes", table, fields["bytes"])
        yield Sample("stream_pages", table, fields["pages"])
        yield Sample("children_found", table, fields["children"])
        yield Sample("repeats", table, fields.get("repeats", 0))
    elif report.kind == "gap":
        yield Sample("gaps", (report.table, fields["kind"]), 1)
    elif report.kind == "file":
        yield Sample("snapshot_rows", table, fields["rows"])
        yield Sample("snapshot_bytes", table, fields["bytes"])
        yield Sample("snapshot_files", table, int(fields["done"] and fields["lines"] > 0))
    elif report.kind == "reconcile":
        yield Sample("stale_dropped", table, fields["stale"])
    elif report.kind == "sink":
        for name in ("rows", "written", "stale"):
            yield Sample(f"sink_{name}", (report.table, fields["sink"]), fields[name])
        unfit = fields.get("unfit_numbers", 0)
        yield Sample("sink_unfit_numbers", (report.table, fields["sink"]), unfit)


class ProcessMetrics:
    """All metrics; safe to use from several threads.

    Args:
        clock: Gives the time in microseconds since 1970.
    """

    def __init__(self, clock: WallClock = now_us) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._forget_us = 0
        self._counts: dict[tuple[str, Labels], float] = {}
        self._gauges: dict[tuple[str, Labels], float] = {}
        self._readers: dict[tuple[str, str, int, int], SeenReader] = {}
        self._remembered: dict[str, tuple[str, int, int]] = {}

    def forget_quiet_readers(self) -> None:
        """Drops readers that have not looked for 5 minutes: another worker may have them now."""
        self._forget_us = _FORGET_US

    def take(self, report: Report) -> None:
        """Counts what a report says."""
        for name, labels, amount in increments(report):
            self.add(name, amount, *labels)
        if report.kind == "stream":
            self.see(reader_of(report))
        elif report.kind == "export":
            self._expect(report.table, report.fields)
        elif report.kind == "sink" and report.fields.get("newest_event_us"):
            age_us = max(0, self._clock() - report.fields["newest_event_us"])
            self.put("write_lag_seconds", age_us / 1e6, report.table, report.fields["sink"])

    def take_letter(self, letter: DeadLetter) -> None:
        """Counts a dead letter."""
        self.add("dead_letters", 1, letter.table, letter.stage)

    def add(self, name: str, amount: float, *labels: str) -> None:
        """Adds to a counter."""
        with self._lock:
            key = (name, labels)
            self._counts[key] = self._counts.get(key, 0) + amount

    def put(self, name: str, value: float, *labels: str) -> None:
        """Sets a gauge."""
        with self._lock:
            self._gauges[name, labels] = value

    def see(self, reader: SeenReader) -> None:
        """Records where a reader is."""
        key = (reader.table, reader.stream_arn, reader.readers, reader.reader)
        with self._lock:
            if key not in self._readers:
                # A table is read by one set of readers: those of another stream are gone.
                for other in [k for k in self._readers if k[0] == key[0] and k[:3] != key[:3]]:
                    del self._readers[other]
            before = self._readers.get(key)
            if before is not None and before.newest_us > reader.newest_us:
                # A count of what came since the last report says nothing of before.
                reader = dataclasses.replace(reader, newest_us=before.newest_us)
            self._readers[key] = reader

    def remember(self, group: str, table: str, keys: int, size: int) -> None:
        """Records what reconciling remembers of one bucket.

        Args:
            group: The bucket.
            table: Its table.
            keys: How many keys; 0 once they are dropped.
            size: Bytes of state.
        """
        with self._lock:
            self._remembered[group] = (table, keys, size)

    def forget(self, group: str) -> None:
        """Reconciling has dropped what it remembered of a bucket."""
        with self._lock:
            if group in self._remembered:
                self._remembered[group] = (self._remembered[group][0], 0, 0)

    def samples(self) -> list[Sample]:
        """All values as of now."""
        at_us = self._clock()
        with self._lock:
            if self._forget_us:
                self._readers = {
                    key: each
                    for key, each in self._readers.items()
                    if at_us - each.seen_us <= self._forget_us
                }
            readers = list(self._readers.values())
            remembered = list(self._remembered.values())
            plain = [*self._counts.items(), *self._gauges.items()]
        found = [Sample(name, labels, value) for (name, labels), value in plain]
        for table in sorted({each.table for each in readers}):
            found += _of_table(table, [each for each in readers if each.table == table], at_us)
        for table in sorted({each[0] for each in remembered}):
            mine = [each for each in remembered if each[0] == table]
            found.append(Sample("remembered_keys", (table,), sum(each[1] for each in mine)))
            found.append(Sample("remembered_bytes", (table,), sum(each[2] for each in mine)))
        return found

    def _expect(self, table: str, fields: Mapping[str, Any]) -> None:
        for name, field in (("rows", "item_count"), ("bytes", "billed_bytes")):
            self.put(f"snapshot_expected_{name}", fields[field], table)
        if fields["manifest"] is not None:
            files = sum(bool(each[1]) for each in fields["manifest"]["files"])
            self.put("snapshot_expected_files", files, table)


def _of_table(table: str, readers: Iterable[SeenReader], at_us: int) -> Iterator[Sample]:
    readers = list(readers)
    age = max(each.unread_age_us(at_us) for each in readers) / 1e6
    newest_us = max(each.newest_us for each in readers)
    values = {
        "lag_seconds": max(each.lag_us(at_us) for each in readers) / 1e6,
        "unread_age_seconds": age,
        "time_to_loss_seconds": RETENTION_US / 1e6 - age,
        "caught_up": float(all(each.caught_up for each in readers)),
        "shards": sum(len(each.frontier.shards) for each in readers),
        "shards_behind": sum(each.behind for each in readers),
    }
    if newest_us:
        values["newest_event_seconds"] = newest_us / 1e6
    generation = max(each.generation for each in readers)
    if generation:
        values["generation"] = generation
    for name, value in values.items():
        yield Sample(name, (table,), value)
    shards = [
        pair for each in readers for pair in oldest_unread_shards(each.frontier, SHARDS_PER_TABLE)
    ]
    for shard_id, since_us in sorted(shards, key=lambda pair: pair[1])[:SHARDS_PER_TABLE]:
        shard_age = min(RETENTION_US, max(0, at_us - since_us)) / 1e6
        yield Sample("shard_unread_age_seconds", (table, shard_id), shard_age)


_METRICS = ProcessMetrics()


def process_metrics() -> ProcessMetrics:
    """The metrics of this process."""
    return _METRICS


def see_reader(reader: SeenReader) -> None:
    """Records where a reader of this process is; for `ReadStream`."""
    _METRICS.see(reader)
