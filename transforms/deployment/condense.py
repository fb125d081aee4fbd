# SPDX-License-Identifier: Apache-2.0
"""Many reports of one table as few: what its positions are.

Of a reader's positions the last one counts, with the counts of all; of a file the last report; of
an export the last look that knew something; gaps are all kept. Order matters only among the reports
of one reader, one file and one export.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transforms.reports import Report

__all__ = ["condense"]

_SUMS = {
    "stream": ("changes", "bytes", "pages", "empty_polls", "throttles", "children"),
    "file": ("bytes", "rows"),
    "reconcile": ("stale", "kept"),
    "sink": ("rows", "written", "stale"),
}
_SUBJECT = {"stream": "reader", "file": "file", "sink": "sink"}


def condense(reports: Iterable[Report]) -> list[Report]:
    """The reports, one a subject; may be done bit by bit: what is condensed is condensed again.

    Args:
        reports: Reports of one table, oldest first.
    """
    kept: dict[tuple[str, Any], Report] = {}
    gaps: list[Report] = []
    for report in reports:
        if report.kind == "gap":
            gaps.append(report)
            continue
        subject = report.kind, report.fields.get(_SUBJECT.get(report.kind, ""))
        kept[subject] = _newer(kept.get(subject), report)
    return [*kept.values(), *gaps]


def _newer(before: Report | None, report: Report) -> Report:
    if before is None:
        return report
    fields = dict(report.fields)
    for name in _SUMS.get(report.kind, ()):
        fields[name] = before.fields[name] + report.fields[name]
    if report.kind == "stream":
        fields["newest_event_us"] = max(
            before.fields["newest_event_us"], report.fields["newest_event_us"]
        )
    if report.kind == "export" and fields["manifest"] is None:
        # Only the look that read the manifest has it.
        fields["manifest"] = before.fields["manifest"]
    return Report(report.kind, report.table, fields)
