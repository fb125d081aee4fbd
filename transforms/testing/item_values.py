# SPDX-License-Identifier: Apache-2.0
"""Values as DynamoDB keeps them: numbers in plain decimal, one spelling per item, sizes.

The service rewrites what it is given: `1e3`, `+1000` and `1000.0` all come back as `1000`, and
sets and maps have no order. Two items are equal exactly if their `image` bytes are equal, which is
how the simulator knows a write that changes nothing.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from dynabeam.transforms.testing.api_error import ApiError

__all__ = ["Image", "image", "normalise_number", "normalise_request", "parse_image"]

MAX_ITEM_BYTES = 400 * 1024
_MAX_DIGITS = 38
_MAX_ADJUSTED = 125
_MIN_ADJUSTED = -130

_PLAIN_INTEGER = re.compile(r"-?[1-9][0-9]{0,37}\Z")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,6})?\Z")
_ENCODER = msgspec.json.Encoder(order="deterministic")
_decode = msgspec.json.decode


class Image(NamedTuple):
    """An item as the service keeps it.

    Attributes:
        json: DynamoDB JSON, names sorted, sets sorted, numbers plain: equal items, equal bytes.
        size: Bytes of names and values, as the service counts them.
    """

    json: bytes
    size: int


def normalise_number(text: Any) -> str:
    """The plain decimal form in which DynamoDB returns a number.

    Args:
        text: What a client sent as `N`.

    Raises:
        ApiError: It is no number, has more than 38 significant digits, or is out of range.
    """
    if not isinstance(text, str):
        raise ApiError("SerializationException", "NUMBER_VALUE cannot be converted to String")
    if _PLAIN_INTEGER.match(text) and text[-1] != "0":
        return text
    if not _NUMBER.match(text):
        raise _invalid(f"The parameter cannot be converted to a numeric value: {text}")
    number = Decimal(text)
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    plain_digits = "".join(map(str, digits)).lstrip("0")
    significant = plain_digits.rstrip("0")
    if number.adjusted() > _MAX_ADJUSTED:
        raise _invalid(
            "Number overflow. Attempting to store a number with magnitude larger than supported"
            " range"
        )
    if not significant:
        return "0"
    if number.adjusted() < _MIN_ADJUSTED:
        raise _invalid(
            "Number underflow. Attempting to store a number with magnitude smaller than supported"
            " range"
        )
    if len(significant) > _MAX_DIGITS:
        raise _invalid("Attempting to store more than 38 significant digits in a Number")
    exponent += len(plain_digits) - len(significant)
    return ("-" if sign else "") + _plain(significant, exponent)


def _plain(digits: str, exponent: int) -> str:
    if exponent >= 0:
        return digits + "0" * exponent
    whole = len(digits) + exponent
    if whole > 0:
        return f"{digits[:whole]}.{digits[whole:]}"
    return "0." + "0" * -whole + digits


def normalise_request(node: Any) -> None:
    """Rewrite, in place, every number and check every binary of a request's attribute values.

    Raises:
        ApiError: A number or a binary is not acceptable, or a set repeats a member.
    """
    if isinstance(node, list):
        for member in node:
            normalise_request(member)
    elif isinstance(node, dict):
        if len(node) == 1:
            ((tag, value),) = node.items()
            if tag in _SCALARS and not isinstance(value, (dict, list)):
                node[tag] = _SCALARS[tag](value)
                return
            if tag in _SETS and isinstance(value, list):
                node[tag] = _members(tag, value)
                return
        for value in node.values():
            normalise_request(value)


def image(attributes: Mapping[str, Any]) -> Image:
    """An item, or its keys alone, as the service keeps it.

    Args:
        attributes: DynamoDB JSON; binaries as base64 text or as bytes.

    Raises:
        ApiError: A value is malformed.
    """
    plain, size = _map(attributes)
    return Image(_ENCODER.encode(plain), size)


def parse_image(json: bytes) -> dict[str, Any]:
    """The DynamoDB JSON of an image."""
    parsed: dict[str, Any] = _decode(json)
    return parsed


def _map(attributes: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    plain = {}
    total = 0
    for name, value in attributes.items():
        plain[name], size = _value(value)
        total += (len(name) if name.isascii() else len(name.encode())) + size
    return plain, total


def _value(value: Any) -> tuple[dict[str, Any], int]:  # noqa: C901 - one arm per tag
    if not isinstance(value, Mapping) or len(value) != 1:
        raise _invalid(
            "Supplied AttributeValue is empty, must contain exactly one of the supported datatypes"
        )
    ((tag, content),) = value.items()
    if tag == "S":
        if not isinstance(content, str):
            raise ApiError("SerializationException", "Start of structure found where not expected")
        return {"S": content}, len(content) if content.isascii() else len(content.encode())
    if tag == "N":
        number = normalise_number(content)
        return {"N": number}, _number_size(number)
    if tag == "B":
        binary = _binary(content)
        return {"B": binary}, _binary_size(binary)
    if tag == "BOOL":
        if not isinstance(content, bool):
            raise ApiError("SerializationException", "Unexpected value where a BOOL was expected")
        return {"BOOL": content}, 1
    if tag == "NULL":
        if content is not True:
            raise _invalid("Null attribute value types must have the value of true")
        return {"NULL": True}, 1
    if tag == "M":
        members, size = _map(content)
        return {"M": members}, size + 3 + len(members)
    if tag == "L":
        listed = [_value(member) for member in content]
        return {"L": [plain for plain, _ in listed]}, sum(size + 1 for _, size in listed) + 3
    if tag in _SETS:
        return _set_value(tag, content)
    raise _invalid(
        "Supplied AttributeValue is empty, must contain exactly one of the supported datatypes"
    )


def _set_value(tag: str, content: Any) -> tuple[dict[str, Any], int]:
    members = sorted(_members(tag, content))
    if tag == "NS":
        return {tag: members}, sum(map(_number_size, members))
    if tag == "BS":
        return {tag: members}, sum(map(_binary_size, members))
    return {tag: members}, sum(len(member.encode()) for member in members)


def _members(tag: str, members: Any) -> list[str]:
    plain = [_SETS[tag](member) for member in members]
    if not plain:
        kind = {"SS": "string", "NS": "number", "BS": "binary"}[tag]
        what = f"An {kind} set  may not be empty"
        raise _invalid(f"One or more parameter values were invalid: {what}")
    if len(set(plain)) != len(plain):
        raise _invalid(
            "One or more parameter values were invalid: Input collection"
            f" [{', '.join(map(str, members))}] contains duplicates."
        )
    return plain


def _binary(content: Any) -> str:
    if isinstance(content, bytes):
        return base64.b64encode(content).decode("ascii")
    try:
        base64.b64decode(content, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise ApiError("SerializationException", f"Invalid base64: {content!r}") from error
    return str(content)


def _text(content: Any) -> str:
    if not isinstance(content, str):
        raise ApiError("SerializationException", "Unexpected value where a string was expected")
    return content


def _number_size(plain: str) -> int:
    # The service packs two digits into a byte and adds one; zeros at either end are free.
    digits = plain.lstrip("-").replace(".", "").strip("0")
    return (len(digits) + 1) // 2 + 1 + (1 if plain[0] == "-" else 0)


def _binary_size(encoded: str) -> int:
    return len(encoded) * 3 // 4 - encoded[-2:].count("=")


def _invalid(message: str) -> ApiError:
    return ApiError("ValidationException", message)


_SCALARS = {"N": normalise_number, "B": _binary}
_SETS = {"SS": _text, "NS": normalise_number, "BS": _binary}
