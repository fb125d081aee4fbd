# SPDX-License-Identifier: Apache-2.0
"""How a round's reports change what the position document says of its tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dynabeam.transforms.errors import StateError
from dynabeam.transforms.export.elements import DONE
from dynabeam.transforms.export.manifest import ExportManifest
from dynabeam.transforms.model.gap import Gap, GapKind, GapPolicies, GapPolicy
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.state.coverage import uncovered
from dynabeam.transforms.state.stream_successor import read_us
from dynabeam.transforms.state.table_state import LoadState, SeenState, TableState
from dynabeam.transforms.stream.frontier import Frontier

__all__ = [
    "check_coverage",
    "is_caught_up",
    "merge_reports",
    "raise_or_record",
    "read_until_us",
    "stream_changed",
]


def check_coverage(state: TableState, manifest: ExportManifest) -> Gap | None:
    """The gap between a snapshot and the oldest change that the stream holds, if there is one."""
    stream = state.stream
    if stream is None:
        return None
    return uncovered(state.name, stream.arn, stream.since_us, manifest.export_time_us)


def read_until_us(state: TableState) -> int:
    """Up to when a stream that is over was read, microseconds since 1970; 0 if that is not known.

    It was switched off at this time or later, so nothing older is lost.
    """
    stream = state.stream
    return 0 if stream is None else stream.read_us or stream.since_us


def stream_changed(state: TableState, arn: str) -> Gap:
    """The gap of a table whose stream is gone before it was read to its end."""
    stored = [each for each in state.frontiers if each is not None]
    known = [shard.known_us for each in stored for shard in each.shards]
    known += [each.swept_us for each in stored if not each.shards]
    return Gap(
        table=state.name,
        kind=GapKind.STREAM_CHANGED,
        stream_arn=state.stream.arn if state.stream else "",
        shard_id="",
        last_sequence="",
        from_us=min(known, default=0),
        to_us=now_us(),
        detail=(
            "the table's stream was switched off, and is gone before it was read to its end; its "
            f"stream is now {arn or 'none'}"
        ),
    )


def merge_reports(
    tables: dict[str, TableState], reports: Iterable[Report], policies: GapPolicies
) -> None:
    """Brings the state of all tables up to what a round's reports say.

    Args:
        tables: Table → its state, replaced in place.
        reports: The reports.
        policies: What gaps do.

    Raises:
        GapError: A snapshot came out older than what its stream covers, and the policy is `fail`.
    """
    files: dict[str, list[Report]] = {}
    for report in reports:
        if report.table not in tables:
            continue
        if report.kind == "file":
            files.setdefault(report.table, []).append(report)
            continue
        state = _MERGE.get(report.kind, _ignore)(tables[report.table], report)
        if report.kind == "export":
            state = _check_snapshot(state, report, policies)
        tables[report.table] = state
    # A file is known by the manifest that names it, and that is in another report.
    for name, found in files.items():
        tables[name] = _merge_files(tables[name], found)
    for name, state in tables.items():
        tables[name] = state.map_loads(_finish)


def is_caught_up(
    state: TableState, reports: Iterable[Report], *, without_exports: bool = False
) -> bool:
    """True if nothing of a table is known to be left unread, or nothing more can be read of it.

    Args:
        state: The table's state.
        reports: The round's.
        without_exports: Look at the stream alone: the table's exports are not to be had.
    """
    arn = state.stream.arn if state.stream else None
    streams = [
        each
        for each in reports
        if each.kind == "stream" and each.table == state.name and each.fields["stream_arn"] == arn
    ]
    caught_up = all(each.fields["caught_up"] for each in streams)
    read = len(streams) == len(state.frontiers) and caught_up
    is_repaired = state.repair is not None and not state.end
    loaded = without_exports or not (state.readable_loads or is_repaired)
    return (read or state.is_over) and loaded


def _merge_stream(state: TableState, report: Report) -> TableState:
    stream, fields = state.stream, report.fields
    if stream is None or fields["stream_arn"] != stream.arn:
        raise StateError(
            "a report of another stream than the one that was read",
            where=f"table {report.table}",
            expected=stream.arn if stream else "none",
            found=fields["stream_arn"],
        )
    reader, frontiers = fields["reader"], list(stream.frontiers)
    frontiers[reader] = Frontier.from_json(fields["frontier"])
    names = {each.name for each in dataclasses.fields(SeenState)}
    seen = SeenState.from_json({name: fields[name] for name in names & fields.keys()})
    totals = state.totals.plus(changes=fields["changes"], repeats=fields.get("repeats", 0))
    newest_us = max(totals.newest_us, fields["newest_event_us"])
    return dataclasses.replace(
        state,
        stream=dataclasses.replace(
            stream,
            frontiers=tuple(frontiers),
            seen={**stream.seen, reader: seen},
            read_us=max(stream.read_us, read_us(report)),
        ),
        totals=dataclasses.replace(totals, newest_us=newest_us),
    )


def _merge_export(state: TableState, report: Report) -> TableState:
    subject = report.fields.get("from_us", 0), report.fields["generation"]
    loads = list(state.loads)
    for at, load in enumerate(loads):
        if (load.from_us, load.generation) == subject:
            loads[at] = _found_export(load, report.fields)
            break
    return state.with_loads(loads)


def _found_export(load: LoadState, fields: Mapping[str, Any]) -> LoadState:
    # Each attempt has a token of its own: AWS would answer the same one with what has failed.
    attempt = max(load.attempt, fields.get("attempt", 0))
    if fields.get("status") == "FAILED":
        failed = tuple(fields["warnings"])
        return dataclasses.replace(load, attempt=attempt, failed=failed, reuse="")
    reuse = load.reuse or fields["export_arn"]
    load = dataclasses.replace(load, attempt=attempt, failed=(), reuse=reuse)
    if fields["manifest"] is None:
        return load
    manifest = ExportManifest.from_json(fields["manifest"])
    return dataclasses.replace(load, manifest=manifest, status="loading")


def _check_snapshot(state: TableState, report: Report, policies: GapPolicies) -> TableState:
    """Looks once whether the stream covers the snapshot that an export brings."""
    fields = report.fields
    if fields.get("from_us", 0) or fields["manifest"] is None or state.coverage_checked:
        return state
    gap = check_coverage(state, ExportManifest.from_json(fields["manifest"]))
    state = dataclasses.replace(state, coverage_checked=True)
    return state if gap is None else raise_or_record(gap, state, policies.of(state.name))


def _merge_files(state: TableState, reports: Sequence[Report]) -> TableState:
    totals = state.totals

    def merged(load: LoadState) -> LoadState:
        nonlocal totals
        arn = None if load.manifest is None else load.manifest.export_arn
        found = [
            each.fields
            for each in reports
            if (each.fields["generation"], each.fields["export_arn"]) == (load.generation, arn)
        ]
        if not found:
            return load
        rows = sum(each["rows"] for each in found)
        totals = totals.plus(**{"healed_rows" if load.from_us else "snapshot_rows": rows})
        files = {each["file"]: DONE if each["done"] else each["lines"] for each in found}
        return dataclasses.replace(
            load,
            files={**load.files, **files},
            bytes=load.bytes + sum(each["bytes"] for each in found),
            rows=load.rows + rows,
        )

    return dataclasses.replace(state.map_loads(merged), totals=totals)


def _merge_reconcile(state: TableState, report: Report) -> TableState:
    return dataclasses.replace(state, totals=state.totals.plus(stale=report.fields["stale"]))


def _merge_gap(state: TableState, report: Report) -> TableState:
    return _record(state, Gap.from_json(report.table, report.fields))


def _merge_sink(state: TableState, report: Report) -> TableState:
    unfit = report.fields.get("unfit_numbers", 0)
    if not unfit:
        return state
    # By sink, because each has its own type of numbers.
    sink, counts = report.fields["sink"], state.unfit_numbers
    return dataclasses.replace(state, unfit_numbers={**counts, sink: counts.get(sink, 0) + unfit})


def _ignore(state: TableState, report: Report) -> TableState:
    """Reports that change no position."""
    return state


_MERGE: Mapping[str, Callable[[TableState, Report], TableState]] = {
    "stream": _merge_stream,
    "export": _merge_export,
    "reconcile": _merge_reconcile,
    "gap": _merge_gap,
    "sink": _merge_sink,
}


def _finish(load: LoadState) -> LoadState:
    if load.status == "loading" and load.is_loaded:
        return dataclasses.replace(load, status="done")
    return load


def raise_or_record(gap: Gap, state: TableState, policy: GapPolicy) -> TableState:
    """Does about a gap that the driver found what the policy says.

    Raises:
        GapError: The policy is `fail`.
    """
    if policy is GapPolicy.FAIL:
        raise gap.error()
    return _record(state, dataclasses.replace(gap, generation=gap.generation or state.generation))


def _record(state: TableState, gap: Gap) -> TableState:
    return dataclasses.replace(state, gaps=(*state.gaps, gap), totals=state.totals.plus(gaps=1))
