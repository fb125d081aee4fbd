# SPDX-License-Identifier: Apache-2.0
"""`StorePositions`: up to where the sinks hold everything, kept outside of the runner.

The runner's checkpoints are what a continuous run restarts from. The stored positions are for what
they cannot do: going back to catch-up rounds, another runner, a lost savepoint, another number of
readers. They lag by a minute or two.

Why they are never ahead of the sinks: a reader reports a position after it has emitted what lies
before it. A report waits here under an event-time timer until the watermark has passed the moment
of the report by more than `HELD_SECONDS`. The watermark after the sinks is held back by every
bundle that is not finished and, for at most `HELD_SECONDS`, by what a sink keeps in state. So when
the timer fires, everything before the position is in every sink. The reports of all sinks have to
be part of the input, because only through them does this transform come after the sinks.

State per table: a bag of the reports that wait, a cell with what was stored, one with the time of
the timer. An element reads the last one and is appended to the bag; all else is read by the timer
alone, once for many elements. So a copy in the worker (`transforms.runtime.keyed_memory`) would
save next to nothing. Nor are reports values of keys: a newer one is added to the older one of its
reader, and those of an older stream go when a newer stream has reports (`compact`).

What was stored also decides over repairs of lost changes: see `transforms.continuous.repairs`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import (
    BagStateSpec,
    ReadModifyWriteStateSpec,
    TimerSpec,
    on_timer,
)

from dynabeam.transforms.continuous.compact_reports import compact
from dynabeam.transforms.continuous.control_folder import ControlFolder
from dynabeam.transforms.continuous.repairs import Repairs, RepairSettings
from dynabeam.transforms.continuous.stream_ends import stream_end, write_end
from dynabeam.transforms.model.report import Report, ReportCoder
from dynabeam.transforms.runtime.clock import WallClock, now_us
from dynabeam.transforms.runtime.state_cache import skip_deep_sizing
from dynabeam.transforms.runtime.timers import ceil_to_millis
from dynabeam.transforms.sinks.base import HELD_SECONDS
from dynabeam.transforms.telemetry.process_metrics import process_metrics

__all__ = ["STORED_AFTER_US", "StorePositions"]

STORED_AFTER_US = (HELD_SECONDS + 15) * 1_000_000
"""How far the watermark has to be past a report before its position is stored."""

_TOGETHER_US = 20 * 1_000_000
"""How long a report waits for others, to be stored in one file: each step of a repair waits too."""


class StorePositions(beam.PTransform):
    """Stores the positions of each table: `PCollection[Report]` → nothing of use.

    Args:
        folder: The deployment's folder.
        clock: Gives the time in microseconds since 1970; picklable.
        repairs: What repairs need; None to repair nothing.
    """

    def __init__(
        self, folder: str, clock: WallClock = now_us, repairs: RepairSettings | None = None
    ) -> None:
        super().__init__()
        self._folder = folder
        self._clock = clock
        self._repairs = repairs

    def expand(self, reports: Any) -> Any:
        """Groups by table and stores."""
        return (
            reports
            | "ByTable" >> beam.Map(_with_table).with_output_types(tuple[str, Report])
            | "Store"
            >> beam.ParDo(_StoreFn(self._folder, self._clock, self._repairs)).with_output_types(
                Report
            )
        )


def _with_table(report: Report) -> tuple[str, Report]:
    return report.table, report


class _StoreFn(beam.DoFn):
    STORED = ReadModifyWriteStateSpec("stored", beam.coders.BytesCoder())
    WAITING = BagStateSpec("waiting", beam.coders.BytesCoder())
    DUE = ReadModifyWriteStateSpec("due", beam.coders.VarIntCoder())
    TIMER = TimerSpec("store", TimeDomain.WATERMARK)

    def __init__(
        self, folder: str, clock: WallClock, repairs: RepairSettings | None = None
    ) -> None:
        self._folder = ControlFolder(folder)
        self._clock = clock
        self._repairs = None if repairs is None else Repairs(self._folder, repairs, clock)

    def setup(self) -> None:
        """Prepares the process for state."""
        skip_deep_sizing()

    def process(
        self,
        element: tuple[str, Report],
        waiting: Any = beam.DoFn.StateParam(WAITING),
        due: Any = beam.DoFn.StateParam(DUE),
        timer: Any = beam.DoFn.TimerParam(TIMER),
    ) -> None:
        """Keeps a report until the sinks hold what lies before it."""
        now = self._clock()
        waiting.add(_encode(now, element[1]))
        if due.read() is None:
            _set(now + STORED_AFTER_US, due, timer)

    @on_timer(TIMER)
    def store(
        self,
        table: Any = beam.DoFn.KeyParam,
        stored: Any = beam.DoFn.StateParam(STORED),
        waiting: Any = beam.DoFn.StateParam(WAITING),
        due: Any = beam.DoFn.StateParam(DUE),
        timer: Any = beam.DoFn.TimerParam(TIMER),
    ) -> Iterator[Report]:
        """Stores what the watermark has passed; the rest waits for another turn.

        Raises:
            StateError: Another run has taken over, or the positions cannot be written.
            DynabeamError: The next step of a repair cannot be taken; it is tried again.
        """
        passed_us = due.read() - STORED_AFTER_US
        decoded = sorted((_decode(each) for each in waiting.read()), key=lambda pair: pair[0])
        reports = compact([*_reports(stored.read()), *(r for at, r in decoded if at <= passed_us)])
        self._folder.check_current()
        self._folder.write_positions(table, reports)
        end = stream_end(table, reports) if table else None
        if end is not None:
            # Behind the positions: all that the stream held is in the sinks.
            write_end(self._folder, end)
        process_metrics().put("stored_seconds", self._clock() / 1e6, table)
        stored.write(_dump(reports))
        waiting.clear()
        due.clear()
        rest = [(at, report) for at, report in decoded if at > passed_us]
        for at, report in rest:
            waiting.add(_encode(at, report))
        if rest:
            # Several together: one file in a while, not one for each report.
            _set(min(rest[0][0] + _TOGETHER_US, rest[-1][0]) + STORED_AFTER_US, due, timer)
        if self._repairs is not None:
            self._repairs.advance(table, reports)
        yield from ()


def _set(at_us: int, due: Any, timer: Any) -> None:
    due.write(at_us)
    timer.set(ceil_to_millis(at_us))


_CODER = ReportCoder()


def _encode(at_us: int, report: Report) -> bytes:
    return b"%d %b" % (at_us, _CODER.encode(report))


def _decode(encoded: bytes) -> tuple[int, Report]:
    at_us, _, report = encoded.partition(b" ")
    return int(at_us), _CODER.decode(report)


def _dump(reports: list[Report]) -> bytes:
    return b"\n".join(_CODER.encode(each) for each in reports)


def _reports(stored: bytes | None) -> list[Report]:
    return [_CODER.decode(line) for line in stored.splitlines()] if stored else []
