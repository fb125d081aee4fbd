# SPDX-License-Identifier: Apache-2.0
"""Lines of an export's data files, parsed in bulk: keys, images as exact bytes, and what is bad.

A line in the form that the service writes (`{"Item":{...}}`, compact) costs no Python; any other
form of the same thing (spaces, members in another order, unknown members) takes an exact, slower
path. No line is lost and none stops the rest: what is no record is returned in `bad` with its
number, its raw bytes and the reason. Blank lines hold nothing and are passed over.

The images are the bytes of the line, not rewritten. Only their key attributes are decoded here;
other attributes are looked at where they are needed (`transforms.values.columns`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.values.key_schema import KeySchema
from dynabeam.transforms.values.keys import encode_key, encode_keys
from dynabeam.transforms.values.numbers import normalise_number
from dynabeam.transforms.values.python_values import parse_json, shown
from dynabeam.transforms.values.value_texts import extract_values, text_payload

__all__ = [
    "BadLine",
    "ExportView",
    "FullLines",
    "IncrementalLines",
    "keys_of_images",
    "parse_full_lines",
    "parse_incremental_lines",
]

BadLine = tuple[int, bytes, str]
"""Number of the line in the data, from 1; its bytes without the newline; what is wrong."""

ExportView = Literal["NEW_AND_OLD_IMAGES", "NEW_IMAGE"]

_ITEM_FRONT, _ITEM_BACK = b'{"Item":', b"}"
_ITEM_BETWEEN = _ITEM_BACK + b"\n" + _ITEM_FRONT
_LAX_PAIRS = [int.from_bytes(pair, "little") for pair in (b",}", b",]", b":N", b":I", b":-")]
_BLANK = b" \t\r"
_LATEST_US = 253_402_300_799_999_999
"""The end of the year 9999: neither Python's times nor those of sinks go further."""


@dataclass(frozen=True)
class FullLines:
    """Lines of a full export; columns have one row per good line, in the lines' order.

    Args:
        keys: Binary keys in the form of `transforms.values.keys`, no nulls.
        images: Binary, the exact bytes of each `Item`, no nulls.
        bad: The lines that are no items of this table.
    """

    keys: pa.Array
    images: pa.Array
    bad: list[BadLine]


@dataclass(frozen=True)
class IncrementalLines:
    """Lines of an incremental export; columns have one row per good line, in the lines' order.

    Args:
        keys: Binary keys in the form of `transforms.values.keys`, no nulls.
        ops: String: `c` insert, `u` update, `d` delete. In an export of new images only, an insert
            and an update look alike and both are `u`.
        old: Binary, nullable: the exact bytes of `OldImage`.
        new: Binary, nullable: the exact bytes of `NewImage`.
        write_micros: Int64: time of the net last write, microseconds since 1970 UTC.
        bad: The lines that are no changes of this table.
    """

    keys: pa.Array
    ops: pa.Array
    old: pa.Array
    new: pa.Array
    write_micros: pa.Array
    bad: list[BadLine]


class _FullLine(msgspec.Struct):
    Item: msgspec.Raw


class _WriteTime(msgspec.Struct):
    N: str


class _Metadata(msgspec.Struct):
    WriteTimestampMicros: _WriteTime


class _ChangeLine(msgspec.Struct):
    Metadata: _Metadata
    Keys: msgspec.Raw
    OldImage: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    NewImage: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_FULL_LINE = msgspec.json.Decoder(_FullLine)
_CHANGE_LINE = msgspec.json.Decoder(_ChangeLine)


def parse_full_lines(data: bytes | bytearray | memoryview, schema: KeySchema) -> FullLines:
    """Parse whole lines of a full export's data file.

    Args:
        data: UTF-8 lines, with or without a final newline.
        schema: The table's primary key.
    """
    whole = bytes(data)
    images = _canonical_images(whole)
    if images is not None:
        keys, bad_keys = keys_of_images(images, schema)
        if not bad_keys:
            return FullLines(keys, images, [])
    return _full_lines_one_by_one(whole, schema)


def parse_incremental_lines(
    data: bytes | bytearray | memoryview,
    schema: KeySchema,
    *,
    view: ExportView = "NEW_AND_OLD_IMAGES",
) -> IncrementalLines:
    """Parse whole lines of an incremental export's data file.

    Args:
        data: UTF-8 lines, with or without a final newline.
        schema: The table's primary key.
        view: The manifest's `outputView`: the lines do not distinguish an insert from an update
            when only new images are exported.
    """
    good: list[tuple[int, bytes, _ChangeLine, int]] = []
    bad: list[BadLine] = []
    for number, line in _numbered(bytes(data)):
        try:
            change = _CHANGE_LINE.decode(line)
            good.append((number, line, change, _micros(change)))
        except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueDecodeError) as error:
            bad.append((number, line, _line_reason(error)))
    keys, bad_keys = keys_of_images(_raws([change.Keys for _, _, change, _ in good]), schema)
    for row, reason in bad_keys.items():
        bad.append((good[row][0], good[row][1], reason))
    rows = [each for at, each in enumerate(good) if at not in bad_keys]
    changes = [change for _, _, change, _ in rows]
    return IncrementalLines(
        keys=keys.drop_null(),
        ops=pa.array([_op(change, view) for change in changes], pa.string()),
        old=_raws([change.OldImage for change in changes]),
        new=_raws([change.NewImage for change in changes]),
        write_micros=pa.array([micros for _, _, _, micros in rows], pa.int64()),
        bad=sorted(bad),
    )


