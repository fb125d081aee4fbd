# SPDX-License-Identifier: Apache-2.0
"""A few images to typed columns, item by item in Python.

The vectorised way costs milliseconds before it has seen the first image: near the tip of a stream,
where bundles are a handful of rows, that is nearly all there is. This way has the same outcome, to
the value (`other` to the same JSON), and no fixed cost to speak of.

Only ordinary images are taken: JSON that reads the same for every reader. Where an image is odd (no
JSON, a name twice, a number that is no text, a type tag with an escape) nobody but the vectorised
way itself knows what it makes of it, so it gets the images, all of them.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, NoReturn

import msgspec
import pyarrow as pa

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.values.base64_columns import base64_or_none
from dynabeam.transforms.values.column_bounds import MAX_DEPTH
from dynabeam.transforms.values.column_payloads import column_type, is_number_value
from dynabeam.transforms.values.column_types import ATTRIBUTE_TAGS, ColumnTypes, NumberType
from dynabeam.transforms.values.json_texts import compact_json
from dynabeam.transforms.values.nesting import is_deeper_than
from dynabeam.transforms.values.numbers import normalise_number
from dynabeam.transforms.values.plain_json import plain_value_json
from dynabeam.transforms.values.unpacked_columns import NestedForm, UnpackedColumns, batch_of

__all__ = ["SMALL_BATCH_ROWS", "FewCells", "RowDecoder", "unpack_few"]

SMALL_BATCH_ROWS = 250
"""Up to here this way is taken. It breaks even at 500 to 1,000 images of 300 to 650 bytes, see
`tests/benchmarks/unpack_images.py`, but holds the interpreter all the while."""

Item = dict[str, Any]
ToCell = Callable[[Any], Any]
"""The payload of a value to the cell of its column; None if it does not fit."""


class _OddImageError(Exception):
    """An image is not one that every reader of JSON reads the same."""


@dataclasses.dataclass(frozen=True)
class FewCells:
    """Images as lists of cells, one cell per image.

    Attributes:
        columns: One list per attribute of `ColumnTypes.columns`, in their order; None for null.
        other: As in `UnpackedColumns`.
        unknown: As in `UnpackedColumns`.
        unfit_numbers: As in `UnpackedColumns`.
    """

    columns: dict[str, list[Any]]
    other: list[str | None]
    unknown: ColumnTypes
    unfit_numbers: int = 0


class RowDecoder:
    """Decodes images to the same columns again and again.

    Args:
        types: The columns.
        numbers: Type of numbers.
        nested: Form of the JSON in columns of L and M.
    """

    def __init__(self, types: ColumnTypes, numbers: NumberType, nested: NestedForm) -> None:
        self._types = types
        columns = {} if numbers.is_text else types.columns
        self._numbers = {name: tag for name, tag in columns.items() if tag in ("N", "NS")}
        self._decoders = {
            name: _to_cell(tag, numbers, nested) for name, tag in types.columns.items()
        }

    def cells(self, images: Sequence[bytes | None]) -> FewCells | None:
        """Decodes images; None if one is odd."""
        try:
            items = [None if image is None else _item(image) for image in images]
        except _OddImageError:
            return None
        cells: dict[str, list[Any]] = {name: [None] * len(items) for name in self._decoders}
        others: list[str | None] = []
        unknown = ColumnTypes()
        unfit_numbers = 0
        for row, item in enumerate(items):
            rest = _fill(cells, self._decoders, row, item) if item else None
            others.append(compact_json(rest) if rest else None)
            if rest and (found := _without_column(rest, self._types)):
                unknown = unknown.with_attributes(found)
            unfit_numbers += sum(
                is_number_value(value, self._numbers[name])
                for name, value in (rest or {}).items()
                if name in self._numbers
            )
        return FewCells(cells, others, unknown, unfit_numbers)


def unpack_few(
    images: pa.Array, types: ColumnTypes, numbers: NumberType, nested: NestedForm
) -> UnpackedColumns | None:
    """Decode images to columns, see `transforms.values.columns.unpack`.

    Returns:
        The columns; None if an image is odd.
    """
    few = RowDecoder(types, numbers, nested).cells(images.cast(pa.binary()).to_pylist())
    if few is None:
        return None
    columns = [
        pa.array(few.columns[name], column_type(tag, numbers))
        for name, tag in types.columns.items()
    ]
    batch = batch_of(columns, types, numbers, len(images))
    return UnpackedColumns(batch, pa.array(few.other, pa.string()), few.unknown, few.unfit_numbers)


def _fill(
    cells: dict[str, list[Any]], decoders: dict[str, tuple[str, ToCell]], row: int, item: Item
) -> Item:
    """Put an item's values into their cells; returns what does not fit."""
    rest = {}
    for name, value in item.items():
        tag, to_cell = decoders.get(name, _NO_COLUMN)
        fits = type(value) is dict and len(value) == 1 and tag in value
        cell = to_cell(value[tag]) if fits else None
        if cell is None:
            rest[name] = value
        else:
            cells[name][row] = cell
    return rest


