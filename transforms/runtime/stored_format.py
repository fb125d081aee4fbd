# SPDX-License-Identifier: Apache-2.0
"""What every stored document is asked before it is believed: its format, its fields, its names.

A field that this version does not know was written by a newer one, and means something: to go on
without it, and to write the document again without it, would lose that. So it is an error like an
unknown format, which says what to do. A name that becomes part of a path is one name, and leads
nowhere else. A value has the type that its field has (`typed_fields`): another one would be found
out far from the file that holds it. Whatever else is wrong with a document, the error names the
file (`damage_told`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import re
import typing
from collections.abc import Collection, Hashable, Iterator, Mapping
from typing import Any, TypeAlias, TypeVar

import msgspec

from dynabeam.transforms.errors import DynabeamError, StateError

__all__ = [
    "Document",
    "DocumentFormat",
    "NewerFieldsError",
    "canonical",
    "check_fields",
    "check_format",
    "check_name",
    "damage_told",
    "open_object",
    "parse_object",
    "typed_fields",
]

Fields = TypeVar("Fields")

Document: TypeAlias = "Mapping[str, Any] | bytes"
"""A document: its JSON, or what that says."""

_NEWER = "Use the version of Dynabeam that wrote it, or a newer one"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


class NewerFieldsError(ValueError):
    """A document has fields that this version does not know; `damage_told` says whose they are.

    Attributes:
        known: The names that were expected, sorted.
        unknown: The others, sorted.
    """

    def __init__(self, known: list[str], unknown: list[str]) -> None:
        super().__init__(f"fields of a newer version: {', '.join(unknown)}")
        self.known = known
        self.unknown = unknown


def canonical(document: Any) -> bytes:
    """JSON in which equal documents have equal bytes."""
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


@dataclasses.dataclass(frozen=True)
class DocumentFormat:
    """The format of one kind of document: a JSON object with its format number in `format`.

    Attributes:
        what: The document, for people.
        where: Its place, for the text of errors, if the reader names no path.
        number: The format number that this version writes.
        former: Older numbers, which it reads too.
        fields: Its other fields, if they are not those of a dataclass, which `typed_fields` checks.
        required: Fields that have to be there although the class has a default for them: the
            default would say something else than whoever wrote the document.
        error: The kind of error that a document raises which cannot be read.
        hint: What to do if it is damaged.
        upgrade: What to do if its format is unknown.
    """

    what: str
    where: str = ""
    number: int = 1
    former: tuple[int, ...] = ()
    fields: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    error: type[DynabeamError] = StateError
    hint: str = ""
    upgrade: str = _NEWER

    def dump(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The document of some fields."""
        return {"format": self.number, **fields}

    @contextlib.contextmanager
    def load(self, document: Document, *, where: str = "") -> Iterator[dict[str, Any]]:
        """The fields of a document, to be read inside of `with`: what fails there is its damage.

        Args:
            document: The document.
            where: Its path.

        Yields:
            All its fields but the number.

        Raises:
            DynabeamError: Of the kind `error`, if the document is damaged, its format is unknown,
                or it has fields of a newer version.
        """
        where = where or self.where
        with damage_told(self.what, where=where, hint=self.hint, error=self.error):
            found = open_object(document)
            known = (*self.former, self.number)
            check_format(
                found, known, what=self.what, where=where, error=self.error, hint=self.upgrade
            )
            del found["format"]
            if self.fields:
                _refuse_newer(found, self.fields)
            missing = [name for name in self.required if name not in found]
            if missing:
                raise ValueError(f"fields are missing: {', '.join(missing)}")
            yield found


def check_format(
    document: Mapping[str, Any],
    known: Collection[int],
    *,
    what: str,
    where: str,
    error: type[DynabeamError] = StateError,
    hint: str = _NEWER,
) -> int:
    """The format number of a document.

    Args:
        document: As it was read.
        known: The numbers that this version reads.
        what: The document, for people.
        where: Its path.
        error: The kind of error to raise.
        hint: What to do if the number is unknown.

    Raises:
        DynabeamError: Of the given kind, if it is another one.
        KeyError: It has none.
        TypeError: It is no document at all.
    """
    found = document["format"]
    if isinstance(found, int) and not isinstance(found, bool) and found in known:
        return found
    raise error(
        f"{what} is of an unknown format",
        where=where,
        expected=max(known),
        found=found,
        hint=hint,
    )


