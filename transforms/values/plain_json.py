# SPDX-License-Identifier: Apache-2.0
"""JSON for people, and the canonical form of DynamoDB JSON for comparing items exactly.

Plain JSON drops the type tags: `{"n": {"N": "1.5"}}` is `{"n":1.5}`. Digits are all kept (a reader
that parses JSON numbers as floats may round them, not we), but types are lost by nature: a set
becomes a sorted array, binary becomes base64 text that looks like any text. It does not come back.

Canonical JSON keeps everything: DynamoDB JSON, compact, names sorted, set members sorted and
single, numbers in canonical form, base64 and escapes in one spelling. Two items are the same item
for DynamoDB exactly if their canonical forms are the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from dynabeam.transforms.values.numbers import normalise_number
from dynabeam.transforms.values.python_values import (
    BinarySet,
    NumberSet,
    StringSet,
    Value,
    decode_item,
    decode_value,
    encode_item,
    encode_value,
)

__all__ = [
    "canonical_json",
    "canonical_value_json",
    "plain_json",
    "plain_value_json",
    "same_item",
]

Json = Mapping[str, Any] | bytes | str
"""DynamoDB JSON, parsed or as text."""

_SORTED = msgspec.json.Encoder(order="sorted")
_AS_IT_IS = msgspec.json.Encoder()


def plain_json(item: Json) -> bytes:
    """Write an item as plain JSON, attributes in the item's order.

    Raises:
        ValueDecodeError: The item is not DynamoDB JSON.
    """
    return _AS_IT_IS.encode(_plain(decode_item(item)))


def plain_value_json(value: Json) -> bytes:
    """Write one attribute value as plain JSON.

    Raises:
        ValueDecodeError: The value is not DynamoDB JSON.
    """
    return _AS_IT_IS.encode(_plain(decode_value(value)))


def canonical_json(item: Json) -> bytes:
    """Write an item in the canonical form of DynamoDB JSON.

    Raises:
        ValueDecodeError: The item is not DynamoDB JSON.
    """
    return _SORTED.encode(encode_item(decode_item(item)))


def canonical_value_json(value: Json) -> bytes:
    """Write one attribute value in the canonical form of DynamoDB JSON.

    Raises:
        ValueDecodeError: The value is not DynamoDB JSON.
    """
    return _SORTED.encode(encode_value(decode_value(value)))


def same_item(one: Json | None, other: Json | None) -> bool:
    """Whether two images are the same item; None is no item and the same as None only.

    Raises:
        ValueDecodeError: One of them is not DynamoDB JSON.
    """
    if one is None or other is None:
        return one is other
    if one == other and isinstance(one, (bytes, str)):
        return True
    # Not by the Python values: there True is 1.
    return canonical_json(one) == canonical_json(other)


def _plain(value: Value) -> Any:
    """Turn a Python value into what the JSON encoder writes exactly."""
    if isinstance(value, Decimal):
        return msgspec.Raw(normalise_number(str(value)).encode("ascii"))
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, StringSet, NumberSet, BinarySet)):
        return [_plain(each) for each in value]
    return value  # The encoder writes bytes as padded base64.
