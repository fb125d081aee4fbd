# SPDX-License-Identifier: Apache-2.0
"""The frontier: which shards a reader has now to read, and from where.

A `Frontier` is the restriction of the stream's splittable DoFn and the stored position of one
reader. It is immutable, compares by value, and goes through JSON and through `FrontierCoder`
unchanged; the format is numbered and held by golden-bytes tests, because savepoints keep it.

Besides positions it remembers which shards belong to other readers, so that a shard whose parent
has left the listing is not taken for a new root and read twice. The memory is bounded: ids that are
an hour older than the newest one listed collapse into one number, finished ids are kept 48 hours.
How listings change a frontier is in `transforms.stream.lineage`.
"""

from __future__ import annotations

import bisect
import dataclasses
import re
import zlib
from collections.abc import Mapping
from typing import Any, Literal

import apache_beam as beam

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.runtime.json_coder import JsonCoder, element_format
from dynabeam.transforms.runtime.stored_format import Document, damage_told, typed_fields

__all__ = [
    "Counts",
    "Frontier",
    "FrontierCoder",
    "PositionKind",
    "ShardPosition",
    "created_ms",
    "owner",
]

PositionKind = Literal["trim_horizon", "after", "at_timestamp", "ended"]

_CREATED = re.compile(r"shardId-([0-9]{20})-")


def owner(shard_id: str, readers: int) -> int:
    """Which of `readers` reads a root shard: a fixed hash, the same on every machine and run."""
    return zlib.crc32(shard_id.encode("utf-8")) % readers


def created_ms(shard_id: str) -> int | None:
    """When a shard was made, milliseconds since 1970; None if its id is not of AWS's form.

    Real ids are `shardId-`, 20 digits of creation time, `-`, 8 hex digits.
    """
    match = _CREATED.match(shard_id)
    return int(match.group(1)) if match else None


