# SPDX-License-Identifier: Apache-2.0
"""The block: many changes of one table and one hash bucket, as one Arrow record batch.

A block is the element that flows between transforms, because a Beam element costs a hundred times
what a row inside a block costs. It explains itself: table, key schema, bucket, generation and what
else is constant travel in its header, so the graph's shape never depends on the tables.

Columns of `SCHEMA` (one row per change):

| column | meaning |
|---|---|
| key | canonical encoding of the whole primary key (`transforms.values.keys`) |
| version | `transforms.model.version`: 49 ASCII bytes, byte order is the order |
| op | `r` snapshot row, `c` insert, `u` update, `d` delete |
| event_time | time of the write in UTC, as exact as the source says |
| old, new | raw DynamoDB JSON of the image before and after, as the service sent it |
| ttl | true for a delete by the service's time to live |
| envelope | what else the record says (eventID, userIdentity, SizeBytes …), as a JSON object |

On the wire a block is one Arrow IPC stream, LZ4-compressed, whose schema metadata holds the header
as JSON with a format number. Nothing is pickled, so a savepoint outlives the code that wrote it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.runtime.arrow_ipc import encode_stream, open_stream
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.runtime.json_coder import element_format
from dynabeam.transforms.runtime.stored_format import Document, canonical, damage_told, typed_fields
from dynabeam.transforms.values.keys import bucket_numbers

__all__ = [
    "SCHEMA",
    "Block",
    "BlockCoder",
    "BlockHeader",
    "Source",
    "event_times",
    "newest_credible_us",
    "split_by_bucket",
]

Source = Literal["export", "stream"]

_YEAR_US = 366 * 24 * 3_600 * 1_000_000
_ANY_TIME = 2**63 - 1

SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary(), nullable=False),
        pa.field("version", pa.binary(), nullable=False),
        pa.field("op", pa.string(), nullable=False),
        pa.field("event_time", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("old", pa.binary()),
        pa.field("new", pa.binary()),
        pa.field("ttl", pa.bool_(), nullable=False),
        pa.field("envelope", pa.binary()),
    ]
)

_METADATA_KEY = b"dynabeam"


@dataclasses.dataclass(frozen=True)
class BlockHeader:
    """What all rows of a block share.

    Attributes:
        table: The table with its key schema.
        bucket: Hash bucket of every key in the block, `0 <= bucket < buckets`.
        buckets: Number of hash buckets of the table.
        generation: The generation inside every row's version.
        source: Which branch read the rows.
        origin: Constant facts of the source, e.g. `stream_arn` and `shard_id`, or `export_arn`
            and `file`. Rows of several shards have theirs in the envelope, as `shardId`.
        snapshot_until_us: Stream blocks only: event time (microseconds since 1970) up to which
            rows of a pending snapshot may still arrive, 0 if none is pending.
    """

    table: Table
    bucket: int
    buckets: int
    generation: int
    source: Source
    origin: Mapping[str, str] = dataclasses.field(default_factory=dict)
    snapshot_until_us: int = 0

    @property
    def group(self) -> str:
        """The key by which blocks are grouped for ordered work: table and bucket."""
        return f"{self.table.name}/{self.bucket}"

    def to_json(self) -> dict[str, Any]:
        """The header as a JSON-able dict."""
        return {
            "format": _HEADER.number,
            "table": self.table.to_json(),
            "bucket": self.bucket,
            "buckets": self.buckets,
            "generation": self.generation,
            "source": self.source,
            "origin": dict(self.origin),
            "snapshot_until_us": self.snapshot_until_us,
        }

    @classmethod
    def from_json(cls, document: Document) -> BlockHeader:
        """Reads what `to_json` wrote.

        Raises:
            ValueDecodeError: If it is damaged, or a newer version wrote it.
        """
        with _HEADER.load(document) as fields:
            return typed_fields(cls, fields, table=Table.from_json(fields["table"]))


_ALWAYS = ("bucket", "buckets", "generation", "source", "origin", "snapshot_until_us")
_HEADER = element_format("a block's header", "block", required=_ALWAYS)


@dataclasses.dataclass(frozen=True)
class Block:
    """Changes of one table and bucket; `rows` has exactly the columns of `SCHEMA`."""

    header: BlockHeader
    rows: pa.RecordBatch

    @property
    def group(self) -> str:
        """See `BlockHeader.group`."""
        return self.header.group

    @property
    def newest_event_us(self) -> int:
        """Time of a stream's newest change in it, microseconds since 1970; 0 for a snapshot's."""
        if self.header.source != "stream" or not self.rows.num_rows:
            return 0
        return newest_credible_us(event_times(self.rows), now_us() + _YEAR_US)

    def with_rows(self, rows: pa.RecordBatch) -> Block:
        """The same header over other rows."""
        return Block(self.header, rows)


class BlockCoder(beam.coders.Coder):
    """Versioned, deterministic coder of blocks: an Arrow IPC stream, never pickle."""

    def encode(self, value: Block) -> bytes:
        """Encodes a block."""
        schema = SCHEMA.with_metadata({_METADATA_KEY: canonical(value.header.to_json())})
        return encode_stream(value.rows.replace_schema_metadata(schema.metadata), schema)

    def decode(self, stream: bytes) -> Block:
        """Decodes a block.

        Raises:
            ValueDecodeError: If the bytes are not a block of a known format.
        """
        with damage_told("a block", where="block", error=ValueDecodeError):
            try:
                with open_stream(stream) as reader:
                    metadata = reader.schema.metadata or {}
                    if _METADATA_KEY not in metadata:
                        raise ValueDecodeError("not a block: the header is missing", where="block")
                    header = BlockHeader.from_json(metadata[_METADATA_KEY])
                    rows = reader.read_next_batch().replace_schema_metadata(None)
            except (pa.ArrowException, OSError, StopIteration) as problem:
                raise ValueDecodeError(f"not a block: {problem}", where="block") from problem
            if rows.schema != SCHEMA:
                raise ValueDecodeError("not a block: its columns are others", where="block")
            return Block(header, rows)

    def is_deterministic(self) -> bool:
        """Equal blocks have equal bytes (within one version of Arrow)."""
        return True

    def to_type_hint(self) -> type[Block]:
        """The type that this coder carries."""
        return Block


beam.coders.registry.register_coder(Block, BlockCoder)


def event_times(rows: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """Event times of a block's rows, microseconds since 1970: a view, nothing is computed."""
    times: npt.NDArray[np.int64] = rows.column("event_time").view(pa.int64()).to_numpy()
    return times


