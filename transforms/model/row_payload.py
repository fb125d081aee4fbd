# SPDX-License-Identifier: Apache-2.0
"""A row that a sink refused, as the payload of a dead letter: readable, and exact to the byte.

A JSON object with the columns of `transforms.model.block.SCHEMA`: `version` and `op` as text,
`event_time_us`, `ttl`; `key` as base64; `old`, `new` and `envelope` as the text that they are, or
as `{"base64": ...}` where they are no UTF-8. Beside them the block's `header`.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

import pyarrow as pa

from dynabeam.transforms.model.block import SCHEMA, Block, BlockHeader

__all__ = ["block_of_payload", "row_payload"]

_TEXTS = ("old", "new", "envelope")


def row_payload(block: Block, at: int) -> bytes:
    """One row of a block as JSON.

    Args:
        block: The block.
        at: Number of the row.
    """
    row = block.rows.slice(at, 1)
    cells = {name: row.column(name)[0] for name in SCHEMA.names}
    document: dict[str, Any] = {
        "header": dataclasses.replace(block.header, snapshot_until_us=0).to_json(),
        "key": base64.b64encode(cells["key"].as_py()).decode("ascii"),
        "version": cells["version"].as_py().decode("ascii"),
        "op": cells["op"].as_py(),
        "event_time_us": cells["event_time"].cast(pa.int64()).as_py(),
        "ttl": cells["ttl"].as_py(),
        **{name: _as_json(cells[name].as_py()) for name in _TEXTS},
    }
    return json.dumps(document, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def block_of_payload(payload: bytes) -> Block:
    """The row that `row_payload` wrote, as a block.

    Raises:
        ValueDecodeError: If its header is of an unknown format.
        ValueError: If it is none.
        KeyError: If it is none.
    """
    document = json.loads(payload)
    row = {
        "key": base64.b64decode(document["key"]),
        "version": document["version"].encode("ascii"),
        "op": document["op"],
        "event_time": document["event_time_us"],
        "ttl": document["ttl"],
        **{name: _as_bytes(document[name]) for name in _TEXTS},
    }
    columns = [
        pa.array([row[field.name]], pa.int64()).cast(field.type)
        if field.name == "event_time"
        else pa.array([row[field.name]], field.type)
        for field in SCHEMA
    ]
    rows = pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
    return Block(BlockHeader.from_json(document["header"]), rows)


def _as_json(value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode("ascii")}


def _as_bytes(value: Any) -> bytes | None:
    if value is None:
        return None
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value.encode("utf-8")
