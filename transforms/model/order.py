# SPDX-License-Identifier: Apache-2.0
"""The order rule: per key the higher version wins.

It is one comparison, `supersedes`, and everything else here is that comparison applied to many
rows. Because versions of one key are totally ordered and equal versions are the same change, the
outcome does not depend on the order, the repetition or the interleaving of deliveries. A snapshot
row has sequence number 0, a heal row its write time in microseconds, and so both lose to any stream
record of their generation; a row of a newer
generation (healed or snapshotted again) beats every row of an older one.

A delete is a version like any other: whoever applies the rule has to remember it (a tombstone) as
long as an older row of the key can still arrive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["newest_per_key", "newest_places", "supersedes", "without_stale"]


def supersedes(incoming: bytes, stored: bytes | None) -> bool:
    """Decides whether an incoming version replaces what is stored for its key.

    Args:
        incoming: Encoded version of the row that arrives.
        stored: Encoded version of what is known for the key (a row or a tombstone), None if
            nothing is.

    Returns:
        True if the incoming row wins. An equal version is a repeat and changes nothing.
    """
    return stored is None or incoming > stored


def newest_per_key(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Keeps the newest row of each key; of repeats, the first.

    Args:
        rows: A batch with at least the columns `key` and `version` (binary).

    Returns:
        One row per key, in order of key.
    """
    if rows.num_rows < 2:
        return rows
    places = pa.table(
        [rows.column("key"), rows.column("version"), pa.array(range(rows.num_rows), pa.int64())],
        names=["key", "version", "place"],
    )
    order = pc.sort_indices(
        places, sort_keys=[("key", "ascending"), ("version", "descending"), ("place", "ascending")]
    )
    in_order = rows.take(order)
    keys = in_order.column("key")
    changes = pc.not_equal(keys.slice(1), keys.slice(0, len(keys) - 1))
    first = pa.concat_arrays([pa.array([True]), changes])
    return in_order.filter(first)


def newest_places(keys: Sequence[bytes], versions: Sequence[bytes]) -> list[int]:
    """`newest_per_key` for a few rows: the places of the rows that are kept, in order of key."""
    newest: dict[bytes, int] = {}
    for at, key in enumerate(keys):
        known = newest.get(key)
        if supersedes(versions[at], None if known is None else versions[known]):
            newest[key] = at
    return [newest[key] for key in sorted(newest)]


def without_stale(rows: pa.RecordBatch, known: Mapping[bytes, bytes]) -> pa.RecordBatch:
    """Drops the rows that lose against what is known of their keys.

    Args:
        rows: A batch with the columns `key` and `version`.
        known: Newest version known per key.

    Returns:
        The rows that supersede, in their order; the batch itself if none is stale.
    """
    if not known or rows.num_rows == 0:
        return rows
    keys = rows.column("key").to_pylist()
    # Set arithmetic runs in C over the smaller side: no Python code per row without a hit.
    if known.keys().isdisjoint(keys):
        return rows
    versions = rows.column("version").to_pylist()
    fresh = [
        supersedes(version, known.get(key)) for key, version in zip(keys, versions, strict=True)
    ]
    return rows.filter(pa.array(fresh))
