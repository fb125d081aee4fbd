# SPDX-License-Identifier: Apache-2.0
"""How far a reader has got: its lag, and how old the changes may be that it has not read yet.

The stream keeps a record for 24 hours. So the age of the oldest unread change is what decides when
changes are lost, and it can be bounded from a frontier alone: nothing that is still to come from a
shard is older than its `low_us`, nor older than the shard itself.
"""

from __future__ import annotations

import dataclasses

from dynabeam.transforms.stream.frontier import Frontier, ShardPosition, created_ms

__all__ = ["RETENTION_US", "SeenReader", "lag_us", "oldest_unread_shards", "unread_since_us"]

RETENTION_US = 24 * 3600 * 1_000_000
"""How long the stream keeps a record, microseconds (AWS's documentation of DynamoDB Streams)."""


@dataclasses.dataclass(frozen=True)
class SeenReader:
    """What a reader of a stream saw when it polled last.

    Attributes:
        table: Name of its table.
        stream_arn: The stream.
        reader: Its number.
        readers: How many readers the stream has.
        frontier: Its positions.
        behind: How many shards have changes waiting.
        caught_up: No shard has.
        newest_us: Time of the newest change that was read, microseconds since 1970, 0 for none.
        seen_us: When that was.
        generation: The table's generation; 0 if not known.
    """

    table: str
    stream_arn: str
    reader: int
    readers: int
    frontier: Frontier
    behind: int
    caught_up: bool
    newest_us: int
    seen_us: int
    generation: int = 0

    def lag_us(self, at_us: int) -> int:
        """Its lag, see the function `lag_us`."""
        return lag_us(
            at_us,
            seen_us=self.seen_us,
            caught_up=self.caught_up,
            newest_us=self.newest_us,
            since_us=unread_since_us(self.frontier),
        )

    def unread_age_us(self, at_us: int) -> int:
        """How old its oldest unread change may be, at most what the stream keeps."""
        since_us = unread_since_us(self.frontier) or self.seen_us
        return min(RETENTION_US, max(0, at_us - since_us))


def unread_since_us(frontier: Frontier) -> int:
    """No unread change is older, microseconds since 1970; 0 if nothing is known yet."""
    if frontier.shards:
        return min(_shard_since_us(each) for each in frontier.shards)
    return frontier.swept_us


def oldest_unread_shards(frontier: Frontier, count: int) -> list[tuple[str, int]]:
    """The shards with the oldest unread changes: id, and since when; the oldest first."""
    found = [(each.shard_id, _shard_since_us(each)) for each in frontier.shards]
    return sorted(found, key=lambda pair: (pair[1], pair[0]))[:count]


def lag_us(now_us: int, *, seen_us: int, caught_up: bool, newest_us: int, since_us: int) -> int:
    """The lag of a reader, microseconds.

    Args:
        now_us: Now, like all times in microseconds since 1970.
        seen_us: When the reader polled last.
        caught_up: It found no change waiting then.
        newest_us: Time of the newest change that it has read, 0 for none.
        since_us: No unread change is older, 0 if not known.
    """
    reached_us = seen_us if caught_up else newest_us or since_us or seen_us
    return max(0, now_us - reached_us)


def _shard_since_us(position: ShardPosition) -> int:
    made_us = (created_ms(position.shard_id) or 0) * 1_000
    return max(position.low_us, made_us) or position.since_us
