# SPDX-License-Identifier: Apache-2.0
"""How a round's reports change what the position document says of a table.

`transforms.state.table_reading` names the fields of a table's state, and makes the first one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from dynabeam.transforms.errors import StateError
from dynabeam.transforms.export.elements import DONE
from dynabeam.transforms.export.manifest import ExportManifest
from dynabeam.transforms.model.gap import Gap, GapKind, GapPolicies, GapPolicy
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.state.coverage import uncovered
from dynabeam.transforms.state.stream_successor import read_us
from dynabeam.transforms.state.table_reading import generation_of, loads_of, readable_loads
from dynabeam.transforms.stream.frontier import Frontier

__all__ = [
    "check_coverage",
    "is_caught_up",
    "is_over",
    "merge_reports",
    "raise_or_record",
    "read_until_us",
    "stream_changed",
]

_SEEN = ("at_us", "caught_up", "behind", "behind_shards", "newest_event_us", "over")


def check_coverage(name: str, state: dict[str, Any], manifest: ExportManifest) -> Gap | None:
    """The gap between a snapshot and the oldest change that the stream holds, if there is one."""
    stream = state["stream"]
    if stream is None:
        return None
    return uncovered(name, stream["arn"], stream["since_us"], manifest.export_time_us)


def is_over(state: dict[str, Any]) -> bool:
    """True if a table's stream was switched off and is read to its end by all of its readers."""
    stream = state["stream"]
    if stream is None:
        return False
    seen = stream.get("seen", {})
    return all(seen.get(str(at), {}).get("over") for at in range(len(stream["frontiers"])))


def read_until_us(state: dict[str, Any]) -> int:
    """Up to when a stream that is over was read, microseconds since 1970; 0 if that is not known.

    It was switched off at this time or later, so nothing older is lost.
    """
    stream = state["stream"]
    return int(stream.get("read_us", 0) or stream["since_us"])


def stream_changed(name: str, state: dict[str, Any], arn: str) -> Gap:
    """The gap of a table whose stream is gone before it was read to its end."""
    stored = [Frontier.from_json(each) for each in state["stream"]["frontiers"] if each is not None]
    known = [shard.known_us for each in stored for shard in each.shards]
    known += [each.swept_us for each in stored if not each.shards]
    return Gap(
        table=name,
        kind=GapKind.STREAM_CHANGED,
        stream_arn=state["stream"]["arn"],
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
    tables: dict[str, dict[str, Any]], reports: Iterable[Report], policies: GapPolicies
) -> None:
    """Brings the state of all tables up to what a round's reports say.

    Raises:
        GapError: A snapshot came out older than what its stream covers, and the policy is `fail`.
    """
    # A file is known by the manifest that names it, and that is in another report.
    for report in sorted(reports, key=lambda each: each.kind == "file"):
        state = tables.get(report.table)
        if state is None:
            continue
        _MERGE.get(report.kind, _ignore)(state, report)
        snapshot_found = report.kind == "export" and not report.fields.get("from_us", 0)
        if snapshot_found and report.fields["manifest"] is not None:
            manifest = ExportManifest.from_json(report.fields["manifest"])
            gap = (
                None
                if state.get("coverage_checked")
                else check_coverage(report.table, state, manifest)
            )
            state["coverage_checked"] = True
            if gap is not None:
                raise_or_record(gap, state, policies.of(report.table))
    for state in tables.values():
        _finish_loads(state)


def is_caught_up(
    state: dict[str, Any], reports: Iterable[Report], *, without_exports: bool = False
) -> bool:
    """True if nothing of a table is known to be left unread, or nothing more can be read of it.

    Args:
        state: The table's state.
        reports: The round's.
        without_exports: Look at the stream alone: the table's exports are not to be had.
    """
    name, stream = state["table"]["name"], state["stream"]
    streams = [
        each
        for each in reports
        if each.kind == "stream"
        and each.table == name
        and each.fields["stream_arn"] == (stream or {}).get("arn")
    ]
    readers = len(stream["frontiers"]) if stream else 0
    read = len(streams) == readers and all(each.fields["caught_up"] for each in streams)
    loaded = without_exports or not (readable_loads(state) or _is_repaired(state))
    return (read or is_over(state)) and loaded


def _is_repaired(state: dict[str, Any]) -> bool:
    return "repair" in state and "end" not in state


