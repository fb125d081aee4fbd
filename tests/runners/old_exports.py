# SPDX-License-Identifier: Apache-2.0
"""A world with exports from long before the replication begins.

A table is healed only if its snapshot is older than the first window of the heal, which begins half
an hour before the gap.
"""

from __future__ import annotations

import pathlib
from datetime import timedelta

from tests.runners.continuous_world import BUCKET, ContinuousWorld

__all__ = ["OldExports"]

_AGE = timedelta(minutes=115)


class OldExports(ContinuousWorld):
    """See `ContinuousWorld`.

    Args:
        folder: For everything that is written.
        tables: Number of tables.
        behind: How long ago they were made, two hours at least.
        changelog: Write a changelog too.
    """

    def __init__(
        self, folder: pathlib.Path, *, tables: int, behind: timedelta, changelog: bool = True
    ) -> None:
        seconds = int(behind.total_seconds())
        super().__init__(
            folder, tables=tables, export_seconds=3, changelog=changelog, behind=seconds
        )
        self._behind = behind
        self._exports: list[str] = []

    def prepare(self) -> None:
        """Exports every table."""
        self.sim.advance(self._behind - _AGE)
        self._exports = [
            self.client().export_table_to_point_in_time(
                TableArn=f"arn:aws:dynamodb:eu-west-1:111122223333:table/{name}", S3Bucket=BUCKET
            )["ExportDescription"]["ExportArn"]
            for name in self.tables
        ]
        self.sim.advance(timedelta(minutes=5))
        for arn in self._exports:
            self.client().describe_export(ExportArn=arn)

    @property
    def export_options(self) -> list[str]:
        """Options that name them."""
        return [f"--export={arn}" for arn in self._exports]
