# SPDX-License-Identifier: Apache-2.0
"""A table's primary key: its attributes, their types, and which is which.

All classes are frozen, compare by value, and go through JSON unchanged. Field names and order of
the JSON form are stable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dynabeam.transforms.errors import TableError

__all__ = ["KeyAttribute", "KeySchema", "KeyType"]

KeyType = Literal["S", "N", "B"]

_KEY_TYPES: tuple[str, ...] = get_args(KeyType)


@dataclass(frozen=True)
class KeyAttribute:
    """One attribute of a primary key.

    Args:
        name: The attribute's name: any non-empty text, case-sensitive.
        type: `S`, `N` or `B`; DynamoDB allows no other type in a key.

    Raises:
        TableError: The name is empty or the type cannot be a key's.
    """

    name: str
    type: KeyType

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TableError("A key attribute needs a name", found=self.name)
        if self.type not in _KEY_TYPES:
            raise TableError(
                "A key attribute has a type that DynamoDB does not allow in keys",
                where=f"key attribute {self.name!r}",
                expected=_KEY_TYPES,
                found=self.type,
            )


@dataclass(frozen=True)
class KeySchema:
    """A table's primary key: a hash (partition) attribute and perhaps a range (sort) attribute.

    Raises:
        TableError: Both attributes have the same name.
    """

    hash: KeyAttribute
    range: KeyAttribute | None = None

    def __post_init__(self) -> None:
        if self.range is not None and self.range.name == self.hash.name:
            raise TableError("Hash and range key are the same attribute", found=self.hash.name)

    @property
    def attributes(self) -> tuple[KeyAttribute, ...]:
        """The key's attributes, hash first."""
        return (self.hash,) if self.range is None else (self.hash, self.range)

    def to_json(self) -> list[dict[str, str]]:
        """Return `[{"name": ..., "type": ...}]`, hash first, range second if there is one."""
        return [{"name": each.name, "type": each.type} for each in self.attributes]

    @classmethod
    def from_json(cls, value: Any) -> KeySchema:
        """Read what `to_json` wrote.

        Raises:
            TableError: The value is not of that form.
        """
        if not isinstance(value, list) or len(value) not in (1, 2):
            raise TableError("A key schema is a list of one or two attributes", found=value)
        try:
            attributes = [KeyAttribute(each["name"], each["type"]) for each in value]
        except (KeyError, TypeError) as error:
            raise TableError(
                "A key schema's attribute needs 'name' and 'type'", found=value
            ) from error
        return cls(*attributes)

    @classmethod
    def from_describe_table(
        cls,
        key_schema: Iterable[Mapping[str, Any]],
        attribute_definitions: Iterable[Mapping[str, Any]],
    ) -> KeySchema:
        """Read `KeySchema` and `AttributeDefinitions` of a DescribeTable answer.

        Raises:
            TableError: There is not exactly one hash attribute and at most one range attribute, or
                a key attribute has no definition.
        """
        types = {each["AttributeName"]: each["AttributeType"] for each in attribute_definitions}
        names: dict[str, str] = {}
        for each in key_schema:
            if each["KeyType"] not in ("HASH", "RANGE") or each["KeyType"] in names:
                raise TableError(
                    "A table's key has one HASH and at most one RANGE attribute",
                    found=[dict(entry) for entry in key_schema],
                )
            names[each["KeyType"]] = each["AttributeName"]
        if "HASH" not in names:
            raise TableError("A table's key needs a HASH attribute", found=names)
        missing = sorted(set(names.values()) - set(types))
        if missing:
            raise TableError(
                "A key attribute has no definition", expected=missing, found=sorted(types)
            )
        attributes = [KeyAttribute(names[kind], types[names[kind]]) for kind in sorted(names)]
        return cls(*attributes)
