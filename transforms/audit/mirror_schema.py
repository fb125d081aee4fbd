# SPDX-License-Identifier: Apache-2.0
"""How a mirror keeps one table: its columns as they are now.

An audit lays the truth out as the sink would have stored it, with the columns that the mirror has.
So what is compared is what people query, cell by cell, and not a guess at what it was made of.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from dynabeam.transforms.model.table import Table
from dynabeam.transforms.sinks.row_layout import ITEM, OTHER, RowLayout, RowOptions
from dynabeam.transforms.values.column_types import ColumnTypes, NumberType

__all__ = ["RAW", "MirrorShape"]

RAW = "_raw"
"""The column of a PostgreSQL mirror that holds what neither `text` nor `jsonb` can."""


@dataclasses.dataclass(frozen=True)
class MirrorShape:
    """One table of a mirror.

    Attributes:
        table: The table.
        options: How its rows are laid out.
        types: The attributes that the mirror knows, in the order of their columns.
        has_raw: There is a column `RAW`.
        details: What its reader has to know besides, JSON-able.
    """

    table: Table
    options: RowOptions
    types: ColumnTypes
    has_raw: bool = False
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def rest(self) -> str:
        """The column of the item, or of what has no column of its own."""
        return ITEM if self.options.layout == "packed" else OTHER

    @property
    def tags(self) -> dict[str, str]:
        """Attributes with columns and their tags, in order; packed: those of the key."""
        return self.types.columns

    @property
    def names(self) -> list[str]:
        """All stored columns, as a reader gives them, in order."""
        return [*self.tags, self.rest, *([RAW] if self.has_raw else [])]

    def layout(self) -> RowLayout:
        """The layout of its rows."""
        layout = RowLayout(self.table, self.options, (), max_columns=len(self.types.tags))
        layout.restore(self.types)
        return layout

    def to_json(self) -> str:
        """The shape as JSON text."""
        document = {
            "table": self.table.to_json(),
            "options": dataclasses.asdict(self.options),
            "types": self.types.to_json(),
            "has_raw": self.has_raw,
            "details": dict(self.details),
        }
        return json.dumps(document, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> MirrorShape:
        """Reads what `to_json` wrote."""
        document = json.loads(text)
        options = document["options"]
        return cls(
            Table.from_json(document["table"]),
            RowOptions(options["layout"], NumberType(**options["numbers"]), options["nested"]),
            ColumnTypes.from_json(document["types"]),
            document["has_raw"],
            document["details"],
        )
