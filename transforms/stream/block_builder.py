# SPDX-License-Identifier: Apache-2.0
"""Claimed rows on their way out: gathered per shard, cut into one block per hash bucket.

A block costs the same whether it holds one row or a thousand. So rows of several shards that leave
together share blocks; then the shard is not in the header, but in each row's envelope as `shardId`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import pyarrow as pa

from dynabeam.transforms.model.block import Block, BlockHeader, event_times, split_by_bucket
from dynabeam.transforms.stream.reader_spec import ReaderSpec

__all__ = ["BlockBuilder", "oldest_event_us"]


class BlockBuilder:
    """Builds blocks of rows that are claimed and not yet emitted.

    Args:
        spec: The reader, for the headers of blocks.
        block_bytes: Bytes of one shard's pages after which `flush_full` gives its rows.
    """

    def __init__(self, spec: ReaderSpec, block_bytes: int) -> None:
        self._header = BlockHeader(
            table=spec.table,
            bucket=0,
            buckets=spec.buckets,
            generation=spec.generation,
            source="stream",
            snapshot_until_us=spec.snapshot_until_us,
        )
        self._stream_arn = spec.stream_arn
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
            rows: A batch with the columns of `transforms.model.block.SCHEMA`.
            size: Bytes of the page.
            last: True for the last page of its shard: then all of its rows leave now, so that
                a child's rows cannot overtake them.
        """
        if rows.num_rows:
            self._rows.setdefault(shard_id, []).append(rows)
            self._sizes[shard_id] = self._sizes.get(shard_id, 0) + size
        if last or self._sizes.get(shard_id, 0) >= self._block_bytes:
            self._full.append(shard_id)

    def flush_full(self) -> Iterator[Block]:
        """Blocks of the shards that have gathered enough."""
        while self._full:
            yield from self._flush(self._full.pop(0))

    def flush(self) -> Iterator[Block]:
        """Blocks of everything that is held."""
        self._full.clear()
        together: list[str] = []
        size = 0
        for shard_id in list(self._rows):
            together.append(shard_id)
            size += self._sizes[shard_id]
            if size >= self._block_bytes:
                yield from self._flush(*together)
                together, size = [], 0
        yield from self._flush(*together)

    def _flush(self, *shard_ids: str) -> Iterator[Block]:
        found = {each: self._rows.pop(each, []) for each in shard_ids}
        for each in shard_ids:
            self._sizes.pop(each, None)
        origin = {"stream_arn": self._stream_arn}
        if len(shard_ids) == 1:
            origin["shard_id"] = shard_ids[0]
        batches = [batch for held in found.values() for batch in held]
        if not batches:
            return
        rows = pa.concat_batches(batches)
        if len(shard_ids) > 1:
            counts = ((each, batch.num_rows) for each, held in found.items() for batch in held)
            rows = _with_shards(rows, [each for each, count in counts for _ in range(count)])
        yield from split_by_bucket(dataclasses.replace(self._header, origin=origin), rows)


def _with_shards(rows: pa.RecordBatch, shard_ids: Sequence[str]) -> pa.RecordBatch:
    """Each row with its shard as the first member of its envelope, which is a JSON object."""
    at = rows.schema.get_field_index("envelope")
    named = [
        b'{"shardId":"%b"%b%b'
        % (shard_id.encode(), b"" if envelope == b"{}" else b",", envelope[1:])
        for shard_id, envelope in zip(shard_ids, rows.column(at).to_pylist(), strict=True)
    ]
    return rows.set_column(at, rows.schema.field(at), pa.array(named, pa.binary()))


def oldest_event_us(block: Block) -> int:
    """The earliest event time of a block, microseconds since 1970."""
    return int(event_times(block.rows).min())
