# SPDX-License-Identifier: Apache-2.0
"""Which attributes of a table become columns, and of which type: `ColumnTypes` and `NumberType`.

DynamoDB tables have no schema, so the columns are found by looking, in the order in which the
attributes are first seen, and only ever grow. An attribute's column has the type of the first value
seen that is not NULL; values of other types do not change it (they go to the `other` column). An
attribute that was only ever NULL is remembered, so that it is looked for, but has no column yet.
How many there may be, and how long their names: `transforms.values.column_bounds`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from dynabeam.transforms.errors import ConfigurationError, StateError
from dynabeam.transforms.values.column_bounds import MAX_NAMES_BYTES, name_bytes, name_fits

__all__ = ["ATTRIBUTE_TAGS", "DEFAULT_NUMBERS", "MAX_COLUMNS", "ColumnTypes", "NumberType"]

ATTRIBUTE_TAGS = ("S", "N", "B", "BOOL", "NULL", "SS", "NS", "BS", "L", "M")
"""DynamoDB's type tags."""

MAX_COLUMNS = 1000
"""Attributes that are looked for in a table by default; more of them go to `other`."""

DEFAULT_NUMBERS = "decimal(38,18)"
"""20 digits before the point, so any integer of 64 bits, leave 18 after it. Floats as people store
them have 15 to 17 digits: of uniform numbers in [0, 1) 99.6 % fit, of coordinates, prices and times
all; with scale 9 it is none of the floats, with 20 only one in twenty of the 64-bit integers. What
does not fit is exact in `other` and counted."""


@dataclass(frozen=True)
class ColumnTypes:
    """Attribute names with the type tag of their columns, in column order.

    Args:
        tags: Type tag by attribute name; names are any text and case-sensitive. "NULL" stands for
            an attribute that was only ever NULL and has no column.

    Raises:
        StateError: A tag is none of DynamoDB's.
    """

    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, tag in self.tags.items():
            if tag not in ATTRIBUTE_TAGS:
                raise StateError(
                    "An attribute has a type tag that DynamoDB does not know",
                    where=f"attribute {name!r}",
                    expected=ATTRIBUTE_TAGS,
                    found=tag,
                )

    def __bool__(self) -> bool:
        return bool(self.tags)

    @property
    def columns(self) -> dict[str, str]:
        """The attributes that have a column, with their tags, in column order."""
        return {name: tag for name, tag in self.tags.items() if tag != "NULL"}

    def merge(self, other: ColumnTypes, *, max_columns: int = MAX_COLUMNS) -> ColumnTypes:
        """Return these columns followed by the other's new ones.

        Columns of this side keep their place and type, so that what was written stays right.

        Args:
            other: What else was found.
            max_columns: How many columns there may be, and how many attributes without one.
        """
        return self.with_attributes(other.tags.items(), max_columns=max_columns)

    def with_attributes(
        self, attributes: Iterable[tuple[str, str]], *, max_columns: int = MAX_COLUMNS
    ) -> ColumnTypes:
        """Return these columns followed by those of new `(name, tag)` pairs; see `merge`.

        Names beyond the bounds of `transforms.values.column_bounds` are left out.
        """
        new = [each for each in attributes if self._is_news(*each)]
        if not new:
            return self
        tags = dict(self.tags)
        # Room is counted apart: what was only ever NULL takes no column from what has values.
        room = {without: _Room(tags, without, max_columns) for without in (True, False)}
        for name, tag in new:
            known = tags.get(name, "NULL")
            has_news = known == "NULL" and (name not in tags or tag != "NULL")
            if has_news and room[tag == "NULL"].take(name):
                tags.pop(name, None)  # its new column comes last
                tags[name] = tag
        return ColumnTypes(tags) if tags != self.tags else self

    def _is_news(self, name: str, tag: str) -> bool:
        known = self.tags.get(name)
        return name_fits(name) if known is None else known == "NULL" != tag

    def to_json(self) -> list[list[str]]:
        """Return `[[name, tag], ...]` in column order."""
        return [[name, tag] for name, tag in self.tags.items()]

    @classmethod
    def from_json(cls, value: Any) -> ColumnTypes:
        """Read what `to_json` wrote.

        Raises:
            StateError: The value is not of that form.
        """
        try:
            return cls({str(name): str(tag) for name, tag in value})
        except (TypeError, ValueError) as error:
            raise StateError("Column types are a list of [name, tag] pairs", found=value) from error


class _Room:
    """What is left for attributes with a column, or for those without."""

    def __init__(self, tags: Mapping[str, str], without_column: bool, attributes: int) -> None:
        names = [name for name, tag in tags.items() if (tag == "NULL") == without_column]
        self._attributes = attributes - len(names)
        self._bytes = MAX_NAMES_BYTES - sum(map(name_bytes, names))

    def take(self, name: str) -> bool:
        size = name_bytes(name)
        if self._attributes < 1 or self._bytes < size or not name_fits(name):
            return False
        self._attributes -= 1
        self._bytes -= size
        return True


@dataclass(frozen=True)
class NumberType:
    """How numbers are kept in columns: `decimal(p,s)` exactly where they fit, or as text.

    Args:
        precision: All digits of the decimal, 1 to 38; 0 for text.
        scale: Digits after the point, 0 to `precision`.
    """

    precision: int = 38
    scale: int = 18

    @classmethod
    def parse(cls, text: str) -> NumberType:
        """Read an option's value: `decimal(38,18)` or `text`.

        Raises:
            ConfigurationError: It is neither, or the decimal is impossible.
        """
        if text == "text":
            return cls(0, 0)
        match = re.fullmatch(r"decimal\(\s*([0-9]{1,3})\s*,\s*([0-9]{1,3})\s*\)", text)
        if match is None or not 1 <= int(match[1]) <= 38 or int(match[2]) > int(match[1]):
            raise ConfigurationError(
                "Numbers are kept as 'text' or 'decimal(p,s)' with 1 <= p <= 38 and 0 <= s <= p",
                found=text,
                hint=f"Use {DEFAULT_NUMBERS!r} or 'text'",
            )
        return cls(int(match[1]), int(match[2]))

    @property
    def is_text(self) -> bool:
        """True if numbers are kept as canonical text."""
        return self.precision == 0

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type of a number column."""
        return pa.string() if self.is_text else pa.decimal128(self.precision, self.scale)
