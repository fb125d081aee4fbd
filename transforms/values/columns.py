# SPDX-License-Identifier: Apache-2.0
"""Images to typed Arrow columns, one per top-level attribute, in bulk and without loss.

| tag | column | note |
|---|---|---|
| S | string | |
| N | decimal128(38, 18) | or another decimal, or canonical text: `numbers` |
| B | binary | |
| BOOL | bool | |
| SS, NS, BS | list of string, of number, of binary | in the order of the image |
| L, M | string | JSON text of the payload: DynamoDB JSON, or plain JSON if `nested="plain"` |

What does not fit its column is null there and is kept *exactly* in `other`, a JSON object of
attribute names and DynamoDB JSON values: values of another type than the column's, NULL (so that
NULL differs from absent), numbers that the decimal type cannot hold exactly, attributes that have
no column. Columns and `other` together are the item; with `nested="plain"` the types inside L and M
are lost, as they are in plain JSON.

How it is known that nothing was left out: an image's compact text is as long as the texts of the
values that were found, their names and the punctuation. Where it is longer, something else is in
there, and that row, only that row, takes an exact path of its own.

Few images take a way without fixed cost to the same outcome: `transforms.values.row_decoder`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.values.byte_columns import offsets_and_bytes
from dynabeam.transforms.values.column_bounds import name_fits
from dynabeam.transforms.values.column_payloads import is_number_value, payload_column
from dynabeam.transforms.values.column_types import (
    ATTRIBUTE_TAGS,
    DEFAULT_NUMBERS,
    MAX_COLUMNS,
    ColumnTypes,
    NumberType,
)
from dynabeam.transforms.values.python_values import shown
from dynabeam.transforms.values.row_decoder import SMALL_BATCH_ROWS, unpack_few
from dynabeam.transforms.values.unpacked_columns import NestedForm, UnpackedColumns, batch_of
from dynabeam.transforms.values.value_texts import compacted, extract_values, object_names

__all__ = ["ColumnTypes", "NestedForm", "NumberType", "UnpackedColumns", "discover", "unpack"]

_Rows = npt.NDArray[np.int64]
_Flags = npt.NDArray[np.bool_]

_NULL = '{"NULL":true}'
_RAW_ITEM = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TAG = re.compile(rb'\s*\{\s*"([A-Z]{1,4})"\s*:')


def unpack(
    images: pa.Array | pa.ChunkedArray,
    types: ColumnTypes,
    *,
    numbers: NumberType | str = DEFAULT_NUMBERS,
    nested: NestedForm = "dynamodb",
) -> UnpackedColumns:
    """Decode images to columns.

    Args:
        images: DynamoDB JSON of items, binary or string; a null image is null in all columns.
        types: The columns to make.
        numbers: Type of numbers.
        nested: Form of the JSON in columns of L and M.

    Returns:
        The columns. Where an attribute occurs twice in an image, which the service never writes,
        one of the two counts.

    Raises:
        ValueDecodeError: An image is not a JSON object. Values that are not DynamoDB's are no
            error: they go to `other` as they are.
    """
    if isinstance(images, pa.ChunkedArray):
        images = images.combine_chunks()
    number_type = NumberType.parse(numbers) if isinstance(numbers, str) else numbers
    if len(images) <= SMALL_BATCH_ROWS:
        unpacked = unpack_few(images, types, number_type, nested)
        if unpacked is not None:
            return unpacked
    return _unpack_many(images, types, number_type, nested)


def discover(
    images: pa.Array | pa.ChunkedArray,
    known: ColumnTypes | None = None,
    *,
    max_columns: int = MAX_COLUMNS,
) -> ColumnTypes:
    """Find the attributes in images, in the order in which they are first seen.

    Args:
        images: DynamoDB JSON of items, binary or string, nulls allowed.
        known: Columns that there are already; they stay as they are.
        max_columns: How many columns there may be.

    Returns:
        The known columns and the new ones.

    Raises:
        ValueDecodeError: An image is not a JSON object.
    """
    if isinstance(images, pa.ChunkedArray):
        images = images.combine_chunks()
    types = known or ColumnTypes()
    rows = np.flatnonzero(_valid(images))
    sample = 64
    # A few rows show most attributes. Only rows that these do not explain are looked at further,
    # more of them each time, so that a table of ever new names costs no pass per name.
    while len(rows) and len(types.columns) < max_columns:
        for row in rows[:sample].tolist():
            types = types.with_attributes(
                _attributes(_raw_item(images, row)), max_columns=max_columns
            )
        rows = rows[sample:]
        rest = images.take(pa.array(rows))
        rows = rows[_incomplete_rows(rest, types, extract_values(rest, list(types.tags)))]
        sample *= 8
    return types


def _unpack_many(
    images: pa.Array, types: ColumnTypes, number_type: NumberType, nested: NestedForm
) -> UnpackedColumns:
    """`unpack` for rows enough to be worth the fixed cost of queries."""
    names = list(types.tags)
    values = extract_values(images, names)
    columns: dict[str, pa.Array] = {}
    misfits: list[_Flags | None] = []
    unfit_numbers = 0
    for name, texts in zip(names, values, strict=True):
        if types.tags[name] == "NULL":
            misfits.append(_valid(texts) if texts.null_count < len(texts) else None)
            continue
        columns[name] = payload_column(texts, types.tags[name], number_type, nested)
        misfit = _misfit(texts, columns[name])
        misfits.append(misfit)
        if misfit is not None and types.tags[name] in ("N", "NS") and not number_type.is_text:
            unfit_numbers += _count_numbers(texts, misfit, types.tags[name])
    other = _other(names, values, misfits, len(images))
    incomplete = _incomplete_rows(images, types, values)
    unknown = ColumnTypes()
    if len(incomplete):
        exact, unknown = _exact_others(images, incomplete, types, columns)
        other = _with_rows(other, incomplete, exact)
    batch = batch_of(list(columns.values()), types, number_type, len(images))
    return UnpackedColumns(batch, other, unknown, unfit_numbers)


def _misfit(texts: pa.Array, column: pa.Array) -> _Flags | None:
    """Mark rows that have the attribute, but not in the column; None if there are none."""
    if column.null_count == texts.null_count:
        return None
    flags: _Flags = pc.and_(pc.is_valid(texts), pc.is_null(column)).to_numpy(zero_copy_only=False)
    return flags


def _count_numbers(texts: pa.Array, misfit: _Flags, tag: str) -> int:
    """Count the values that are of the column's tag and yet not in it: its type is too narrow."""
    misfits = texts.filter(pa.array(misfit)).to_pylist()
    return sum(is_number_value(msgspec.json.decode(text), tag) for text in misfits)


