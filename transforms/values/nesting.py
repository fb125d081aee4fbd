# SPDX-License-Identifier: Apache-2.0
"""How deep JSON texts nest, without recursion and without parsing them."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["deeper_than", "is_deeper_than"]

_ESCAPE = re.compile(rb"\\.", re.DOTALL)


def deeper_than(texts: pa.Array, depth: int) -> npt.NDArray[np.bool_]:
    """Finds which texts have more than `depth` brackets open at once.

    Args:
        texts: Valid JSON; nulls are not deep.
        depth: The most brackets that are not too deep.
    """
    brackets = pc.add(
        pc.count_substring(texts, pattern="{"), pc.count_substring(texts, pattern="[")
    )
    deep: npt.NDArray[np.bool_] = np.zeros(len(texts), np.bool_)
    suspects = pc.fill_null(pc.greater(brackets, depth), False).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(suspects).tolist():
        deep[row] = is_deeper_than(texts[row].as_py().encode(), depth)
    return deep


def is_deeper_than(text: bytes, depth: int) -> bool:
    """As `deeper_than`, for one text in UTF-8."""
    if text.count(b"{") + text.count(b"[") <= depth:
        return False
    # What an escape stands for is no bracket and no quote; it keeps its length.
    data = np.frombuffer(_ESCAPE.sub(b"__", text) if b"\\" in text else text, np.uint8)
    outside = (np.cumsum(data == ord('"'), dtype=np.int32) & 1) == 0
    opened = ((data == ord("{")) | (data == ord("["))) & outside
    closed = ((data == ord("}")) | (data == ord("]"))) & outside
    open_at_once = np.cumsum(opened.astype(np.int8) - closed.astype(np.int8), dtype=np.int32)
    return bool(open_at_once.max(initial=0) > depth)
