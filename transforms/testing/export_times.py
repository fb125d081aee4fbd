# SPDX-License-Identifier: Apache-2.0
"""Whether the requested times of an export are possible, in the order of checks seen on AWS."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from dynabeam.transforms.testing.api_error import ApiError
from dynabeam.transforms.testing.export_requests import ExportRequest
from dynabeam.transforms.testing.net_changes import HistoricTable
from dynabeam.transforms.testing.recovery import Recovery

__all__ = ["checked_times"]

SHORTEST_WINDOW = timedelta(minutes=15)
LONGEST_WINDOW = timedelta(hours=24)


def checked_times(
    request: ExportRequest, table: HistoricTable, recovery: Recovery | None, now: datetime
) -> ExportRequest:
    """Returns the request, with the end of its window filled in if it was left out.

    Args:
        request: A well-formed request.
        table: The table to export.
        recovery: The table's point-in-time recovery; None while it is off.
        now: The time of the request.

    Raises:
        ApiError: PointInTimeRecoveryUnavailableException or InvalidExportTimeException.
    """
    if request.export_from is not None:
        return _checked_window(request, request.export_from, table, recovery, now)
    if recovery is None:
        raise _recovery_is_off(table)
    moment = request.export_time
    if moment is None:
        return request
    if moment > now or moment < recovery.earliest(now):
        raise _bad_time("Export Time is invalid")
    if moment > recovery.latest(now):
        raise _bad_time("Point in Time Recovery is not available for specified export time")
    return request


def _checked_window(
    request: ExportRequest,
    begin: datetime,
    table: HistoricTable,
    recovery: Recovery | None,
    now: datetime,
) -> ExportRequest:
    # A window before the table's time is refused as such even while recovery is off.
    floor = table.created_at.replace(microsecond=0)
    if recovery is not None:
        floor = max(floor, recovery.earliest(now))
    if begin < floor:
        raise _bad_time(
            "Incremental export period from time cannot be less than the table creation time : "
            f"{begin:%Y-%m-%dT%H:%M:%SZ}"
        )
    if recovery is None:
        raise _recovery_is_off(table)
    end = request.export_to or now.replace(microsecond=0)
    if end > now:
        raise _bad_time(
            "Incremental export period to time cannot be greater than the current time : "
            f"{end:%Y-%m-%dT%H:%M:%SZ}"
        )
    difference = "Difference between export period from time and export period to time is"
    if end - begin < SHORTEST_WINDOW:
        raise _bad_time(f"{difference} less than 15 minutes")
    if end - begin > LONGEST_WINDOW:
        raise _bad_time(f"{difference} greater than 24 hours")
    return replace(request, export_to=end)


def _bad_time(text: str) -> ApiError:
    return ApiError("InvalidExportTimeException", text)


def _recovery_is_off(table: HistoricTable) -> ApiError:
    return ApiError(
        "PointInTimeRecoveryUnavailableException",
        f"Point in time recovery is not enabled for table '{table.name}'",
    )
