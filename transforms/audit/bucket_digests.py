# SPDX-License-Identifier: Apache-2.0
"""What one bundle knows of its rows: a sum per bucket, and the rows that are compared themselves.

A sum is a count and the digests added up, each half modulo 2**64, so the order of rows does not
matter and sums of bundles add up to the sum of all. Adding, not XOR: a row that is there twice
would cancel itself out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dynabeam.transforms.audit.canonical_cells import Digests
from dynabeam.transforms.audit.row_digests import encode_rows

__all__ = ["GatheredBuckets", "Sums", "add_sums", "decode_sums", "group_name", "split_group"]

FLUSH_BYTES = 4 << 20
"""Rows are passed on once so many bytes of them have gathered."""

_SUMS = struct.Struct(">QQQ")
Sums = tuple[int, int, int]
"""Rows, and the sums of the lower and upper halves of their digests."""

_Numbers = npt.NDArray[np.int64]


def group_name(table: str, bucket: int) -> str:
    """The group of a table's bucket."""
    return f"{table}/{bucket}"


def split_group(group: str) -> tuple[str, int]:
    """Table and bucket of a group."""
    table, _, bucket = group.rpartition("/")
    return table, int(bucket)


def add_sums(one: Sums, other: Sums) -> Sums:
    """Both together."""
    wrap = (1 << 64) - 1
    return (one[0] + other[0], (one[1] + other[1]) & wrap, (one[2] + other[2]) & wrap)


def decode_sums(encoded: bytes) -> Sums:
    """What a bundle knows of a bucket."""
    rows, lower, upper = _SUMS.unpack(encoded)
    return rows, lower, upper


class GatheredBuckets:
    """Sums and rows of one table and side.

    Args:
        table: Name of the table.
        buckets: Number of buckets.
        side: `t` for the truth, `m` for the mirror; rows have it in capitals.
    """

    def __init__(self, table: str, buckets: int, side: str) -> None:
        self._table = table
        self._buckets = buckets
        self._side = side.encode()
        self._counts = np.zeros(buckets, np.uint64)
        self._lower = np.zeros(buckets, np.uint64)
        self._upper = np.zeros(buckets, np.uint64)
        self._waiting: list[tuple[pa.Table, _Numbers]] = []
        self._bytes = 0

    def add_digests(self, buckets: _Numbers, lower: Digests, upper: Digests) -> None:
        """Adds rows to the sums of their buckets."""
        # Both additions wrap around.
        np.add.at(self._counts, buckets, np.uint64(1))
        np.add.at(self._lower, buckets, lower)
        np.add.at(self._upper, buckets, upper)

    def add_rows(self, buckets: _Numbers, rows: pa.Table) -> Iterator[tuple[str, bytes]]:
        """Keeps rows for a while; yields what has gathered if it is enough."""
        if rows.num_rows:
            self._waiting.append((rows, buckets))
            self._bytes += rows.nbytes
        if self._bytes >= FLUSH_BYTES:
            yield from self._flush()

    def finish(self) -> Iterator[tuple[str, bytes]]:
        """Yields what is left, by group: `t` or `m` and sums, `T` or `M` and rows."""
        yield from self._flush()
        for bucket in np.flatnonzero(self._counts).tolist():
            sums = _SUMS.pack(
                int(self._counts[bucket]), int(self._lower[bucket]), int(self._upper[bucket])
            )
            yield group_name(self._table, bucket), self._side + sums

    def _flush(self) -> Iterator[tuple[str, bytes]]:
        if not self._waiting:
            return
        rows = pa.concat_tables([each for each, _ in self._waiting])
        numbers = np.concatenate([each for _, each in self._waiting])
        self._waiting, self._bytes = [], 0
        order = np.argsort(numbers, kind="stable")
        in_order, numbers = rows.take(pa.array(order)), numbers[order]
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        ends = [*starts[1:].tolist(), len(numbers)]
        for start, end in zip(starts.tolist(), ends, strict=True):
            piece = encode_rows(in_order.slice(start, end - start))
            yield group_name(self._table, int(numbers[start])), self._side.upper() + piece
