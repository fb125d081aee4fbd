# SPDX-License-Identifier: Apache-2.0
"""Point-in-time recovery of simulated tables: whether it is on, and how far back it reaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dynabeam.transforms.testing.export_requests import epoch_seconds, violation

__all__ = ["Recovery", "RecoveryWindows"]

_MAX_DAYS = 35
_PATH = "pointInTimeRecoverySpecification"
_LATEST_LAG = timedelta(minutes=5)


@dataclass(frozen=True)
class Recovery:
    """Point-in-time recovery of one table, switched on.

    Args:
        since: When it was switched on, whole seconds; nothing before it can be had.
        days: Length of the window in days.
    """

    since: datetime
    days: int

    def earliest(self, now: datetime) -> datetime:
        """The oldest moment that can be exported."""
        return max(self.since, now.replace(microsecond=0) - timedelta(days=self.days))

    def latest(self, now: datetime) -> datetime:
        """The newest moment that can be requested: some five minutes ago."""
        return max(self.earliest(now), now.replace(microsecond=0) - _LATEST_LAG)


class RecoveryWindows:
    """Point-in-time recovery of all tables, by table id: a table created again starts without."""

    def __init__(self) -> None:
        self._by_table: dict[str, Recovery] = {}

    def of(self, table_id: str) -> Recovery | None:
        """Recovery of a table, or None while it is off."""
        return self._by_table.get(table_id)

    def update(self, table_id: str, body: Mapping[str, Any], now: datetime) -> None:
        """Carries out UpdateContinuousBackups.

        Switching off forgets the past; switching on what is on keeps it and may change the days.

        Raises:
            ApiError: The specification is missing or its number of days is not 1 to 35.
        """
        wanted = body.get("PointInTimeRecoverySpecification") or {}
        enabled, days = wanted.get("PointInTimeRecoveryEnabled"), wanted.get("RecoveryPeriodInDays")
        if not isinstance(enabled, bool):
            raise violation(None, f"{_PATH}.PointInTimeRecoveryEnabled", "Member must not be null")
        if days is not None and not 1 <= days <= _MAX_DAYS:
            rule = f"Member must be between 1 and {_MAX_DAYS}"
            raise violation(days, f"{_PATH}.RecoveryPeriodInDays", rule)
        before = self._by_table.pop(table_id, None)
        if enabled:
            since = before.since if before else now.replace(microsecond=0)
            kept_days = before.days if before else _MAX_DAYS
            self._by_table[table_id] = Recovery(since, days or kept_days)

    def describe(self, table_id: str, now: datetime) -> dict[str, Any]:
        """Answers DescribeContinuousBackups."""
        recovery = self.of(table_id)
        point_in_time: dict[str, Any] = {"PointInTimeRecoveryStatus": "DISABLED"}
        if recovery is not None:
            point_in_time = {
                "PointInTimeRecoveryStatus": "ENABLED",
                "RecoveryPeriodInDays": recovery.days,
                "EarliestRestorableDateTime": epoch_seconds(recovery.earliest(now)),
                "LatestRestorableDateTime": epoch_seconds(recovery.latest(now)),
            }
        return {
            "ContinuousBackupsDescription": {
                "ContinuousBackupsStatus": "ENABLED",
                "PointInTimeRecoveryDescription": point_in_time,
            }
        }
