# SPDX-License-Identifier: Apache-2.0
"""A plain decoder of what DynamoDB writes, made of the standard library: the oracle's eyes.

It shares nothing with the product. What it reads are nested tuples that start with the type's tag,
so that equal values are equal here and no two types are.
"""

import base64
import decimal
import json
import math
import re

from amazon.ion import simpleion
from amazon.ion.core import IonType
from amazon.ion.exceptions import IonException

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_MOST_LEVELS = 128
_BASE64 = re.compile(r"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


class UnreadableError(Exception):
    """This is not what DynamoDB writes."""


class DoubtfulError(Exception):
    """Readers differ: a name is there twice, or it is too deep for some of them."""


class TooDeepError(DoubtfulError):
    """It nests deeper than recursive readers go; whether it is JSON at all they do not say."""


class Digits(str):
    """A number of JSON, as it is spelled."""

    __slots__ = ()


def plain_json(data):
    """Strict JSON: UTF-8, no lone surrogates, no NaN; numbers as they are spelled."""
    doubled = []

    def pairs(members):
        if len({name for name, _ in members}) < len(members):
            doubled.append(members)
        return dict(members)

    try:
        found = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=pairs,
            parse_float=Digits,
            parse_int=Digits,
            parse_constant=_no_number,
        )
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise TooDeepError from error
    except (ValueError, UnicodeError) as error:
        raise UnreadableError(str(error)) from error
    if doubled:
        raise DoubtfulError
    return found


def _no_number(name):
    raise ValueError(name)


def plain_item(item):
    """An item of parsed DynamoDB JSON: name → value."""
    return _map(item, 0)[1]


def plain_value(value, depth=0):
    if not isinstance(value, dict) or len(value) != 1:
        raise UnreadableError(f"no value: {value!r:.80}")
    ((tag, payload),) = value.items()
    if tag in _SCALARS:
        return _SCALARS[tag](payload)
    if tag in ("SS", "NS", "BS"):
        if not isinstance(payload, list):
            raise UnreadableError("no set")
        return tag, frozenset(_SCALARS[tag[0]](each) for each in payload)
    if tag == "L":
        if not isinstance(payload, list) or depth > _MOST_LEVELS:
            raise UnreadableError("no list, or too deep")
        return "L", tuple(plain_value(each, depth + 1) for each in payload)
    if tag == "M":
        return _map(payload, depth)
    raise UnreadableError(f"no tag: {tag!r:.80}")


def _map(payload, depth):
    if not isinstance(payload, dict) or depth > _MOST_LEVELS:
        raise UnreadableError("no map, or too deep")
    return "M", {name: plain_value(each, depth + 1) for name, each in payload.items()}


def _text(payload):
    if type(payload) is not str:
        raise UnreadableError("no text")
    return "S", payload


def plain_number(payload):
    if type(payload) is not str or not _NUMBER.fullmatch(payload):
        raise UnreadableError("no number")
    with decimal.localcontext() as context:
        context.prec, context.Emax, context.Emin = 9999, decimal.MAX_EMAX, decimal.MIN_EMIN
        context.traps[decimal.InvalidOperation] = True
        try:
            value = decimal.Decimal(payload)
        except decimal.InvalidOperation as error:
            raise UnreadableError("no number that can be") from error
        if not value.is_finite():
            raise UnreadableError("no number that can be")
        sign, digits, exponent = value.as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    if not text:
        return "N", (0, "0", 0)
    short = text.rstrip("0")
    exponent += len(text) - len(short)
    if len(short) > 38 or not -130 <= exponent + len(short) - 1 <= 125:
        raise UnreadableError("a number out of range")
    return "N", (sign, short, exponent)


def _binary(payload):
    if type(payload) is not str or not _BASE64.fullmatch(payload):
        raise UnreadableError("no base64")
    return "B", base64.b64decode(payload)


def _bool(payload):
    if not isinstance(payload, bool):
        raise UnreadableError("no BOOL")
    return "BOOL", payload


def _null(payload):
    if not isinstance(payload, bool):
        raise UnreadableError("no NULL")
    return ("NULL",)


