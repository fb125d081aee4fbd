# SPDX-License-Identifier: Apache-2.0
"""Between moto's items and DynamoDB JSON, without moto's quadratic size check."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from moto.dynamodb.models.dynamo_type import DynamoType, Item, LimitedSizeDict

__all__ = ["attributes_of", "moto_item"]


def attributes_of(attrs: Mapping[str, DynamoType]) -> dict[str, Any]:
    """Attributes of moto as DynamoDB JSON; binaries stay bytes."""
    return {name: _plain(value) for name, value in attrs.items()}


def _plain(value: Any) -> dict[str, Any]:
    # Inside lists and maps an update can leave a plain dict where moto wraps it elsewhere.
    if not isinstance(value, DynamoType):
        value = DynamoType(value)
    if value.is_map():
        return {"M": attributes_of(value.value)}
    if value.is_list():
        return {"L": [_plain(member) for member in value.value]}
    if value.is_set():
        return {value.type: list(value.value)}
    return {value.type: value.value}


def moto_item(
    hash_key: DynamoType | None, range_key: DynamoType | None, attributes: Mapping[str, Any]
) -> Item:
    """An item as moto keeps it, from DynamoDB JSON with binaries in base64."""
    # `object.__new__` keeps it out of moto's register of instances, which only grows.
    item = object.__new__(Item)
    item.hash_key = hash_key
    item.range_key = range_key
    item.attrs = LimitedSizeDict()
    for name, value in attributes.items():
        dict.__setitem__(item.attrs, name, DynamoType(_with_bytes(value)))
    return item


def _with_bytes(value: Mapping[str, Any]) -> Mapping[str, Any]:
    ((tag, content),) = value.items()
    if tag == "B":
        return {"B": base64.b64decode(content)}
    if tag == "BS":
        return {"BS": [base64.b64decode(member) for member in content]}
    if tag == "M":
        return {"M": {name: _with_bytes(member) for name, member in content.items()}}
    if tag == "L":
        return {"L": [_with_bytes(member) for member in content]}
    return value