def _other(
    names: Sequence[str], values: Sequence[pa.Array], misfits: Sequence[_Flags | None], count: int
) -> pa.Array:
    """Join what did not fit to JSON objects, for the rows that have any."""
    marked = [flags for flags in misfits if flags is not None]
    if not marked:
        return pa.nulls(count, pa.string())
    rows = np.flatnonzero(np.logical_or.reduce(marked))
    take = pa.array(rows)
    members = []
    for name, texts, flags in zip(names, values, misfits, strict=True):
        if flags is None:
            continue
        member = pc.binary_join_element_wise(f"{_json_name(name)}:", texts.take(take), "")
        members.append(pc.if_else(pa.array(flags[rows]), member, None))
    joined = pc.binary_join_element_wise(*members, ",", null_handling="skip")
    objects = pc.binary_join_element_wise("{", joined, "}", "")
    return _with_rows(pa.nulls(count, pa.string()), rows, objects)


def _incomplete_rows(images: pa.Array, types: ColumnTypes, values: Sequence[pa.Array]) -> _Rows:
    """Find rows that say more than the values that were found, or more than the types know."""
    found = np.zeros(len(images), np.int64)
    members = np.zeros(len(images), np.int64)
    typed = np.ones(len(images), np.bool_)
    for (name, tag), texts in zip(types.tags.items(), values, strict=True):
        there = _valid(texts)
        punctuated_name = len(_json_name(name).encode()) + len(":,")
        found += np.where(there, _lengths(texts) + punctuated_name, 0)
        members += there
        if tag == "NULL" and there.any():
            typed &= ~there | pc.fill_null(pc.equal(texts, _NULL), True).to_numpy(False)
    expected = found + len("{}") - np.minimum(members, 1)  # n members have n - 1 commas
    rows = np.flatnonzero(~_is_object_of(images, expected) & _valid(images))
    if len(rows):
        # White space and longer escapes are no content: compare the compact form of these.
        compact = compacted(images.take(pa.array(rows)))
        rows = rows[~_is_object_of(compact, expected[rows])]
    return np.union1d(rows, np.flatnonzero(~typed))


