# SPDX-License-Identifier: Apache-2.0
"""Canonical cells put together as an item again, to compare two rows and to show them.

Where a value stands is no difference: an attribute that is in its column on one side and in
`_other` on the other (a PostgreSQL mirror keeps new attributes there while a query holds the table)
is the same attribute.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import msgspec

from dynabeam.transforms.audit.json_values import canonical_plain
from dynabeam.transforms.audit.mirror_schema import RAW, MirrorShape
from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.sinks.row_layout import ITEM
from dynabeam.transforms.values.plain_json import plain_value_json

__all__ = ["Item", "differing", "item_of"]

Item = dict[str, str]
"""Attribute → its type tag, a space, and the value as canonical text."""

_COLUMN = " (column)"
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODER = msgspec.json.Encoder(order="sorted")


def item_of(cells: Mapping[str, str | None], shape: MirrorShape) -> Item:
    """The item that a row's cells hold.

    Args:
        cells: Column → canonical cell.
        shape: The table in the mirror.
    """
    item: Item = {}
    for name in (shape.rest, *([RAW] if shape.has_raw else [])):
        item |= _lifted(name, cells[name], shape)
    for name, tag in shape.tags.items():
        cell = cells[name]
        if cell is None:
            continue
        # Packed, the key is in the item and in its columns; both have to be right.
        place = name + _COLUMN if shape.rest == ITEM or name in item else name
        item[place] = f"{tag} {_sorted_set(cell) if tag in ('SS', 'NS', 'BS') else cell}"
    return item


def differing(one: Item, other: Item) -> list[str]:
    """The attributes that the two have not alike, sorted."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def _lifted(column: str, text: str | None, shape: MirrorShape) -> Item:
    """The attributes of a JSON object, each spelled as in a column of its type."""
    if text is None:
        return {}
    try:
        attributes = _MEMBERS.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return {column + _COLUMN: f"JSON {text}"}
    return {name: _spelled(name, bytes(value), shape) for name, value in attributes.items()}


def _spelled(name: str, value: bytes, shape: MirrorShape) -> str:
    """An attribute of which the canonical text is given."""
    try:
        ((tag, payload),) = _MEMBERS.decode(value).items()
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return f"JSON {value.decode()}"  # no value of DynamoDB's
    text = bytes(payload).decode()
    if tag in ("S", "N", "B") and text[:1] == '"':
        content = msgspec.json.decode(text)
        return f"{tag} {_hex(content) if tag == 'B' else content}"
    if tag == "BS" and text[:1] == "[":
        members = msgspec.json.decode(text)
        if all(isinstance(each, str) for each in members):
            return f"BS {_json(sorted(_hex(each) for each in members))}"
    if tag in ("L", "M") and shape.options.nested == "plain" and name in shape.tags:
        try:
            return f"{tag} {canonical_plain(plain_value_json(value).decode())}"
        except (ValueDecodeError, RecursionError):
            pass
    return f"{tag} {text}"


def _hex(payload: str) -> str:
    try:
        return base64.b64decode(payload, validate=True).hex()
    except binascii.Error:
        return payload


def _sorted_set(cell: str) -> str:
    try:
        return _json(sorted(json.loads(cell)))
    except (ValueError, TypeError):
        return cell


def _json(value: Any) -> str:
    return _ENCODER.encode(value).decode()
