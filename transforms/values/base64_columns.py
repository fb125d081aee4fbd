# SPDX-License-Identifier: Apache-2.0
"""Columns of padded standard base64 to bytes: by DuckDB, or by Python where the rows are few."""

from __future__ import annotations

import pyarrow as pa

from dynabeam.transforms.values.json_sql import query
from dynabeam.transforms.values.python_values import base64_bytes

__all__ = ["base64_or_none", "decode_base64"]

_FEW_ROWS = 500
"""Up to here Python is quicker than the fixed cost of a query, about a millisecond."""

# DuckDB (1.5, 2.0) takes `ab=c` for base64.
_DECODE = """
SELECT CASE WHEN text LIKE '%=_' AND text NOT LIKE '%==' THEN NULL ELSE try(from_base64(text)) END
  AS data FROM input
"""


def decode_base64(texts: pa.Array) -> pa.Array:
    """Decode a column of padded standard base64.

    Args:
        texts: A string array, nulls allowed.

    Returns:
        A binary array of the same length: null where the text is null or no base64.
    """
    if len(texts) <= _FEW_ROWS:
        return pa.array(map(base64_or_none, texts.to_pylist()), pa.binary())
    decoded = query(_DECODE, pa.table({"text": texts}))
    return decoded.column("data").combine_chunks().cast(pa.binary())


def base64_or_none(text: str | None) -> bytes | None:
    """Decode padded standard base64; None if the text is None or no such thing."""
    if text is None:
        return None
    try:
        return base64_bytes(text)
    except ValueError:
        return None
