# SPDX-License-Identifier: Apache-2.0
"""A table's stream: shards with parents and children, their records and sequence numbers.

A key maps to a shard by a fixed hash, and a shard's children share its hash range, so a key's
later records stay in its shard or move down its lineage. Sequence numbers rise strictly within a
shard and down a lineage, by large and uneven steps, and grow from 21 to 25 digits, so that their
order as text is wrong in places; between lineages they mean nothing.

Nothing here locks: the simulator's lock is held by every caller.
"""

from __future__ import annotations

import itertools
import random
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import blake2b

from dynabeam.transforms.testing.clock import SimClock, datetime_of
from dynabeam.transforms.testing.faults import Dice, Faults

__all__ = ["HASH_SPACE", "Shard", "Stream", "key_hash", "stream_label"]

HASH_SPACE = 2**64
_GREATEST_LEAPT = 10**24
"""Above this a lineage's numbers grow by steps alone, so that they stay within 25 digits."""


def key_hash(hash_key: bytes) -> int:
    """Where in `HASH_SPACE` an item with this partition key lives; the same in every run."""
    return int.from_bytes(blake2b(hash_key, digest_size=8).digest(), "big")


@dataclass
class Shard:
    """A part of a stream, open until it has an `end`.

    Attributes:
        low: First hash of its range.
        high: First hash beyond its range.
        start: StartingSequenceNumber.
        last: Number of the newest record, or `start` while there is none.
        end: EndingSequenceNumber, once closed.
        first: Position of the oldest record still kept; positions count from 0, trimmed included.
        trimmed: Number of the newest record that is gone, 0 for none.
        hidden_asks: So many more listings leave it out.
        empty_run: Pages left empty on purpose, in a row.
        child_asks: How often its children were requested.
    """

    id: str
    parent: str | None
    low: int
    high: int
    start: int
    created_micros: int
    last: int = 0
    end: int | None = None
    closed_micros: int = 0
    first: int = 0
    trimmed: int = 0
    hidden_asks: int = 0
    empty_run: int = 0
    child_asks: int = 0
    records: list[bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.last = self.start

    @property
    def total(self) -> int:
        """Position after the newest record."""
        return self.first + len(self.records)

    @property
    def closed(self) -> bool:
        """Whether nothing will be added any more."""
        return self.end is not None

    def position_of(self, number: int, *, after: bool) -> int:
        """Position of the first record at, or after, a sequence number that is not trimmed."""
        find = bisect_right if after else bisect_left
        return self.first + find(self.numbers, number)

    def position_at(self, micros: int) -> int:
        """Position of the first record written at or after a time."""
        return self.first + bisect_left(self.times, micros)

    def trim(self, before_micros: int) -> bool:
        """Drop what is older; True if nothing is left of a shard that closed before then."""
        count = bisect_left(self.times, before_micros)
        if count:
            self.trimmed = self.numbers[count - 1]
            self.first += count
            del self.records[:count], self.numbers[:count], self.times[:count]
        return self.closed and not self.records and self.closed_micros < before_micros

    def describe(self) -> dict[str, object]:
        """As DescribeStream lists it."""
        numbers = {"StartingSequenceNumber": str(self.start)}
        if self.end is not None:
            numbers["EndingSequenceNumber"] = str(self.end)
        shard: dict[str, object] = {"ShardId": self.id, "SequenceNumberRange": numbers}
        if self.parent is not None:
            shard["ParentShardId"] = self.parent
        return shard


class Stream:
    """One stream of one table, from being enabled until its last record is trimmed.

    Args:
        table_name: The table's name.
        table_arn: The table's ARN.
        label: The time in the ARN, which distinguishes a table's streams.
        view_type: Which images a record has.
        key_schema: As DescribeTable shows it.
        shards: How many shards it has at first.
        clock: The simulator's clock.
        rng: The simulator's seeded draws for ids and numbers.
    """

    def __init__(
        self,
        table_name: str,
        table_arn: str,
        label: str,
        view_type: str,
        key_schema: list[dict[str, str]],
        *,
        shards: int,
        clock: SimClock,
        rng: random.Random,
        dice: Dice,
        faults: Faults,
    ) -> None:
        self.table_name = table_name
        self.arn = f"{table_arn}/stream/{label}"
        self.label = label
        self.view_type = view_type
        self.key_schema = key_schema
        self.enabled = True
        self.enabling_asks = faults.enabling_asks
        self.created_micros = clock.micros()
        self.shards: dict[str, Shard] = {}
        self.log: list[tuple[str, bytes]] = []
        self._clock = clock
        self._rng = rng
        self._dice = dice
        self._last_id = (0, 0)
        self._open: list[Shard] = []
        self._lows: list[int] = []
        for low, high in _ranges(0, HASH_SPACE, shards):
            # Near a power of ten, so that the numbers soon change their length.
            start = rng.randrange(7 * 10**20, 10**21 - 1)
            self._add_shard(None, low, high, start, faults)
        self._index()

    def open_shards(self) -> list[Shard]:
        """The shards that take records, in the order of their hash ranges."""
        return list(self._open)

    def shard_for(self, hash_value: int) -> Shard:
        """The open shard whose range holds this hash."""
        return self._open[bisect_right(self._lows, hash_value) - 1]

    def next_number(self, shard: Shard) -> int:
        """The sequence number of the shard's next record."""
        return shard.last + self._rng.randrange(10**15, 4 * 10**17)

    def append(self, shard: Shard, number: int, record: bytes, micros: int, faults: Faults) -> None:
        """Add a record; close the shard if the faults say that it is full."""
        shard.last = number
        shard.records.append(record)
        shard.numbers.append(number)
        shard.times.append(micros)
        self.log.append((shard.id, record))
        if faults.roll_after and shard.total >= faults.roll_after:
            self.close(shard, self._dice.between(1, faults.roll_children), faults)

    def close(self, shard: Shard, children: int, faults: Faults) -> list[Shard]:
        """Close an open shard, and open its children.

        Raises:
            ValueError: The shard is closed, or its range has too few hashes for the children.
        """
        if shard.closed:
            raise ValueError(f"{shard.id}: is closed and cannot close again")
        if children > shard.high - shard.low:
            raise ValueError(f"{shard.id}: its range cannot be cut into {children}")
        # Sometimes the number of the last record, sometimes a later one that no record has.
        shard.end = shard.last + self._rng.choice((0, self._rng.randrange(1, 10**15)))
        shard.closed_micros = self._clock.micros()
        born = [
            self._add_shard(shard.id, low, high, self._start_below(shard.end), faults)
            for low, high in _ranges(shard.low, shard.high, children)
        ]
        self._index()
        return born

    def disable(self) -> None:
        """Close all shards, without children."""
        self.enabled = False
        for shard in self._open:
            shard.end = shard.last
            shard.closed_micros = self._clock.micros()
        self._index()

    def trim(self, before_micros: int) -> None:
        """Drop records older than this, and closed shards of which nothing is left."""
        gone = [shard.id for shard in self.shards.values() if shard.trim(before_micros)]
        for shard_id in gone:
            del self.shards[shard_id]

    @property
    def expired(self) -> bool:
        """Whether nothing is left of a disabled stream."""
        return not self.enabled and not self.shards

    def _start_below(self, parent_end: int) -> int:
        if parent_end < _GREATEST_LEAPT and self._rng.random() < 0.5:
            return parent_end * self._rng.randrange(2, 9) + self._rng.randrange(10**15)
        return parent_end + self._rng.randrange(1, 10**18)

    def _add_shard(
        self, parent: str | None, low: int, high: int, start: int, faults: Faults
    ) -> Shard:
        shard = Shard(self._new_id(), parent, low, high, start, created_micros=self._clock.micros())
        if self._dice.chance(faults.late_listing):
            shard.hidden_asks = faults.late_listing_asks
        self.shards[shard.id] = shard
        return shard

    def _new_id(self) -> str:
        millis, tail = max(self._clock.micros() // 1000, self._last_id[0]), self._last_id[1]
        if millis == self._last_id[0]:
            tail += self._rng.randrange(1, 2**16)
        else:
            tail = self._rng.randrange(2**30)
        if tail >= 2**32:
            millis, tail = millis + 1, self._rng.randrange(2**30)
        self._last_id = (millis, tail)
        return f"shardId-{millis:020d}-{tail:08x}"

    def _index(self) -> None:
        open_shards = [shard for shard in self.shards.values() if not shard.closed]
        self._open = sorted(open_shards, key=lambda shard: shard.low)
        self._lows = [shard.low for shard in self._open]


def stream_label(clock: SimClock, taken: set[str]) -> str:
    """A label for a new stream: the time to the millisecond, and none that is taken."""
    moment = datetime_of(clock.micros())
    while (label := _to_the_millisecond(moment)) in taken:
        moment += timedelta(milliseconds=1)
    return label


def _to_the_millisecond(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}"


def _ranges(low: int, high: int, parts: int) -> list[tuple[int, int]]:
    cuts = [low + (high - low) * i // parts for i in range(parts + 1)]
    return list(itertools.pairwise(cuts))
