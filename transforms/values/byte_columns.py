# SPDX-License-Identifier: Apache-2.0
"""Arrow binary columns as numpy bytes and offsets, for work that Arrow has no function for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["binary_from", "offsets_and_bytes", "trimmed", "without_first_byte"]

Bytes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]
Offsets = npt.NDArray[np.int64]


def offsets_and_bytes(values: pa.Array) -> tuple[Offsets, Bytes]:
    """Return where each row begins and ends, and the bytes, without copying the bytes.

    Args:
        values: An array of binary or string (32-bit offsets), nulls allowed; a null is empty or
            not, as the array has it.

    Returns:
        `len(values) + 1` offsets from 0, and the bytes from the first row's to the last one's.
    """
    offset_buffer, data = values.buffers()[1:]
    if len(values) == 0 or offset_buffer is None:
        return np.zeros(len(values) + 1, np.int64), np.zeros(0, np.uint8)
    every = np.frombuffer(offset_buffer, np.int32)
    offsets = every[values.offset : values.offset + len(values) + 1].astype(np.int64)
    if data is None or data.size == 0:
        return offsets - offsets[0], np.zeros(0, np.uint8)
    return offsets - offsets[0], np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]


def binary_from(offsets: Offsets, data: Bytes, valid: Flags | None = None) -> pa.Array:
    """Build a binary array from offsets and bytes; rows that are not `valid` are null."""
    bitmap = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(
        pa.binary(),
        len(offsets) - 1,
        [bitmap, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(np.ascontiguousarray(data))],
    )


def without_first_byte(values: pa.Array) -> tuple[Bytes, pa.Array]:
    """Split off the first byte of each row that has one.

    Returns:
        The first bytes, in order, of the rows that are not empty or null, and the rest as a binary
        array of the same length.
    """
    # Not `pyarrow.compute.binary_slice`: without a stop it fails on large columns (pyarrow 25,
    # "Negative buffer resize").
    offsets, data = offsets_and_bytes(values)
    valid = values.is_valid().to_numpy(zero_copy_only=False)
    filled = (offsets[1:] > offsets[:-1]) & valid
    starts = offsets[:-1][filled]
    keep = np.ones(len(data), np.bool_)
    keep[starts] = False
    dropped = np.zeros(len(offsets), np.int64)
    np.cumsum(filled, out=dropped[1:])
    return data[starts], binary_from(offsets - dropped, data[keep], valid)


def trimmed(values: pa.Array, front: int, back: int) -> pa.Array:
    """Cut off bytes at both ends of each row.

    Args:
        values: A binary or string array; every row is null or at least `front + back` long.
        front: Bytes to cut off at the beginning.
        back: Bytes to cut off at the end, at least one.

    Returns:
        A binary array of the same length; nulls stay null.
    """
    return pc.binary_slice(values.view(pa.binary()), front, -back)