def _is_object_of(texts: pa.Array, lengths: npt.NDArray[np.int64]) -> _Flags:
    objects = pc.fill_null(pc.starts_with(texts, pattern="{"), False)
    flags: _Flags = objects.to_numpy(zero_copy_only=False) & (_lengths(texts) == lengths)
    return flags


def _exact_others(
    images: pa.Array, rows: _Rows, types: ColumnTypes, columns: Mapping[str, pa.Array]
) -> tuple[pa.Array, ColumnTypes]:
    """Work out `other` item by item, for the rows that have attributes without a column."""
    take = pa.array(rows)
    fitting = {name: _valid(column.take(take)) for name, column in columns.items()}
    unknown: dict[tuple[str, str], None] = {}
    texts: list[str | None] = []
    for at, row in enumerate(rows.tolist()):
        item = _raw_item(images, row)
        rest = {
            name: value
            for name, value in item.items()
            if name not in fitting or not fitting[name][at]
        }
        texts.append(msgspec.json.encode(rest).decode() if rest else None)
        unknown.update(
            ((name, tag), None)
            for name, tag in _attributes(rest)
            if types.tags.get(name, "NULL") == "NULL" and tag != types.tags.get(name)
        )
    return pa.array(texts, pa.string()), ColumnTypes().with_attributes(unknown)


def _raw_item(images: pa.Array, row: int) -> dict[str, msgspec.Raw]:
    image = images[row].as_py()
    try:
        item = _RAW_ITEM.decode(image)
        msgspec.json.decode(image)  # a raw value is not looked into
    except RecursionError:
        return _raw_deep_item(images.slice(row, 1), row)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise _no_object(image, row, str(error)) from error
    if len(msgspec.json.encode(item)) != len(image):
        # White space or escapes; or a name that is there twice, of which a column holds one value.
        names = object_names(images.slice(row, 1))[0].as_py()
        if names is not None and len(names) > len(item):
            raise _doubled(image, row)
    return item


def _raw_deep_item(image: pa.Array, row: int) -> dict[str, msgspec.Raw]:
    """Cut up an image that nests deeper than a recursive parser goes; DuckDB's is none."""
    names = object_names(image)[0].as_py()
    if names is None:
        raise _no_object(image[0].as_py(), row, "nested deeply")
    values = extract_values(image, names)
    return {name: msgspec.Raw(value[0].as_py()) for name, value in zip(names, values, strict=True)}


def _doubled(image: object, row: int) -> ValueDecodeError:
    return ValueDecodeError(
        "An image names an attribute twice", where=f"row {row}", found=shown(image)
    )


def _no_object(image: object, row: int, why: str) -> ValueDecodeError:
    return ValueDecodeError(
        f"An image is not a JSON object in UTF-8 ({why})", where=f"row {row}", found=shown(image)
    )


def _attributes(item: dict[str, msgspec.Raw]) -> list[tuple[str, str]]:
    """List the attributes that can have a column, with the tags of their values."""
    tags = ((name, _TAG.match(value)) for name, value in item.items() if name_fits(name))
    found = ((name, match[1].decode()) for name, match in tags if match)
    return [(name, tag) for name, tag in found if tag in ATTRIBUTE_TAGS]


def _with_rows(texts: pa.Array, rows: _Rows, by: pa.Array) -> pa.Array:
    source = np.arange(len(texts), dtype=np.int64)
    source[rows] = len(texts) + np.arange(len(by), dtype=np.int64)
    return pa.concat_arrays([texts, by]).take(pa.array(source))


def _valid(values: pa.Array) -> _Flags:
    flags: _Flags = values.is_valid().to_numpy(zero_copy_only=False)
    return flags


def _json_name(name: str) -> str:
    return msgspec.json.encode(name).decode()


def _lengths(texts: pa.Array) -> npt.NDArray[np.int64]:
    lengths: npt.NDArray[np.int64] = np.diff(offsets_and_bytes(texts)[0])
    return lengths
