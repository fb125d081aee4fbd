# SPDX-License-Identifier: Apache-2.0
"""A small file that is one dataclass: canonical JSON of its fields, with a format number."""

from __future__ import annotations

import dataclasses
from typing import Any, Generic, TypeVar

from dynabeam.transforms.errors import StateError
from dynabeam.transforms.runtime.stored_format import DocumentFormat, canonical, typed_fields
from dynabeam.transforms.storage import filesystem

__all__ = ["VersionedFile"]

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class VersionedFile(Generic[T]):
    """How a kind of file is written and read.

    Attributes:
        kind: The dataclass; its fields are JSON-able.
        format: The format of the document.
    """

    kind: type[T]
    format: DocumentFormat

    def write(self, path: str, value: T) -> None:
        """Replaces the file as a whole.

        Raises:
            StateError: It cannot be written.
        """
        fields: dict[str, Any] = dataclasses.asdict(value)  # type: ignore[call-overload]
        filesystem.write_atomic(path, canonical(self.format.dump(fields)), StateError)

    def read(self, path: str) -> T:
        """What the file says.

        Raises:
            StateError: It cannot be read, is damaged, or of an unknown or newer format.
        """
        content = filesystem.read_bytes(path, StateError)
        with self.format.load(content, where=path) as fields:
            return typed_fields(self.kind, fields)

    def find(self, path: str) -> T | None:
        """What the file says; None if it is not there.

        Raises:
            StateError: See `read`.
        """
        return self.read(path) if filesystem.exists(path) else None
