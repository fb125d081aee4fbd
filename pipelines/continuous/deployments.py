# SPDX-License-Identifier: Apache-2.0
"""The deployment of a state directory: begun, gone on with, added to, taken over from.

A state directory has at most one continuous deployment, whose folder is `continuous/<id>` below it.
A run that takes over, catch-up or continuous, first marks the deployment as over, then
brings the positions that it has stored into the position document, and only then reads on.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence

from dynabeam.pipelines.discovery import discovery_plan
from dynabeam.pipelines.options.replicate import ReplicateOptions
from dynabeam.transforms.continuous.control_folder import Assignment, ControlFolder
from dynabeam.transforms.continuous.discovery_plan import first_assignment
from dynabeam.transforms.continuous.generations import TableGeneration, read_generation
from dynabeam.transforms.continuous.repairs import repair_assignment
from dynabeam.transforms.continuous.stream_ends import read_followed
from dynabeam.transforms.errors import StateError, StateInUseError
from dynabeam.transforms.model.gap import Gap, GapPolicies, GapPolicy
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.state.gap_events import Repaired
from dynabeam.transforms.state.merge_reports import merge_reports
from dynabeam.transforms.state.state_directory import State, StateDirectory
from dynabeam.transforms.state.table_reading import (
    choose_readers,
    list_for_readers,
    readers_of_each,
    snapshot_requests,
    stream_sources,
)
from dynabeam.transforms.state.table_repair import new_stream, reopen_loads, with_table_loaded
from dynabeam.transforms.state.table_state import LoadState, TableState, Unrepaired
from dynabeam.transforms.storage import filesystem

__all__ = [
    "absorb",
    "adopt_tables",
    "assign_each",
    "assign_tables",
    "begin",
    "current",
    "take_over",
    "tell_discovery",
    "withdraw",
]

_LIVE_SECONDS = 180


def current(directory: StateDirectory, state: State) -> ControlFolder:
    """The folder of the deployment that the state names.

    Raises:
        StateError: There is none.
    """
    if not state.deployment:
        raise StateError(
            "the state directory has no continuous deployment to continue",
            where=directory.path,
            hint="Leave --savepoint_path or --update out: the run begins at the stored positions",
        )
    return ControlFolder(filesystem.join(directory.path, "continuous", state.deployment))


def begin(directory: StateDirectory, state: State) -> ControlFolder:
    """Makes a new deployment the state's own; to be committed by the caller."""
    state.deployment = uuid.uuid4().hex[:12]
    return current(directory, state)


def withdraw(directory: StateDirectory, state: State, why: str) -> None:
    """Ends the deployment of a job that never ran, as if it had not been begun.

    What says that it is over stays, for a job that may yet begin: such a job stops itself.

    Args:
        directory: The locked state directory.
        state: As loaded; changed in place and committed.
        why: For whoever still runs in it.
    """
    folder = current(directory, state)
    take_over(directory, state, successor=why, forced=True)
    left = [each for each in filesystem.list_files(folder.path) if not each.endswith("/over")]
    filesystem.delete(left, StateError)


def assign_tables(
    folder: ControlFolder, state: State, names: Sequence[str], options: ReplicateOptions
) -> None:
    """Assigns tables to a deployment, from the positions of the state."""
    started = now_us()
    folder.assign(f"{started:020d}", _assignment(folder, state, names, options, started))


def assign_each(
    folder: ControlFolder, state: State, names: Sequence[str], options: ReplicateOptions
) -> None:
    """Assigns new tables to a deployment, each under the name that follows from the table."""
    started = now_us()
    for name in names:
        assignment = _assignment(folder, state, [name], options, started)
        folder.assign_once(first_assignment(state.tables[name]), assignment)


def _assignment(
    folder: ControlFolder,
    state: State,
    names: Sequence[str],
    options: ReplicateOptions,
    started_us: int,
) -> Assignment:
    access, most = options.access, readers_of_each(len(state.tables))
    sources, requests = [], []
    for name in names:
        table = state.tables[name]
        if not options.readers:
            assert access is not None
            table = choose_readers(table, access, most)
        if access is not None:
            table = list_for_readers(table, options, access, started_us)
        sources += stream_sources(table, options, 0, started_us)
        state.tables[name] = table
    # Only now, when AWS has answered for all of them, the deployment is told.
    for name in names:
        table = state.tables[name]
        _tell_generation(folder, name, table)
        if table.repair is not None:
            table = state.tables[name] = reopen_loads(table)
            wanted = snapshot_requests(table, options, state.state_id)
            generation = table.repair_generation
            folder.assign(repair_assignment(name, generation), Assignment([], wanted))
        else:
            requests += snapshot_requests(table, options, state.state_id)
    return Assignment(sources, requests)


def _tell_generation(folder: ControlFolder, name: str, table: TableState) -> None:
    """Writes a table's generation, with the repair that goes on in the deployment."""
    snapshot, repair = table.snapshot, table.repair
    loaded = snapshot.manifest if snapshot.status == "done" else None
    told = TableGeneration(
        generation=table.generation,
        snapshot_us=loaded.export_time_us if loaded else 0,
        asked=table.asked,
        table_id=table.table_id,
    )
    if repair is not None:
        told = dataclasses.replace(
            told,
            # Readers give the table's own all the same: they begin with it.
            generation=table.repair_generation,
            step="loading",
            policy=repair.plan.kind,
            since_us=repair.since_us,
            lost_in=table.repair_generation,
            plan=repair.plan.to_json(),
        )
    told.write(folder, name)


