# SPDX-License-Identifier: Apache-2.0
"""Claimed rows on their way out: gathered per shard, cut into one block per hash bucket."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from transforms.block import Block, BlockHeader, split_by_bucket
from transforms.stream.source import StreamSource

__all__ = ["Gathered", "oldest_event_us"]


class Gathered:
    """Rows that are claimed and not yet emitted.

    Args:
        source: The reader, for the headers of blocks.
        block_bytes: Bytes of one shard's pages after which `full` offers its rows.
    """

    def __init__(self, source: StreamSource, block_bytes: int) -> None:
        self._header = BlockHeader(
            table=source.table,
            bucket=0,
            buckets=source.buckets,
            generation=source.generation,
            source="stream",
            snapshot_until_us=source.snapshot_until_us,
        )
        self._stream_arn = source.stream_arn
        self._block_bytes = block_bytes
        self._rows: dict[str, list[pa.RecordBatch]] = {}
        self._sizes: dict[str, int] = {}
        self._full: list[str] = []

    @property
    def bytes(self) -> int:
        """Bytes of the pages whose rows are held."""
        return sum(self._sizes.values())

    def add(self, shard_id: str, rows: pa.RecordBatch, size: int, *, last: bool) -> None:
        """Takes the claimed rows of one page.

        Args:
            shard_id: The shard.
            rows: A batch with the columns of `transforms.block.SCHEMA`.
            size: Bytes of the page.
            last: True for the last page of its shard: then all of its rows leave now, so that
                a child's rows cannot overtake them.
        """
        if rows.num_rows:
            self._rows.setdefault(shard_id, []).append(rows)
            self._sizes[shard_id] = self._sizes.get(shard_id, 0) + size
        if last or self._sizes.get(shard_id, 0) >= self._block_bytes:
            self._full.append(shard_id)

    def take_full(self) -> Iterator[Block]:
        """Blocks of the shards that have gathered enough."""
        while self._full:
            yield from self._take(self._full.pop(0))

    def take_all(self) -> Iterator[Block]:
        """Blocks of everything that is held."""
        self._full.clear()
        for shard_id in list(self._rows):
            yield from self._take(shard_id)

    def _take(self, shard_id: str) -> Iterator[Block]:
        batches = self._rows.pop(shard_id, [])
        self._sizes.pop(shard_id, None)
        if not batches:
            return
        origin = {"stream_arn": self._stream_arn, "shard_id": shard_id}
        header = dataclasses.replace(self._header, origin=origin)
        yield from split_by_bucket(header, pa.concat_batches(batches))


def oldest_event_us(block: Block) -> int:
    """The earliest event time of a block, microseconds since 1970."""
    return int(pc.min(block.rows.column("event_time").cast(pa.int64())).as_py())