_SCALARS = {"S": _text, "N": plain_number, "B": _binary, "BOOL": _bool, "NULL": _null}


def told(value):
    """What the product made of a value, in the form of this decoder."""
    kind = type(value).__name__
    if kind in ("StringSet", "NumberSet", "BinarySet"):
        return value.tag, frozenset(told(each) for each in value)
    if isinstance(value, bool):
        return "BOOL", value
    if value is None:
        return ("NULL",)
    if isinstance(value, str):
        return "S", value
    if isinstance(value, bytes):
        return "B", value
    if isinstance(value, decimal.Decimal):
        return plain_number(str(value))
    if isinstance(value, list):
        return "L", tuple(told(each) for each in value)
    assert isinstance(value, dict)
    return "M", {name: told(each) for name, each in value.items()}


def plain_key(item, schema):
    """The key's values in an item of parsed JSON; each of the schema's type."""
    if not isinstance(item, dict):
        raise UnreadableError("no item")
    found = []
    for each in schema.attributes:
        value = plain_value(item.get(each.name))
        if value[0] != each.type:
            raise UnreadableError("a key of another type")
        found.append(value)
    return tuple(found)


def plain_ion(line):
    """The members of one line of an Ion export: name → struct as `plain_item` gives it."""
    try:
        found = simpleion.loads(line.decode("utf-8"), single_value=False)
    except UnicodeError as error:
        raise UnreadableError(str(error)) from error
    except RecursionError as error:
        raise TooDeepError from error
    except (IonException, ValueError, TypeError, ArithmeticError, IndexError, KeyError) as error:
        raise UnreadableError(str(error)) from error
    if len(found) != 1 or _type(found[0]) is not IonType.STRUCT:
        raise UnreadableError("a line is one struct")
    record = dict(_members(found[0]))
    if set(record) == {"Record"} and _type(record["Record"]) is IonType.STRUCT:
        record = dict(_members(record["Record"]))
    return {name: _ion_struct(value) for name, value in record.items()}


def _type(value):
    return getattr(value, "ion_type", None)


def _members(struct):
    members = [(name, value) for name, value in struct.items()]
    if len({name for name, _ in members}) < len(members):
        raise DoubtfulError
    for name, value in members:
        if name is None:
            raise UnreadableError("a field without a name")
        yield str(name), value


def _ion_struct(value):
    found = _ion_value(value)
    if found[0] != "M":
        raise UnreadableError("no struct")
    return found[1]


def _ion_value(value):  # noqa: C901 - one line for each type
    kind = _type(value)
    annotations = [each.text for each in getattr(value, "ion_annotations", ())]
    if annotations:
        tag = (annotations[0] or "").removeprefix("$dynamodb_")
        if len(annotations) > 1 or kind is not IonType.LIST or tag not in ("SS", "NS", "BS"):
            raise UnreadableError("an annotation")
        members = [_ion_value(each) for each in value]
        if any(each[0] != tag[0] for each in members):
            raise UnreadableError("a set of something else")
        return tag, frozenset(members)
    if kind is IonType.NULL or value is None or type(value).__name__ == "IonPyNull":
        return ("NULL",)
    if kind is IonType.BOOL:
        return "BOOL", bool(value)
    if kind is IonType.STRING:
        _encodable(value)
        return "S", str(value)
    if kind in (IonType.INT, IonType.DECIMAL):
        return plain_number(str(value))
    if kind is IonType.BLOB:
        return "B", bytes(value)
    if kind is IonType.LIST:
        return "L", tuple(_ion_value(each) for each in value)
    if kind is IonType.STRUCT:
        return "M", {name: _ion_value(each) for name, each in _members(value)}
    raise UnreadableError(f"{kind} is none of DynamoDB's")


def _encodable(text):
    try:
        str(text).encode("utf-8")
    except UnicodeError as error:
        raise UnreadableError(str(error)) from error


def plain_time(text):
    """Seconds since 1970 as a JSON number, exactly; None if it is none."""
    if not isinstance(text, Digits) or math.isinf(float(text)):
        return None
    return decimal.Decimal(text)
