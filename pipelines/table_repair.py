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

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from dynabeam.pipelines.options.replicate import ReplicateOptions
from dynabeam.pipelines.state_directory import State, StateDirectory
from dynabeam.pipelines.table_state import raise_or_record
from dynabeam.transforms.aws.dynamodb import RecoveryWindow, continuous_backups
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.model.gap import Gap, GapKind, GapPolicies, GapPolicy
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.sinks.base import Sink
from dynabeam.transforms.sinks.membership import KnownSink
from dynabeam.transforms.state.repair_plan import Lost, Repair, plan_repair
from dynabeam.transforms.state.repair_sweep import sweep_sinks
from dynabeam.transforms.state.snapshot_signals import SnapshotSignals
from dynabeam.transforms.state.stream_successor import NextStream
from dynabeam.transforms.state.table_reading import (
    generation_of,
    loads_of,
    new_load,
    open_loads,
    repair_generation,
)
from dynabeam.transforms.stream.reader_spec import TRIM_HORIZON

__all__ = [
    "begin_repair",
    "begin_repairs",
    "is_for",
    "mark_sweeps",
    "meet_gap",
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
    gap: Gap, state: dict[str, Any], policies: GapPolicies, access: AwsAccess | None
) -> None:
    """Does about a gap that was found outside of a round what the table's policy says.

    Raises:
        GapError: The policy is `fail`.
    """
    policy = policies.of(gap.table)
    raise_or_record(gap, state, policy)
    if policy.repairs:
        begin_repair(state, state["gaps"][-1:], policy, access)


def begin_repairs(
    tables: Mapping[str, dict[str, Any]],
    known: Mapping[str, int],
    policies: GapPolicies,
    access: AwsAccess | None,
) -> list[str]:
    """Begins the repair of every table that met gaps in a round.

    Args:
        tables: The states behind the round, changed in place.
        known: How many gaps each table had before it.
        policies: What gaps do.
        access: AWS.

    Returns:
        A line for people for each table that met gaps.
    """
    lines = []
    for name, state in tables.items():
        gaps = state.get("gaps", [])[known.get(name, 0) :]
        if not gaps:
            continue
        kinds = ", ".join(sorted({each["kind"] for each in gaps}))
        line = f"{name}: changes were lost ({len(gaps)} gaps: {kinds})"
        policy = policies.of(name)
        if policy.repairs:
            line += f"; {begin_repair(state, gaps, policy, access)}"
        lines.append(line)
    return lines


def begin_repair(
    state: dict[str, Any],
    gaps: Sequence[Mapping[str, Any]],
    policy: GapPolicy,
    access: AwsAccess | None,
    key_range: str = "",
    *,
    sinks: Sequence[str] | None = None,
) -> Repair:
    """Makes the generation one higher, and puts what is to be loaded into the table's state.

    A repair that is under way is part of the new one: what it was to repair is lost still.

    Args:
        state: The table's state, changed in place.
        gaps: Fields of the gaps; none for a snapshot that was asked for.
        policy: `heal` or `resnapshot`.
        access: AWS.
        key_range: The range of keys that a snapshot was asked for of; empty for all.
        sinks: Places of the sinks that it is for; None for all. It is for all too if a load goes on
            that is, because it takes the place of that one.
    """
    sinks = _sinks_of(state, sinks)
    if sinks is None:
        state.pop("whole_generation", None)
    else:
        state.setdefault("whole_generation", state["generation"])
    since = [each["from_us"] for each in gaps]
    if "repair" in state:
        since.append(state["repair"]["since_us"])
    snapshot = state["snapshot"]
    uncovered = any(each["kind"] == GapKind.UNCOVERED.value for each in gaps)
    lost = Lost(
        since_us=min(since, default=0),
        snapshot_us=snapshot["manifest"]["export_time_us"] if snapshot["manifest"] else 0,
        snapshot_complete=snapshot["status"] in ("none", "done") and not uncovered,
    )
    recovery = _NO_RECOVERY
    if policy is GapPolicy.HEAL and access is not None:
        recovery = continuous_backups(access, state["table"]["name"])
    repair = plan_repair(policy, lost, now_us(), recovery, key_range)
    state["generation"] += 1
    state["heal"] = [
        new_load(
            "pending",
            generation=state["generation"],
            not_before_us=repair.not_before_us,
            window=each,
        )
        for each in repair.windows
    ]
    if repair.kind == "resnapshot":
        state["snapshot"] = new_load(
            "pending",
            generation=state["generation"],
            not_before_us=repair.not_before_us,
            key_range=repair.key_range,
        )
        # It is requested so late that the stream covers it.
        state["coverage_checked"] = True
    state["repair"] = {"plan": repair.to_json(), "since_us": lost.since_us, "loaded": False}
    if sinks is not None:
        state["repair"]["sinks"] = list(sinks)
    return repair


def _sinks_of(state: Mapping[str, Any], sinks: Sequence[str] | None) -> Sequence[str] | None:
    before = state.get("repair")
    if sinks is None or (before is None and open_loads(dict(state))):
        return None
    if before is None:
        return sorted(sinks)
    return sorted({*sinks, *before["sinks"]}) if "sinks" in before else None


