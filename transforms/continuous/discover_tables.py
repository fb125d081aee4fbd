# SPDX-License-Identifier: Apache-2.0
"""`DiscoverTables`: a continuous run finds new tables by itself.

One element, the deployment's folder, never ends. At each poll it reads from the folder what to look
for (`discovery_plan`), polls (`discovery`), and writes an assignment for each new table, which
`WatchAssignments` reads as if a person had added the table. The name of an assignment follows
from the table, so a poll that is repeated after a failure changes nothing. A table that is not
ready is a report and a line in the folder's `findings.json`, and the others go on.

It also looks after the tables whose streams have ended: see
`transforms.continuous.stream_successors`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp

from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.continuous.control_folder import ControlFolder
from dynabeam.transforms.continuous.discovery import (
    Discovery,
    Finding,
    read_findings,
    write_findings,
)
from dynabeam.transforms.continuous.discovery_plan import DiscoveryPlan
from dynabeam.transforms.continuous.stream_ends import read_ends
from dynabeam.transforms.continuous.stream_successors import Follow, Follower
from dynabeam.transforms.model.gap_handler import GapHandler
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.runtime.clock import WallClock, now_us
from dynabeam.transforms.runtime.poll_tracker import (
    ManualWatermark,
    PollFn,
    PollState,
    PollStateCoder,
    advance,
    is_due,
)
from dynabeam.transforms.sinks.base import Sink

__all__ = ["DiscoverTables", "Discovered", "DiscoveredCoder"]

_UNTOLD_SECONDS = 30
_SOON_SECONDS = 2

_TRACKER = beam.DoFn.RestrictionParam()
_ESTIMATOR = beam.DoFn.WatermarkEstimatorParam(ManualWatermark())


class DiscoverTables(beam.PTransform):
    """`PCollection[str]` (paths of deployment folders) → `PCollection[Report]`.

    The reports are of kind `discovery`, and `gap` for what was written between two streams.

    Args:
        access: Where and as whom AWS is called.
        sinks: A table that one of them cannot hold is not begun.
        clock: Gives the time in microseconds since 1970; picklable.
        gap_handler: What gaps do; None to read on in any case.
    """

    def __init__(
        self,
        access: AwsAccess,
        sinks: Sequence[Sink] = (),
        clock: WallClock = now_us,
        gap_handler: GapHandler | None = None,
    ) -> None:
        super().__init__()
        self._fn = _DiscoverFn(access, sinks, clock, gap_handler)

    def expand(self, folders: Any) -> Any:
        """Polls until the pipeline is stopped.

        Beam's Flink runner names what it makes of a splittable DoFn after the collection and the
        coder of its elements: with those of `WatchAssignments` both would be one. So the elements
        are bytes here.
        """
        return (
            folders
            | "Encoded" >> beam.Map(str.encode).with_output_types(bytes)
            | "Poll" >> beam.ParDo(self._fn).with_output_types(Report)
        )


@dataclasses.dataclass(frozen=True)
class Discovered(PollState):
    """The restriction.

    Attributes:
        assignments: File names of the assignments whose tables are known, sorted.
        tables: Names of the tables that are read, sorted.
        followed: Streams that have ended, and after which another one is read, sorted.
    """

    assignments: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    followed: tuple[str, ...] = ()


class DiscoveredCoder(PollStateCoder):
    """What is known, see `PollStateCoder`."""

    kind = Discovered
    where = "restriction of DiscoverTables"


class _DiscoverFn(PollFn[Discovered]):
    """Polls, writes assignments, defers."""

    coder = DiscoveredCoder()

    def __init__(
        self,
        access: AwsAccess,
        sinks: Sequence[Sink],
        clock: WallClock,
        gap_handler: GapHandler | None = None,
    ) -> None:
        self._access = access
        self._follower = Follower(access, gap_handler)
        self._sinks = sinks
        self._clock = clock

    @beam.DoFn.unbounded_per_element()
    def process(
        self, element: bytes, tracker: Any = _TRACKER, estimator: Any = _ESTIMATOR
    ) -> Iterator[TimestampedValue]:
        state: Discovered = tracker.current_restriction()
        now = self._clock()
        if not is_due(tracker, now, _SOON_SECONDS):
            return
        folder = ControlFolder(element.decode())
        folder.check_current()
        plan, before = DiscoveryPlan.read(folder), read_findings(folder.findings)
        state, pause, found = _with_assigned(state, folder), _UNTOLD_SECONDS, None
        if plan is not None:
            found = self._discovery(plan).poll(state.tables, before)
            begun = [each.table.name for each in found.ready]
            state = dataclasses.replace(state, tables=tuple(sorted({*state.tables, *begun})))
            pause = _SOON_SECONDS if found.unfinished else plan.every_seconds
        follows = self._follow(folder, state.followed, now)
        state = dataclasses.replace(
            state,
            followed=tuple(sorted({*state.followed, *_followed(follows)})),
            next_look_us=now + pause * 1_000_000,
        )
        if not tracker.try_claim(state):
            return
        if plan is not None and found is not None:
            for each in found.ready:
                plan.begin(folder, self._access, each, len(state.tables))
        findings = _with_follows(before if found is None else found.findings, follows)
        for report in _carried_out(folder, before, findings, follows):
            yield TimestampedValue(report, Timestamp(micros=now))
        advance(estimator, now)
        tracker.defer_remainder(Duration(seconds=pause))

    def _follow(self, folder: ControlFolder, followed: Collection[str], now: int) -> list[Follow]:
        ends = [each for each in read_ends(folder) if each.stream_arn not in followed]
        return [self._follower.follow(folder, each, now) for each in ends]

    def _discovery(self, plan: DiscoveryPlan) -> Discovery:
        def check(table: Table) -> None:
            for sink in self._sinks:
                sink.check([table], plan.committed)

        return Discovery(self._access, plan.selection, plan.needs, check)


def _with_follows(findings: Mapping[str, Finding], follows: Sequence[Follow]) -> dict[str, Finding]:
    """The findings with what is the matter after the ends of streams."""
    after = dict(findings)
    for follow in follows:
        name, finding = follow.end.table, follow.finding
        known = after.pop(name, None)
        if finding is not None:
            # What discovery has reported already is not reported again in other words.
            again = known is not None and known.what == finding.what
            after[name] = known if again and known is not None else finding
    return after


def _followed(follows: Sequence[Follow]) -> set[str]:
    """The ended streams after which another one is read now."""
    return {each.end.stream_arn for each in follows if each.followed is not None}


def _carried_out(
    folder: ControlFolder,
    before: Mapping[str, Finding],
    findings: Mapping[str, Finding],
    follows: Sequence[Follow],
) -> Iterator[Report]:
    """Reads what follows, keeps the findings, and gives the reports of both."""
    for follow in follows:
        follow.carry_out(folder)
    if findings != before:
        write_findings(folder.findings, findings)
    for name, finding in findings.items():
        if before.get(name) != finding:
            yield finding.report()
    for follow in follows:
        if follow.gap is not None:
            yield follow.gap.report()


def _with_assigned(state: Discovered, folder: ControlFolder) -> Discovered:
    """The state with the tables of assignments that came in meanwhile, by whomever."""
    paths = {os.path.basename(path): path for path in folder.assignments()}
    tables = set(state.tables)
    for name in sorted(paths.keys() - set(state.assignments)):
        assignment = folder.read_assignment(paths[name])
        tables |= {each.table.name for each in assignment.sources}
        tables |= {each.table.name for each in assignment.requests}
    return dataclasses.replace(
        state, assignments=tuple(sorted(paths)), tables=tuple(sorted(tables))
    )
