# SPDX-License-Identifier: Apache-2.0
"""What a plan is made from: what AWS says of a table, what a sample showed, how it will be read."""

from __future__ import annotations

import dataclasses

from dynabeam.transforms.stream.pacing import Pacing

__all__ = ["PAGE_BYTES", "PAGE_RECORDS", "RETENTION_SECONDS", "Reading", "StreamRate", "TableFacts"]

RETENTION_SECONDS = 24 * 3600
"""How long a stream keeps a record."""
PAGE_RECORDS = 1000
PAGE_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class StreamRate:
    """What a sample of the stream showed.

    Attributes:
        changes: Changes a second, all shards together.
        record_bytes: Mean size of a record.
        busiest_share: Share of the changes that the busiest shard had, 0 to 1.
        active_shards: Open shards with changes, reckoned up from those sampled.
        sampled_shards: Shards that were read.
        seconds: How far back was looked.
        calls: GetRecords calls that it took.
    """

    changes: float
    record_bytes: float
    busiest_share: float
    active_shards: int
    sampled_shards: int
    seconds: float
    calls: int


@dataclasses.dataclass(frozen=True)
class TableFacts:
    """A table.

    Attributes:
        name: Its name.
        items: ItemCount of DescribeTable, up to six hours old.
        size_bytes: TableSizeBytes, the same.
        open_shards: Open shards of its stream; 0 without one.
        stream_age: Seconds since the stream was turned on, at most what it keeps.
        rate: What a sample showed; None without.
    """

    name: str
    items: int
    size_bytes: int
    open_shards: int
    stream_age: float
    rate: StreamRate | None = None

    @property
    def record_bytes(self) -> float:
        """Mean size of a stream record; without a sample twice that of an item: old and new."""
        if self.rate is not None and self.rate.record_bytes:
            return self.rate.record_bytes
        return max(100.0, 2 * self.size_bytes / self.items if self.items else 0.0)

    @property
    def changes_a_page(self) -> float:
        """Changes that fit into one answer of GetRecords."""
        return max(1.0, min(PAGE_RECORDS, PAGE_BYTES / self.record_bytes))


@dataclasses.dataclass(frozen=True)
class Reading:
    """How tables are read.

    Attributes:
        continuous: One job that never ends; else rounds.
        every: Rounds: seconds between two; 0 for single runs.
        runs_a_day: Rounds: how often a run that ends is started.
        round_bytes: Rounds: what a round reads of one table's stream.
        readers: Readers of this table.
        all_readers: Readers of all tables.
        all_shards: Open shards of all tables.
        snapshot: A snapshot is taken.
        stream: The stream is read.
        from_horizon: The stream is begun at its oldest record.
        pacing: How often streams are polled.
    """

    continuous: bool
    every: float
    runs_a_day: float
    round_bytes: int
    readers: int
    all_readers: int
    all_shards: int
    snapshot: bool
    stream: bool
    from_horizon: bool
    pacing: Pacing = dataclasses.field(default_factory=Pacing)
