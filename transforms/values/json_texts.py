# SPDX-License-Identifier: Apache-2.0
r"""Parsed JSON to text, spelled as the vectorised decoder spells it.

Few rows are decoded by Python, many by DuckDB; a text must not depend on how many rows came with
it. Both write JSON compact and with the fewest escapes. They differ in one thing: of a control
character that has no short escape DuckDB writes `\u001F`, msgspec `\u001f`.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

__all__ = ["compact_json"]

_encode = msgspec.json.Encoder().encode
_MAYBE_LOWER_HEX = re.compile(rb"\\u00[01][a-f]")
_ESCAPE = re.compile(rb"\\(u....|.)")


def compact_json(value: Any) -> str:
    """Write parsed JSON; floats are not spelled the same by both and must not be in it."""
    text = _encode(value)
    if _MAYBE_LOWER_HEX.search(text):
        # From escape to escape, so that what follows an escaped backslash is none.
        text = _ESCAPE.sub(lambda found: _upper_hex(found[1]), text)
    return text.decode()


def _upper_hex(escape: bytes) -> bytes:
    return b"\\u" + escape[1:].upper() if escape[:1] == b"u" else b"\\" + escape