def _merge_stream(state: dict[str, Any], report: Report) -> None:
    if report.fields["stream_arn"] != state["stream"]["arn"]:
        raise StateError(
            "a report of another stream than the one that was read",
            where=f"table {report.table}",
            expected=state["stream"]["arn"],
            found=report.fields["stream_arn"],
        )
    state["stream"]["frontiers"][report.fields["reader"]] = report.fields["frontier"]
    seen = {each: report.fields[each] for each in _SEEN if each in report.fields}
    stream = state["stream"]
    stream.setdefault("seen", {})[str(report.fields["reader"])] = seen
    stream["read_us"] = max(stream.get("read_us", 0), read_us(report))
    totals = state["totals"]
    totals["changes"] += report.fields["changes"]
    if repeats := report.fields.get("repeats", 0):
        totals["repeats"] = totals.get("repeats", 0) + repeats
    totals["newest_us"] = max(totals["newest_us"], report.fields["newest_event_us"])


def _merge_export(state: dict[str, Any], report: Report) -> None:
    from_us = report.fields.get("from_us", 0)
    found = [
        each
        for each in loads_of(state)
        if (each.get("from_us", 0), generation_of(each)) == (from_us, report.fields["generation"])
    ]
    if not found:
        return
    load = found[0]
    if "attempt" in report.fields:
        # Each attempt has a token of its own: AWS would answer the same one with what has failed.
        load["attempt"] = max(load.get("attempt", 0), report.fields["attempt"])
    if report.fields.get("status") == "FAILED":
        load["failed"] = list(report.fields["warnings"])
        load["reuse"] = ""
        return
    load.pop("failed", None)
    if report.fields["export_arn"] and not load["reuse"]:
        load["reuse"] = report.fields["export_arn"]
    if report.fields["manifest"] is not None:
        load["manifest"] = report.fields["manifest"]
        load["status"] = "loading"


def _merge_file(state: dict[str, Any], report: Report) -> None:
    for load in loads_of(state):
        if generation_of(load) != report.fields["generation"]:
            continue
        manifest = load["manifest"]
        if manifest is not None and manifest["export_arn"] == report.fields["export_arn"]:
            load["files"][report.fields["file"]] = (
                DONE if report.fields["done"] else report.fields["lines"]
            )
            load["bytes"] += report.fields["bytes"]
            load["rows"] += report.fields["rows"]
            total = "healed_rows" if load.get("from_us") else "snapshot_rows"
            state["totals"][total] = state["totals"].get(total, 0) + report.fields["rows"]


def _merge_reconcile(state: dict[str, Any], report: Report) -> None:
    state["totals"]["stale"] += report.fields["stale"]


def _merge_gap(state: dict[str, Any], report: Report) -> None:
    state["totals"]["gaps"] += 1
    state.setdefault("gaps", []).append(dict(report.fields))


def _merge_sink(state: dict[str, Any], report: Report) -> None:
    unfit = report.fields.get("unfit_numbers", 0)
    if unfit:
        # By sink, because each has its own type of numbers. Older documents do not have it.
        counts = state.setdefault("unfit_numbers", {})
        sink = report.fields["sink"]
        counts[sink] = counts.get(sink, 0) + unfit


def _ignore(state: dict[str, Any], report: Report) -> None:
    """Reports that change no position."""


_MERGE = {
    "stream": _merge_stream,
    "export": _merge_export,
    "file": _merge_file,
    "reconcile": _merge_reconcile,
    "gap": _merge_gap,
    "sink": _merge_sink,
}


def _finish_loads(state: dict[str, Any]) -> None:
    for load in loads_of(state):
        if load["status"] != "loading":
            continue
        manifest = ExportManifest.from_json(load["manifest"])
        files = load["files"]
        if all(files.get(each.path) == DONE for each in manifest.files if each.item_count):
            load["status"] = "done"


def raise_or_record(gap: Gap, state: dict[str, Any], policy: GapPolicy) -> None:
    """Does about a gap that the driver found what the policy says.

    Raises:
        GapError: The policy is `fail`.
    """
    if policy is GapPolicy.FAIL:
        raise gap.error()
    if not gap.generation:
        gap = dataclasses.replace(gap, generation=state["generation"])
    _merge_gap(state, gap.report())