def check_fields(
    document: Mapping[str, Any],
    known: Collection[str],
    *,
    what: str,
    where: str,
    error: type[DynabeamError] = StateError,
) -> None:
    """Refuses a document with fields that a newer version has added.

    Raises:
        DynabeamError: Of the given kind, if it has some.
    """
    with damage_told(what, where=where, error=error):
        _refuse_newer(document, known)


def _refuse_newer(document: Mapping[str, Any], known: Collection[str]) -> None:
    unknown = sorted(set(document) - set(known))
    if unknown:
        raise NewerFieldsError(sorted(known), unknown)


@contextlib.contextmanager
def damage_told(
    what: str,
    *,
    where: str,
    hint: str = "",
    found: object = None,
    error: type[DynabeamError] = StateError,
) -> Iterator[None]:
    """Reports an error while a document is read as damage of the document.

    Args:
        what: The document, for people.
        where: Its path.
        hint: What to do about it.
        found: The document or a part of it, if that helps.
        error: The kind of error to raise. Errors of this kind pass as they are.

    Raises:
        DynabeamError: Of the given kind.
    """
    try:
        yield
    except error:
        raise
    except NewerFieldsError as problem:
        raise error(
            f"{what} was written by a newer version",
            where=where,
            expected=problem.known,
            found=problem.unknown,
            hint=_NEWER,
        ) from problem
    except (
        *(ValueError, KeyError, TypeError, AttributeError, IndexError),
        *(OverflowError, RecursionError, DynabeamError),
    ) as problem:
        part = {} if found is None else {"found": found}
        shown = problem.what if isinstance(problem, DynabeamError) else repr(problem)
        raise error(f"{what} is damaged: {shown}", where=where, hint=hint, **part) from problem


def parse_object(content: bytes | str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: It is none, or no JSON: NaN is none either.
        RecursionError: It is nested too deep.
    """
    found = json.loads(content, parse_constant=_refuse_constant)
    if not isinstance(found, dict):
        raise ValueError(f"a JSON object was expected, not {type(found).__name__}")  # noqa: TRY004
    return found


def open_object(document: Document) -> dict[str, Any]:
    """What a document says, as a dict of its own.

    Raises:
        ValueError: See `parse_object`.
        TypeError: It is no document at all.
        RecursionError: See `parse_object`.
    """
    return parse_object(document) if isinstance(document, bytes) else dict(document)


def _refuse_constant(name: str) -> typing.NoReturn:
    raise ValueError(f"{name} is no JSON")


def typed_fields(kind: type[Fields], document: Mapping[str, Any], /, **made: Any) -> Fields:
    """A dataclass of a document's fields, each of the type that the class says.

    Args:
        kind: The class.
        document: Its fields, as JSON has them; those that have a default may be missing.
        made: Fields that are made of the document's already, in their place.

    Raises:
        NewerFieldsError: A newer version has added a field.
        ValueError: A field has another type.
        TypeError: A field is missing.
    """
    types = _types(typing.cast(Any, kind))
    _refuse_newer(document, types)
    values = dict(made)
    for name, value in document.items():
        if name in made:
            continue
        try:
            values[name] = msgspec.convert(value, types[name])
        except msgspec.ValidationError as problem:
            raise ValueError(f"{name}: {problem}") from problem
    return kind(**values)


@functools.cache
def _types(kind: Hashable) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    return {each.name: hints[each.name] for each in fields}


def check_name(
    name: Any, *, what: str, where: str = "", error: type[DynabeamError] = StateError
) -> str:
    """A name that may become part of a path.

    Raises:
        DynabeamError: Of the given kind, if it could lead out of its folder.
    """
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise error(
        f"{what} is no name: it could lead out of its folder",
        where=where,
        expected="letters, digits, '_', '-' and '.'",
        found=name,
        hint="Somebody has changed the file. Restore it from a copy",
    )
