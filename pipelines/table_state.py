# SPDX-License-Identifier: Apache-2.0
"""What the position document says of one table, and how a round's reports change it.

Fields: `table` (name, keys, ARN), `table_id`, `generation`, `stream` (None, or `arn`, `since_us`
and one frontier per reader), `snapshot` (`status` none | pending | loading | done, `reuse`,
`manifest`, `files` path → lines or "done", `bytes`, `rows`), `totals`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipelines.options import ReplicateOptions
from transforms.aws.dynamodb import TableDescription
from transforms.coverage import FUZZ_US, REQUEST_MARGIN_US, covered_since_us, uncovered
from transforms.errors import StateError
from transforms.export.elements import DONE, SnapshotRequest
from transforms.export.manifest import ExportManifest
from transforms.gaps import Gap, GapKind, GapPolicy
from transforms.reports import Report
from transforms.stream.frontier import Frontier
from transforms.stream.lineage import redistribute
from transforms.stream.source import StreamSource
from transforms.tables import Table
from transforms.wall_clock import now_us

__all__ = [
    "check_coverage",
    "for_readers",
    "is_caught_up",
    "merge_reports",
    "new_table_state",
    "raise_or_record",
    "snapshot_request",
    "stream_changed",
    "stream_sources",
]

_NO_TOTALS = {
    "changes": 0,
    "snapshot_rows": 0,
    "stale": 0,
    "dead_letters": 0,
    "gaps": 0,
    "newest_us": 0,
}


def new_table_state(
    table: Table, description: TableDescription | None, options: ReplicateOptions
) -> dict[str, Any]:
    """The state of a table that no round has read yet."""
    stream = None
    if description is not None and options.snapshot != "only":
        stream = {
            "arn": description.stream_arn,
            "since_us": covered_since_us(description.stream_arn, options.start, now_us()),
            "frontiers": [None] * max(1, options.readers),
        }
    wanted = options.snapshot != "never"
    return {
        "table": table.to_json(),
        "table_id": description.table_id if description else "",
        "generation": 1,
        "stream": stream,
        "snapshot": {
            "status": "pending" if wanted else "none",
            "reuse": "",
            "manifest": None,
            "files": {},
            "bytes": 0,
            "rows": 0,
        },
        "totals": dict(_NO_TOTALS),
    }


def check_coverage(name: str, state: dict[str, Any], manifest: ExportManifest) -> Gap | None:
    """The gap between a snapshot and the oldest change that the stream holds, if there is one."""
    stream = state["stream"]
    if stream is None:
        return None
    return uncovered(name, stream["arn"], stream["since_us"], manifest.export_time_us)


def stream_changed(name: str, state: dict[str, Any], arn: str) -> Gap:
    """The gap of a table whose stream is another one than the stored positions are of."""
    return Gap(
        table=name,
        kind=GapKind.STREAM_CHANGED,
        stream_arn=state["stream"]["arn"],
        shard_id="",
        last_sequence="",
        from_us=0,
        to_us=now_us(),
        detail=f"the table's stream is now {arn}",
    )


def stream_sources(
    state: dict[str, Any], options: ReplicateOptions, max_bytes: int, started_us: int
) -> list[StreamSource]:
    """The stream readers of one table for one round."""
    stream = state["stream"]
    if stream is None:
        return []
    pending = state["snapshot"]["status"] in ("pending", "loading")
    frontiers = for_readers(stream["frontiers"], options.readers or len(stream["frontiers"]))
    stream["frontiers"] = frontiers
    return [
        StreamSource(
            table=Table.from_json(state["table"]),
            stream_arn=stream["arn"],
            reader=reader,
            readers=len(frontiers),
            generation=state["generation"],
            buckets=options.buckets,
            start=options.start,
            frontier=None if frontier is None else Frontier.from_json(frontier),
            gap_policy=options.gaps,
            snapshot_until_us=started_us + FUZZ_US if pending else 0,
            max_bytes=max(1, max_bytes // len(frontiers)),
            started_us=started_us,
        )
        for reader, frontier in enumerate(frontiers)
    ]


def for_readers(frontiers: list[Any], readers: int) -> list[Any]:
    """The stored positions, dealt out again if the number of readers has changed."""
    if len(frontiers) == readers:
        return frontiers
    if any(each is None for each in frontiers):
        return [None] * readers
    stored = [Frontier.from_json(each) for each in frontiers]
    return [each.to_json() for each in redistribute(stored, readers)]


def snapshot_request(
    state: dict[str, Any], options: ReplicateOptions, state_id: str, max_bytes: int
) -> SnapshotRequest | None:
    """The snapshot request of one table for one round; None if its snapshot is over."""
    snapshot, stream = state["snapshot"], state["stream"]
    if snapshot["status"] not in ("pending", "loading"):
        return None
    return SnapshotRequest(
        table=Table.from_json(state["table"]),
        generation=state["generation"],
        buckets=options.buckets,
        reuse=snapshot["reuse"],
        bucket=options.bucket,
        prefix=options.prefix,
        bucket_owner=options.bucket_owner,
        request_id=state_id,
        not_before_us=stream["since_us"] + FUZZ_US + REQUEST_MARGIN_US if stream else 0,
        max_bytes=max_bytes,
        loaded=snapshot["files"],
        loaded_bytes=snapshot["bytes"],
        manifest=snapshot["manifest"],
    )


def merge_reports(
    tables: dict[str, dict[str, Any]], reports: Iterable[Report], policy: GapPolicy
) -> None:
    """Brings the state of all tables up to what a round's reports say.

    Raises:
        GapError: A snapshot came out older than what its stream covers, and the policy is `fail`.
    """
    for report in reports:
        state = tables.get(report.table)
        if state is None:
            continue
        _MERGE.get(report.kind, _ignore)(state, report)
        if report.kind == "export" and report.fields["manifest"] is not None:
            manifest = ExportManifest.from_json(report.fields["manifest"])
            gap = (
                None
                if state.get("coverage_checked")
                else check_coverage(report.table, state, manifest)
            )
            state["coverage_checked"] = True
            if gap is not None:
                raise_or_record(gap, state, policy)
    for state in tables.values():
        _finish_snapshot(state)


def is_caught_up(state: dict[str, Any], reports: Iterable[Report]) -> bool:
    """True if nothing of a table is known to be left unread."""
    name = state["table"]["name"]
    streams = [each for each in reports if each.kind == "stream" and each.table == name]
    readers = len(state["stream"]["frontiers"]) if state["stream"] else 0
    read = len(streams) == readers and all(each.fields["caught_up"] for each in streams)
    return read and state["snapshot"]["status"] in ("none", "done")


def _merge_stream(state: dict[str, Any], report: Report) -> None:
    if report.fields["stream_arn"] != state["stream"]["arn"]:
        raise StateError(
            "a report of another stream than the one that was read",
            where=f"table {report.table}",
            expected=state["stream"]["arn"],
            found=report.fields["stream_arn"],
        )
    state["stream"]["frontiers"][report.fields["reader"]] = report.fields["frontier"]
    totals = state["totals"]
    totals["changes"] += report.fields["changes"]
    totals["newest_us"] = max(totals["newest_us"], report.fields["newest_event_us"])


def _merge_export(state: dict[str, Any], report: Report) -> None:
    snapshot = state["snapshot"]
    if report.fields["export_arn"] and not snapshot["reuse"]:
        snapshot["reuse"] = report.fields["export_arn"]
    if report.fields["manifest"] is not None:
        snapshot["manifest"] = report.fields["manifest"]
        snapshot["status"] = "loading"


def _merge_file(state: dict[str, Any], report: Report) -> None:
    snapshot = state["snapshot"]
    snapshot["files"][report.fields["file"]] = (
        DONE if report.fields["done"] else report.fields["lines"]
    )
    snapshot["bytes"] += report.fields["bytes"]
    snapshot["rows"] += report.fields["rows"]
    state["totals"]["snapshot_rows"] += report.fields["rows"]


def _merge_reconcile(state: dict[str, Any], report: Report) -> None:
    state["totals"]["stale"] += report.fields["stale"]


def _merge_gap(state: dict[str, Any], report: Report) -> None:
    state["totals"]["gaps"] += 1
    state.setdefault("gaps", []).append(dict(report.fields))


def _ignore(state: dict[str, Any], report: Report) -> None:
    """Reports that change no position."""


_MERGE = {
    "stream": _merge_stream,
    "export": _merge_export,
    "file": _merge_file,
    "reconcile": _merge_reconcile,
    "gap": _merge_gap,
}


def _finish_snapshot(state: dict[str, Any]) -> None:
    snapshot = state["snapshot"]
    if snapshot["status"] != "loading":
        return
    manifest = ExportManifest.from_json(snapshot["manifest"])
    files = snapshot["files"]
    if all(files.get(each.path) == DONE for each in manifest.files if each.item_count):
        snapshot["status"] = "done"


def raise_or_record(gap: Gap, state: dict[str, Any], policy: GapPolicy) -> None:
    """Does about a gap that the driver found what the policy says.

    Raises:
        GapError: The policy is `fail`.
    """
    if policy is GapPolicy.FAIL:
        raise gap.error()
    _merge_gap(state, gap.report())
