# SPDX-License-Identifier: Apache-2.0
"""Elements and restrictions as canonical JSON, never pickled: equal ones have equal bytes.

A savepoint keeps them, so they have a format number (`transforms.runtime.stored_format`) and are
read by whatever version comes after the one that wrote them, or refused with an error that says
what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

import apache_beam as beam

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.runtime.stored_format import Document, DocumentFormat, canonical

__all__ = ["JsonCoder", "element_format"]

T = TypeVar("T")


def element_format(what: str, where: str, *, required: tuple[str, ...] = ()) -> DocumentFormat:
    """The format of what travels between workers; see `DocumentFormat`.

    Args:
        what: The element, for people.
        where: Its place, for errors.
        required: Fields that have to be there although they have a default.
    """
    return DocumentFormat(
        what,
        where,
        required=required,
        error=ValueDecodeError,
        upgrade="Upgrade Dynabeam on the workers, or restart from the state directory",
    )


class JsonCoder(beam.coders.Coder, Generic[T]):
    """Deterministic coder of a class that has `to_json` and `from_json`.

    Attributes:
        kind: The class.
    """

    kind: ClassVar[type[Any]]

    def to_json(self, value: T) -> Mapping[str, Any]:
        """The document of a value, with its format number."""
        document: Mapping[str, Any] = value.to_json()  # type: ignore[attr-defined]
        return document

    def from_json(self, document: Document) -> T:
        """Reads what `to_json` wrote.

        Raises:
            ValueDecodeError: If it is damaged, of an unknown format, or of a newer version.
        """
        value: T = self.kind.from_json(document)
        return value

    def encode(self, value: T) -> bytes:
        """Encodes a value."""
        return canonical(self.to_json(value))

    def decode(self, encoded: bytes) -> T:
        """Decodes a value.

        Raises:
            ValueDecodeError: See `from_json`.
        """
        return self.from_json(encoded)

    def is_deterministic(self) -> bool:
        """Equal values have equal bytes."""
        return True

    def to_type_hint(self) -> type[Any]:
        """The type that this coder carries."""
        return self.kind
