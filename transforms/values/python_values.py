# SPDX-License-Identifier: Apache-2.0
r"""DynamoDB JSON to Python and back, without loss.

| tag  | Python | note |
|---|---|---|
| S    | `str` | any text that UTF-8 can hold, U+0000 included |
| N    | `decimal.Decimal` | canonical, all 38 digits; built from text, so no context rounds it |
| B    | `bytes` | base64 text on the wire; `bytes`, as boto3 gives them, are taken too |
| BOOL | `bool` | |
| NULL | `None` | an absent attribute is an absent name, so the two differ |
| SS NS BS | `StringSet`, `NumberSet`, `BinarySet` | keep their type even when empty |
| L    | `list` | |
| M    | `dict` | any names, also "S" or "a.b" |

`{"NULL": false}` is not something the service sends, but its SDKs accept it: it decodes to `None`
and so encodes as `{"NULL": true}`.

Two spellings of one number, and a set with a repeated member, are one value here. Everything that
is not a DynamoDB value raises `ValueDecodeError` with the path to the value, such as `$["a"][3]`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from decimal import Decimal
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.values.numbers import normalise_number

__all__ = [
    "MAX_NESTING",
    "NULL",
    "BinarySet",
    "NumberSet",
    "StringSet",
    "Value",
    "base64_bytes",
    "decode_item",
    "decode_value",
    "encode_item",
    "encode_value",
    "parse_json",
    "path_text",
    "shown",
]

NULL = None
"""What a DynamoDB NULL is in Python. Absent is something else: an absent name."""

MAX_NESTING = 128
"""Levels of L and M that are followed. The service allows 32; the rest is for emulators."""

_BASE64 = re.compile("[A-Za-z0-9+/]*={0,2}")

Member = TypeVar("Member", str, Decimal, bytes)
Path = tuple[str | int, ...]
Value = Any
"""One of the Python types of the table above; recursive, so left to the docstring."""


class _TypedSet(AbstractSet[Member], Generic[Member]):
    """An immutable set that knows its DynamoDB tag; sets of different tags are never equal."""

    __slots__ = ("_members",)
    tag: ClassVar[str]

    def __init__(self, members: Iterable[Member] = ()) -> None:
        self._members: frozenset[Member] = frozenset(members)

    def __contains__(self, member: object) -> bool:
        return member in self._members

    def __iter__(self) -> Iterator[Member]:
        """Iterate in sorted order, so that text made of a set is the same in every process."""
        return iter(sorted(self._members))

    def __len__(self) -> int:
        return len(self._members)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._members == other._members

    def __hash__(self) -> int:
        return hash((self.tag, self._members))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)!r})"


class StringSet(_TypedSet[str]):
    """An `SS`."""

    __slots__ = ()
    tag = "SS"


class NumberSet(_TypedSet[Decimal]):
    """An `NS`."""

    __slots__ = ()
    tag = "NS"


class BinarySet(_TypedSet[bytes]):
    """A `BS`."""

    __slots__ = ()
    tag = "BS"


def parse_json(data: bytes | str) -> Any:
    """Parse JSON strictly: valid UTF-8, no lone surrogates, no NaN.

    Raises:
        ValueDecodeError: The data is no JSON.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ValueDecodeError(
            f"This is not valid JSON in UTF-8 ({error})", found=shown(data)
        ) from error


def decode_item(item: Mapping[str, Any] | bytes | str) -> dict[str, Value]:
    """Decode an item: `{name: {tag: payload}}`, parsed or as JSON text.

    Raises:
        ValueDecodeError: The item or one of its values is not DynamoDB JSON.
    """
    parsed = parse_json(item) if isinstance(item, (bytes, str)) else item
    return _decode_map(parsed, (), 0)


def decode_value(value: Mapping[str, Any] | bytes | str) -> Value:
    """Decode one attribute value: `{tag: payload}`, parsed or as JSON text.

    Raises:
        ValueDecodeError: The value is not DynamoDB JSON.
    """
    parsed = parse_json(value) if isinstance(value, (bytes, str)) else value
    return _decode(parsed, (), 0)


