# SPDX-License-Identifier: Apache-2.0
"""A range of a table's partition keys: what a snapshot of a part of a table loads and sweeps.

Both ends are part of it. Texts and binaries are in order of their bytes, as DynamoDB orders sort
keys, numbers in order of their value. Whether a key is inside is decided on its canonical form
(`transforms.values.keys`), so the rows of an export and those of a mirror are judged alike.
"""

from __future__ import annotations

import dataclasses
import json
import re
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from dynabeam.transforms.errors import ConfigurationError, ValueDecodeError
from dynabeam.transforms.values.base64_columns import base64_or_none
from dynabeam.transforms.values.key_schema import KeySchema, KeyType
from dynabeam.transforms.values.keys import encode_key
from dynabeam.transforms.values.numbers import normalise_number

__all__ = ["LONGEST_BOUND", "KeyRange"]

LONGEST_BOUND = 512
"""Bytes of a bound. Mirrors cut keys that are too long for an index; this is far shorter."""

_FORM = re.compile(r'("(?:[^"\\]|\\.)*"|.*?)\.\.(.*)', re.DOTALL)
_HINT = (
    "Write --key_range=FROM..TO, e.g. --key_range=alice..bob; one end may be left out; a text that "
    'holds two dots is written as a JSON string: --key_range=\'"a..b".."c"\''
)
_NUL, _ESCAPED_NUL, _SEPARATOR = b"\x00", b"\x00\xff", b"\x00\x00"


@dataclasses.dataclass(frozen=True)
class KeyRange:
    """A range of partition keys of one table.

    Attributes:
        text: `FROM..TO`, as it was given.
        low: Canonical keys inside are not below.
        high: They are below this one. Both are exact unless the partition key is a number.
        first: The lowest number, if the partition key is one and the range has a begin.
        last: The highest number.
    """

    text: str
    low: bytes
    high: bytes
    first: Decimal | None = None
    last: Decimal | None = None

    @classmethod
    def of(cls, text: str, keys: KeySchema) -> KeyRange:
        """Reads `FROM..TO`.

        Raises:
            ConfigurationError: It is no range of such keys, or an empty one.
        """
        form = _FORM.fullmatch(text)
        ends = None if form is None else (_unquoted(form[1], text), _unquoted(form[2], text))
        if ends is None or ends == ("", ""):
            raise _refused("not a range of keys", text)
        kind = keys.hash.type
        if kind == "N":
            first, last = (Decimal(_number(each, text)) if each else None for each in ends)
            if first is not None and last is not None and first > last:
                raise _refused("the range is empty", text)
            return cls(text, b"N", b"O", first, last)
        low, high = (_canonical(each, kind, keys, text) if each else b"" for each in ends)
        if high and low > high:
            raise _refused("the range is empty", text)
        # What follows the partition key's bytes: nothing, or the separator and the sort key.
        behind = _NUL if keys.range is None else _NUL + b"\x01"
        return cls(text, low or kind.encode(), high + behind if high else bytes([ord(kind) + 1]))

    def holds(self, keys: pa.Array) -> pa.BooleanArray:
        """Which keys are inside.

        Args:
            keys: Canonical keys, binary, without nulls.
        """
        if self.first is not None or self.last is not None:
            return pa.array(map(self._holds_number, keys.to_pylist()), pa.bool_())
        keys = keys.cast(pa.binary())
        return pc.and_(
            pc.greater_equal(keys, pa.scalar(self.low, pa.binary())),
            pc.less(keys, pa.scalar(self.high, pa.binary())),
        )

    def _holds_number(self, key: bytes) -> bool:
        number = Decimal(key.partition(_SEPARATOR)[0][1:].decode("ascii"))
        above = self.first is None or number >= self.first
        return above and (self.last is None or number <= self.last)


def _unquoted(end: str, text: str) -> str:
    if not end.startswith('"'):
        return end
    try:
        found = json.loads(end)
    except ValueError as problem:
        raise _refused("not a range of keys", text) from problem
    return str(found)


def _number(end: str, text: str) -> str:
    try:
        return normalise_number(end)
    except ValueDecodeError as problem:
        raise _refused(f"the partition key is a number, and {end!r} is none", text) from problem


def _canonical(end: str, kind: KeyType, keys: KeySchema, text: str) -> bytes:
    if kind == "B" and base64_or_none(end) is None:
        raise _refused(f"the partition key is binary, and {end!r} is not base64", text)
    try:
        found = encode_key({keys.hash.name: {kind: end}}, KeySchema(keys.hash))
    except ValueDecodeError as problem:
        raise _refused(f"no partition key: {problem}", text) from problem
    if len(found) > LONGEST_BOUND:
        raise _refused(f"an end of the range is longer than {LONGEST_BOUND} bytes", text)
    return found if keys.range is None else found.replace(_NUL, _ESCAPED_NUL)


def _refused(what: str, text: str) -> ConfigurationError:
    return ConfigurationError(what, where="--key_range", found=text, hint=_HINT)
