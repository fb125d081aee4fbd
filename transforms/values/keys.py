# SPDX-License-Identifier: Apache-2.0
r"""The canonical binary form of a primary key: the same key is the same bytes, wherever it is from.

Form, fixed for good because savepoints and mirrors keep it:

* one attribute: a tag byte, ASCII `S`, `N` or `B`, then the value: UTF-8 text, the canonical number
  text of `transforms.values.numbers`, or the raw bytes;
* a hash-only key: that;
* a composite key: the hash attribute with each byte 0x00 replaced by 0x00 0xFF, then 0x00 0x00,
  then the range attribute as it is.

The form is injective: within the escaped hash a 0x00 is always followed by 0xFF, so the first
0x00 0x00 is the separator. `1e3`, `1000.0` and `+1000` are one key, as they are for DynamoDB.

Hash buckets of keys are in `transforms.values.buckets`; `bucket_numbers` is offered here too.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.values.base64_columns import decode_base64
from dynabeam.transforms.values.buckets import bucket_numbers
from dynabeam.transforms.values.byte_columns import without_first_byte
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema
from dynabeam.transforms.values.numbers import normalise_number, normalise_numbers
from dynabeam.transforms.values.python_values import decode_value

__all__ = ["bucket_numbers", "decode_key", "encode_key", "encode_keys", "key_columns"]

_NUL = b"\x00"
_ESCAPED_NUL = b"\x00\xff"
_SEPARATOR = b"\x00\x00"
# Up to here Python is quicker than the fixed cost of Arrow's functions, some 100 microseconds.
_FEW = 30


def encode_key(key: Mapping[str, Any], schema: KeySchema) -> bytes:
    """Encode one key.

    Args:
        key: Parsed DynamoDB JSON of the key attributes; other attributes are ignored, so an item
            will do.
        schema: The table's primary key.

    Raises:
        ValueDecodeError: A key attribute is missing, of another type, or no DynamoDB value.
    """
    parts = [_encode_attribute(key, each) for each in schema.attributes]
    if len(parts) == 1:
        return parts[0]
    return parts[0].replace(_NUL, _ESCAPED_NUL) + _SEPARATOR + parts[1]


def decode_key(key: bytes, schema: KeySchema) -> dict[str, dict[str, str]]:
    """Decode one key to DynamoDB JSON: numbers canonical, binary as base64 text.

    Raises:
        ValueDecodeError: The bytes are no key of this schema.
    """
    parts = [key]
    if schema.range is not None:
        hash_part, separator, range_part = key.partition(_SEPARATOR)
        if not separator:
            raise ValueDecodeError("A composite key has no separator", found=key)
        parts = [hash_part.replace(_ESCAPED_NUL, _NUL), range_part]
    return {
        attribute.name: {attribute.type: _decode_attribute(part, attribute, key)}
        for part, attribute in zip(parts, schema.attributes, strict=True)
    }


def encode_keys(
    columns: Sequence[pa.Array],
    schema: KeySchema,
    *,
    invalid: Literal["raise", "null"] = "raise",
) -> pa.Array:
    """Encode a batch of keys; ordinary rows cost no Python.

    Args:
        columns: One array per key attribute, hash first: string for `S` and `N`; for `B` string
            holding base64, or binary holding the bytes. All of one length.
        schema: The table's primary key.
        invalid: What a number or base64 text that is none becomes: an error, or a null.

    Returns:
        A binary array; null where any key attribute is null.

    Raises:
        ValueDecodeError: A value is invalid and `invalid` is "raise", or the columns do not match
            the schema.
    """
    if len(columns) != len(schema.attributes):
        raise ValueDecodeError(
            "There is not one column per key attribute",
            expected=[each.name for each in schema.attributes],
            found=len(columns),
        )
    few = _encode_few(columns, schema)
    return few if few is not None else _encode_many(columns, schema, invalid)


def _encode_few(columns: Sequence[pa.Array], schema: KeySchema) -> pa.Array | None:
    """A few keys one by one; None if there are more, or one is no ordinary key."""
    if any(
        len(each) > _FEW or each.null_count or not pa.types.is_string(each.type) for each in columns
    ):
        return None
    rows = zip(*(each.to_pylist() for each in columns), strict=True)
    try:
        found = [
            encode_key(
                {
                    each.name: {each.type: text}
                    for each, text in zip(schema.attributes, row, strict=True)
                },
                schema,
            )
            for row in rows
        ]
    except ValueDecodeError:
        return None
    return pa.array(found, pa.binary())


def _encode_many(
    columns: Sequence[pa.Array], schema: KeySchema, invalid: Literal["raise", "null"]
) -> pa.Array:
    parts = [
        _encode_column(column, attribute, invalid)
        for column, attribute in zip(columns, schema.attributes, strict=True)
    ]
    if len(parts) == 1:
        return pc.binary_join_element_wise(*parts[0], b"")
    tag, values = parts[0]
    escaped = _escape(values)
    return pc.binary_join_element_wise(tag, escaped, _SEPARATOR, *parts[1], b"")


def key_columns(keys: pa.Array, schema: KeySchema) -> pa.RecordBatch:
    """Decode a batch of keys to one column per key attribute; ordinary rows cost no Python.

    Args:
        keys: A binary array of keys of this schema, nulls allowed.
        schema: The table's primary key.

    Returns:
        A batch with the attributes' names: string for `S`, string with canonical text for `N`,
        binary for `B`; null where the key is null.

    Raises:
        ValueDecodeError: A key is not of this schema.
    """
    keys = _array(keys).cast(pa.binary())
    parts = [keys] if schema.range is None else _split(keys)
    columns = [
        _decode_column(part, attribute, keys)
        for part, attribute in zip(parts, schema.attributes, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, names=[each.name for each in schema.attributes])


def _encode_attribute(key: Mapping[str, Any], attribute: KeyAttribute) -> bytes:
    value = key.get(attribute.name)
    if not isinstance(value, Mapping) or len(value) != 1 or attribute.type not in value:
        raise ValueDecodeError(
            "A key attribute is missing or of another type",
            where=f"key attribute {attribute.name!r}",
            expected=attribute.type,
            found=value,
        )
    tag = attribute.type.encode("ascii")
    payload = value[attribute.type]
    if attribute.type == "N":
        return tag + normalise_number(payload).encode("ascii")
    decoded = decode_value(value)
    return tag + (decoded.encode("utf-8") if attribute.type == "S" else decoded)


def _decode_attribute(part: bytes, attribute: KeyAttribute, key: bytes) -> str:
    if part[:1] != attribute.type.encode("ascii"):
        raise _other_type(attribute, key)
    if attribute.type == "B":
        return base64.b64encode(part[1:]).decode("ascii")
    try:
        return part[1:].decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueDecodeError("A key's text is not UTF-8", found=key) from error


def _encode_column(
    column: pa.Array, attribute: KeyAttribute, invalid: Literal["raise", "null"]
) -> tuple[bytes, pa.Array]:
    column = _array(column)
    if attribute.type == "N":
        return b"N", normalise_numbers(column, invalid=invalid).cast(pa.binary())
    if attribute.type == "S" or not pa.types.is_string(column.type):
        return attribute.type.encode("ascii"), column.cast(pa.binary())
    decoded = decode_base64(column)
    if invalid == "raise" and decoded.null_count > column.null_count:
        bad = column.filter(pc.and_(pc.is_valid(column), pc.is_null(decoded)))[0].as_py()
        raise ValueDecodeError(
            "A binary's payload is not padded standard base64",
            where=f"key attribute {attribute.name!r}",
            found=bad,
        )
    return b"B", decoded


def _decode_column(part: pa.Array, attribute: KeyAttribute, keys: pa.Array) -> pa.Array:
    tags, values = without_first_byte(part)
    if len(tags) + part.null_count < len(part) or (tags != ord(attribute.type)).any():
        start = pc.starts_with(part, pattern=attribute.type)
        raise _other_type(attribute, keys.filter(pc.invert(start))[0].as_py())
    if attribute.type == "B":
        return values
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid as error:
        raise ValueDecodeError(
            "A key's text is not UTF-8", where=f"key attribute {attribute.name!r}"
        ) from error


def _split(keys: pa.Array) -> list[pa.Array]:
    found = pc.find_substring(keys, pattern=_SEPARATOR)
    if pc.any(pc.equal(found, -1)).as_py():
        bad = keys.filter(pc.equal(found, -1))[0].as_py()
        raise ValueDecodeError("A composite key has no separator", found=bad)
    halves = pc.split_pattern(keys, pattern=_SEPARATOR, max_splits=1)
    hash_part = pc.list_element(halves, 0)
    if _has_nul(hash_part):
        hash_part = pc.replace_substring(hash_part, pattern=_ESCAPED_NUL, replacement=_NUL)
    return [hash_part, pc.list_element(halves, 1)]


def _escape(values: pa.Array) -> pa.Array:
    if not _has_nul(values):
        return values
    return pc.replace_substring(values, pattern=_NUL, replacement=_ESCAPED_NUL)


def _has_nul(values: pa.Array) -> bool:
    return bool(pc.any(pc.match_substring(values, pattern=_NUL)).as_py())


def _array(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _other_type(attribute: KeyAttribute, key: bytes) -> ValueDecodeError:
    return ValueDecodeError(
        "A key's bytes are of another type than the key schema says",
        where=f"key attribute {attribute.name!r}",
        expected=attribute.type,
        found=key,
    )
