# SPDX-License-Identifier: Apache-2.0
"""Rows of either side in one form: key, version, digest, and if wanted the canonical cells.

A key's hash is the fixed one of `transforms.values.buckets`, modulo 2**63; its bucket is that
modulo the number of buckets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dynabeam.transforms.audit.canonical_cells import canonical_cells, row_digests
from dynabeam.transforms.audit.mirror_reader import StoredRows
from dynabeam.transforms.audit.mirror_schema import MirrorShape
from dynabeam.transforms.model.order import newest_per_key
from dynabeam.transforms.runtime.arrow_ipc import encode_stream, open_stream
from dynabeam.transforms.values.buckets import bucket_numbers

__all__ = ["FACTS", "Hashes", "decode_rows", "digested", "encode_rows", "key_hashes", "truth_rows"]

Hashes = npt.NDArray[np.int64]

FACTS = pa.schema(
    [
        ("key", pa.binary()),
        ("version", pa.binary()),
        ("event_us", pa.int64()),
        ("deleted", pa.bool_()),
        ("shard", pa.string()),
        ("lower", pa.uint64()),
        ("upper", pa.uint64()),
    ]
)
"""The columns that digested rows have in any case; their cells follow as `c0`, `c1` ..."""

_HASHES = 1 << 63


def key_hashes(keys: pa.Array) -> Hashes:
    """A fixed 63-bit hash of each key."""
    return bucket_numbers(keys, _HASHES)


def truth_rows(batch: pa.RecordBatch, origin_shard: str) -> pa.RecordBatch:
    """The newest change of each key in a block, with the shard that it came from.

    All lines of a full export are kept: it has one for each key, and if not, that is to be seen.

    Args:
        batch: Rows with the columns of `transforms.model.block.SCHEMA`.
        origin_shard: The shard of all rows; if empty, each row's envelope may name one.
    """
    if origin_shard:
        shards = pa.repeat(pa.scalar(origin_shard), batch.num_rows)
    else:
        found = pc.extract_regex(
            batch.column("envelope").cast(pa.string()), r'"shardId":"(?P<shard>[^"]+)"'
        )
        shards = pc.fill_null(pc.struct_field(found, "shard"), "")
    rows = pa.record_batch(
        [
            batch.column("key"),
            batch.column("version"),
            batch.column("event_time").cast(pa.int64()),
            pc.equal(batch.column("op"), "d"),
            shards,
            batch.column("new"),
        ],
        names=["key", "version", "event_us", "deleted", "shard", "new"],
    )
    if pc.all(pc.equal(batch.column("op"), "r")).as_py():
        return rows
    return newest_per_key(rows)


def digested(rows: StoredRows, shards: pa.Array, shape: MirrorShape, *, are_text: bool) -> pa.Table:
    """Rows with the columns of `FACTS`, then their canonical cells.

    Args:
        rows: Of the mirror, or the truth as the mirror would hold it.
        shards: Shards of their changes; empty texts where there is none.
        shape: The table in the mirror.
        are_text: The stored columns are text, see `canonical_cells`.
    """
    cells = canonical_cells(rows.stored, shape, are_text=are_text)
    lower, upper = row_digests(rows.keys, cells)
    names = [f"c{at}" for at in range(cells.num_columns)]
    facts = [rows.keys, rows.versions, rows.event_us, rows.deleted, shards, lower, upper]
    columns = [
        pa.array(each, kind) if isinstance(each, np.ndarray) else each.cast(kind)
        for each, kind in zip(facts, FACTS.types, strict=True)
    ]
    return pa.table([*columns, *cells.columns], names=[*FACTS.names, *names])


def encode_rows(rows: pa.Table) -> bytes:
    """Rows as bytes: Arrow, LZ4, never pickled."""
    return encode_stream(rows, rows.schema)


def decode_rows(stream: Any) -> pa.Table:
    """What `encode_rows` wrote."""
    with open_stream(stream) as reader:
        return reader.read_all()
