# SPDX-License-Identifier: Apache-2.0
"""`Meter`: reports and dead letters as Beam metrics and as metrics of the worker process.

It is at the end of a graph and emits nothing. The names are in
`transforms.telemetry.metric_names`. Counts are of attempts: what a bundle that fails had counted is
counted again by the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.metrics.metric import Metrics

from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.runtime.clock import WallClock, now_us
from dynabeam.transforms.telemetry.metric_names import BEAM_TABLES, NAMESPACE
from dynabeam.transforms.telemetry.process_metrics import increments, process_metrics, reader_of
from dynabeam.transforms.telemetry.worker import Telemetry

__all__ = ["MeterDeadLetters", "MeterReports"]

_LOGGER = logging.getLogger(__name__)


class MeterReports(beam.PTransform):
    """`PCollection[Report]` → nothing of use.

    Args:
        telemetry: What the worker processes are to do; None if somebody else keeps the metrics.
    """

    def __init__(self, telemetry: Telemetry | None = None) -> None:
        super().__init__()
        self._telemetry = telemetry

    def expand(self, reports: Any) -> Any:
        """Counts them."""
        return reports | "Count" >> beam.ParDo(_ReportsFn(self._telemetry)).with_output_types(
            Report
        )


class MeterDeadLetters(beam.PTransform):
    """`PCollection[DeadLetter]` → nothing of use; see `MeterReports`."""

    def __init__(self, telemetry: Telemetry | None = None) -> None:
        super().__init__()
        self._telemetry = telemetry

    def expand(self, letters: Any) -> Any:
        """Counts them."""
        return letters | "Count" >> beam.ParDo(_LettersFn(self._telemetry)).with_output_types(
            DeadLetter
        )


class _BeamMetrics:
    """Beam's metrics by name, made on first use; those of tables are bounded in number."""

    def __init__(self) -> None:
        self._counters: dict[str, Any] = {}
        self._gauges: dict[str, Any] = {}
        self._distributions: dict[str, Any] = {}
        self._tables: set[str] = set()

    def count(self, name: str, table: str, amount: int) -> None:
        """Adds to a counter, and to the table's own."""
        for each in self._names(name, table):
            if each not in self._counters:
                self._counters[each] = Metrics.counter(NAMESPACE, each)
            self._counters[each].inc(amount)

    def set(self, name: str, table: str, value: int) -> None:
        """Sets a table's gauge, and adds to the distribution over all tables."""
        over_all, *own = self._names(name, table)
        if over_all not in self._distributions:
            self._distributions[over_all] = Metrics.distribution(NAMESPACE, over_all)
        self._distributions[over_all].update(value)
        for each in own:
            if each not in self._gauges:
                self._gauges[each] = Metrics.gauge(NAMESPACE, each)
            self._gauges[each].set(value)

    def _names(self, name: str, table: str) -> list[str]:
        if table and len(self._tables) < BEAM_TABLES:
            self._tables.add(table)
        return [name, f"{name}.{table}"] if table in self._tables else [name]


class _ReportsFn(beam.DoFn):
    def __init__(self, telemetry: Telemetry | None, clock: WallClock = now_us) -> None:
        self._telemetry = telemetry
        self._clock = clock
        self._metrics = _BeamMetrics()

    def setup(self) -> None:
        if self._telemetry is not None:
            self._telemetry.begin_in_worker()

    def process(self, element: Report) -> Iterator[Report]:
        for name, labels, amount in increments(element):
            if amount:
                self._metrics.count(name, labels[0], int(amount))
        self._set_gauges(element)
        if element.kind == "gap":
            _warn_of_gap(element)
        if self._telemetry is not None:
            process_metrics().take(element)
        yield from ()

    def _set_gauges(self, report: Report) -> None:
        at_us = self._clock()
        if report.kind == "stream":
            reader = reader_of(report)
            self._metrics.set("lag_seconds", report.table, reader.lag_us(at_us) // 1_000_000)
            age_us = reader.unread_age_us(at_us)
            self._metrics.set("unread_age_seconds", report.table, age_us // 1_000_000)
        elif report.kind == "sink" and report.fields.get("newest_event_us"):
            age_us = max(0, at_us - report.fields["newest_event_us"])
            self._metrics.set("write_lag_seconds", report.table, age_us // 1_000_000)


class _LettersFn(beam.DoFn):
    def __init__(self, telemetry: Telemetry | None) -> None:
        self._telemetry = telemetry
        self._metrics = _BeamMetrics()

    def setup(self) -> None:
        if self._telemetry is not None:
            self._telemetry.begin_in_worker()

    def process(self, element: DeadLetter) -> Iterator[DeadLetter]:
        self._metrics.count("dead_letters", element.table, 1)
        if self._telemetry is not None:
            process_metrics().take_letter(element)
        yield from ()


def _warn_of_gap(report: Report) -> None:
    _LOGGER.warning(
        "changes are lost (%s: %s); the policy is to continue",
        report.fields["kind"],
        report.fields["detail"],
        extra={"table": report.table, "shard": report.fields["shard_id"]},
    )
