# SPDX-License-Identifier: Apache-2.0
"""Value texts of one attribute to one typed Arrow column, per type tag.

Every function here returns null exactly where the attribute is absent or its value does not fit the
column, so that a null beside a value text means: this belongs elsewhere.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.values.base64_columns import decode_base64
from dynabeam.transforms.values.column_types import NumberType
from dynabeam.transforms.values.numbers import normalise_number, normalise_numbers
from dynabeam.transforms.values.plain_json import plain_value_json
from dynabeam.transforms.values.value_texts import (
    json_strings,
    list_payload,
    nested_payload,
    text_payload,
)

__all__ = ["column_type", "is_number_value", "payload_column"]


def column_type(tag: str, numbers: NumberType) -> pa.DataType:
    """Return the Arrow type of a column."""
    if tag in ("SS", "NS", "BS"):
        return pa.list_(column_type(tag[0], numbers))
    simple = {"B": pa.binary(), "BOOL": pa.bool_(), "N": numbers.arrow}
    return simple.get(tag, pa.string())


def is_number_value(value: object, tag: str) -> bool:
    """Whether a parsed value is a number, or with tag "NS" a set of numbers, of whatever size."""
    if not isinstance(value, dict) or list(value) != [tag]:
        return False
    members = value[tag] if tag == "NS" else [value[tag]]
    if not isinstance(members, list):
        return False
    try:
        for each in members:
            normalise_number(each)
    except ValueDecodeError:
        return False
    return True


def payload_column(texts: pa.Array, tag: str, numbers: NumberType, nested: str) -> pa.Array:
    """Decode value texts, as `extract_values` returns them, to a column.

    Args:
        texts: JSON texts of values such as `{"S":"x"}`; null where the attribute is absent.
        tag: The column's type tag.
        numbers: Type of numbers.
        nested: Form of the JSON of L and M, "dynamodb" or "plain".

    Returns:
        An array of `column_type`, null where a text is null or not exactly of the column's type.
    """
    if tag in ("L", "M"):
        payloads = nested_payload(texts, tag)
        return payloads if nested == "dynamodb" else _plain(texts, payloads)
    if tag == "BOOL":
        return _booleans(texts)
    if tag in ("SS", "NS", "BS"):
        return _sets(list_payload(texts, tag), tag, numbers)
    return _scalars(text_payload(texts, tag), tag, numbers)


def _scalars(payloads: pa.Array, tag: str, numbers: NumberType) -> pa.Array:
    if tag == "B":
        return decode_base64(payloads)
    if tag == "N":
        return _numbers(payloads, numbers)
    return payloads


def _numbers(payloads: pa.Array, numbers: NumberType) -> pa.Array:
    canonical = normalise_numbers(payloads, invalid="null")
    if numbers.is_text:
        return canonical
    fits = _fits(canonical, numbers)
    if not fits.all():
        canonical = pc.if_else(pa.array(fits), canonical, None)
    return canonical.cast(numbers.arrow)


def _fits(canonical: pa.Array, numbers: NumberType) -> npt.NDArray[np.bool_]:
    """Find out which canonical numbers a decimal type holds exactly; nulls fit."""
    length = _integers(pc.binary_length(canonical))
    point = _integers(pc.find_substring(canonical, pattern="."))
    negative = _flags(pc.starts_with(canonical, pattern="-"))
    # `0.5` has no digit before the point that counts.
    small = _flags(pc.match_substring_regex(canonical, pattern=r"^-?0(?:\.|$)"))
    whole = np.where(point < 0, length, point) - negative - small
    fraction = np.where(point < 0, 0, length - point - 1)
    fits: npt.NDArray[np.bool_] = (whole <= numbers.precision - numbers.scale) & (
        fraction <= numbers.scale
    )
    return fits


def _booleans(texts: pa.Array) -> pa.Array:
    true = pc.equal(texts, '{"BOOL":true}')
    known = pc.or_(true, pc.equal(texts, '{"BOOL":false}'))
    return pc.if_else(known, true, None)


def _sets(lists: pa.Array, tag: str, numbers: NumberType) -> pa.Array:
    members = lists.flatten()
    decoded = _scalars(json_strings(members), tag[0], numbers)
    valid = lists.is_valid().to_numpy(zero_copy_only=False)
    offsets = lists.offsets.to_numpy().astype(np.int64)
    if decoded.null_count:
        # One member that does not fit keeps the whole set out of the column.
        misfits = np.zeros(len(decoded) + 1, np.int64)
        np.cumsum(decoded.is_null().to_numpy(zero_copy_only=False), out=misfits[1:])
        starts, ends = offsets[:-1] - offsets[0], offsets[1:] - offsets[0]
        valid = valid & (misfits[ends] == misfits[starts])
    return pa.ListArray.from_arrays(
        pa.array(offsets - offsets[0], pa.int32()), decoded, mask=pa.array(~valid)
    )


def _plain(texts: pa.Array, payloads: pa.Array) -> pa.Array:
    """Rewrite L and M as plain JSON; null, so kept exactly elsewhere, where they are no values."""
    values = zip(texts.to_pylist(), payloads.to_pylist(), strict=True)
    return pa.array(
        [None if payload is None else _plain_or_null(text) for text, payload in values],
        pa.string(),
    )


def _plain_or_null(text: str) -> str | None:
    try:
        return plain_value_json(text).decode()
    except ValueDecodeError:
        return None


def _integers(values: pa.Array) -> npt.NDArray[np.int64]:
    integers: npt.NDArray[np.int64] = pc.fill_null(values, 0).to_numpy().astype(np.int64)
    return integers


def _flags(values: pa.Array) -> npt.NDArray[np.bool_]:
    flags: npt.NDArray[np.bool_] = pc.fill_null(values, False).to_numpy(zero_copy_only=False)
    return flags
