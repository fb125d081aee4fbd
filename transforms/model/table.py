# SPDX-License-Identifier: Apache-2.0
"""A table's name and primary key: what every other part has to know about a table.

All classes are frozen, compare by value, and go through JSON unchanged, so that they can travel in
blocks, manifests and position documents. Field names and order of the JSON form are stable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dynabeam.transforms.errors import TableError
from dynabeam.transforms.values.key_schema import KeySchema

__all__ = ["Table"]


@dataclass(frozen=True)
class Table:
    """A table to replicate.

    Args:
        name: The table's name, 3-255 characters of `[a-zA-Z0-9_.-]` at AWS. It is not checked
            here, as a table can also come from a file with no AWS at hand.
        keys: The table's primary key.
        arn: The table's ARN, or empty when there is none at hand.
    """

    name: str
    keys: KeySchema
    arn: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return `{"name": ..., "keys": [...], "arn": ...}`."""
        return {"name": self.name, "keys": self.keys.to_json(), "arn": self.arn}

    @classmethod
    def from_json(cls, value: Any) -> Table:
        """Read what `to_json` wrote.

        Raises:
            TableError: The value is not of that form.
        """
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise TableError("A table needs 'name' and 'keys'", found=value)
        arn = "" if value.get("arn") is None else value["arn"]
        if not isinstance(arn, str):
            raise TableError("A table's ARN is a text", found=arn)
        return cls(name=value["name"], keys=KeySchema.from_json(value.get("keys")), arn=arn)
