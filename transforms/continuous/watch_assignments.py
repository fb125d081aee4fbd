# SPDX-License-Identifier: Apache-2.0
"""`WatchAssignments`: what to read, from a folder that is polled.

One element, the folder, never ends; its restriction holds the names of the assignments that were
handed out, so that each is handed out once, over restarts too. The watermark follows the clock, and
what is found carries the time at which it was found: so it holds back everything after a snapshot
that begins later.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp

from dynabeam.transforms.continuous.control_folder import ControlFolder
from dynabeam.transforms.export.elements import SnapshotRequest
from dynabeam.transforms.runtime.clock import WallClock, now_us
from dynabeam.transforms.runtime.poll_tracker import (
    ManualWatermark,
    PollFn,
    PollState,
    PollStateCoder,
    advance,
    is_due,
)
from dynabeam.transforms.state.coverage import FUZZ_US
from dynabeam.transforms.stream.reader_group import ReaderGroup, group_readers

__all__ = ["Assigned", "Seen", "SeenCoder", "WatchAssignments"]

POLL_SECONDS = 10

_REQUESTS = "requests"
_SOURCES = "sources"
_TRACKER = beam.DoFn.RestrictionParam()
_ESTIMATOR = beam.DoFn.WatermarkEstimatorParam(ManualWatermark())


class Assigned(NamedTuple):
    """What `WatchAssignments` gives.

    Attributes:
        sources: `PCollection[ReaderGroup]`.
        requests: `PCollection[SnapshotRequest]`.
    """

    sources: Any
    requests: Any


class WatchAssignments(beam.PTransform):
    """`PCollection[str]` (paths of deployment folders) → `Assigned`.

    Args:
        poll_seconds: Time between two polls.
        clock: Gives the time in microseconds since 1970; picklable.
    """

    def __init__(self, poll_seconds: int = POLL_SECONDS, clock: WallClock = now_us) -> None:
        super().__init__()
        self._fn = _WatchFn(poll_seconds, clock)

    def expand(self, folders: Any) -> Assigned:
        """Polls until the pipeline is stopped."""
        out = folders | "Watch" >> beam.ParDo(self._fn).with_output_types(
            ReaderGroup, requests=SnapshotRequest
        ).with_outputs(_REQUESTS, main=_SOURCES)
        return Assigned(out[_SOURCES], out[_REQUESTS])


@dataclasses.dataclass(frozen=True)
class Seen(PollState):
    """The restriction.

    Attributes:
        names: File names of the assignments that were handed out, sorted.
    """

    names: tuple[str, ...] = ()


class SeenCoder(PollStateCoder):
    """What was handed out, see `PollStateCoder`."""

    kind = Seen
    where = "restriction of WatchAssignments"


class _WatchFn(PollFn[Seen]):
    """Polls, hands out what is new, defers."""

    coder = SeenCoder()

    def __init__(self, poll_seconds: int, clock: WallClock) -> None:
        self._poll_seconds = poll_seconds
        self._clock = clock

    @beam.DoFn.unbounded_per_element()
    def process(
        self, element: str, tracker: Any = _TRACKER, estimator: Any = _ESTIMATOR
    ) -> Iterator[Any]:
        seen: Seen = tracker.current_restriction()
        now = self._clock()
        if not is_due(tracker, now, self._poll_seconds):
            return
        folder = ControlFolder(element)
        found = {os.path.basename(path): path for path in folder.assignments()}
        new = [name for name in sorted(found) if name not in set(seen.names)]
        after = Seen(
            names=tuple(sorted({*seen.names, *new})),
            next_look_us=now + self._poll_seconds * 1_000_000,
        )
        if not tracker.try_claim(after):
            return
        for name in new:
            yield from _outputs(folder, found[name], now)
        advance(estimator, now)
        tracker.defer_remainder(Duration(seconds=self._poll_seconds))


def _outputs(folder: ControlFolder, path: str, now: int) -> Iterator[Any]:
    """The elements of one assignment, at the time of the poll."""
    at = Timestamp(micros=now)
    assignment = folder.read_assignment(path)
    # The memory of changed keys has to outlive the snapshot, which begins only now.
    until_us = now + FUZZ_US
    sources = [
        dataclasses.replace(each, snapshot_until_us=until_us if each.snapshot_until_us else 0)
        for each in assignment.sources
    ]
    for group in group_readers(sources):
        yield TimestampedValue(group, at)
    for request in assignment.requests:
        yield TaggedOutput(_REQUESTS, TimestampedValue(request, at))
