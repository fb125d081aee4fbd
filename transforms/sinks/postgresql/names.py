# SPDX-License-Identifier: Apache-2.0
"""Names of a PostgreSQL mirror, whose identifiers have at most 63 bytes.

The server cuts longer ones off without an error, so two names could become one. Here a name that
is too long keeps its beginning and gets a `~` and 32 hex digits of its SHA-256 instead of the rest.
A name that has such an ending by nature is treated as too long, so a shortened name never is
another one's.

Earlier releases took 16 digits, and who may write items can find two names that these do not tell
apart in half an hour. Columns and views of theirs keep their names: a mirror stores the names that
are made by the present rule (`ColumnNames`), all others are of the earlier one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping

from dynabeam.transforms.values.json_sql import quoted_name

__all__ = [
    "ColumnNames",
    "column_name",
    "qualified",
    "quoted_text",
    "relation_name",
    "rows_name",
]

MAX_BYTES = 63
_DIGITS = 32
_EARLIER_DIGITS = 16
_ROWS = "$rows"
_SHORTENED = re.compile(rf"~(?:[0-9a-f]{{{_EARLIER_DIGITS}}}|[0-9a-f]{{{_DIGITS}}})\Z")
_EARLIER_SHORTENED = re.compile(rf"~[0-9a-f]{{{_EARLIER_DIGITS}}}$")
_TABLE_NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclasses.dataclass(frozen=True)
class ColumnNames:
    """The columns of a table's attributes.

    Args:
        stored: Column by attribute, as far as it is not what the rule of earlier releases makes.
    """

    stored: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def of(self, attribute: str) -> str:
        """The column of an attribute that has one, or of one of ours."""
        return self.stored.get(attribute) or _earlier_column_name(attribute)

    def with_attributes(self, attributes: Iterable[str]) -> ColumnNames:
        """With columns for attributes that have none yet, named by the present rule."""
        named = {each: column_name(each) for each in attributes}
        added = {k: v for k, v in named.items() if v != _earlier_column_name(k)}
        return ColumnNames({**self.stored, **added})

    def to_json(self) -> str:
        """The stored names as a JSON object."""
        return json.dumps(dict(self.stored))

    @classmethod
    def from_json(cls, text: str | None) -> ColumnNames:
        """Reads what `to_json` wrote; None stands for a mirror of an earlier release."""
        return cls(json.loads(text or "{}"))


def column_name(attribute: str) -> str:
    """The column that a new attribute gets."""
    return _short(attribute, MAX_BYTES)


def relation_name(table: str) -> str:
    """The view that a new table gets; no other table's, and none of our own, which have a `$`."""
    limit = MAX_BYTES - len(_ROWS)
    if _TABLE_NAME.fullmatch(table):
        return _short(table, limit)
    # Not a name of DynamoDB: it could be anything.
    return _shortened(re.sub(r"[^A-Za-z0-9_.-]", "_", table), table, limit)


def rows_name(relation: str) -> str:
    """The table behind a view."""
    return relation + _ROWS


def quoted_text(text: str) -> str:
    """Text without U+0000 as a constant SQL expression."""
    return "'" + text.replace("'", "''") + "'"


def qualified(schema: str, name: str) -> str:
    """A relation as SQL."""
    return f"{quoted_name(schema)}.{quoted_name(name)}"


def _short(name: str, limit: int) -> str:
    if len(name.encode()) <= limit and not _SHORTENED.search(name):
        return name
    return _shortened(name, name, limit)


def _earlier_column_name(attribute: str) -> str:
    if len(attribute.encode()) <= MAX_BYTES and not _EARLIER_SHORTENED.search(attribute):
        return attribute
    return _shortened(attribute, attribute, MAX_BYTES, _EARLIER_DIGITS)


def _shortened(beginning: str, name: str, limit: int, digits: int = _DIGITS) -> str:
    digest = hashlib.sha256(name.encode()).hexdigest()[:digits]
    kept = beginning.encode()[: limit - 1 - digits].decode("utf-8", "ignore")
    return f"{kept}~{digest}"
