# SPDX-License-Identifier: Apache-2.0
"""What every stored document is asked before it is believed: its format, its fields, its names.

A field that this version does not know was written by a newer one, and means something: to go on
without it, and to write the document again without it, would lose that. So it is an error like an
unknown format, which says what to do. A name that becomes part of a path is one name, and leads
nowhere else.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from transforms.errors import DynabeamError, StateError, ValueDecodeError

__all__ = ["build", "check_fields", "check_format", "check_name", "read_document"]

T = TypeVar("T")

_NEWER = "Use the version of Dynabeam that wrote it, or a newer one"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


def check_format(
    document: Mapping[str, Any],
    known: Collection[int],
    *,
    what: str,
    where: str,
    error: type[DynabeamError] = StateError,
) -> int:
    """The format number of a document.

    Args:
        document: As it was read.
        known: The numbers that this version reads.
        what: The document, for people.
        where: Its path.
        error: The kind of error to raise.

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
        mend=_NEWER,
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
    unknown = sorted(set(document) - set(known))
    if unknown:
        raise error(
            f"{what} was written by a newer version",
            where=where,
            expected=sorted(known),
            found=unknown,
            mend=_NEWER,
        )


def read_document(
    content: bytes, fields: Collection[str], *, known: int, what: str, where: str, mend: str
) -> dict[str, Any]:
    """A document as it was written, without its format number.

    Args:
        content: A JSON object with `format`.
        fields: Its other fields; the reader says which of them have to be there.
        known: The format number that this version reads.
        what: The document, for people.
        where: Its path.
        mend: What to do if it is damaged.

    Raises:
        StateError: It is damaged, or a newer version wrote it.
    """
    try:
        document = dict(json.loads(content))
        check_format(document, (known,), what=what, where=where)
    except (ValueError, KeyError, TypeError) as problem:
        raise StateError(f"{what} is damaged: {problem!r}", where=where, mend=mend) from problem
    del document["format"]
    check_fields(document, fields, what=what, where=where)
    return document


def build(
    kind: Callable[..., T],
    fields: Mapping[str, Any],
    *,
    what: str,
    where: str = "",
    error: type[DynabeamError] = ValueDecodeError,
) -> T:
    """A dataclass from its stored fields.

    Args:
        kind: The dataclass.
        fields: Its fields by name; those that it has a default for may be missing.
        what: What it is, for people.
        where: Where it is stored, if that is known.
        error: The kind of error to raise.

    Raises:
        DynabeamError: Of the given kind, if a newer version has added a field, or one is missing.
    """
    check_fields(fields, _names(kind), what=what, where=where, error=error)
    try:
        return kind(**fields)
    except (TypeError, ValueError) as problem:
        raise error(f"{what} is damaged: {problem!r}", where=where) from problem


@functools.cache
def _names(kind: Any) -> frozenset[str]:
    return frozenset(each.name for each in dataclasses.fields(kind))


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
        mend="Somebody has changed the file. Restore it from a copy",
    )