def _without_column(rest: Item, types: ColumnTypes) -> list[tuple[str, str]]:
    """List the attributes that could have a column and have none, with the tags of their values."""
    found = []
    for name, value in rest.items():
        known = types.tags.get(name, "")
        if known in ("", "NULL") and type(value) is dict and value:
            tag = next(iter(value))
            if tag in ATTRIBUTE_TAGS and tag != known:
                found.append((name, tag))
    return found


def _to_cell(tag: str, numbers: NumberType, nested: NestedForm) -> tuple[str, ToCell]:
    if tag in ("SS", "NS", "BS"):
        return tag, _set_of(_scalar(tag[0], numbers))
    if tag in ("L", "M"):
        return tag, _nested(tag, list if tag == "L" else dict, nested)
    return tag, _scalar(tag, numbers)


def _scalar(tag: str, numbers: NumberType) -> ToCell:
    if tag == "N":
        return lambda payload: _number(payload, numbers) if type(payload) is str else None
    if tag == "B":
        return lambda payload: base64_or_none(payload) if type(payload) is str else None
    kind = bool if tag == "BOOL" else str
    return lambda payload: payload if type(payload) is kind else None


def _number(text: str, numbers: NumberType) -> Decimal | str | None:
    try:
        canonical = normalise_number(text)
    except ValueDecodeError:
        return None
    if numbers.is_text:
        return canonical
    whole, _, fraction = canonical.lstrip("-").partition(".")
    digits = 0 if whole == "0" else len(whole)
    fits = digits <= numbers.precision - numbers.scale and len(fraction) <= numbers.scale
    return Decimal(canonical) if fits else None


def _set_of(to_cell: ToCell) -> ToCell:
    def decode(payload: Any) -> list[Any] | None:
        if type(payload) is not list:
            return None
        members = [to_cell(member) for member in payload]
        return None if None in members else members

    return decode


def _nested(tag: str, kind: type, form: NestedForm) -> ToCell:
    def decode(payload: Any) -> str | None:
        if type(payload) is not kind:
            return None
        if is_deeper_than(_encode({tag: payload}), MAX_DEPTH):
            return None
        if form == "dynamodb":
            return compact_json(payload)
        try:
            return plain_value_json({tag: payload}).decode()
        except ValueDecodeError:
            return None

    return decode


_NO_COLUMN: tuple[str, ToCell] = ("", lambda _: None)


def _item(image: bytes) -> Item:
    """Parse an image.

    Raises:
        _OddImageError: It is no item, or one that others may read otherwise.
    """
    try:
        item: Item = _decode(image)
        if _encode(item) != image:
            # It has white space or other escapes, or hides something.
            _refuse_odd(image)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _OddImageError from error
    return item


def _refuse_odd(image: bytes) -> None:
    if _ESCAPED_TAG.search(image):
        raise _OddImageError
    _strictly.decode(image.decode())


def _refuse_number(_: str) -> NoReturn:
    raise _OddImageError


def _object(members: list[tuple[str, Any]]) -> Item:
    found = dict(members)
    if len(found) < len(members):
        raise _OddImageError
    return found


# Not floats: their text may be rewritten. Integers are, if they are not spelled as by `_encode`.
_decode = msgspec.json.Decoder(Item, float_hook=_refuse_number).decode
_encode = msgspec.json.Encoder().encode
_strictly = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_refuse_number,
    parse_float=_refuse_number,
    parse_constant=_refuse_number,
)
_ESCAPED_TAG = re.compile(rb'\{\s*"[A-Z]{0,3}\\u00[45]')
