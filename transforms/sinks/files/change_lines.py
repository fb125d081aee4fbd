# SPDX-License-Identifier: Apache-2.0
"""Changes as JSON lines: one change, one line, its images spliced in as the service sent them.

```
{"table":"orders","op":"u","version":"00000001.0000000000000000000300000000012345678901",
 "event_time":"2026-01-31T12:00:00.000000Z","keys":{"id":{"S":"a"}},"old":{...},"new":{...},
 "ttl":false,"source":"stream","origin":{"shard_id":"..."},"envelope":{...}}
```

(one line in the file). `old`, `new` and `envelope` are null where the service sent none. `keys`,
`old` and `new` are DynamoDB JSON, so no digit and no type is lost. Text is joined column by column:
no Python runs per change.
"""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.compute as pc

from dynabeam.transforms.model.block import Block
from dynabeam.transforms.runtime.stored_format import canonical
from dynabeam.transforms.values.byte_columns import offsets_and_bytes
from dynabeam.transforms.values.json_sql import query
from dynabeam.transforms.values.json_texts import compact_json
from dynabeam.transforms.values.key_schema import KeySchema
from dynabeam.transforms.values.keys import decode_key, key_columns
from dynabeam.transforms.values.row_decoder import SMALL_BATCH_ROWS

__all__ = ["change_lines", "key_object", "key_objects"]

# Arrow prints the seconds of a microsecond timestamp with six decimals.
_RFC_3339 = "%Y-%m-%dT%H:%M:%SZ"
_NULL = pa.scalar(b"null", pa.binary())
_NEWLINE, _RETURN = ord("\n"), ord("\r")


def change_lines(block: Block) -> memoryview:
    r"""The lines of a block, each with its `\n`, in the block's order."""
    rows, header = block.rows, block.header
    origin = canonical(dict(header.origin)).decode()
    if rows.num_rows == 0:
        return memoryview(b"")
    ttl = pc.if_else(rows.column("ttl"), "true", "false")
    joined = pc.binary_join_element_wise(
        _bytes(f'{{"table":{json.dumps(header.table.name)},"op":"'),
        rows.column("op").cast(pa.binary()),
        _bytes('","version":"'),
        rows.column("version"),
        _bytes('","event_time":"'),
        pc.strftime(rows.column("event_time"), format=_RFC_3339).cast(pa.binary()),
        _bytes('","keys":'),
        key_objects(rows.column("key"), header.table.keys).cast(pa.binary()),
        _bytes(',"old":'),
        _one_line(rows.column("old")),
        _bytes(',"new":'),
        _one_line(rows.column("new")),
        _bytes(',"ttl":'),
        ttl.cast(pa.binary()),
        _bytes(f',"source":"{header.source}","origin":{origin},"envelope":'),
        _one_line(rows.column("envelope")),
        _bytes("}\n"),
        _bytes(""),
    )
    return offsets_and_bytes(joined)[1].data


def key_objects(keys: pa.Array, schema: KeySchema) -> pa.StringArray:
    """Each key as an object of DynamoDB JSON: `{"id":{"S":"a"},"n":{"N":"7"}}`.

    Args:
        keys: Canonical keys (`transforms.values.keys`).
        schema: The table's primary key.

    Raises:
        ValueDecodeError: A key is not of this schema.
    """
    if len(keys) <= SMALL_BATCH_ROWS:
        return _few_key_objects(keys, schema)
    return _many_key_objects(keys, schema)


def _many_key_objects(keys: pa.Array, schema: KeySchema) -> pa.StringArray:
    columns = key_columns(keys, schema)
    payloads = pa.table(columns.columns, names=[f"key{at}" for at in range(columns.num_columns)])
    texts = []
    for at, attribute in enumerate(schema.attributes):
        binary = attribute.type == "B"
        payload = (
            f"""'"' || to_base64(key{at}) || '"'""" if binary else f"to_json(key{at})::VARCHAR"
        )
        texts.append(f"{payload} AS text{at}")
    escaped = query(f"SELECT {', '.join(texts)} FROM input", payloads)  # noqa: S608
    pieces: list[pa.Scalar | pa.Array] = []
    for at, attribute in enumerate(schema.attributes):
        opening = "{" if at == 0 else "},"
        name = compact_json(attribute.name)
        pieces.append(pa.scalar(f'{opening}{name}:{{"{attribute.type}":'))
        pieces.append(escaped.column(at).combine_chunks())
    return pc.binary_join_element_wise(*pieces, pa.scalar("}}"), pa.scalar(""))


def _few_key_objects(keys: pa.Array, schema: KeySchema) -> pa.StringArray:
    """The same without a query, whose fixed cost is a millisecond."""
    return pa.array(
        [None if key is None else key_object(key, schema) for key in keys.to_pylist()],
        pa.string(),
    )


def key_object(key: bytes, schema: KeySchema) -> str:
    """One key as an object of DynamoDB JSON.

    Raises:
        ValueDecodeError: It is not of this schema.
    """
    return compact_json(decode_key(key, schema))


def _one_line(documents: pa.Array) -> pa.Array:
    # Inside a JSON string a line break is always escaped, so a raw one is space between tokens.
    content = offsets_and_bytes(documents)[1]
    if (content == _NEWLINE).any() or (content == _RETURN).any():
        documents = pc.replace_substring_regex(documents, pattern="[\r\n]", replacement=" ")
    return pc.coalesce(documents, _NULL)


def _bytes(text: str) -> pa.Scalar:
    return pa.scalar(text.encode("utf-8"), pa.binary())
