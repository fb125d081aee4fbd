# SPDX-License-Identifier: Apache-2.0
"""Many reports of one table as few: what its positions are.

Of a reader's positions the last one counts, with the counts of all; of a file the last report; of
an export the last look that knew something; gaps are all kept. Of full exports that of the newest
generation is kept, of the windows of a heal those of the newest generation of all, and of files
those of what is kept. Order matters only among the reports of one reader, one file and one export.
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
        if report.kind == "export":
            # As its own, so that a late look at an older export hides none of a newer one.
            subject = report.kind, (_generation(report), _window(report))
        kept[subject] = _newer(kept.get(subject), report)
    return [*_without_older(list(kept.values())), *gaps]


def _without_older(reports: list[Report]) -> list[Report]:
    """The reports without exports and files that newer ones took the place of."""
    exports = [each for each in reports if each.kind == "export"]
    newest = max(map(_generation, exports), default=0)
    full = max((_generation(each) for each in exports if not _window(each)), default=0)
    return [
        each
        for each in reports
        if each.kind not in ("export", "file")
        or _generation(each) >= newest
        or (_generation(each) == full and not _window(each))
    ]


def _generation(report: Report) -> int:
    return int(report.fields.get("generation", 0))


def _window(report: Report) -> int:
    return int(report.fields.get("from_us", 0))


def _newer(before: Report | None, report: Report) -> Report:
    if before is None:
        return report
    fields = dict(report.fields)
    for name in _SUMS.get(report.kind, ()):
        fields[name] = before.fields[name] + report.fields[name]
    if "unfit_numbers" in before.fields:
        fields["unfit_numbers"] = before.fields["unfit_numbers"] + fields.get("unfit_numbers", 0)
    if report.kind == "stream":
        fields["newest_event_us"] = max(
            before.fields["newest_event_us"], report.fields["newest_event_us"]
        )
    if report.kind == "export" and fields["manifest"] is None:
        # Only the look that read the manifest has it.
        fields["manifest"] = before.fields["manifest"]
    return Report(report.kind, report.table, fields)
