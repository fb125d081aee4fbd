# SPDX-License-Identifier: Apache-2.0
"""How old the changes may be that a reader has not read yet.

The stream keeps a record for 24 hours. So the age of the oldest unread change is what decides when
changes are lost, and it can be bounded from a frontier alone: nothing that is still to come from a
shard is older than its `low_us`, nor older than the shard itself.
"""

from __future__ import annotations

from dynabeam.transforms.stream.frontier import Frontier, ShardPosition, created_ms

__all__ = ["RETENTION_US", "furthest_behind", "lag_us", "unread_since_us"]

RETENTION_US = 24 * 3600 * 1_000_000
"""How long the stream keeps a record, microseconds (AWS's documentation of DynamoDB Streams)."""


def unread_since_us(frontier: Frontier) -> int:
    """No unread change is older, microseconds since 1970; 0 if nothing is known yet."""
    if frontier.shards:
        return min(_shard_since_us(each) for each in frontier.shards)
    return frontier.swept_us


def furthest_behind(frontier: Frontier, count: int) -> list[tuple[str, int]]:
    """The shards with the oldest unread changes: id, and since when; the oldest first."""
    found = [(each.shard_id, _shard_since_us(each)) for each in frontier.shards]
    return sorted(found, key=lambda pair: (pair[1], pair[0]))[:count]


def lag_us(now_us: int, *, seen_us: int, caught_up: bool, newest_us: int, since_us: int) -> int:
    """How far a reader is behind.

    Args:
        now_us: Now, like all times in microseconds since 1970.
        seen_us: When the reader looked last.
        caught_up: It found no change waiting then.
        newest_us: Time of the newest change that it has read, 0 for none.
        since_us: No unread change is older, 0 if not known.
    """
    reached_us = seen_us if caught_up else newest_us or since_us or seen_us
    return max(0, now_us - reached_us)


def _shard_since_us(position: ShardPosition) -> int:
    made_us = (created_ms(position.shard_id) or 0) * 1_000
    return max(position.low_us, made_us) or position.since_us
