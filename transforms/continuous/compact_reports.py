# SPDX-License-Identifier: Apache-2.0
"""Many reports of one table as few: what its positions are.

Of a reader's positions the last one counts, with the counts of all; of several streams of a table
those of the newest, whose readers begin when all of the one before have ended; of a file the last
report; of an export the last poll that knew something; gaps are all kept. Of full exports that of
the newest generation is kept, of the windows of a heal those of the newest generation of all, and
of files those of what is kept. Order matters only among the reports of one reader, one file and one
export.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dynabeam.transforms.model.report import Report
from dynabeam.transforms.state.stream_successor import read_us

__all__ = ["compact"]

_SUMS = {
    "stream": ("changes", "bytes", "pages", "empty_polls", "throttles", "children", "repeats"),
    "file": ("bytes", "rows"),
    "reconcile": ("stale", "kept"),
    "sink": ("rows", "written", "stale"),
}
_SUBJECT = {"stream": "reader", "file": "file", "sink": "sink"}


def compact(reports: Iterable[Report]) -> list[Report]:
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
            # As its own, so that a late poll of an older export hides none of a newer one.
            subject = report.kind, (_generation(report), _window(report))
        kept[subject] = _newer(kept.get(subject), report)
    return [*_without_older(_of_newest_stream(list(kept.values()))), *gaps]


def _of_newest_stream(reports: list[Report]) -> list[Report]:
    """The reports without positions in streams that have ended; what they count stays."""
    # An ARN ends with the time at which its stream was switched on.
    arns = {each.fields.get("stream_arn", "") for each in reports if each.kind == "stream"}
    if len(arns) < 2:
        return reports
    over = [
        each
        for each in reports
        if each.kind == "stream" and each.fields.get("stream_arn", "") != max(arns)
    ]
    left = [each for each in reports if each not in over]
    at = next(at for at, each in enumerate(left) if each.kind == "stream")
    for each in over:
        left[at] = _counted(each, left[at])
    return left


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
    if report.kind == "stream":
        return _counted(before, report)
    fields = dict(report.fields)
    for name in _SUMS.get(report.kind, ()):
        # A report of an earlier release does not have what was counted later.
        fields[name] = before.fields.get(name, 0) + report.fields.get(name, 0)
    if "unfit_numbers" in before.fields:
        fields["unfit_numbers"] = before.fields["unfit_numbers"] + fields.get("unfit_numbers", 0)
    if report.kind == "export" and fields["manifest"] is None:
        # Only the poll that read the manifest has it.
        fields["manifest"] = before.fields["manifest"]
    return Report(report.kind, report.table, fields)


def _counted(before: Report, report: Report) -> Report:
    """A reader's report with the counts of an earlier one.

    After the last shard of a stream nothing says any more up to when it was read: so that is kept.
    """
    fields = dict(report.fields)
    for name in _SUMS["stream"]:
        # A report of an earlier release does not have what was counted later.
        fields[name] = before.fields.get(name, 0) + report.fields.get(name, 0)
    fields["newest_event_us"] = max(
        before.fields["newest_event_us"], report.fields["newest_event_us"]
    )
    same = before.fields.get("stream_arn") == report.fields.get("stream_arn")
    if same and fields.get("over"):
        fields["read_us"] = max(read_us(before), read_us(report))
    return Report(report.kind, report.table, fields)