def newest_credible_us(times: npt.NDArray[np.int64], latest_us: int = _ANY_TIME) -> int:
    """Up to when times in the order of a shard may be believed; 0 if none may.

    They hardly ever fall, so a record's time counts no further than that of the next one: one that
    says the year 9999 would otherwise be the newest for good, and lag and watermark gone.

    Args:
        times: Event times, microseconds since 1970.
        latest_us: No record is younger; later times do not count.
    """
    believed = times[times <= latest_us]
    if not len(believed):
        return 0
    bounded = np.minimum(believed[:-1], believed[1:])
    return max(int(believed[-1]), int(bounded.max()) if len(bounded) else 0)


def split_by_bucket(header: BlockHeader, rows: pa.RecordBatch) -> Iterator[Block]:
    """Cuts rows of one table into one block per hash bucket that occurs.

    The order of rows inside a bucket is kept.

    Args:
        header: Header for all of them; its `bucket` is replaced.
        rows: A batch with the columns of `SCHEMA`.
    """
    if rows.num_rows == 0:
        return
    if header.buckets == 1:
        yield Block(dataclasses.replace(header, bucket=0), rows)
        return
    numbers = bucket_numbers(rows.column("key"), header.buckets)
    order = np.argsort(numbers, kind="stable")
    in_order = pc.take(rows, pa.array(order))
    ends = np.cumsum(np.bincount(numbers, minlength=header.buckets))
    start = 0
    for bucket, end in enumerate(ends.tolist()):
        if end > start:
            yield Block(
                dataclasses.replace(header, bucket=bucket),
                in_order.slice(start, end - start),
            )
        start = end
