# SPDX-License-Identifier: Apache-2.0
"""How many columns a table may have, how long their names are, how deep a value in one nests.

Whoever may write items chooses attribute names: DynamoDB takes 65,535 bytes for one and any number
of them in a table. A database keeps every name in its catalog, in each statement and in each
version of a table, so unbounded names are memory that a stranger spends. Beyond the bounds nothing
is lost: the attribute is kept exactly in `_other`.

What gets a column depends on the columns that there are and on the order in which attributes are
met, on nothing else: no clock and no load. An attribute that has a
column keeps it, also if it would not get one today. So a replay, another attempt and another writer
that know the same columns decide the same.
"""

from __future__ import annotations

__all__ = [
    "MAX_COLUMNS",
    "MAX_DEPTH",
    "MAX_NAMES_BYTES",
    "MAX_NAME_BYTES",
    "name_bytes",
    "name_fits",
]

MAX_COLUMNS = 500
"""Attributes of one table that get a column of their own, the key's included. A sink whose rows
have less room gives less."""

MAX_NAME_BYTES = 255
"""Length of a column's name in UTF-8: the longest that Glue, Athena and Snowflake take."""

MAX_NAMES_BYTES = 64 << 10
"""Length of the names of all columns of a table together, in UTF-8."""

MAX_DEPTH = 128
"""Brackets open at once in a value of a column, in DynamoDB JSON: two for each level of a list or a
map. The service keeps 32 levels; only an edited export has more."""


def name_bytes(name: str) -> int:
    """The length of a name in UTF-8; a lone surrogate, which no service sends, counts too."""
    return len(name.encode("utf-8", "surrogatepass"))


def name_fits(name: str) -> bool:
    """Whether a name is short enough for a column."""
    return len(name) <= MAX_NAME_BYTES and name_bytes(name) <= MAX_NAME_BYTES
