# SPDX-License-Identifier: Apache-2.0
"""How a replication is, read from its state directory: nothing is locked, nothing is written.

Rounds say it in `state.json`; a continuous run stores its positions and dead letters in the folder
of its deployment, with a lag of a minute or two. Both are replaced whole, so what is read is never
torn.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any, get_args

from apache_beam.io.filesystems import FileSystems

from dynabeam.pipelines.continuous.deployments import absorb, current, repaired_of
from dynabeam.pipelines.rounds.last_run import LastRun, read_last_run
from dynabeam.pipelines.status.acknowledged import read_acknowledged
from dynabeam.transforms.continuous.control_folder import ControlFolder
from dynabeam.transforms.continuous.discovery import read_findings
from dynabeam.transforms.continuous.fatal_errors import load_fatal_errors
from dynabeam.transforms.continuous.generations import TableGeneration, read_generation
from dynabeam.transforms.errors import StateError, StateInUseError
from dynabeam.transforms.export.elements import DONE
from dynabeam.transforms.sinks.membership import KnownSink
from dynabeam.transforms.state.gap_events import EventState, Repaired, gap_events
from dynabeam.transforms.state.repair_plan import Repair
from dynabeam.transforms.state.state_directory import StateDirectory
from dynabeam.transforms.state.table_repair import with_table_loaded
from dynabeam.transforms.state.table_state import LoadState, TableState
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.stream.progress import RETENTION_US, SeenReader, oldest_unread_shards
from dynabeam.transforms.telemetry.metric_names import SHARDS_PER_TABLE

__all__ = [
    "RunStatus",
    "ShardStatus",
    "SinkStatus",
    "SnapshotStatus",
    "Status",
    "TableStatus",
    "read_status",
]


@dataclasses.dataclass(frozen=True)
class SnapshotStatus:
    """How far the snapshot of a table is.

    Attributes:
        status: `none`, `pending`, `loading` or `done`.
        rows: Rows loaded.
        rows_total: Rows of the export, 0 while that is not known.
        files: Files loaded to their end; empty ones are left out.
        files_total: Files of the export that have rows.
        bytes: Bytes loaded, uncompressed.
    """

    status: str
    rows: int
    rows_total: int
    files: int
    files_total: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class ShardStatus:
    """One shard.

    Attributes:
        shard: Its id.
        unread_age_seconds: How old its oldest unread change may be.
        behind: Whether it was known to have changes waiting.
    """

    shard: str
    unread_age_seconds: float
    behind: bool


@dataclasses.dataclass(frozen=True)
class TableStatus:
    """How one table is. Numbers are None where nothing is known yet.

    Attributes:
        table: Its name.
        generation: Its generation.
        snapshot: Its snapshot.
        streams: Whether its stream is read.
        changes: Changes read from it.
        newest_us: Time of the newest of them, microseconds since 1970, 0 for none.
        caught_up: Whether every reader had read all when it looked last.
        seen_us: When that was; of several readers the one longest ago.
        lag_seconds: Its lag then.
        unread_age_seconds: How old the oldest unread change may be now.
        time_to_loss_seconds: What is left until the stream may lose it.
        stored_us: When the positions were stored.
        stopped: Why the run cannot go on, if it is because of this table; else empty.
        gaps: Losses that were found; one that several shards found together counts once.
        gaps_lost: Those of them whose changes are missing, and nobody has acknowledged it.
        gaps_repairing: Those that are being repaired.
        gaps_repaired: Those that a repair has closed.
        gaps_acknowledged: Those that are lost for good, and somebody knows.
        gaps_met: How many the shards found, each counted.
        newest_gap: The last one that is neither repaired nor acknowledged, in words; empty if there
            is none.
        dead_letters: Records that could not be handled.
        stale: Snapshot rows that a change had superseded.
        unfit_numbers: Numbers in `_other` because their columns' decimal type is too narrow, by
            sink; the sink's option `numbers=text` holds all.
        shards: Shards that are read.
        shards_behind: Those that were known to have changes waiting.
        oldest_shards: At most 10: those with the oldest unread changes.
        in_last_run: Whether the last run in rounds read it; True if that is not known.
        finding: What is the matter with it while the others go on, such as that it was deleted;
            empty for nothing.
    """

    table: str
    generation: int
    snapshot: SnapshotStatus
    streams: bool
    changes: int
    newest_us: int
    caught_up: bool | None
    seen_us: int | None
    lag_seconds: float | None
    unread_age_seconds: float | None
    time_to_loss_seconds: float | None
    stored_us: int | None
    stopped: str
    gaps: int
    gaps_lost: int
    gaps_repairing: int
    gaps_repaired: int
    gaps_acknowledged: int
    gaps_met: int
    newest_gap: str
    dead_letters: int
    stale: int
    unfit_numbers: Mapping[str, int]
    shards: int
    shards_behind: int
    oldest_shards: tuple[ShardStatus, ...]
    in_last_run: bool = True
    finding: str = ""


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """How the last run in rounds is, or how it ended.

    Attributes:
        outcome: `running`, `caught_up`, `interrupted`, `failed`, or `died`: it has not ended, and
            nobody holds the state directory.
        began_us: When it began, microseconds since 1970.
        ended_us: When it ended; 0 if it has not.
        reason: Why it failed; else empty.
    """

    outcome: str
    began_us: int
    ended_us: int
    reason: str


@dataclasses.dataclass(frozen=True)
class SinkStatus:
    """How one sink is.

    Attributes:
        uri: Its URI; secrets are references.
        place: Where its rows end up.
        kind: `mirror` or `changelog`.
        state: `active`, `loading` or `dropped`.
        text: The same for people, with what it lacks.
        applied: The last committed round that was written to it.
        whole_from: From this round on a changelog has every change.
        lacks: What a changelog does not hold, for people.
        loading: Tables that are still loaded to it.
    """

    uri: str
    place: str
    kind: str
    state: str
    text: str
    applied: int
    whole_from: int
    lacks: tuple[str, ...]
    loading: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Status:
    """How a replication is.

    Attributes:
        state_dir: Its state directory.
        mode: `rounds` or `continuous`.
        round: The last committed round.
        deployment: The deployment of a continuous run, else empty.
        at_us: When this was read, microseconds since 1970.
        tables: Its tables, by name.
        sinks: Its sinks, by place; none if the state directory does not know them yet.
        run: The last run in rounds; None if there was none, or a continuous run has taken over.
    """

    state_dir: str
    mode: str
    round: int
    deployment: str
    at_us: int
    tables: tuple[TableStatus, ...]
    sinks: tuple[SinkStatus, ...] = ()
    run: RunStatus | None = None


def read_status(directory: StateDirectory, at_us: int) -> Status:
    """Reads how a replication is.

    Args:
        directory: The state directory; it need not be locked.
        at_us: Now, microseconds since 1970.

    Raises:
        StateError: There is nothing, or it cannot be read.
    """
    document = filesystem.join(directory.path, "state.json")
    if not filesystem.exists(document):
        raise StateError(
            "no replication has written here",
            where=f"--state_dir={directory.path}",
            hint="Give the --state_dir or --name that the replication was started with",
        )
    state = directory.load()
    begun = dict(state.tables)
    stored = {name: _changed_us(document) for name in state.tables} if state.number else {}
    stops: dict[str, str] = {}
    generations: dict[str, TableGeneration] = {}
    findings = filesystem.join(directory.path, "findings.json")
    if state.deployment:
        state = dataclasses.replace(state, tables=dict(state.tables))
        folder = current(directory, state)
        absorb(folder, state)
        stops, findings = load_fatal_errors(folder), folder.findings
        for name in state.tables:
            generations[name] = read_generation(folder, name)
            # A deployment that has stored nothing yet says nothing new.
            stored[name] = _changed_us(folder.positions_path(name)) or stored.get(name, 0)
            if name in begun and _is_loaded(folder, name, begun[name]):
                state.sinks = with_table_loaded(state, name, begun[name].repair_generation)
    acknowledged = read_acknowledged(directory)
    run = None if state.deployment else read_last_run(directory)
    told = read_findings(findings)
    return Status(
        state_dir=directory.path,
        mode="continuous" if state.deployment else "rounds",
        round=state.number,
        deployment=state.deployment,
        at_us=at_us,
        tables=tuple(
            dataclasses.replace(
                _table_status(name, table, stored.get(name, 0), at_us, stops.get(name, "")),
                **_gaps(table, generations.get(name), acknowledged.get(name, 0)),
                in_last_run=run is None or not run.tables or name in run.tables,
                finding=str(told[name]) if name in told else "",
            )
            for name, table in sorted(state.tables.items())
        ),
        sinks=tuple(_sink_status(each) for _, each in sorted((state.sinks or {}).items())),
        run=None if run is None else _run_status(run, directory),
    )


def _run_status(run: LastRun, directory: StateDirectory) -> RunStatus:
    outcome: str = run.outcome
    if outcome == "running":
        try:
            directory.check_free()
            outcome = "died"
        except StateInUseError:
            pass
    return RunStatus(outcome, run.began_us, run.ended_us, run.reason)


def _is_loaded(folder: ControlFolder, name: str, table: TableState) -> bool:
    """True if a deployment has ended the load of a table that it was begun with."""
    at = read_generation(folder, name)
    settled = at.step == "settled" and at.generation >= table.repair_generation
    return settled and table.repair is not None


def _sink_status(sink: KnownSink) -> SinkStatus:
    return SinkStatus(
        uri=sink.uri,
        place=sink.place,
        kind=sink.kind,
        state=sink.state,
        text=sink.describe(),
        applied=sink.applied,
        whole_from=sink.whole_from,
        lacks=tuple(map(str, sink.lacks)),
        loading=sink.loading,
    )


def _changed_us(path: str) -> int:
    """When a file was last written, microseconds since 1970; 0 if there is none."""
    # Beam's own look takes a refusal for an error, though the file may only not be there yet.
    found = FileSystems.match([path])[0].metadata_list if filesystem.exists(path) else []
    return int((found[0].last_updated_in_seconds or 0) * 1_000_000) if found else 0


def _table_status(
    name: str, table: TableState, stored_us: int, at_us: int, stopped: str
) -> TableStatus:
    totals = table.totals
    readers = _readers(table)
    looked = readers if len(readers) == len(table.frontiers) else []
    age_us = max((each.unread_age_us(at_us) for each in looked), default=None)
    return TableStatus(
        table=name,
        generation=table.generation,
        snapshot=_snapshot_status(table.snapshot),
        streams=table.stream is not None,
        changes=totals.changes,
        newest_us=totals.newest_us,
        caught_up=all(each.caught_up for each in looked) if looked else None,
        seen_us=min((each.seen_us for each in looked), default=None),
        lag_seconds=max((each.lag_us(each.seen_us) / 1e6 for each in looked), default=None),
        unread_age_seconds=None if age_us is None else age_us / 1e6,
        time_to_loss_seconds=None if age_us is None else (RETENTION_US - age_us) / 1e6,
        stored_us=stored_us or None,
        stopped=stopped,
        gaps=totals.gaps,
        gaps_lost=0,
        gaps_repairing=0,
        gaps_repaired=0,
        gaps_acknowledged=0,
        gaps_met=totals.gaps,
        newest_gap="",
        dead_letters=totals.dead_letters,
        stale=totals.stale,
        unfit_numbers=dict(table.unfit_numbers),
        shards=sum(len(each.frontier.shards) for each in readers),
        shards_behind=sum(each.behind for each in readers),
        oldest_shards=_oldest_shards(readers, table, at_us),
    )


def _gaps(table: TableState, at: TableGeneration | None, acknowledged: int) -> dict[str, Any]:
    """The fields of a table's status about its losses."""
    ended = table.repaired if at is None else repaired_of(table, at)
    events = gap_events(table.gaps, ended, _repairing(table, at), acknowledged)
    counts = Counter(each.state for each in events)
    # Documents of earlier versions count gaps that they do not hold.
    counts["lost"] += max(0, table.totals.gaps - max(len(table.gaps), acknowledged))
    left = [each for each in events if each.state in ("lost", "repairing")]
    return {
        "gaps": sum(counts.values()),
        **{f"gaps_{state}": counts[state] for state in get_args(EventState)},
        "newest_gap": f"{left[-1].kind}: {left[-1].detail}" if left else "",
    }


