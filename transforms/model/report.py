# SPDX-License-Identifier: Apache-2.0
"""Reports: what the graph tells its driver beside data.

Positions reached, files loaded, exports found, gaps met, rows written: each is one small JSON
element on a side output. In catch-up mode the driver merges them into the position document after
the whole pipeline has succeeded; in continuous mode they feed the log and the metrics.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import apache_beam as beam

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.runtime.stored_format import damage_told, parse_object, typed_fields

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


class ReportCoder(beam.coders.Coder):
    """Reports as canonical JSON."""

    def encode(self, value: Report) -> bytes:
        """Encodes a report."""
        document = {"kind": value.kind, "table": value.table, "fields": dict(value.fields)}
        return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()

    def decode(self, encoded: bytes) -> Report:
        """Decodes a report.

        Raises:
            ValueDecodeError: If it is damaged.
        """
        with damage_told("a report", where="report", error=ValueDecodeError):
            return typed_fields(Report, parse_object(encoded))

    def is_deterministic(self) -> bool:
        """Equal reports have equal bytes."""
        return True

    def to_type_hint(self) -> type[Report]:
        """The type that this coder carries."""
        return Report


beam.coders.registry.register_coder(Report, ReportCoder)
