# SPDX-License-Identifier: Apache-2.0
"""JSON texts as canonical text: the same exactly if they say the same, whatever they say.

Inside a DynamoDB value names and members of sets have no order, and a number's text has many
spellings. Everything else (a value without a type tag, with two, or with a payload of another
type: the service writes none, an edited export may) is plain JSON: there, too, white space, the
order of names and spellings of a number (`1.0`, `1`, `10E-1`) carry no meaning, and a column of
`jsonb` keeps none of them. Of a name that is there twice the last one counts, as for `jsonb`.

Nothing here is recursive, because values may nest as deep as a sink takes them.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.values.numbers import normalise_number

__all__ = ["canonical_item", "canonical_list", "canonical_plain", "canonical_value"]

_Form = Literal["value", "json"]

_NUMBER = re.compile(r"(-?)([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{1,4000}))?")


class _Number(str):
    """The text of a JSON number that is no short integer."""


_decode = msgspec.json.Decoder(float_hook=_Number).decode
_encode = msgspec.json.Encoder(order="sorted").encode


def canonical_item(text: str) -> str:
    """An object of attribute names and DynamoDB JSON values; what is no JSON as it is."""
    return _canonical(text, "value", dict)


def canonical_list(text: str) -> str:
    """An array of DynamoDB JSON values; what is no JSON as it is."""
    return _canonical(text, "value", list)


def canonical_value(text: str) -> str:
    """One DynamoDB JSON value; what is no JSON as it is."""
    return _canonical(text, "value", None)


def canonical_plain(text: str) -> str:
    """Plain JSON; what is no JSON as it is."""
    return _canonical(text, "json", None)


def _canonical(text: str, form: _Form, members_of: type | None) -> str:
    try:
        root = [_decode(text)]
    except (msgspec.MsgspecError, RecursionError):
        # Not what any sink stores: it stands for itself, and is a difference.
        return text
    todo: list[tuple[Any, Any, _Form]] = [(root, 0, form)]
    if members_of is not None:
        todo = _members(root[0], form) if isinstance(root[0], members_of) else [(root, 0, "json")]
    while todo:
        container, place, form = todo.pop()
        node = container[place]
        if form == "value" and _is_value(node):
            ((tag, payload),) = node.items()
            if tag in ("M", "L"):
                todo += _members(payload, "value")
            else:
                node[tag] = _scalar(tag, payload)
        elif isinstance(node, (dict, list)):
            todo += _members(node, "json")
        elif isinstance(node, (_Number, int)) and not isinstance(node, bool):
            container[place] = msgspec.Raw(_number(_spelled(node)).encode())
    return _encode(root[0]).decode()


def _spelled(number: str | int) -> str:
    # Python writes integers of up to 4,300 digits only.
    if isinstance(number, int) and number.bit_length() > 10_000:
        return f'"{number:x}"'
    return str(number)


def _members(node: Any, form: _Form) -> list[tuple[Any, Any, _Form]]:
    places = node if isinstance(node, dict) else range(len(node))
    return [(node, place, form) for place in places]


_PAYLOADS: dict[str, type] = {
    "S": str,
    "N": str,
    "B": str,
    "BOOL": bool,
    "NULL": bool,
    "SS": list,
    "NS": list,
    "BS": list,
    "L": list,
    "M": dict,
}


def _is_value(node: Any) -> bool:
    """Whether it has one tag of DynamoDB's, and a payload of its type."""
    if not isinstance(node, dict) or len(node) != 1:
        return False
    tag: str = next(iter(node))
    payload: Any = node[tag]
    kind = _PAYLOADS.get(tag)
    # A number of JSON is no text, though it is kept as one.
    if kind is None or not isinstance(payload, kind) or isinstance(payload, _Number):
        return False
    if tag not in ("SS", "NS", "BS"):
        return True
    return all(type(each) is str for each in node[tag])


def _scalar(tag: str, payload: Any) -> Any:
    if tag == "N":
        return _number_text(payload)
    if tag == "NS":
        return sorted({_number_text(each) for each in payload})
    return sorted(set(payload)) if tag in ("SS", "BS") else payload


def _number_text(text: str) -> str:
    # Most are short integers, which need no second look.
    if text.isdecimal() and text.isascii() and text[0] != "0" and len(text) < 20:
        return text
    try:
        return normalise_number(text)
    except ValueDecodeError:
        return text


def _number(text: str) -> str:
    """A number of JSON, of any size, by its value."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return text
    sign, whole, fraction, exponent = match[1], match[2], match[3] or "", int(match[4] or 0)
    digits = (whole + fraction).lstrip("0")
    significant = digits.rstrip("0")
    if not significant:
        return "0"
    exponent += len(digits) - len(significant) - len(fraction)
    if 0 <= exponent <= 20:
        return f"{sign}{significant}{'0' * exponent}"
    if -20 <= exponent < 0:
        padded = significant.rjust(1 - exponent, "0")
        return f"{sign}{padded[:exponent]}.{padded[exponent:]}"
    return f"{sign}{significant}E{exponent}"