def is_for(repair: Mapping[str, Any], sink: Sink) -> bool:
    """True if the rows and the sweep of a repair are for a sink."""
    return sink.place in repair.get("sinks", (sink.place,))


def switch_stream(
    state: dict[str, Any],
    following: NextStream,
    gap: Gap,
    policy: GapPolicy,
    access: AwsAccess | None,
) -> list[str]:
    """Goes on with another stream of a table, behind one that was read to its end.

    Sequence numbers of two streams mean nothing to each other. So the generation goes up, under
    every policy, and what the other stream brings wins.

    Args:
        state: The table's state, changed in place.
        following: The other stream; it is read from its beginning.
        gap: What was written between the two.
        policy: Not `fail`.
        access: AWS.

    Returns:
        Lines for people.
    """
    raise_or_record(gap, state, policy)
    state["stream"] = {
        "arn": following.arn,
        "since_us": following.created_us,
        "start": TRIM_HORIZON,
        "frontiers": [None] * len(state["stream"]["frontiers"]),
    }
    line = (
        f"{gap.table}: the stream was switched off and on; the old one is read to its end, and "
        f"changes between {_moment(gap.from_us)} and {_moment(gap.to_us)} are lost"
    )
    if policy.repairs:
        plan = begin_repair(state, state["gaps"][-1:], policy, access)
        return [line, f"{gap.table}: {plan}"]
    state["generation"] += 1
    snapshot = state["snapshot"]
    if snapshot["status"] == "pending" and not snapshot["reuse"]:
        # It is requested so late that the other stream covers it, and wins over the first one.
        snapshot["generation"] = state["generation"]
    # What it does not cover is the gap, which is recorded.
    state["coverage_checked"] = True
    return [line]


def _moment(us: int) -> str:
    moment = datetime.fromtimestamp(us // 1_000_000, timezone.utc)
    return moment.isoformat().replace("+00:00", "Z")


def take_signals(
    directory: StateDirectory, state: State, names: Sequence[str], options: ReplicateOptions
) -> list[str]:
    """Takes up the orders of new snapshots between two rounds (`snapshot_signals`).

    Args:
        directory: The locked state directory.
        state: Committed; changed in place and committed again if there are orders.
        names: The tables of the run.
        options: What was asked for.

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
        order = None if "end" in table else orders.pending(name)
        if order is None:
            continue
        if table.get("asked") != order.order_id:
            if not options.bucket:
                raise ConfigurationError(
                    "a new snapshot is ordered, and there is no bucket for its export",
                    where=f"table {name}",
                    hint="Give --s3_export_bucket, or cancel it: dynabeam snapshot --cancel",
                )
            plan = begin_repair(table, [], GapPolicy.RESNAPSHOT, options.access, order.key_range)
            table["asked"] = order.order_id
            directory.commit(state)
            lines.append(f"{name}: {plan}, as ordered; generation {table['generation']}")
        # Only now: a crash before it finds an order that was taken up, and does not do it twice.
        orders.remove(name, order.order_id)
    return lines


def resume_repair(state: dict[str, Any], policies: GapPolicies, access: AwsAccess | None) -> None:
    """Begins again what a continuous run has left unmended."""
    left = state.pop("unrepaired", None)
    if left is None:
        return
    policy = GapPolicy(left["policy"]) if left["policy"] else policies.of(state["table"]["name"])
    if policy.repairs:
        begin_repair(state, [{"from_us": left["since_us"], "kind": ""}], policy, access)


def reopen_loads(state: dict[str, Any]) -> None:
    """Has the exports of a repair loaded from their beginning, by a run that counts anew."""
    generation = repair_generation(state)
    for load in loads_of(state):
        if generation_of(load) == generation:
            load |= {"status": "pending", "manifest": None, "files": {}, "bytes": 0, "rows": 0}


def repair_lines(tables: Mapping[str, dict[str, Any]]) -> list[str]:
    """A line for people for each table that is being repaired."""
    return [
        f"{name}: {Repair.from_json(state['repair']['plan'])}"
        for name, state in tables.items()
        if "repair" in state
    ]


def mark_sweeps(tables: Iterable[dict[str, Any]]) -> None:
    """Marks the repairs whose exports are loaded to their end: what they sweep is to be swept."""
    for state in tables:
        if "repair" in state and not open_loads(state):
            state["repair"]["loaded"] = True


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
        repair = table.get("repair")
        if repair is None or not repair["loaded"]:
            continue
        directory.check_held()
        plan = Repair.from_json(repair["plan"])
        described = Table.from_json(table["table"])
        for_whom = [sink for sink in sinks if is_for(repair, sink)]
        generation = repair_generation(table)
        rows = sweep_sinks(for_whom, described, generation, plan, state.committed)
        if plan.loads_all:
            state.sinks = with_table_loaded(state, name, generation, repair.get("sinks"))
        healed = sum(each["rows"] for each in table.pop("heal", ()))
        if "sinks" not in repair and not plan.key_range:
            since_us = 0 if plan.loads_all else repair["since_us"]
            table.setdefault("repaired", []).append([generation, since_us])
        del table["repair"]
        totals = table["totals"]
        totals["swept"] = totals.get("swept", 0) + rows
        what = f"healed with {healed:,} rows"
        if plan.kind == "resnapshot":
            what = f"loaded again with {table['snapshot']['rows']:,} rows"
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