def keys_of_images(images: pa.Array, schema: KeySchema) -> tuple[pa.Array, dict[int, str]]:
    """Return the keys of a column of images or key maps; ordinary rows cost no Python.

    Args:
        images: DynamoDB JSON objects with at least the key attributes; nulls allowed.
        schema: The table's primary key.

    Returns:
        The binary keys, null where the image is null or has no key of this schema; and for each
        image of the latter kind its row number and what is wrong.
    """
    values = extract_values(images, [each.name for each in schema.attributes])
    payloads = [
        text_payload(column, attribute.type)
        for column, attribute in zip(values, schema.attributes, strict=True)
    ]
    keys = encode_keys(payloads, schema, invalid="null")
    reasons: dict[int, str] = {}
    if keys.null_count > images.null_count:
        missing = pc.and_(pc.is_null(keys), pc.is_valid(images)).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(missing).tolist():
            reasons[row] = _key_reason(images[row].as_py(), schema)
    return keys, reasons


def _canonical_images(data: bytes) -> pa.Array | None:
    """Cut the images out of lines that all have the service's own form; None if some have not."""
    body = data[:-1] if data.endswith(b"\n") else data
    if not (body.startswith(_ITEM_FRONT) and body.endswith(_ITEM_BACK)) or _may_be_lax(body):
        return None
    texts = body[len(_ITEM_FRONT) : -len(_ITEM_BACK)].split(_ITEM_BETWEEN)
    # A JSON string holds no raw newline, so one image per line means that every line has the form.
    if len(texts) != body.count(b"\n") + 1:
        return None
    images = pa.array(texts, pa.binary())
    objects = pc.and_(pc.starts_with(images, pattern="{"), pc.ends_with(images, pattern="}"))
    return images if pc.all(objects).as_py() else None


def _may_be_lax(data: bytes) -> bool:
    """Look for what DuckDB's parser takes although it is no JSON: `[1,]`, `NaN`, `-Infinity`.

    Within a text such a pair of characters is innocent, and costs the slower path only.
    """
    even = np.frombuffer(data, "<u2", len(data) // 2)
    odd = np.frombuffer(data, "<u2", (len(data) - 1) // 2, offset=1)
    return any(bool((pairs == pair).any()) for pairs in (even, odd) for pair in _LAX_PAIRS)


def _full_lines_one_by_one(data: bytes, schema: KeySchema) -> FullLines:
    lines: list[tuple[int, bytes]] = []
    images: list[bytes] = []
    bad: list[BadLine] = []
    for number, line in _numbered(data):
        try:
            images.append(_full_image(line))
            lines.append((number, line))
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            bad.append((number, line, _line_reason(error)))
    raw = pa.array(images, pa.binary())
    keys, bad_keys = keys_of_images(raw, schema)
    bad += [(*lines[row], reason) for row, reason in bad_keys.items()]
    return FullLines(keys.drop_null(), raw.filter(pc.is_valid(keys)), sorted(bad))


def _full_image(line: bytes) -> bytes:
    try:
        return _bytes(_FULL_LINE.decode(line).Item)
    except RecursionError:
        # As if its neighbours were all good: DuckDB's parser does not recurse.
        found = _canonical_images(line)
        if found is None:
            raise
        image: bytes = found[0].as_py()
        return image


def _numbered(data: bytes) -> list[tuple[int, bytes]]:
    lines = enumerate(data.split(b"\n"), start=1)
    return [(number, line) for number, line in lines if line.strip(_BLANK)]


def _micros(change: _ChangeLine) -> int:
    text = normalise_number(change.Metadata.WriteTimestampMicros.N)
    if not text.isdigit() or int(text) > _LATEST_US:
        raise ValueDecodeError(
            "WriteTimestampMicros is not a time in whole microseconds", found=text
        )
    return int(text)


def _op(change: _ChangeLine, view: ExportView) -> str:
    if change.NewImage is msgspec.UNSET:
        return "d"
    if change.OldImage is msgspec.UNSET and view == "NEW_AND_OLD_IMAGES":
        return "c"
    return "u"


def _bytes(value: msgspec.Raw) -> bytes:
    # `msgspec.Raw` is a buffer, not `bytes`, which Arrow needs; it begins with the space before it.
    return bytes(value).strip(b" \t\r\n")


def _raws(values: list[Any]) -> pa.Array:
    rows = [None if value is msgspec.UNSET else _bytes(value) for value in values]
    return pa.array(rows, pa.binary())


def _line_reason(error: Exception) -> str:
    if isinstance(error, ValueDecodeError):
        return str(error)
    return f"The line is not a record of an export: {error}."


def _key_reason(image: bytes, schema: KeySchema) -> str:
    """Say why an image has no key, by the exact path."""
    try:
        parsed = parse_json(image)
        if not isinstance(parsed, dict):
            return str(ValueDecodeError("The image is not a JSON object", found=shown(image)))
        encode_key(parsed, schema)
    except ValueDecodeError as error:
        return str(error)
    return str(ValueDecodeError("The image names an attribute twice", found=shown(image)))
