# SPDX-License-Identifier: Apache-2.0
"""Repairs of a run that never ends: what follows from the positions that were stored.

`StorePositions` knows what the sinks hold. After it has stored the positions of a table, it takes
the next step of the table's repair here, if there is one to be taken:

| step | when | what is done |
|---|---|---|
| settled → switching | a gap was stored, or a snapshot was ordered | the generation goes up |
| switching → loading | every reader has reported the new generation | exports are planned |
| loading → sweeping | every file of the exports is in the sinks | |
| sweeping → settled | | rows of older generations go (`transforms.state.repair_sweep`) |

A gap of the new generation begins the repair again, over all that is lost. Each step is one file
that is replaced, and what it does besides (an assignment under a fixed name, a sweep) may be
repeated, so a crash between the two changes nothing.

Why every row of the old generation was written before the plan is made: readers report a generation
with a position, after everything before it was emitted, and never go back (`FolderGenerations`).
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from dynabeam.transforms.aws.dynamodb import continuous_backups, describe_table
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.continuous.control_folder import Assignment, ControlFolder
from dynabeam.transforms.continuous.generations import TableGeneration, read_generation
from dynabeam.transforms.continuous.stream_ends import source_of, table_id_of
from dynabeam.transforms.errors import TableError
from dynabeam.transforms.export.elements import SnapshotRequest
from dynabeam.transforms.model.gap import GapPolicies, GapPolicy
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.runtime.clock import WallClock, now_us
from dynabeam.transforms.sinks.base import Sink
from dynabeam.transforms.state.coverage import FUZZ_US
from dynabeam.transforms.state.repair_plan import Lost, Repair, plan_repair
from dynabeam.transforms.state.repair_sweep import sweep_sinks
from dynabeam.transforms.state.snapshot_signals import SnapshotSignal, SnapshotSignals

__all__ = ["RepairSettings", "Repairs", "next_step", "repair_assignment", "step_line"]

_LOGGER = logging.getLogger(__name__)

_SWITCHED_WITHIN_US = 15 * 60 * 1_000_000
"""Reconcile remembers changed keys for so long while readers switch."""

_TAKEN_UP_WITHIN_US = 60 * 1_000_000
"""An assignment is found within seconds; from then on the watermark waits for its exports."""


@dataclasses.dataclass(frozen=True)
class RepairSettings:
    """What repairs need beside the reports; picklable, without secrets.

    Attributes:
        access: AWS.
        policies: What gaps do.
        bucket: S3 bucket for exports, with `prefix` and `bucket_owner`.
        state_id: Identity of the state directory.
        state_dir: The state directory, in which snapshots are ordered.
        sinks: The sinks, to be swept.
    """

    access: AwsAccess
    policies: GapPolicies
    bucket: str
    prefix: str
    bucket_owner: str
    state_id: str
    state_dir: str
    sinks: Sequence[Sink]


class Repairs:
    """The repairs of one deployment.

    Args:
        folder: The deployment's folder.
        settings: See `RepairSettings`.
        clock: Gives the time in microseconds since 1970.
    """

    def __init__(
        self, folder: ControlFolder, settings: RepairSettings, clock: WallClock = now_us
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._clock = clock

    def advance(self, table: str, reports: Sequence[Report]) -> None:
        """Takes the steps of a table's repair that its stored positions allow.

        Args:
            table: Name of the table.
            reports: Its condensed reports, as they were stored.

        Raises:
            AwsAccessError: A permission is missing.
            SinkError: A mirror cannot be swept.
            StateError: A file cannot be written.
        """
        if not table:
            return
        while True:
            at = read_generation(self._folder, table)
            after = self._step(table, at, reports)
            if after == at:
                return
            after.write(self._folder, table)
            _LOGGER.warning("%s: %s", table, step_line(after))

    def _step(self, table: str, at: TableGeneration, reports: Sequence[Report]) -> TableGeneration:
        now = self._clock()
        if at.step == "sweeping":
            return self._sweep(table, at, reports)
        if at.step == "loading":
            self._assign(table, at)
        asked = self._asked(table)
        policy = self._settings.policies.of(table)
        after = next_step(at, reports, policy, asked=asked, now_us=now)
        if asked is not None and after.asked == asked.order_id:
            # Written before the order goes, so that it is neither lost nor begun again.
            after.write(self._folder, table)
            SnapshotSignals(self._settings.state_dir).remove(table, asked.order_id)
        if at.step == after.step == "switching" and at == after and _switched(at, reports):
            return self._plan(table, at, reports)
        return after

    def _asked(self, table: str) -> SnapshotSignal | None:
        """The order of a new snapshot, if there is one that can be carried out."""
        order = SnapshotSignals(self._settings.state_dir).pending(table)
        if order is not None and not self._settings.bucket:
            _LOGGER.warning(
                "%s: a new snapshot is ordered, but the run has no --s3_export_bucket", table
            )
            return None
        return order

    def _plan(self, table: str, at: TableGeneration, reports: Sequence[Report]) -> TableGeneration:
        lost = _lost(at, reports)
        if not self._is_there(table):
            # What is exported under its name now would be another table.
            return at
        recovery = continuous_backups(self._settings.access, table)
        # Only now: that answer may be this process's first, and gives the service's time.
        now = self._clock()
        plan = plan_repair(GapPolicy(at.policy), lost, now, recovery, at.key_range)
        return dataclasses.replace(
            at,
            step="loading",
            since_us=lost.since_us,
            plan=plan.to_json(),
            key_range="",
            snapshot_until_us=plan.not_before_us + FUZZ_US + _TAKEN_UP_WITHIN_US,
        )

    def _assign(self, table: str, at: TableGeneration) -> None:
        """Assigns the exports to the run, if that was not done yet."""
        assert at.plan is not None
        name = repair_assignment(table, at.generation)
        paths = self._folder.assignments()
        if any(path.endswith(f"/{name}.json") for path in paths):
            return
        source = source_of(self._folder, table)
        plan = Repair.from_json(at.plan)
        requests = [
            SnapshotRequest(
                table=source.table,
                generation=at.generation,
                buckets=source.buckets,
                bucket=self._settings.bucket,
                prefix=self._settings.prefix,
                bucket_owner=self._settings.bucket_owner,
                request_id=self._settings.state_id,
                not_before_us=plan.not_before_us,
                from_us=begin,
                to_us=end,
                key_range=plan.key_range,
                table_id=table_id_of(self._folder, table),
            )
            for begin, end in plan.windows or ((0, 0),)
        ]
        self._folder.assign(name, Assignment([], requests))

    def _is_there(self, table: str) -> bool:
        """False if the table was deleted, whether or not there is another one of its name."""
        try:
            found = describe_table(self._settings.access, table)
        except TableError:
            return False
        known = table_id_of(self._folder, table)
        return found.status != "DELETING" and (not known or known == found.table_id)

    def _sweep(self, table: str, at: TableGeneration, reports: Sequence[Report]) -> TableGeneration:
        assert at.plan is not None
        plan = Repair.from_json(at.plan)
        described = source_of(self._folder, table).table
        swept = sweep_sinks(self._settings.sinks, described, at.generation, plan)
        rows = sum(
            each.fields["rows"]
            for each in reports
            if each.kind == "file" and each.fields["generation"] == at.generation
        )
        before = list(at.ended.get("repaired", ())) if at.ended is not None else []
        since_us = 0 if plan.loads_all else at.since_us
        ended = {
            "generation": at.generation,
            "kind": plan.kind,
            "rows": rows,
            "swept": swept,
            "repaired": before if plan.key_range else [*before, [at.generation, since_us]],
        }
        return dataclasses.replace(
            at, step="settled", policy="", since_us=0, lost_in=0, plan=None, ended=ended
        )


def repair_assignment(table: str, generation: int) -> str:
    """The name of the assignment that makes a run load the exports of a repair."""
    return f"repair-{table}-{generation:08d}"


def next_step(
    at: TableGeneration,
    reports: Sequence[Report],
    policy: GapPolicy,
    *,
    asked: SnapshotSignal | None,
    now_us: int,
) -> TableGeneration:
    """What the stored reports of a table lead to, as far as that takes no look at anything else.

    Args:
        at: Where the table is.
        reports: Its condensed reports.
        policy: What its gaps do.
        asked: The order of a new snapshot, if there is one.
        now_us: The time.

    Returns:
        Where the table is then; `at` itself if nothing is to be done yet.
    """
    generation = max(at.generation, *(_generation(each) for each in reports), 1)
    lost = policy.repairs and any(
        each.kind == "gap" and _generation(each) >= max(at.generation, 1) for each in reports
    )
    ordered = asked is not None and asked.order_id != at.asked
    if lost or ordered:
        again = GapPolicy.RESNAPSHOT
        if not ordered and at.policy != GapPolicy.RESNAPSHOT.value:
            again = policy
        return dataclasses.replace(
            at,
            generation=generation + 1,
            snapshot_until_us=now_us + _SWITCHED_WITHIN_US,
            step="switching",
            policy=again.value,
            lost_in=at.lost_in or generation,
            plan=None,
            asked=asked.order_id if asked is not None else at.asked,
            # If anything else is to be fixed too, that takes the whole table.
            key_range="" if asked is None or lost or at.step != "settled" else asked.key_range,
        )
    if at.step == "loading" and _loaded(at, reports):
        return dataclasses.replace(at, step="sweeping")
    return at


def _generation(report: Report) -> int:
    return int(report.fields.get("generation", 0))


def _switched(at: TableGeneration, reports: Sequence[Report]) -> bool:
    """True if every reader reported the new generation, or the end of its stream."""
    streams = [each for each in reports if each.kind == "stream"]
    readers = max((each.fields["readers"] for each in streams), default=0)
    switched = {
        each.fields["reader"]
        for each in streams
        if _generation(each) >= at.generation or each.fields.get("over")
    }
    return readers > 0 and len(switched) == readers


def _lost(at: TableGeneration, reports: Sequence[Report]) -> Lost:
    since = [
        each.fields["from_us"]
        for each in reports
        if each.kind == "gap" and at.lost_in <= _generation(each) < at.generation
    ]
    full = [each for each in reports if each.kind == "export" and not _window(each)]
    newest = max(full, key=_generation, default=None)
    if newest is None:
        return Lost(min(since, default=0), at.snapshot_us, snapshot_complete=True)
    manifest = newest.fields["manifest"]
    return Lost(
        min(since, default=0),
        manifest["export_time_us"] if manifest else 0,
        snapshot_complete=_is_loaded(newest, reports),
    )


def _loaded(at: TableGeneration, reports: Sequence[Report]) -> bool:
    assert at.plan is not None
    wanted = {begin for begin, _ in at.plan["windows"]} or {0}
    loaded = {
        _window(each)
        for each in reports
        if each.kind == "export"
        and _generation(each) == at.generation
        and _is_loaded(each, reports)
    }
    return wanted <= loaded


def _window(export: Report) -> int:
    return int(export.fields.get("from_us", 0))


def _is_loaded(export: Report, reports: Sequence[Report]) -> bool:
    """True if every file of the export that holds items is in the sinks."""
    manifest: Mapping[str, Any] | None = export.fields["manifest"]
    if manifest is None:
        return False
    done = {each.fields["file"] for each in reports if each.kind == "file" and each.fields["done"]}
    return all(path in done for path, item_count, _ in manifest["files"] if item_count)


def step_line(at: TableGeneration) -> str:
    """A step for people."""
    if at.step == "switching":
        return f"to be repaired ({at.policy}): readers switch to generation {at.generation}"
    if at.step == "loading" and at.plan is not None:
        return f"{Repair.from_json(at.plan)}, generation {at.generation}"
    if at.step == "settled" and at.ended is not None:
        return f"repaired: {json.dumps(dict(at.ended), sort_keys=True)}"
    return f"every export is loaded, mirrors are swept; generation {at.generation}"