def encode_item(item: Mapping[str, Value]) -> dict[str, dict[str, Any]]:
    """Encode an item as parsed DynamoDB JSON, with binary as base64 text and sets sorted.

    Raises:
        ValueDecodeError: A value has no DynamoDB counterpart; a `float` has none on purpose, as it
            would not come back as it went in.
    """
    return _encode_map(item, (), 0)


def encode_value(value: Value) -> dict[str, Any]:
    """Encode one value as parsed DynamoDB JSON; see `encode_item`.

    `int` is taken for `Decimal`, `bytearray` and `memoryview` for `bytes`, `tuple` for `list`.
    """
    return _encode(value, (), 0)


def _decode(value: Any, path: Path, depth: int) -> Value:
    if not isinstance(value, Mapping) or len(value) != 1:
        raise _wrong("An attribute value is an object with exactly one type tag", path, value)
    ((tag, payload),) = value.items()
    decoder = _DECODERS.get(tag)
    if decoder is None:
        raise _wrong("An attribute value has an unknown type tag", path, value)
    return decoder(payload, path, depth)


def _decode_string(payload: Any, path: Path, _depth: int = 0) -> str:
    if not isinstance(payload, str):
        raise _wrong("A string's payload is not text", path, payload)
    return _checked_text(payload, path)


def _decode_number(payload: Any, path: Path, _depth: int = 0) -> Decimal:
    if not isinstance(payload, str):
        raise _wrong("A number's payload is not text", path, payload)
    try:
        return Decimal(normalise_number(payload))
    except ValueDecodeError as error:
        raise ValueDecodeError(str(error).rstrip("."), where=path_text(path)) from error


def _decode_binary(payload: Any, path: Path, _depth: int = 0) -> bytes:
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return bytes(payload)
    if not isinstance(payload, str):
        raise _wrong("A binary's payload is not base64 text", path, payload)
    try:
        return base64_bytes(payload)
    except ValueError as error:
        raise _wrong("A binary's payload is not padded standard base64", path, payload) from error


def _decode_bool(payload: Any, path: Path, _depth: int) -> bool:
    if not isinstance(payload, bool):
        raise _wrong("A BOOL is true or false", path, payload)
    return payload


def _decode_null(payload: Any, path: Path, _depth: int) -> None:
    if not isinstance(payload, bool):
        raise _wrong("A NULL's payload is true", path, payload)


def _members(payload: Any, path: Path, decode: Callable[[Any, Path], Any]) -> Iterator[Any]:
    if not isinstance(payload, (list, tuple, set, frozenset)):
        raise _wrong("A set's payload is not a list", path, payload)
    for position, member in enumerate(payload):
        yield decode(member, (*path, position))


def _decode_string_set(payload: Any, path: Path, _depth: int) -> StringSet:
    return StringSet(_members(payload, path, _decode_string))


def _decode_number_set(payload: Any, path: Path, _depth: int) -> NumberSet:
    return NumberSet(_members(payload, path, _decode_number))


def _decode_binary_set(payload: Any, path: Path, _depth: int) -> BinarySet:
    return BinarySet(_members(payload, path, _decode_binary))


def _decode_list(payload: Any, path: Path, depth: int) -> list[Value]:
    if not isinstance(payload, (list, tuple)):
        raise _wrong("A list's payload is not a list", path, payload)
    _check_depth(path, depth)
    return [_decode(each, (*path, position), depth + 1) for position, each in enumerate(payload)]


def _decode_map(payload: Any, path: Path, depth: int) -> dict[str, Value]:
    if not isinstance(payload, Mapping):
        raise _wrong("A map's payload is not an object", path, payload)
    _check_depth(path, depth)
    return {
        _checked_name(name, path): _decode(each, (*path, name), depth + 1)
        for name, each in payload.items()
    }


