# SPDX-License-Identifier: Apache-2.0
"""What catch-up rounds do about lost changes: the steps of a repair in the position document.

1. A gap is met. With the commit of that round the table's generation goes up, and `repair` and what
   is to be loaded (`snapshot` anew, or `heal`) are in the document. All readers of later rounds use
   the new generation, and all rows of the old one were read before: what
   `transforms.state.repair_plan` asks.
2. Rounds load the exports, while the stream goes on.
3. The round that ends it marks the sweep in `repair`. After that round was published, rows of older
   generations are removed from the mirrors, changelogs are given their deletes, and only then the
   mark goes.

Each step is one commit. A crash before it repeats the step, which changes nothing: the sweep of a
sink may be repeated at any time, because what came later is of the new generation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from dynabeam.transforms.aws.dynamodb import RecoveryWindow, continuous_backups
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.model.gap import Gap, GapKind, GapPolicies, GapPolicy
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.sinks.base import Sink
from dynabeam.transforms.sinks.membership import KnownSink
from dynabeam.transforms.state.gap_events import Repaired
from dynabeam.transforms.state.merge_reports import raise_or_record
from dynabeam.transforms.state.repair_plan import Lost, Repair, plan_repair
from dynabeam.transforms.state.repair_sweep import sweep_sinks
from dynabeam.transforms.state.snapshot_signals import SnapshotSignals
from dynabeam.transforms.state.state_directory import State, StateDirectory
from dynabeam.transforms.state.stream_successor import NextStream
from dynabeam.transforms.state.table_state import (
    LoadState,
    RepairState,
    StreamState,
    TableState,
)
from dynabeam.transforms.stream.reader_spec import TRIM_HORIZON

__all__ = [
    "begin_repair",
    "begin_repairs",
    "mark_sweep",
    "meet_gap",
    "new_stream",
    "reopen_loads",
    "repair_lines",
    "resume_repair",
    "sweep",
    "switch_stream",
    "take_signals",
    "with_table_loaded",
]

_NO_RECOVERY = RecoveryWindow(enabled=False, earliest_us=0, latest_us=0, days=0)


def meet_gap(
    gap: Gap, state: TableState, policies: GapPolicies, access: AwsAccess | None
) -> TableState:
    """Does about a gap that was found outside of a round what the table's policy says.

    Raises:
        GapError: The policy is `fail`.
    """
    policy = policies.of(gap.table)
    state = raise_or_record(gap, state, policy)
    return begin_repair(state, state.gaps[-1:], policy, access) if policy.repairs else state


def begin_repairs(
    tables: dict[str, TableState],
    known: Mapping[str, TableState],
    policies: GapPolicies,
    access: AwsAccess | None,
) -> list[str]:
    """Begins the repair of every table that met gaps in a round.

    Args:
        tables: The states after the round, replaced in place.
        known: Those before it.
        policies: What gaps do.
        access: AWS.

    Returns:
        A line for people for each table that met gaps.
    """
    lines = []
    for name, state in tables.items():
        gaps = state.gaps[len(known[name].gaps) :]
        if not gaps:
            continue
        kinds = ", ".join(sorted({each.kind.value for each in gaps}))
        line = f"{name}: changes were lost ({len(gaps)} gaps: {kinds})"
        policy = policies.of(name)
        if policy.repairs:
            tables[name] = begin_repair(state, gaps, policy, access)
            line += f"; {_plan_of(tables[name])}"
        lines.append(line)
    return lines


def begin_repair(
    state: TableState,
    gaps: Sequence[Gap],
    policy: GapPolicy,
    access: AwsAccess | None,
    key_range: str = "",
    *,
    since_us: int | None = None,
    sinks: Sequence[str] | None = None,
) -> TableState:
    """Makes the generation one higher, and puts what is to be loaded into the table's state.

    A repair that is under way is part of the new one: what it was to repair is lost still.

    Args:
        state: The table's state.
        gaps: The gaps; none for a snapshot that was asked for.
        policy: `heal` or `resnapshot`.
        access: AWS.
        key_range: The range of keys that a snapshot was asked for of; empty for all.
        since_us: What else was lost is not older, microseconds since 1970; 0 if that is not known,
            None if nothing else was.
        sinks: Places of the sinks that it is for; None for all. It is for all too if a load goes on
            that is, because it takes the place of that one.

    Returns:
        The state, with its `repair`.
    """
    sinks = _sinks_of(state, sinks)
    since = [each.from_us for each in gaps]
    if since_us is not None:
        since.append(since_us)
    if state.repair is not None:
        since.append(state.repair.since_us)
    snapshot = state.snapshot
    lost = Lost(
        since_us=min(since, default=0),
        snapshot_us=snapshot.manifest.export_time_us if snapshot.manifest else 0,
        snapshot_complete=not snapshot.is_open
        and all(each.kind is not GapKind.UNCOVERED for each in gaps),
    )
    recovery = _NO_RECOVERY
    if policy is GapPolicy.HEAL and access is not None:
        recovery = continuous_backups(access, state.name)
    plan = plan_repair(policy, lost, now_us(), recovery, key_range)
    generation, not_before_us = state.generation + 1, plan.not_before_us or None
    if plan.kind == "resnapshot":
        snapshot = LoadState.new(
            "pending",
            generation=generation,
            not_before_us=not_before_us,
            key_range=plan.key_range,
        )
    whole = 0 if sinks is None else state.whole_generation or state.generation
    return dataclasses.replace(
        state,
        generation=generation,
        whole_generation=whole,
        heal=tuple(
            LoadState.new(
                "pending",
                generation=generation,
                not_before_us=not_before_us,
                from_us=from_us,
                to_us=to_us,
            )
            for from_us, to_us in plan.windows
        ),
        snapshot=snapshot,
        # A new one is requested so late that the stream covers it.
        coverage_checked=state.coverage_checked or plan.kind == "resnapshot",
        repair=RepairState(plan, lost.since_us, loaded=False, sinks=sinks),
    )


def _plan_of(state: TableState) -> Repair:
    assert state.repair is not None
    return state.repair.plan


def _sinks_of(state: TableState, sinks: Sequence[str] | None) -> tuple[str, ...] | None:
    before = state.repair
    if sinks is None or (before is None and state.open_loads):
        return None
    if before is None:
        return tuple(sorted(sinks))
    return None if before.sinks is None else tuple(sorted({*sinks, *before.sinks}))


def new_stream(arn: str, created_us: int, readers: int) -> StreamState:
    """Another stream of a table, which is read from its beginning.

    Args:
        arn: Its ARN.
        created_us: When it was switched on, microseconds since 1970.
        readers: How many readers it has.
    """
    return StreamState(arn, created_us, (None,) * readers, TRIM_HORIZON)


def switch_stream(
    state: TableState,
    following: NextStream,
    gap: Gap,
    policy: GapPolicy,
    access: AwsAccess | None,
) -> tuple[TableState, list[str]]:
    """Goes on with another stream of a table, after one that was read to its end.

    Sequence numbers of two streams mean nothing to each other. So the generation goes up, under
    every policy, and what the other stream brings wins.

    Args:
        state: The table's state.
        following: The other stream; it is read from its beginning.
        gap: What was written between the two.
        policy: Not `fail`.
        access: AWS.

    Returns:
        The state, and lines for people.
    """
    state = raise_or_record(gap, state, policy)
    stream = new_stream(following.arn, following.created_us, len(state.frontiers))
    state = dataclasses.replace(state, stream=stream)
    line = (
        f"{gap.table}: the stream was switched off and on; the old one is read to its end, and "
        f"changes between {_moment(gap.from_us)} and {_moment(gap.to_us)} are lost"
    )
    if policy.repairs:
        state = begin_repair(state, state.gaps[-1:], policy, access)
        return state, [line, f"{gap.table}: {_plan_of(state)}"]
    generation, snapshot = state.generation + 1, state.snapshot
    if snapshot.status == "pending" and not snapshot.reuse:
        # It is requested so late that the other stream covers it, and wins over the first one.
        snapshot = dataclasses.replace(snapshot, generation=generation)
    # What it does not cover is the gap, which is recorded.
    state = dataclasses.replace(
        state, generation=generation, snapshot=snapshot, coverage_checked=True
    )
    return state, [line]


def _moment(us: int) -> str:
    moment = datetime.fromtimestamp(us // 1_000_000, timezone.utc)
    return moment.isoformat().replace("+00:00", "Z")


def take_signals(
    directory: StateDirectory,
    state: State,
    names: Sequence[str],
    bucket: str,
    access: AwsAccess | None,
) -> list[str]:
    """Carries out the orders of new snapshots between two rounds (`snapshot_signals`).

    Args:
        directory: The locked state directory.
        state: Committed; changed in place and committed again if there are orders.
        names: The tables of the run.
        bucket: The bucket for new exports; empty for none.
        access: AWS.

    Returns:
        A line for people for each order.

    Raises:
        ConfigurationError: There is no bucket for a new export.
    """
    orders = SnapshotSignals(directory.path)
    lines = []
    for name in names:
        table = state.tables[name]
        # An export of a table that ended would be another table's: the order waits.
        order = None if table.end else orders.pending(name)
        if order is None:
            continue
        if table.asked != order.order_id:
            if not bucket:
                raise ConfigurationError(
                    "a new snapshot is ordered, and there is no bucket for its export",
                    where=f"table {name}",
                    hint="Give --s3_export_bucket, or cancel it: dynabeam snapshot --cancel",
                )
            table = begin_repair(table, [], GapPolicy.RESNAPSHOT, access, order.key_range)
            state.tables[name] = dataclasses.replace(table, asked=order.order_id)
            directory.commit(state)
            lines.append(f"{name}: {_plan_of(table)}, as ordered; generation {table.generation}")
        # Only now: a crash before it finds an order that was taken up, and does not do it twice.
        orders.remove(name, order.order_id)
    return lines


def resume_repair(state: TableState, policies: GapPolicies, access: AwsAccess | None) -> TableState:
    """Begins again what a continuous run has left that is not repaired."""
    left = state.unrepaired
    if left is None:
        return state
    state = dataclasses.replace(state, unrepaired=None)
    policy = GapPolicy(left.policy) if left.policy else policies.of(state.name)
    if not policy.repairs:
        return state
    return begin_repair(state, [], policy, access, since_us=left.since_us)


def reopen_loads(state: TableState) -> TableState:
    """Has the exports of a repair loaded from their beginning, by a run that counts anew."""

    def reopened(load: LoadState) -> LoadState:
        if load.generation != state.repair_generation:
            return load
        return dataclasses.replace(load, status="pending", manifest=None, files={}, bytes=0, rows=0)

    return state.map_loads(reopened)


def repair_lines(tables: Mapping[str, TableState]) -> list[str]:
    """A line for people for each table that is being repaired."""
    return [
        f"{name}: {state.repair.plan}" for name, state in tables.items() if state.repair is not None
    ]


def mark_sweep(state: TableState) -> TableState:
    """Marks a repair whose exports are loaded to their end: what it sweeps is to be swept."""
    if state.repair is None or state.open_loads:
        return state
    return dataclasses.replace(state, repair=dataclasses.replace(state.repair, loaded=True))


def sweep(directory: StateDirectory, state: State, sinks: Sequence[Sink]) -> list[str]:
    """Ends the repairs whose exports are loaded: sweeps every mirror, then commits.

    Args:
        directory: The locked state directory.
        state: Committed and published; changed in place.
        sinks: The sinks.

    Returns:
        A line for people for each repair that ended.

    Raises:
        SinkError: A mirror cannot be written.
    """
    lines = []
    before = dict(state.sinks or {})
    for name, table in state.tables.items():
        repair = table.repair
        if repair is None or not repair.loaded:
            continue
        directory.check_held()
        plan, generation = repair.plan, table.repair_generation
        for_whom = [sink for sink in sinks if repair.is_for(sink.place)]
        rows = sweep_sinks(for_whom, table.table, generation, plan, state.committed)
        if plan.loads_all:
            state.sinks = with_table_loaded(state, name, generation, repair.sinks)
        repaired = table.repaired
        if repair.sinks is None and not plan.key_range:
            since_us = 0 if plan.loads_all else repair.since_us
            repaired = (*repaired, Repaired(generation, since_us))
        what = f"healed with {sum(each.rows for each in table.heal):,} rows"
        if plan.kind == "resnapshot":
            what = f"loaded again with {table.snapshot.rows:,} rows"
        state.tables[name] = dataclasses.replace(
            table, heal=(), repair=None, repaired=repaired, totals=table.totals.plus(swept=rows)
        )
        lines.append(f"{name}: {what}, {rows:,} rows swept; generation {generation}")
    lines += _told_whole(before, state.sinks or {})
    if lines:
        directory.commit(state)
    return lines


def with_table_loaded(
    state: State, name: str, generation: int, places: Sequence[str] | None = None
) -> dict[str, KnownSink] | None:
    """The sinks of a state once a table is loaded to some of them.

    Args:
        state: The state.
        name: The table.
        generation: The generation of the load's rows.
        places: Places of the sinks; None for all.
    """
    if state.sinks is None:
        return None
    at_us, alone = now_us(), places is not None
    return {
        place: each.with_loaded(name, generation, state.number, at_us, alone=alone)
        if places is None or place in places
        else each
        for place, each in state.sinks.items()
    }


def _told_whole(before: Mapping[str, KnownSink], after: Mapping[str, KnownSink]) -> list[str]:
    return [
        f"{each.uri}: whole: every table is loaded to it"
        for place, each in after.items()
        if each.state == "active" and place in before and before[place].state == "loading"
    ]
