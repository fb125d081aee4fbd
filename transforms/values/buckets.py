# SPDX-License-Identifier: Apache-2.0
"""Hash buckets of keys: a fixed, documented, vectorised hash.

The hash of a key `b[0] ... b[n-1]`, all in unsigned 64-bit arithmetic that wraps around:

    h = n + sum over i of (b[i] + 1) * P**i          with P = 0x9E3779B97F4A7C15
    h = splitmix64's finaliser of h:
        h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9
        h = (h ^ h >> 27) * 0x94D049BB133111EB
        h = h ^ h >> 31
    bucket = h mod buckets

It is not `hash()`, which differs per process, and is fixed for good: a savepoint's state is laid
out by it. It does not resist keys that are chosen to collide; those only make buckets uneven.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dynabeam.transforms.values.byte_columns import Bytes, Offsets, offsets_and_bytes

__all__ = ["bucket_numbers"]

_P = 0x9E3779B97F4A7C15
_P_INVERSE = pow(_P, -1, 1 << 64)
_BYTES_AT_ONCE = 1 << 19

_Hashes = npt.NDArray[np.uint64]


def bucket_numbers(keys: pa.Array | pa.ChunkedArray, buckets: int) -> npt.NDArray[np.int64]:
    """Return the bucket of each key.

    Args:
        keys: A binary array of keys; a null counts as the empty key.
        buckets: Number of buckets, 1 or more.

    Returns:
        For each key a number from 0 to `buckets - 1`.

    Raises:
        ValueError: `buckets` is less than 1.
    """
    if buckets < 1:
        raise ValueError(f"A table needs at least one bucket, not {buckets}")
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.combine_chunks()
    if keys.null_count:
        keys = keys.fill_null(b"")
    offsets, data = offsets_and_bytes(keys)
    hashes = np.empty(len(keys), np.uint64)
    for first, last in _slices(offsets):
        part = offsets[first : last + 1]
        hashes[first:last] = _polynomials(part - part[0], data[part[0] : part[-1]])
    return (_finalised(hashes) % np.uint64(buckets)).astype(np.int64)


def _slices(offsets: Offsets) -> list[tuple[int, int]]:
    """Cut the rows so that the working arrays, eight times as large as the bytes, stay small."""
    slices, first, rows = [], 0, len(offsets) - 1
    while first < rows:
        last = int(np.searchsorted(offsets, offsets[first] + _BYTES_AT_ONCE, "right")) - 1
        last = min(max(last, first + 1), rows)
        slices.append((first, last))
        first = last
    return slices


def _polynomials(offsets: Offsets, data: Bytes) -> _Hashes:
    """One running sum over all bytes; a row's share of it is moved back to power 0 by P**-start."""
    sums = np.zeros(len(data) + 1, np.uint64)
    terms = data.astype(np.uint64) + np.uint64(1)
    terms *= _powers(_P, len(data))
    np.cumsum(terms, out=sums[1:])
    starts, ends = offsets[:-1], offsets[1:]
    rows: _Hashes = sums[ends] - sums[starts]
    rows *= _powers(_P_INVERSE, len(data) + 1)[starts]
    return rows + (ends - starts).astype(np.uint64)


def _powers(base: int, count: int) -> _Hashes:
    size = _BYTES_AT_ONCE + 1
    while size < count:
        size *= 2
    return _power_table(base, size)[:count]


@cache
def _power_table(base: int, size: int) -> _Hashes:
    factors = np.full(size, base, np.uint64)
    factors[0] = 1
    powers: _Hashes = np.multiply.accumulate(factors)
    return powers


def _finalised(hashes: _Hashes) -> _Hashes:
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    finalised: _Hashes = hashes ^ (hashes >> np.uint64(31))
    return finalised
