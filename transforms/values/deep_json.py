# SPDX-License-Identifier: Apache-2.0
"""JSON that nests deeper than parsers go: found and cut without recursion.

Parsers written in C go one call deeper with each bracket and give up at about 1,000, for the whole
text. So that one value does not spoil its neighbours, it is cut out first.
"""

from __future__ import annotations

import re

import numpy as np

__all__ = ["MAX_IMAGE_DEPTH", "cut_deep"]

MAX_IMAGE_DEPTH = 512
"""Brackets that an image may have open at once: 255 levels of lists or maps, of which the service
allows 32. Python's JSON readers end at about 1,000, less what called them."""

_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_KEPT_DEPTH = 16


def cut_deep(text: bytes, level: int, most: int) -> tuple[bytes, dict[bytes, list[bytes]]]:
    """Cuts what is too deep out of the objects and arrays of one level.

    Args:
        text: JSON. Of other text what comes back is no JSON either.
        level: How many brackets are open inside those objects and arrays, their own included.
        most: Brackets that may be open in one of them, its own included.

    Returns:
        The text in which those that are deeper have `null` for what is more than 16 levels down;
        and, by what they have become, what they were, in their order.
    """
    # What an escape stands for is no bracket and no quote; it keeps its length.
    data = np.frombuffer(_ESCAPE.sub(b"__", text), np.uint8)
    outside = (np.cumsum(data == ord('"'), dtype=np.int64) & 1) == 0
    opens = ((data == ord("{")) | (data == ord("["))) & outside
    closes = ((data == ord("}")) | (data == ord("]"))) & outside
    after = np.cumsum(opens.astype(np.int8) - closes.astype(np.int8), dtype=np.int64)
    begins = np.flatnonzero(opens & (after == level))
    ends = np.flatnonzero(closes & (after == level - 1)) + 1
    pieces: list[bytes] = []
    cut: dict[bytes, list[bytes]] = {}
    copied = 0
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=False):
        inside = after[begin:end]
        if inside.max(initial=0) - level + 1 <= most:
            continue
        kept = level - 1 + _KEPT_DEPTH
        firsts = np.flatnonzero(opens[begin:end] & (inside == kept + 1)) + begin
        lasts = np.flatnonzero(closes[begin:end] & (inside == kept)) + begin + 1
        parts, at = [], begin
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=False):
            parts += [text[at:first], b"null"]
            at = last
        shallow = b"".join([*parts, text[at:end]])
        cut.setdefault(shallow, []).append(text[begin:end])
        pieces += [text[copied:begin], shallow]
        copied = end
    return b"".join([*pieces, text[copied:]]), cut
