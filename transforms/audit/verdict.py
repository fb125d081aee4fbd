# SPDX-License-Identifier: Apache-2.0
"""What a row of a mirror is, compared with the truth: one pure function, `judge`.

The two sides cannot be read at one moment: the mirror is being written, and the table too. So there
is a *common point*, up to which the audit has read the stream (without a stream: the export's
time), and what lies on the other side of it is no difference:

* The mirror is ahead. Its row has a newer change than the audit read, and that change came no more
  than `AHEAD_US` before the audit began to read: `newer`. An older change that the audit has not
  read is none that the stream ever had, so such a row gets no benefit of the doubt.
* The mirror lags. It lacks a change that the audit read from the stream, and the positions
  that the pipeline had stored before the mirror was read are not past that change: `pending`. If
  they are past it, or nobody stores positions, the mirror should hold it: `stale`, `missing` or
  `extra`.

What is left is compared by content, never by version: a mirror made from another export than the
audit's has other versions for the same items, and is correct.

| kind | the mirror's row | a difference |
|---|---|---|
| equal | is the item, or there is none on both sides | no |
| newer, pending | is on the other side of the common point | no |
| missing | is not there, the item is | yes |
| extra | is there, the item is not; or is there twice | yes |
| stale | is an older version, by the stream's order, and other than the item | yes |
| different | is other than the item for no such reason | yes |

A row that was never changed since the export has no version that could show staleness. If it
differs, it is `different`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

from dynabeam.transforms.model.version import VERSION_BYTES
from dynabeam.transforms.stream.frontier import Frontier, ShardPosition, created_ms

__all__ = [
    "AHEAD_US",
    "DIFFERENCES",
    "KINDS",
    "CommonPoint",
    "Kind",
    "RowFacts",
    "StoredPositions",
    "judge",
]

Kind = Literal["equal", "newer", "pending", "missing", "extra", "stale", "different"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DIFFERENCES: tuple[Kind, ...] = ("missing", "extra", "stale", "different")

AHEAD_US = 300_000_000
"""How much older than the audit's beginning a change can be that its reading did not meet: records
come late, have whole seconds, and clocks differ."""


@dataclasses.dataclass(frozen=True)
class RowFacts:
    """What is known of one row.

    Attributes:
        version: Encoded version.
        event_us: When it was written, microseconds since 1970.
        deleted: Whether it is a tombstone.
        shard: The stream's shard that the change came from; empty if from an export, and for rows
            of a mirror.
    """

    version: bytes
    event_us: int
    deleted: bool
    shard: str = ""

    @property
    def generation(self) -> int:
        """The version's generation; 0 if it is no version."""
        head = self.version[:8]
        return int(head) if len(self.version) == VERSION_BYTES and head.isdigit() else 0

    @property
    def sequence(self) -> int:
        """The version's sequence number; 0 for a snapshot row, or if it is no version."""
        tail = self.version[9:]
        return int(tail) if len(self.version) == VERSION_BYTES and tail.isdigit() else 0


@dataclasses.dataclass(frozen=True)
class StoredPositions:
    """Up to where the pipeline says that the mirror holds everything.

    Attributes:
        frontiers: One per stream reader, None for one that has not begun; empty if nothing is
            known, which is taken as "everything".
        snapshot_over: Whether the snapshot is loaded to its end.
    """

    frontiers: Sequence[Frontier | None] = ()
    snapshot_over: bool = True

    def has_passed(self, shard: str, sequence: int) -> bool:
        """Whether a change of a shard lies behind the positions."""
        if not self.frontiers:
            return True
        begun = [each for each in self.frontiers if each is not None]
        if len(begun) < len(self.frontiers):
            return False
        for frontier in begun:
            position = frontier.shard(shard)
            if position is not None:
                return _is_past(position, sequence)
            if any(child == shard for child, _ in frontier.pending):
                return False
            if any(each == shard for each, _ in frontier.finished):
                return True
        # No reader names it: it was forgotten long after its end, or is newer than all listings.
        created = created_ms(shard)
        return created is not None and created * 1000 < min(each.swept_us for each in begun)


@dataclasses.dataclass(frozen=True)
class CommonPoint:
    """Up to where both sides can be compared.

    Attributes:
        ahead_us: A change of the mirror's that the audit has not read is `newer` from this time on.
        positions: What the mirror should hold.
    """

    ahead_us: int
    positions: StoredPositions = dataclasses.field(default_factory=StoredPositions)


def judge(truth: RowFacts | None, mirror: RowFacts | None, same: bool, point: CommonPoint) -> Kind:
    """Says what the mirror's row of one key is.

    Args:
        truth: The newest change that the audit read, None if it read none.
        mirror: The mirror's row, None if it has none.
        same: Whether the contents are equal; of meaning only if both are live.
        point: The common point.
    """
    item_is = truth is not None and not truth.deleted
    row_is = mirror is not None and not mirror.deleted
    if item_is == row_is and (not item_is or same):
        return "equal"
    if mirror is not None and _is_ahead(truth, mirror, point):
        return "newer"
    if truth is not None and _is_awaited(truth, mirror, point.positions):
        return "pending"
    if not row_is:
        return "missing"
    if not item_is:
        return "extra"
    assert truth is not None
    assert mirror is not None
    return "stale" if _is_older(mirror, truth) else "different"


def _is_ahead(truth: RowFacts | None, mirror: RowFacts, point: CommonPoint) -> bool:
    known = truth.sequence if truth is not None else 0
    return mirror.event_us >= point.ahead_us and mirror.sequence > known


def _is_awaited(truth: RowFacts, mirror: RowFacts | None, positions: StoredPositions) -> bool:
    if not truth.sequence:
        return mirror is None and not positions.snapshot_over
    return (mirror is None or _is_older(mirror, truth)) and not positions.has_passed(
        truth.shard, truth.sequence
    )


def _is_older(mirror: RowFacts, truth: RowFacts) -> bool:
    if not truth.sequence:
        return mirror.generation < truth.generation
    return mirror.sequence < truth.sequence


def _is_past(position: ShardPosition, sequence: int) -> bool:
    if position.ended:
        return True
    return bool(position.sequence) and sequence <= int(position.sequence)