@dataclasses.dataclass(frozen=True)
class ShardPosition:
    """The position in one shard.

    Attributes:
        shard_id: The shard.
        kind: `trim_horizon`, `at_timestamp` (`at_us`), `after` (`sequence`), or `ended`: read to
            its end, its children are not known yet.
        parent_id: Its parent, empty for a root.
        sequence: The last claimed sequence number, empty before the first record.
        at_us: The timestamp at which reading began, microseconds since 1970, 0 if it did not
            begin at a timestamp. Kept by an ended shard for the children's sake.
        iterator: The iterator that the service gave with the last page, empty if none.
        polled_us: When it gave it; an iterator lives 15 minutes.
        low_us: No record that is still to come from here is older; 0 if nothing is known.
        since_us: When the shard entered the frontier; for a child when its parent ended.
        ended_us: When its last page was read, 0 while it is being read.
    """

    shard_id: str
    kind: PositionKind = "trim_horizon"
    parent_id: str = ""
    sequence: str = ""
    at_us: int = 0
    iterator: str = ""
    polled_us: int = 0
    low_us: int = 0
    since_us: int = 0
    ended_us: int = 0

    @property
    def ended(self) -> bool:
        """True once the last page of the shard has been claimed."""
        return self.kind == "ended"

    @property
    def reopened(self) -> ShardPosition:
        """The position of a shard that is not at its end after all: after what was read."""
        kind: PositionKind = "at_timestamp" if self.at_us else "trim_horizon"
        return dataclasses.replace(
            self,
            kind="after" if self.sequence else kind,
            iterator="",
            polled_us=0,
            ended_us=0,
        )

    @property
    def known_us(self) -> int:
        """Up to when the content of the shard is known to be read: what a gap is measured from."""
        return self.low_us if self.sequence else max(self.low_us, self.since_us)

    def to_json(self) -> dict[str, Any]:
        """The position as a JSON-able dict without the fields that have their default."""
        return {
            name: value for name, value in vars(self).items() if value != _POSITION_DEFAULTS[name]
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ShardPosition:
        """Reads what `to_json` wrote.

        Raises:
            ValueDecodeError: If it is damaged, or a newer version wrote it.
        """
        with damage_told("the position in a shard", where="frontier", error=ValueDecodeError):
            return typed_fields(cls, document)


_POSITION_DEFAULTS = {each.name: each.default for each in dataclasses.fields(ShardPosition)}


@dataclasses.dataclass(frozen=True)
class Counts:
    """What has been read under a frontier since the run began.

    Attributes:
        changes: Records that became rows of blocks.
        bytes: Bytes of the pages that held records.
        pages: Pages that held records.
        empty_polls: Pages that held none.
        throttles: Requests that the service refused as too many.
        children: Shards that replaced a parent.
        newest_event_us: Time of the newest record.
        repeats: Records that were read before, and dropped.
    """

    changes: int = 0
    bytes: int = 0
    pages: int = 0
    empty_polls: int = 0
    throttles: int = 0
    children: int = 0
    newest_event_us: int = 0
    repeats: int = 0

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        # Spelled out, as in `to_json` below: this is done for every page.
        return Counts(
            changes=self.changes + other.changes,
            bytes=self.bytes + other.bytes,
            pages=self.pages + other.pages,
            empty_polls=self.empty_polls + other.empty_polls,
            throttles=self.throttles + other.throttles,
            children=self.children + other.children,
            newest_event_us=max(self.newest_event_us, other.newest_event_us),
            repeats=self.repeats + other.repeats,
        )

    def since(self, earlier: Counts) -> Counts:
        """What came after `earlier`; the newest event time is this one's."""
        return Counts(
            changes=self.changes - earlier.changes,
            bytes=self.bytes - earlier.bytes,
            pages=self.pages - earlier.pages,
            empty_polls=self.empty_polls - earlier.empty_polls,
            throttles=self.throttles - earlier.throttles,
            children=self.children - earlier.children,
            newest_event_us=self.newest_event_us,
            repeats=self.repeats - earlier.repeats,
        )

    def to_json(self) -> dict[str, int]:
        """The counts as a JSON-able dict; what was added later only if there is any."""
        counts = dict(vars(self))
        if not self.repeats:
            del counts["repeats"]
        return counts


@dataclasses.dataclass(frozen=True)
class Frontier:
    """All that one reader of a stream has to know to go on.

    Attributes:
        shards: What is to be read, sorted by shard id.
        pending: Listed descendants of `shards` that wait for their parents: `(id, parent id)`,
            sorted.
        finished: Shards that were read to their end and replaced by their children, with the time
            (microseconds since 1970), sorted; kept 48 hours.
        foreign: Shards that belong to other readers, sorted; the older ones are only counted in
            `foreign_before_ms`.
        foreign_before_ms: Every shard made before this time that is not named above belongs to
            another reader.
        swept_us: When the last complete listing was begun, 0 before the first.
        closed: Nothing is left to be done under this restriction.
        counts: What has been read in this run.
        generation: The generation of the changes, if it went up while a continuous run reads; kept
            here, so that a reader that moves to another worker never goes back. 0 if it did not.
    """

    shards: tuple[ShardPosition, ...] = ()
    pending: tuple[tuple[str, str], ...] = ()
    finished: tuple[tuple[str, int], ...] = ()
    foreign: tuple[str, ...] = ()
    foreign_before_ms: int = 0
    swept_us: int = 0
    closed: bool = False
    counts: Counts = Counts()
    generation: int = 0

    def shard(self, shard_id: str) -> ShardPosition | None:
        """The position of a shard, None if it is not in the frontier."""
        at = self._place(shard_id)
        if at < len(self.shards) and self.shards[at].shard_id == shard_id:
            return self.shards[at]
        return None

    def _place(self, shard_id: str) -> int:
        return bisect.bisect_left(self.shards, shard_id, key=lambda each: each.shard_id)

    @property
    def live(self) -> tuple[ShardPosition, ...]:
        """Shards that are not read to their end."""
        return tuple(each for each in self.shards if not each.ended)

    @property
    def ended(self) -> tuple[ShardPosition, ...]:
        """Shards that wait for their children to be found."""
        return tuple(each for each in self.shards if each.ended)

    def with_shard(self, position: ShardPosition, counts: Counts | None = None) -> Frontier:
        """The same frontier with one shard added or moved, and with other counts if given."""
        at = self._place(position.shard_id)
        known = at < len(self.shards) and self.shards[at].shard_id == position.shard_id
        shards = (*self.shards[:at], position, *self.shards[at + known :])
        counts = self.counts if counts is None else counts
        return dataclasses.replace(self, shards=shards, counts=counts)

    def to_json(self) -> dict[str, Any]:
        """The frontier as a JSON-able dict."""
        raised = {"generation": self.generation} if self.generation else {}
        return {
            **raised,
            "format": _DOCUMENT.number,
            "shards": [each.to_json() for each in self.shards],
            "pending": [list(each) for each in self.pending],
            "finished": [list(each) for each in self.finished],
            "foreign": list(self.foreign),
            "foreign_before_ms": self.foreign_before_ms,
            "swept_us": self.swept_us,
            "closed": self.closed,
            "counts": self.counts.to_json(),
        }

    @classmethod
    def from_json(cls, document: Document) -> Frontier:
        """Reads what `to_json` wrote.

        Raises:
            ValueDecodeError: If it is damaged, or the format number is unknown.
        """
        with _DOCUMENT.load(document) as fields:
            shards = tuple(ShardPosition.from_json(each) for each in fields["shards"])
            counts = typed_fields(Counts, fields["counts"])
            return typed_fields(cls, fields, shards=shards, counts=counts)


# A field that is not there would be read as none of its shards, none of its time.
_ALWAYS = ("pending", "finished", "foreign", "foreign_before_ms", "swept_us", "closed")
_DOCUMENT = element_format("a stream position", "frontier", required=_ALWAYS)


def sort_shards(shards: list[ShardPosition]) -> tuple[ShardPosition, ...]:
    """Shards in the order in which a frontier keeps them."""
    return tuple(sorted(shards, key=lambda each: each.shard_id))


class FrontierCoder(JsonCoder[Frontier]):
    """Versioned, deterministic coder of frontiers: canonical JSON."""

    kind = Frontier


beam.coders.registry.register_coder(Frontier, FrontierCoder)
