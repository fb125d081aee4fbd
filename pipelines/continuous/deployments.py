# SPDX-License-Identifier: Apache-2.0
"""The deployment of a state directory: begun, gone on with, added to, taken over from.

A state directory has at most one continuous deployment, whose folder is `continuous/<id>` below it.
A run that takes over, catch-up or continuous, first marks the deployment as over, then
brings the positions that it has stored into the position document, and only then reads on.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from dynabeam.pipelines.discovery import discovery_plan
from dynabeam.pipelines.options.replicate import ReplicateOptions
from dynabeam.pipelines.state_directory import State, StateDirectory
from dynabeam.pipelines.table_repair import reopen_loads, with_table_loaded
from dynabeam.pipelines.table_state import merge_reports
from dynabeam.transforms.continuous.control_folder import Assignment, ControlFolder
from dynabeam.transforms.continuous.discovery_plan import first_assignment
from dynabeam.transforms.continuous.generations import TableGeneration, read_generation
from dynabeam.transforms.continuous.repairs import repair_assignment
from dynabeam.transforms.continuous.stream_ends import read_followed
from dynabeam.transforms.errors import StateError, StateInUseError
from dynabeam.transforms.model.gap import GapPolicies, GapPolicy
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.state.repair_plan import Repair
from dynabeam.transforms.state.table_reading import (
    choose_readers,
    generation_of,
    list_for_readers,
    new_load,
    readers_of_each,
    repair_generation,
    snapshot_requests,
    stream_sources,
)
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.stream.reader_spec import TRIM_HORIZON

__all__ = [
    "abandon",
    "absorb",
    "adopt_tables",
    "assign_each",
    "assign_tables",
    "begin",
    "current",
    "take_over",
    "tell_discovery",
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


def abandon(directory: StateDirectory, folder: ControlFolder) -> None:
    """Takes back a deployment whose job could not be submitted.

    Its folder is ended, in case the runner has the job after all: such a job stops itself.

    Args:
        directory: The locked state directory.
        folder: The deployment's folder.
    """
    state = directory.load()
    if state.deployment and current(directory, state).path == folder.path:
        folder.end("nobody: its job could not be submitted")
        state.deployment = ""
        directory.commit(state)


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
    tables = [state.tables[name] for name in names]
    if not options.readers:
        assert options.access is not None
        for each in tables:
            choose_readers(each, options.access, readers_of_each(len(state.tables)))
    if options.access is not None:
        for each in tables:
            list_for_readers(each, options, options.access, started_us)
    sources = [s for each in tables for s in stream_sources(each, options, 0, started_us)]
    requests = []
    for name in names:
        table = state.tables[name]
        _tell_generation(folder, name, table)
        if "repair" in table:
            reopen_loads(table)
            wanted = snapshot_requests(table, options, state.state_id, 0)
            generation = repair_generation(table)
            folder.assign(repair_assignment(name, generation), Assignment([], wanted))
        else:
            requests += snapshot_requests(table, options, state.state_id, 0)
    return Assignment(sources, requests)


def _tell_generation(folder: ControlFolder, name: str, table: dict[str, Any]) -> None:
    """Writes a table's generation, with the repair that goes on in the deployment."""
    snapshot, repair = table["snapshot"], table.get("repair")
    loaded = snapshot["status"] == "done" and snapshot["manifest"]
    told = TableGeneration(
        generation=table["generation"],
        snapshot_us=snapshot["manifest"]["export_time_us"] if loaded else 0,
        asked=table.get("asked", ""),
        table_id=table["table_id"],
    )
    if repair is not None:
        told = dataclasses.replace(
            told,
            # Readers give the table's own all the same: they begin with it.
            generation=repair_generation(table),
            step="loading",
            policy=repair["plan"]["kind"],
            since_us=repair["since_us"],
            lost_in=repair_generation(table),
            plan=repair["plan"],
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
    known = {name: len(each.get("gaps", ())) for name, each in state.tables.items()}
    absorb(folder, state)
    loading = {
        name: repair_generation(table)
        for name, table in state.tables.items()
        if "repair" in table and Repair.from_json(table["repair"]["plan"]).loads_all
    }
    for name, table in state.tables.items():
        # A table that the deployment found is new here, so all of its gaps are.
        _take_generation(folder, name, table, table.get("gaps", [])[known.get(name, 0) :])
        if name in loading and "unrepaired" not in table:
            state.sinks = with_table_loaded(state, name, loading[name])
    state.deployment = ""
    directory.commit(state)


def _take_generation(
    folder: ControlFolder, name: str, table: dict[str, Any], gaps: Sequence[dict[str, Any]]
) -> None:
    """Goes on at the generation of a deployment; notes what of its gaps is not repaired."""
    at = read_generation(folder, name)
    table["generation"] = max(table["generation"], at.generation)
    table["asked"] = at.asked or table.get("asked", "")
    table["repaired"] = repaired_of(table, at)
    table.pop("repair", None)
    table.pop("heal", None)
    lowest = at.lost_in or max(at.generation, 1)
    since = [each["from_us"] for each in gaps if each.get("generation", 0) >= lowest]
    if at.step != "settled" or since:
        if at.plan is not None:
            since.append(at.since_us)
        table["unrepaired"] = {"policy": at.policy, "since_us": min(since, default=0)}


def repaired_of(table: Mapping[str, Any], at: TableGeneration) -> list[list[int]]:
    """Generation and `since_us` of the repairs of a table that have ended, in rounds and since."""
    since = [] if at.ended is None else at.ended.get("repaired", [])
    return [*table.get("repaired", []), *since]


def _expect_snapshot(table: dict[str, Any], reports: Sequence[Report]) -> None:
    """Makes room for the newest snapshot that a deployment took by itself."""
    for report in reports:
        full = report.kind == "export" and not report.fields.get("from_us", 0)
        if full and report.fields["generation"] > generation_of(table["snapshot"]):
            table["snapshot"] = new_load("pending", generation=report.fields["generation"])


def _follow_streams(
    folder: ControlFolder, name: str, table: dict[str, Any], reports: Sequence[Report]
) -> None:
    """Makes room for the positions in a stream that a deployment has begun after another one."""
    stream = table["stream"]
    streams = [each.fields for each in reports if each.kind == "stream"]
    if stream is None or not streams:
        return
    arn = max(each["stream_arn"] for each in streams)
    found = [each for each in read_followed(folder, name) if each.arn == arn]
    given = (int(each.get("generation", 0)) for each in streams)
    table["generation"] = max(table["generation"], *given)
    if not found or arn == stream["arn"]:
        return
    (followed,) = found
    table["table"], table["table_id"] = dict(followed.table), followed.table_id
    table.pop("end", None)
    table["stream"] = {
        "arn": arn,
        "since_us": followed.created_us,
        "start": TRIM_HORIZON,
        "frontiers": [None] * max(each["readers"] for each in streams),
    }


def absorb(folder: ControlFolder, state: State) -> None:
    """Brings the tables that a deployment found, its positions and its counts into the state."""
    adopt_tables(folder, state)
    for table, reports in folder.read_positions().items():
        if table in state.tables:
            _expect_snapshot(state.tables[table], reports)
            _follow_streams(folder, table, state.tables[table], reports)
            # Gaps were judged where they were found; here they are only recorded.
            merge_reports(state.tables, reports, GapPolicies(GapPolicy.CONTINUE))
    counts = folder.letters.counts()
    for table, each in state.tables.items():
        each["totals"]["dead_letters"] = counts.get(table, 0)


def _seconds_since_last_store(folder: ControlFolder) -> float:
    return filesystem.seconds_since_change(filesystem.join(folder.path, "positions"))