def tell_discovery(folder: ControlFolder, state: State, options: ReplicateOptions) -> None:
    """Writes which new tables a deployment is to discover; nothing if none."""
    if options.discovers:
        discovery_plan(options, state).write(folder)
    else:
        filesystem.delete([folder.discovery], StateError)


def adopt_tables(folder: ControlFolder, state: State) -> None:
    """Brings the tables that a deployment found into the state."""
    for name, found in folder.read_tables().items():
        state.tables.setdefault(name, found)


def take_over(directory: StateDirectory, state: State, *, successor: str, forced: bool) -> None:
    """Ends the deployment that the state names, if any, and goes on from its positions.

    Args:
        directory: The locked state directory.
        state: Changed in place and committed.
        successor: Who takes over, for the error that the ended run gives.
        forced: Take over even from one that seems to be running.

    Raises:
        StateInUseError: The deployment has stored positions within the last minutes.
    """
    if not state.deployment:
        return
    folder = current(directory, state)
    quiet = _seconds_since_last_store(folder)
    if quiet < _LIVE_SECONDS and not forced:
        raise StateInUseError(
            f"a continuous run stored positions here {quiet:.0f} seconds ago",
            where=directory.path,
            found=f"deployment {state.deployment}",
            hint=(
                "If it runs, stop it; then give --take_over, or wait three minutes. To resume it "
                "from a savepoint, give --savepoint_path"
            ),
        )
    folder.end(successor)
    known = {name: len(each.gaps) for name, each in state.tables.items()}
    absorb(folder, state)
    for name, table in state.tables.items():
        loads_all = table.repair is not None and table.repair.plan.loads_all
        # A table that the deployment found is new here, so all of its gaps are.
        after = _with_generation(folder, table, table.gaps[known.get(name, 0) :])
        state.tables[name] = after
        if loads_all and after.unrepaired is None:
            state.sinks = with_table_loaded(state, name, table.repair_generation)
    state.deployment = ""
    directory.commit(state)


def _with_generation(folder: ControlFolder, table: TableState, gaps: Sequence[Gap]) -> TableState:
    """Goes on at the generation of a deployment; notes what of its gaps is not repaired."""
    at = read_generation(folder, table.name)
    lowest = at.lost_in or max(at.generation, 1)
    since = [each.from_us for each in gaps if each.generation >= lowest]
    unrepaired = table.unrepaired
    if at.step != "settled" or since:
        if at.plan is not None:
            since.append(at.since_us)
        unrepaired = Unrepaired(at.policy, min(since, default=0))
    return dataclasses.replace(
        table,
        generation=max(table.generation, at.generation),
        asked=at.asked or table.asked,
        repaired=repaired_of(table, at),
        repair=None,
        heal=(),
        unrepaired=unrepaired,
    )


def repaired_of(table: TableState, at: TableGeneration) -> tuple[Repaired, ...]:
    """The repairs of a table that have ended, in rounds and in the deployment."""
    since = [] if at.ended is None else at.ended.get("repaired", [])
    return (*table.repaired, *map(Repaired.from_json, since))


def _expect_snapshot(table: TableState, reports: Sequence[Report]) -> TableState:
    """Makes room for the newest snapshot that a deployment took by itself."""
    newest = max(
        (
            int(each.fields["generation"])
            for each in reports
            if each.kind == "export" and not each.fields.get("from_us", 0)
        ),
        default=0,
    )
    if newest <= table.snapshot.generation:
        return table
    return dataclasses.replace(table, snapshot=LoadState.new("pending", generation=newest))


def _follow_streams(
    folder: ControlFolder, table: TableState, reports: Sequence[Report]
) -> TableState:
    """Makes room for the positions in a stream that a deployment has begun after another one."""
    streams = [each.fields for each in reports if each.kind == "stream"]
    if table.stream is None or not streams:
        return table
    arn = max(each["stream_arn"] for each in streams)
    found = [each for each in read_followed(folder, table.name) if each.arn == arn]
    given = (int(each.get("generation", 0)) for each in streams)
    table = dataclasses.replace(table, generation=max(table.generation, *given))
    if not found or table.stream is None or arn == table.stream.arn:
        return table
    (followed,) = found
    readers = max(each["readers"] for each in streams)
    return dataclasses.replace(
        table,
        table=Table.from_json(followed.table),
        table_id=followed.table_id,
        end="",
        stream=new_stream(arn, followed.created_us, readers),
    )


def absorb(folder: ControlFolder, state: State) -> None:
    """Brings the tables that a deployment found, its positions and its counts into the state."""
    adopt_tables(folder, state)
    for table, reports in folder.read_positions().items():
        if table in state.tables:
            found = _expect_snapshot(state.tables[table], reports)
            state.tables[table] = _follow_streams(folder, found, reports)
            # Gaps were judged where they were found; here they are only recorded.
            merge_reports(state.tables, reports, GapPolicies(GapPolicy.CONTINUE))
    counts = folder.letters.counts()
    for table, each in state.tables.items():
        totals = dataclasses.replace(each.totals, dead_letters=counts.get(table, 0))
        state.tables[table] = dataclasses.replace(each, totals=totals)


def _seconds_since_last_store(folder: ControlFolder) -> float:
    return filesystem.seconds_since_change(filesystem.join(folder.path, "positions"))
