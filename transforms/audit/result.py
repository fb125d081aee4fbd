# SPDX-License-Identifier: Apache-2.0
"""What an audit found, per table: what is printed, written as JSON, and drawn."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from dynabeam.transforms.audit.verdict import DIFFERENCES, KINDS

__all__ = ["AuditResult", "BucketResult", "TableResult"]


@dataclasses.dataclass
class BucketResult:
    """One bucket.

    Attributes:
        items: Items of the table.
        rows: Live rows of the mirror.
        counts: Keys per kind.
        again: Lines of the export whose key another line has.
    """

    items: int = 0
    rows: int = 0
    counts: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    again: int = 0


@dataclasses.dataclass
class TableResult:
    """One table.

    Attributes:
        table: Its name.
        buckets: All its buckets, in order.
        examples: Differences, a few of each kind; see `transforms.audit.compare`.
        how: How it was compared: export, its time, the stream's common point and so on.
        warnings: What makes the proof weaker.
    """

    table: str
    buckets: list[BucketResult]
    examples: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    how: dict[str, str] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Keys per kind, in all buckets."""
        return {kind: sum(each.counts[kind] for each in self.buckets) for kind in KINDS}

    @property
    def items(self) -> int:
        """Items of the table."""
        return sum(each.items for each in self.buckets)

    @property
    def rows(self) -> int:
        """Live rows of the mirror."""
        return sum(each.rows for each in self.buckets)

    @property
    def differences(self) -> int:
        """Keys that are not as they should be."""
        counts = self.counts
        return sum(counts[kind] for kind in DIFFERENCES)

    @property
    def is_equal(self) -> bool:
        """Whether no difference was found."""
        return self.differences == 0

    def without_values(self) -> TableResult:
        """The same with digests in place of values and keys."""
        examples = [
            {
                **each,
                "key": _digest(each["key"]),
                **{
                    side: each[side] and {name: _digest(text) for name, text in each[side].items()}
                    for side in ("truth", "mirror")
                },
            }
            for each in self.examples
        ]
        return dataclasses.replace(self, examples=examples)


@dataclasses.dataclass
class AuditResult:
    """All tables of a mirror.

    Attributes:
        sink: The mirror, without secrets.
        began: When, RFC 3339.
        seconds: How long it took.
        passes: How often both sides were read.
        tables: One per table, by name.
    """

    sink: str
    began: str
    seconds: float
    passes: int
    tables: Sequence[TableResult]

    @property
    def is_equal(self) -> bool:
        """Whether no difference was found."""
        return all(each.is_equal for each in self.tables)

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON-able dict."""
        return {
            "sink": self.sink,
            "equal": self.is_equal,
            "began": self.began,
            "seconds": round(self.seconds, 3),
            "passes": self.passes,
            "tables": [
                {
                    "table": each.table,
                    "equal": each.is_equal,
                    "items": each.items,
                    "rows": each.rows,
                    "counts": each.counts,
                    "examples": each.examples,
                    "how": each.how,
                    "warnings": each.warnings,
                }
                for each in self.tables
            ],
        }


def _digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:16]