_DECODERS: dict[str, Callable[[Any, Path, int], Value]] = {
    "S": _decode_string,
    "N": _decode_number,
    "B": _decode_binary,
    "BOOL": _decode_bool,
    "NULL": _decode_null,
    "SS": _decode_string_set,
    "NS": _decode_number_set,
    "BS": _decode_binary_set,
    "L": _decode_list,
    "M": _decode_map,
}


def _encode(value: Value, path: Path, depth: int) -> dict[str, Any]:
    if isinstance(value, str):
        return {"S": _checked_text(value, path)}
    if value is None:
        return {"NULL": True}
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, (Decimal, int)):
        return {"N": _number_text(value, path)}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"B": _base64(value)}
    if isinstance(value, Mapping):
        return {"M": _encode_map(value, path, depth)}
    if isinstance(value, (list, tuple)):
        _check_depth(path, depth)
        return {"L": [_encode(each, (*path, at), depth + 1) for at, each in enumerate(value)]}
    return _encode_set(value, path)


def _encode_set(value: Value, path: Path) -> dict[str, Any]:
    if isinstance(value, StringSet):
        return {"SS": [_checked_text(each, path) for each in value]}
    if isinstance(value, NumberSet):
        return {"NS": [_number_text(each, path) for each in value]}
    if isinstance(value, BinarySet):
        return {"BS": [_base64(each) for each in value]}
    raise _wrong(f"A Python {type(value).__name__} has no DynamoDB counterpart", path, value)


def _encode_map(value: Any, path: Path, depth: int) -> dict[str, dict[str, Any]]:
    if not isinstance(value, Mapping):
        raise _wrong("An item is a mapping of names to values", path, value)
    _check_depth(path, depth)
    return {
        _checked_name(name, path): _encode(each, (*path, name), depth + 1)
        for name, each in value.items()
    }


def _number_text(value: Decimal | int, path: Path) -> str:
    try:
        return normalise_number(str(value))
    except (ValueDecodeError, ValueError) as error:
        raise ValueDecodeError(str(error).rstrip("."), where=path_text(path)) from error


def base64_bytes(text: str) -> bytes:
    """Decode padded standard base64, nothing laxer.

    Raises:
        ValueError: Padding is missing or superfluous, or a character is not of the alphabet.
    """
    # The decoder itself passes over superfluous padding, in some versions of Python.
    if len(text) % 4 or not _BASE64.fullmatch(text):
        raise ValueError("this is not base64 text in groups of four characters")
    return base64.b64decode(text)


def _base64(value: bytes | bytearray | memoryview) -> str:
    return base64.b64encode(value).decode("ascii")


def _checked_text(text: str, path: Path) -> str:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise _wrong("A text has a lone surrogate, which is not UTF-8", path, text) from error
    return text


def _checked_name(name: Any, path: Path) -> str:
    if not isinstance(name, str):
        raise _wrong("An attribute's name is not text", path, name)
    return _checked_text(name, path)


def _check_depth(path: Path, depth: int) -> None:
    if depth > MAX_NESTING:
        raise ValueDecodeError(
            "A value is nested too deep",
            where=path_text(path[:5]) + "...",
            expected=f"at most {MAX_NESTING} levels (DynamoDB allows 32)",
        )


def path_text(path: Path) -> str:
    """Return a path as people read it: `$["a"][3]`."""
    steps = (f"[{step}]" if isinstance(step, int) else f'["{step}"]' for step in path)
    return "$" + "".join(steps)


def shown(data: Any, limit: int = 200) -> Any:
    """Return the beginning of a value, enough to recognise it in an error text."""
    if isinstance(data, bytes):
        return data if len(data) <= limit else data[:limit] + b"..."
    text = data if isinstance(data, str) else repr(data)
    return data if len(text) <= limit else f"{text[:limit]}..."


def _wrong(what: str, path: Path, found: Any) -> ValueDecodeError:
    return ValueDecodeError(what, where=path_text(path), found=shown(found))
