# SPDX-License-Identifier: Apache-2.0
"""`FewerReports`: counts of many small bundles as one report in a while.

Near the tip a sink reports each bundle of some rows, hundreds a second over many tables. What keeps
reports in state pays for each: the state cache of Beam 2.77 weighs every value that is written, and
goes through the globals of all imported modules for it (half a millisecond and more, measured; a
quarter of a worker's time at 500 changes a second). So counts are added up here first.

Only counts wait: a position, an export, a file or a gap passes at once. A worker that dies takes
the counts of some seconds with it, no change and no position.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp

from dynabeam.transforms.continuous.compact_reports import compact
from dynabeam.transforms.model.report import Report

__all__ = ["FewerReports"]

_COUNTS = ("reconcile", "sink")
_SECONDS = 5.0

Monotonic = Callable[[], float]


class FewerReports(beam.PTransform):
    """`PCollection[Report]` → the same, with counts added up over some seconds.

    Args:
        seconds: How long counts wait for more.
        monotonic: Gives seconds of a clock that never runs back; picklable.
    """

    def __init__(self, seconds: float = _SECONDS, monotonic: Monotonic = time.monotonic) -> None:
        super().__init__()
        self._fn = _FewerFn(seconds, monotonic)

    def expand(self, reports: Any) -> Any:
        """Adds up."""
        return reports | "AddUp" >> beam.ParDo(self._fn).with_output_types(Report)


class _FewerFn(beam.DoFn):
    """Counts wait in memory over bundles, for the first bundle that ends when they are due."""

    def __init__(self, seconds: float, monotonic: Monotonic) -> None:
        self._seconds = seconds
        self._monotonic = monotonic
        self._waiting: list[Report] = []
        self._since = 0.0
        self._latest = MIN_TIMESTAMP

    def process(
        self, report: Report, timestamp: Timestamp = beam.DoFn.TimestampParam
    ) -> Iterator[Report]:
        """Passes what is no count."""
        self._latest = max(self._latest, timestamp)
        if report.kind not in _COUNTS:
            yield report
            return
        if not self._waiting:
            self._since = self._monotonic()
        self._waiting.append(report)

    def finish_bundle(self) -> Iterator[Any]:
        """Gives what has waited long enough."""
        # Condensed per table: reports of two tables have nothing in common.
        by_table: dict[str, list[Report]] = {}
        for report in self._waiting:
            by_table.setdefault(report.table, []).append(report)
        self._waiting = [each for reports in by_table.values() for each in compact(reports)]
        if not self._waiting or self._monotonic() - self._since < self._seconds:
            return
        for report in self._waiting:
            yield GlobalWindows.windowed_value(report, self._latest)
        self._waiting = []
