# SPDX-License-Identifier: Apache-2.0
"""The lines of an Ion export in the form that the service writes, by one pass over their tokens.

It knows what such lines hold (plain names, texts without escapes, numbers, blobs, sets, lists and
structs on one line) and answers None for all else: then the exact parser of
`transforms.values.ion_text` says what the line is, or what is wrong with it. What both take they
say alike, which a test with any lines holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.values.numbers import normalise_number
from dynabeam.transforms.values.python_values import base64_bytes

__all__ = ["quick_line"]

_START = re.compile(r"[ \t]*(?:\$ion_1_0[ \t]+)?\{")
_END = re.compile(r"[ \t\r]*")
_TOKEN = re.compile(
    r"""[ \t]*(?:
      (,)
    | ([\]}])
    | ([A-Za-z_][A-Za-z0-9_]*|'[^'\\\x00-\x1f]+')[ \t]*:(?!:)
    | "([^"\\\x00-\x1f]*)"
    | (-?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[dD][+-]?[0-9]+)?)(?=[ \t,\]}])
    | (true|false|null)(?=[ \t,\]}])
    | \{\{([A-Za-z0-9+/]*=?=?)\}\}
    | ([\[{])
    | \$dynamodb_([SNB]S)::\[
    )""",
    re.VERBOSE,
)
_COMMA, _CLOSE, _FIELD, _TEXT, _NUMBER, _WORD, _BLOB, _OPEN, _SET = range(1, 10)
_RECORDS = frozenset({"Item", "Metadata", "Keys", "OldImage", "NewImage"})
_NO_NAMES = frozenset({"null", "true", "false", "nan"})
_WORDS: dict[str, tuple[str, bool]] = {
    "true": ("BOOL", True), "false": ("BOOL", False), "null": ("NULL", True),
}  # fmt: skip
_DEEPEST = 24
_MEMBERS = {"SS": _TEXT, "NS": _NUMBER, "BS": _BLOB}

_Next = Callable[[], "re.Match[str] | None"]


class _OddError(Exception):
    """The line is not in the form that the service writes."""


def quick_line(text: str) -> dict[str, Any] | None:
    """The members of one line's record as DynamoDB JSON; None if another parser has to say it.

    Args:
        text: The line, without a newline.
    """
    start = _START.match(text)
    if start is None:
        return None
    scanner = _TOKEN.scanner(text, start.end())  # type: ignore[attr-defined]
    following: _Next = scanner.match
    members: dict[str, Any] = {}
    try:
        while True:
            name, _ = _field(following, members)
            if name not in _RECORDS:
                return None
            token = _token(following)
            if token.lastindex != _OPEN or token[_OPEN] != "{":
                return None
            members[name] = _struct(following, 1)
            token = _token(following)
            if token.lastindex == _CLOSE and token[_CLOSE] == "}":
                break
            if token.lastindex != _COMMA:
                return None
    except (_OddError, ValueDecodeError):
        return None
    rest = _END.match(text, token.end())
    return members if rest is not None and rest.end() == len(text) else None


def _token(following: _Next) -> re.Match[str]:
    token = following()
    if token is None:
        raise _OddError
    return token


def _field(following: _Next, known: dict[str, Any]) -> tuple[str, bool]:
    """The name of the next field; or, before the first one, that the struct is empty."""
    token = _token(following)
    if token.lastindex == _CLOSE and not known and token[_CLOSE] == "}":
        return "", True
    if token.lastindex != _FIELD:
        raise _OddError
    name = token[_FIELD]
    if name[0] == "'":
        name = name[1:-1]
    elif name in _NO_NAMES:
        raise _OddError
    if name in known:
        raise _OddError
    return name, False


def _struct(following: _Next, depth: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    while True:
        name, is_empty = _field(following, values)
        if is_empty:
            return values
        values[name] = _value(_token(following), following, depth)
        token = _token(following)
        if token.lastindex == _COMMA:
            continue
        if token.lastindex == _CLOSE and token[_CLOSE] == "}":
            return values
        raise _OddError


def _value(token: re.Match[str], following: _Next, depth: int) -> dict[str, Any]:
    kind = token.lastindex
    if kind == _TEXT:
        return {"S": token[_TEXT]}
    if kind == _NUMBER:
        return {"N": _number(token[_NUMBER])}
    if kind == _WORD:
        tag, word = _WORDS[token[_WORD]]
        return {tag: word}
    if kind == _BLOB:
        return {"B": _blob(token[_BLOB])}
    if kind == _SET:
        tag = token[_SET]
        return {tag: _set(following, _MEMBERS[tag])}
    if kind != _OPEN or depth >= _DEEPEST:
        raise _OddError
    if token[_OPEN] == "{":
        return {"M": _struct(following, depth + 1)}
    return {"L": _list(following, depth + 1)}


def _list(following: _Next, depth: int) -> list[Any]:
    values: list[Any] = []
    token = _token(following)
    if token.lastindex == _CLOSE and token[_CLOSE] == "]":
        return values
    while True:
        values.append(_value(token, following, depth))
        if _is_over(following):
            return values
        token = _token(following)


def _set(following: _Next, kind: int) -> list[str]:
    members: list[str] = []
    token = _token(following)
    if token.lastindex == _CLOSE and token[_CLOSE] == "]":
        return members
    while True:
        if token.lastindex != kind:
            raise _OddError
        text = token[kind]
        members.append(text if kind == _TEXT else _number(text) if kind == _NUMBER else _blob(text))
        if _is_over(following):
            return members
        token = _token(following)


def _is_over(following: _Next) -> bool:
    """True after the last value of a list, false after another one."""
    token = _token(following)
    if token.lastindex == _COMMA:
        return False
    if token.lastindex == _CLOSE and token[_CLOSE] == "]":
        return True
    raise _OddError


def _number(text: str) -> str:
    return normalise_number(text.lower().replace("d", "e"))


def _blob(text: str) -> str:
    try:
        encoded: str = msgspec.to_builtins(base64_bytes(text))
    except ValueError as problem:
        raise _OddError from problem
    return encoded
