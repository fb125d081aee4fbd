# SPDX-License-Identifier: Apache-2.0
r"""Exports in Amazon Ion text, rewritten exactly as lines of DynamoDB JSON.

A line `$ion_1_0 {Item:{id:"a",n:6d2}}` becomes `{"Item":{"id":{"S":"a"},"n":{"N":"600"}}}`, which
is what the same export in `DYNAMODB_JSON` would say, so everything after this step is one path.

| Ion | DynamoDB |
|---|---|
| string, also long (`'''a''' '''b'''`) | S |
| decimal (`103.`, `6d2`, `1.5d-3`), also int | N, canonical |
| blob `{{aGk=}}` | B |
| bool; null of any type | BOOL; NULL |
| `$dynamodb_SS::[...]`, `$dynamodb_NS::`, `$dynamodb_BS::` | SS, NS, BS |
| list, struct | L, M |

The parser knows what exports contain and no more: floats, timestamps, symbols as values, clobs,
s-expressions, symbol numbers such as `$10`, comments, other annotations and doubled names are
refused with their column, rather than guessed at. Field names may be symbols, quoted symbols or
strings. The keys of an incremental record may be in the line's struct or within `Record:{...}`,
as no reference says which it is. Lines in the service's own form take a quicker way to the same
answer (`transforms.values.ion_quick`).

Sources: Amazon Ion 1.0 specification, text encoding; DynamoDB developer guide, table export output
format.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.values.ion_quick import quick_line
from dynabeam.transforms.values.lines import BadLine
from dynabeam.transforms.values.numbers import normalise_number
from dynabeam.transforms.values.python_values import MAX_NESTING, base64_bytes, shown

__all__ = ["ion_line_to_json", "ion_lines_to_json"]

_VERSION_MARKER = "$ion_1_0"
_BINARY_ION = b"\xe0\x01\x00\xea"
_RECORD_MEMBERS = frozenset({"Item", "Metadata", "Keys", "OldImage", "NewImage"})
_KEYWORDS = frozenset({"null", "true", "false", "nan"})
_NULL = re.compile(
    r"null(?:\.(?:null|bool|int|float|decimal|timestamp|symbol|string|clob|blob|list|sexp|struct))?"
    r"(?![A-Za-z0-9_$.])"
)

_SPACE = re.compile(r"[ \t\r\n\v\f]*")
_SYMBOL = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
_SYMBOL_NUMBER = re.compile(r"\$[0-9]+")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[dD][+-]?[0-9]+)?")
_AFTER_NUMBER = re.compile(r"[\s,\]})]|$")
_BLOB = re.compile(r"\{\{([A-Za-z0-9+/=\s]*)\}\}")

_CONTROLS = r"\x00-\x08\x0a\x0d-\x1f"
_SHORT = {
    quote: re.compile(rf"[^{quote}\\{_CONTROLS}]*(?:\\.[^{quote}\\{_CONTROLS}]*)*", re.DOTALL)
    for quote in "\"'"
}
_LONG = re.compile(r"(?:[^'\\]|\\.|'(?!''))*", re.DOTALL)
_ESCAPE = re.compile(
    r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(\r\n|.))", re.DOTALL
)
_SIMPLE_ESCAPES = {
    "0": "\0", "a": "\a", "b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "v": "\v",
    '"': '"', "'": "'", "?": "?", "\\": "\\", "/": "/", "\n": "", "\r": "", "\r\n": "",
}  # fmt: skip

_ENCODE = msgspec.json.Encoder().encode


def ion_line_to_json(line: bytes) -> bytes:
    """Rewrite one line of an Ion export as DynamoDB JSON, without a newline.

    Raises:
        ValueDecodeError: The line is not what an export contains; the error names the column.
    """
    if line.startswith(_BINARY_ION):
        raise ValueDecodeError("This is binary Ion; exports are Ion text", found=shown(line, 40))
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueDecodeError(f"An Ion line is not UTF-8 ({error})", found=shown(line)) from error
    members = quick_line(text)
    return _ENCODE(members if members is not None else _Parser(text).line())


def ion_lines_to_json(data: bytes | bytearray | memoryview) -> tuple[bytes, list[BadLine]]:
    """Rewrite whole lines of an Ion export's data file as lines of DynamoDB JSON.

    Returns:
        The JSON lines, and the lines that could not be read, with number, raw bytes and reason.
        Line n of the answer is line n of the data: a bad line is blank, so that
        `transforms.values.lines` passes over it and counts on rightly.
    """
    lines: list[bytes] = []
    bad: list[BadLine] = []
    for number, line in enumerate(bytes(data).split(b"\n"), start=1):
        if not line.strip():
            lines.append(b"")
            continue
        try:
            lines.append(ion_line_to_json(line))
        except ValueDecodeError as error:
            lines.append(b"")
            bad.append((number, line, str(error)))
    return b"\n".join(lines), bad


class _Parser:
    """A recursive descent over one line. `at` is the place of the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def line(self) -> dict[str, Any]:
        self.skip_space()
        if self.text.startswith(_VERSION_MARKER, self.at):
            self.at += len(_VERSION_MARKER)
        members = self.record()
        self.skip_space()
        if self.at < len(self.text):
            raise self.wrong("A line holds more than one value")
        return members

    def record(self) -> dict[str, Any]:
        """Read the struct of a line: members that are structs of attributes, or one `Record`."""
        members: dict[str, Any] = {}

        def member(name: str) -> None:
            if name == "Record":
                self.add(members, self.record())
            elif name in _RECORD_MEMBERS:
                self.add(members, {name: self.struct(1)})
            else:
                self.value(1)  # something new beside the record: read, and left out

        self.fields(member)
        return members

    def add(self, members: dict[str, Any], new: dict[str, Any]) -> None:
        doubled = members.keys() & new.keys()
        if doubled:
            raise self.wrong(f"A struct has the field {min(doubled)!r} twice")
        members.update(new)

    def struct(self, depth: int) -> dict[str, Any]:
        """Read a struct of attribute values."""
        values: dict[str, Any] = {}
        self.fields(lambda name: self.add(values, {name: self.value(depth)}))
        return values

    def fields(self, read: Callable[[str], None]) -> None:
        self.skip_space()
        if not self.take("{"):
            raise self.wrong("A struct was expected")
        self.skip_space()
        if self.take("}"):
            return
        while True:
            name = self.field_name()
            self.expect(":")
            read(name)
            self.skip_space()
            if self.take("}"):
                return
            self.expect(",")

    def field_name(self) -> str:
        self.skip_space()
        if self.text.startswith(('"', "'"), self.at):
            return self.quoted()
        match = _SYMBOL.match(self.text, self.at)
        if match is None:
            raise self.wrong("A field name was expected")
        name = match.group()
        if name in _KEYWORDS or _SYMBOL_NUMBER.fullmatch(name):
            raise self.wrong(f"{name!r} is no field name unless it is quoted")
        self.at = match.end()
        return name

    def value(self, depth: int) -> dict[str, Any]:
        """Read one attribute value as DynamoDB JSON."""
        if depth > MAX_NESTING:
            raise self.wrong(f"Values are nested deeper than {MAX_NESTING} levels")
        self.skip_space()
        text, at = self.text, self.at
        first = text[at : at + 1]
        if first == '"' or text.startswith("'''", at):
            return {"S": self.quoted()}
        if text.startswith("{{", at):
            return {"B": self.blob()}
        if first == "{":
            return {"M": self.struct(depth + 1)}
        if first == "[":
            return {"L": self.members(lambda: self.value(depth + 1))}
        if first == "'" or _SYMBOL.match(text, at):
            return self.word()
        return {"N": self.number()}

    def word(self) -> dict[str, Any]:
        """Read what begins like a symbol: true, false, null or an annotated set."""
        start = self.at
        if self.text[self.at] == "'":
            name, quoted = self.quoted(), True
        else:
            match = _SYMBOL.match(self.text, self.at)
            assert match is not None
            name, quoted = match.group(), False
            self.at = match.end()
        after = self.at
        self.skip_space()
        if self.take("::"):
            return self.annotated(name, start)
        self.at = after
        if not quoted and name in ("true", "false"):
            return {"BOOL": name == "true"}
        self.at = start
        null = _NULL.match(self.text, start)
        if null is None:
            raise self.wrong("A symbol is no DynamoDB value")
        self.at = null.end()
        return {"NULL": True}

    def annotated(self, annotation: str, start: int) -> dict[str, Any]:
        readers: dict[str, tuple[str, Callable[[], str]]] = {
            "$dynamodb_SS": ("SS", self.string),
            "$dynamodb_NS": ("NS", self.number),
            "$dynamodb_BS": ("BS", self.blob),
        }
        if annotation not in readers:
            self.at = start
            raise self.wrong("An annotation that exports do not use")
        tag, read = readers[annotation]
        return {tag: self.members(read)}

    def members(self, read: Callable[[], Any]) -> list[Any]:
        self.expect("[")
        self.skip_space()
        found: list[Any] = []
        if self.take("]"):
            return found
        while True:
            self.skip_space()
            found.append(read())
            self.skip_space()
            if self.take("]"):
                return found
            self.expect(",")

    def string(self) -> str:
        if self.text.startswith(('"', "'''"), self.at):
            return self.quoted()
        raise self.wrong("A string was expected")

    def number(self) -> str:
        match = _NUMBER.match(self.text, self.at)
        if match is None or not _AFTER_NUMBER.match(self.text, match.end()):
            raise self.wrong("A DynamoDB value was expected")
        try:
            number = normalise_number(match.group().lower().replace("d", "e"))
        except ValueDecodeError as error:
            raise self.wrong(str(error).rstrip(".")) from error
        self.at = match.end()
        return number

    def blob(self) -> str:
        match = _BLOB.match(self.text, self.at)
        if match is None:
            raise self.wrong("A blob {{base64}} was expected (clobs are no DynamoDB values)")
        text = "".join(match[1].split())
        try:
            data = base64_bytes(text)
        except ValueError as error:
            raise self.wrong("A blob is not padded base64") from error
        self.at = match.end()
        encoded: str = msgspec.to_builtins(data)
        return encoded

    def quoted(self) -> str:
        """Read a string, a long string of any number of parts, or a quoted symbol."""
        if not self.text.startswith("'''", self.at):
            quote = self.text[self.at]
            return self.part(_SHORT[quote], quote)
        parts = []
        while self.text.startswith("'''", self.at):
            parts.append(self.part(_LONG, "'''"))
            self.skip_space()
        return "".join(parts)

    def part(self, pattern: re.Pattern[str], quote: str) -> str:
        start = self.at + len(quote)
        match = pattern.match(self.text, start)
        assert match is not None  # the patterns match nothing, too
        if not self.text.startswith(quote, match.end()):
            self.at = match.end()
            raise self.wrong("A text is not closed, or has a raw control character")
        text = self.unescaped(match.group()) if "\\" in match.group() else match.group()
        self.at = match.end() + len(quote)
        return text

    def unescaped(self, text: str) -> str:
        try:
            plain = _ESCAPE.sub(_unescape, text)
            # Two escapes may make a surrogate pair; one alone is no text.
            return plain.encode("utf-16", "surrogatepass").decode("utf-16")
        except (KeyError, OverflowError, ValueError) as error:
            raise self.wrong(f"A text has an escape that is none in Ion ({error})") from error

    def skip_space(self) -> None:
        match = _SPACE.match(self.text, self.at)
        assert match is not None
        self.at = match.end()

    def take(self, token: str) -> bool:
        if not self.text.startswith(token, self.at):
            return False
        self.at += len(token)
        return True

    def expect(self, token: str) -> None:
        self.skip_space()
        if not self.take(token):
            raise self.wrong(f"{token!r} was expected")

    def wrong(self, what: str) -> ValueDecodeError:
        found = self.text[self.at : self.at + 40] or "the end of the line"
        return ValueDecodeError(what, where=f"Ion text, column {self.at + 1}", found=found)


def _unescape(match: re.Match[str]) -> str:
    two, four, eight, simple = match.groups()
    if simple is not None:
        return _SIMPLE_ESCAPES[simple]
    return chr(int(two or four or eight, 16))
