# SPDX-License-Identifier: Apache-2.0
"""Reports: the results of the graph for its driver, beside data.

Positions reached, files loaded, exports found, gaps found, rows written: each is one small JSON
element on a side output. In catch-up mode the driver merges them into the position document after
the whole pipeline has succeeded; in continuous mode they feed the log and the metrics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import apache_beam as beam

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.runtime.json_coder import JsonCoder
from dynabeam.transforms.runtime.stored_format import (
    Document,
    damage_told,
    open_object,
    typed_fields,
)

__all__ = ["Report", "ReportCoder"]


@dataclasses.dataclass(frozen=True)
class Report:
    """One report.

    Attributes:
        kind: `stream`, `gap`, `export`, `file`, `reconcile`, `sink`, `refused` or `discovery`.
        table: Name of the table it is about; empty if about none.
        fields: JSON-able content; each kind's writer documents its fields.
    """

    kind: str
    table: str
    fields: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON-able dict; it has no format number, and never had."""
        return {"kind": self.kind, "table": self.table, "fields": dict(self.fields)}

    @classmethod
    def from_json(cls, document: Document) -> Report:
        """Reads what `to_json` wrote.

        Raises:
            ValueDecodeError: If it is damaged.
        """
        with damage_told("a report", where="report", error=ValueDecodeError):
            return typed_fields(cls, open_object(document))


class ReportCoder(JsonCoder[Report]):
    """Reports as canonical JSON."""

    kind = Report


beam.coders.registry.register_coder(Report, ReportCoder)
