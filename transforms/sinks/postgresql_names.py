# SPDX-License-Identifier: Apache-2.0
"""Names of a PostgreSQL mirror, whose identifiers have at most 63 bytes.

The server cuts longer ones off without an error, so two names could become one. Here a name that
is too long keeps its beginning and gets a `~` and 16 hex digits of its SHA-256 instead of the rest.
A name that has such an ending by nature is treated as too long, so a shortened name never is
another one's.
"""

from __future__ import annotations

import hashlib
import re

from transforms.values.json_sql import quoted_name

__all__ = ["column_name", "qualified", "quoted_text", "relation_name", "rows_name"]

MAX_BYTES = 63
_DIGITS = 16
_ROWS = "$rows"
_SHORTENED = re.compile(rf"~[0-9a-f]{{{_DIGITS}}}$")
_TABLE_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def column_name(attribute: str) -> str:
    """The column of an attribute."""
    return _short(attribute, MAX_BYTES)


def relation_name(table: str) -> str:
    """The view of a table; no other table's, and none of our own relations, which have a `$`."""
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


def _shortened(beginning: str, name: str, limit: int) -> str:
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]
    kept = beginning.encode()[: limit - 1 - _DIGITS].decode("utf-8", "ignore")
    return f"{kept}~{digest}"
