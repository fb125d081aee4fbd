# SPDX-License-Identifier: Apache-2.0
"""Writes DynamoDB values as Amazon Ion text, the way an export in format ``ION`` does.

One value per line, no line break inside a value, UTF-8 kept as it is. Numbers stay exact: the
decimal's digits are moved as text, trailing zeros go into the exponent (``600`` is ``6d2``,
``103`` is ``103.``). Sets are lists with the annotation ``$dynamodb_SS``, ``$dynamodb_NS`` or
``$dynamodb_BS``. Source: DynamoDB developer guide, "Data objects, Amazon Ion", and the Ion 1.0
specification for quoting. The guide does not show NULL; it is written as ``null``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from dynabeam.transforms.errors import ValueDecodeError

__all__ = ["ion_number", "ion_string", "ion_struct", "ion_symbol", "ion_value"]

_PLAIN_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_KEYWORDS = frozenset({"null", "true", "false", "nan"})
_SHORT_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\t": "\\t",
    "\n": "\\n",
    "\f": "\\f",
    "\r": "\\r",
    "\v": "\\v",
    "\\": "\\\\",
}
_CONTROLS = {
    code: _SHORT_ESCAPES.get(chr(code), f"\\x{code:02x}") for code in (*range(0x20), 0x5C, 0x7F)
}
_STRING_ESCAPES = {**_CONTROLS, ord('"'): '\\"'}
_SYMBOL_ESCAPES = {**_CONTROLS, ord("'"): "\\'"}

# Smallest adjusted exponent that is still written with leading zeros; below it, `1d-9`.
_MIN_PLAIN_EXPONENT = -6


def ion_string(text: str) -> str:
    """Quotes a string value on one line."""
    return f'"{text.translate(_STRING_ESCAPES)}"'


def ion_symbol(text: str) -> str:
    """Writes a field name, quoted where it is not a plain identifier.

    Names that start with ``$`` are always quoted: ``$10`` bare would be a symbol *number*.
    """
    if _PLAIN_SYMBOL.match(text) and text not in _KEYWORDS:
        return text
    return f"'{text.translate(_SYMBOL_ESCAPES)}'"


def ion_number(text: str) -> str:
    """Writes a DynamoDB number (decimal text, any length) as an Ion decimal, digit for digit.

    Raises:
        ValueDecodeError: The text is not a finite decimal number.
    """
    try:
        sign, digit_tuple, exponent = Decimal(text).as_tuple()
    except InvalidOperation as error:
        raise ValueDecodeError("A number is not decimal text", found=text) from error
    if not isinstance(exponent, int):
        raise ValueDecodeError("A number is not finite", found=text)
    all_digits = "".join(map(str, digit_tuple)).lstrip("0")
    digits = all_digits.rstrip("0")
    if not digits:
        return "0."
    exponent += len(all_digits) - len(digits)
    minus = "-" if sign else ""
    adjusted = len(digits) - 1 + exponent
    if exponent > 0:
        return f"{minus}{digits}d{exponent}"
    if exponent == 0:
        return f"{minus}{digits}."
    if adjusted >= 0:
        return f"{minus}{digits[: adjusted + 1]}.{digits[adjusted + 1 :]}"
    if adjusted >= _MIN_PLAIN_EXPONENT:
        return f"{minus}0.{'0' * (-adjusted - 1)}{digits}"
    return f"{minus}{digits}d{exponent}"


def _blob(base64_text: str) -> str:
    return "{{" + base64_text + "}}"


def ion_struct(attributes: Mapping[str, Mapping[str, Any]]) -> str:
    """Writes an item, or the content of an ``M``, as a struct."""
    fields = (f"{ion_symbol(name)}:{ion_value(value)}" for name, value in attributes.items())
    return "{" + ",".join(fields) + "}"


def ion_value(value: Mapping[str, Any]) -> str:
    """Writes one tagged DynamoDB JSON value, such as ``{"N": "1.5"}``.

    Raises:
        ValueDecodeError: The value has not exactly one tag, or an unknown one.
    """
    if len(value) != 1:
        raise ValueDecodeError("A value must have exactly one type tag", found=dict(value))
    ((tag, content),) = value.items()
    write = _WRITERS.get(tag)
    if write is None:
        raise ValueDecodeError("A value has an unknown type tag", found=tag)
    return write(content)


def _list(members: Iterable[str]) -> str:
    return "[" + ",".join(members) + "]"


_WRITERS: dict[str, Callable[[Any], str]] = {
    "S": ion_string,
    "N": ion_number,
    "B": _blob,
    "BOOL": lambda truth: "true" if truth else "false",
    "NULL": lambda _: "null",
    "M": ion_struct,
    "L": lambda members: _list(map(ion_value, members)),
    "SS": lambda members: "$dynamodb_SS::" + _list(map(ion_string, members)),
    "NS": lambda members: "$dynamodb_NS::" + _list(map(ion_number, members)),
    "BS": lambda members: "$dynamodb_BS::" + _list(map(_blob, members)),
}