def _repairing(table: TableState, at: TableGeneration | None) -> Repaired | None:
    if at is not None and at.step != "settled":
        whole = at.plan is not None and Repair.from_json(at.plan).loads_all
        return Repaired(at.generation, 0 if whole else at.since_us)
    repair = table.repair if at is None else None
    if repair is None:
        return None
    return Repaired(table.generation, 0 if repair.plan.loads_all else repair.since_us)


def _readers(table: TableState) -> list[SeenReader]:
    """The readers of a table that have polled at least once."""
    stream = table.stream
    if stream is None:
        return []
    seen = (stream.seen_by(reader) for reader in range(len(stream.frontiers)))
    return [
        SeenReader(
            table=table.name,
            stream_arn=stream.arn,
            reader=reader,
            readers=len(stream.frontiers),
            frontier=frontier,
            behind=each.behind,
            caught_up=each.caught_up,
            newest_us=each.newest_event_us or table.totals.newest_us,
            seen_us=each.at_us,
            generation=table.generation,
        )
        for reader, (frontier, each) in enumerate(zip(stream.frontiers, seen, strict=True))
        # Documents of earlier versions do not say when a reader polled.
        if frontier is not None and each.at_us
    ]


def _oldest_shards(
    readers: list[SeenReader], table: TableState, at_us: int
) -> tuple[ShardStatus, ...]:
    seen = table.stream.seen if table.stream else {}
    behind = {shard_id for each in seen.values() for shard_id in each.behind_shards}
    found = [
        pair for each in readers for pair in oldest_unread_shards(each.frontier, SHARDS_PER_TABLE)
    ]
    return tuple(
        ShardStatus(shard_id, min(RETENTION_US, max(0, at_us - since_us)) / 1e6, shard_id in behind)
        for shard_id, since_us in sorted(found, key=lambda pair: pair[1])[:SHARDS_PER_TABLE]
    )


def _snapshot_status(snapshot: LoadState) -> SnapshotStatus:
    listed = snapshot.manifest.files if snapshot.manifest else ()
    files = [each for each in listed if each.item_count]
    return SnapshotStatus(
        status=snapshot.status,
        rows=snapshot.rows,
        rows_total=sum(each.item_count for each in files),
        files=sum(snapshot.files.get(each.path) == DONE for each in files),
        files_total=len(files),
        bytes=snapshot.bytes,
    )
