# SPDX-License-Identifier: Apache-2.0
"""A full export with the incremental exports that follow it, checked to leave no hole.

The incremental exports of a chain are read with the generation after that of the full one: their
rows carry their write time as sequence number, so they win over all of its rows, and among rows of
one key the newest wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from dynabeam.transforms.errors import ExportError
from dynabeam.transforms.export.manifest import ExportManifest

__all__ = ["check_chain"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def check_chain(full: ExportManifest, incrementals: Sequence[ExportManifest]) -> None:
    """Checks that incremental exports continue a full one without a hole.

    The first window has to start no later than the full export's time. Starting earlier does no
    harm and is right: a full export at time T is only sure to have the writes up to one minute
    before T, and may have some of the minute after (AWS's documentation), so the first window
    should reach back at least that minute. A window that overlaps the one before repeats changes,
    which the later generation overwrites with equal or newer states.

    Args:
        full: The full export.
        incrementals: The incremental exports in the order of their windows.

    Raises:
        ExportError: One is of another type or table, or a window starts after the time up to which
            the chain is known.
    """
    full.check_type("FULL_EXPORT")
    covered, before = full.export_time_us, full
    for each in incrementals:
        each.check_type("INCREMENTAL_EXPORT")
        _check_same_table(full, each)
        if each.from_us > covered:
            raise ExportError(
                "changes are missing between two exports: a window must start no later than the "
                f"time up to which the export before it ({before.location}) reaches",
                where=each.location,
                expected=f"at most {_shown(covered)}",
                found=_shown(each.from_us),
                hint="Add the incremental export of the time between, or start from a newer full "
                "export",
            )
        if each.export_time_us <= covered:
            raise ExportError(
                f"the windows are not in order: this one ends before that of {before.location}",
                where=each.location,
                expected=f"after {_shown(covered)}",
                found=_shown(each.export_time_us),
                hint="Give incremental exports from the oldest to the newest",
            )
        covered, before = max(covered, each.export_time_us), each


def _check_same_table(full: ExportManifest, other: ExportManifest) -> None:
    for expected, found in (
        (full.table_arn, other.table_arn),
        (full.table_id or other.table_id, other.table_id or full.table_id),
    ):
        if expected != found:
            raise ExportError(
                "the exports of a chain are not of one table",
                where=other.location,
                expected=expected,
                found=found,
                hint="A table that was deleted and made again needs a new full export",
            )


def _shown(micros: int) -> str:
    return (_EPOCH + timedelta(microseconds=micros)).isoformat()
