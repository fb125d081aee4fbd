# SPDX-License-Identifier: Apache-2.0
"""The status of a replication for people (a table, or plain lines) and for machines (JSON)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dynabeam.pipelines.status.reading import Status, TableStatus
from dynabeam.pipelines.status.reasons import for_people
from dynabeam.transforms.flink.job import FlinkJob
from dynabeam.transforms.printable import printable

__all__ = ["as_json", "as_lines", "as_table"]

_HOUR = 3600
_CLEAR_AFTER = 12 * _HOUR
_URGENT_BELOW = 4 * _HOUR


def as_json(status: Status, job: FlinkJob | None, reasons: Sequence[str]) -> str:
    """One line of JSON: the fields of `Status`, `flink` (of `FlinkJob`), `healthy`, `reasons`."""
    document = {
        **dataclasses.asdict(status),
        "flink": None if job is None else dataclasses.asdict(job),
        "healthy": not reasons,
        "reasons": list(reasons),
    }
    return json.dumps(document, separators=(",", ":"))


def as_lines(status: Status, job: FlinkJob | None, reasons: Sequence[str]) -> list[str]:
    """Plain lines, one a table."""
    lines = [_headline(status)]
    for each in status.tables:
        cells = dict(zip(_COLUMNS, _cells(each, status.at_us), strict=True))
        name = cells.pop("table")
        lines.append(f"{name}: " + ", ".join(f"{key} {value}" for key, value in cells.items()))
    lines += _sink_lines(status)
    lines += _notes(status)
    if job is not None:
        lines.append(_job_line(job, status.at_us))
        lines += [f"  {each}" for each in _vertex_lines(job)]
    return [printable(each) for each in [*lines, *_verdict(reasons)]]


def as_table(
    status: Status, job: FlinkJob | None, reasons: Sequence[str], width: int = 0
) -> RenderableType:
    """The same as a table with colours.

    Args:
        status: The status.
        job: Flink's job, None if it was not asked.
        reasons: What needs attention.
        width: Columns of the screen: where not all fit, those that matter least are left out; 0 for
            as many as it takes.
    """
    rows = []
    for each in status.tables:
        cells = dict(zip(_COLUMNS, map(_as_text, _cells(each, status.at_us)), strict=True))
        _colour(cells, each)
        rows.append(cells)
    shown = _that_fit(rows, width)
    table = Table(title=_headline(status), title_justify="left", title_style="bold")
    for name in shown:
        table.add_column(name, justify="left" if name in _WORDS else "right", no_wrap=True)
    for cells in rows:
        table.add_row(*(cells[name] for name in shown))
    parts: list[RenderableType] = [table]
    parts += [Text(each) for each in _sink_lines(status)]
    parts += [Text(line, style="yellow") for line in _notes(status)]
    if job is not None:
        parts.append(Text(printable(_job_line(job, status.at_us))))
        parts += [Text(printable(f"  {each}"), style="dim") for each in _vertex_lines(job)]
    style = "bold red" if reasons else "green"
    parts += [Text(printable(line), style=style) for line in _verdict(reasons)]
    return Group(*parts)


_COLUMNS = (
    "table",
    "snapshot",
    "changes",
    "lag",
    "time to loss",
    "shards",
    "gaps",
    "dead letters",
    "generation",
    "stored",
)
_WORDS = ("table", "snapshot")
_LEFT_OUT_FIRST = ("generation", "stored", "shards", "changes", "snapshot")
_FRAME = 3
"""What a column takes beside its text; the table takes one more."""


def _as_text(cell: str) -> Text:
    return Text(printable(cell))


def _that_fit(rows: Sequence[dict[str, Text]], width: int) -> list[str]:
    """The columns that a screen has room for; losses are never left out."""
    room = {
        name: max(len(name), *(row[name].cell_len for row in rows), 0) + _FRAME for name in _COLUMNS
    }
    shown = list(_COLUMNS)
    for name in _LEFT_OUT_FIRST:
        if not width or sum(room[each] for each in shown) + 1 <= width:
            break
        shown.remove(name)
    return shown


def _headline(status: Status) -> str:
    how = f"continuous, deployment {status.deployment}" if status.deployment else "rounds"
    return f"{status.state_dir}: {how}, round {status.round}{_run(status)}"


def _run(status: Status) -> str:
    run = status.run
    if run is None:
        return ""
    if run.outcome in ("running", "died"):
        word = "running since" if run.outcome == "running" else "killed, began"
        return f", {word} {_ago((status.at_us - run.began_us) / 1e6)}"
    word = run.outcome.replace("_", " ")
    return f", ended {_ago((status.at_us - run.ended_us) / 1e6)}: {word}"


def _sink_lines(status: Status) -> list[str]:
    """Sinks that are not simply whole."""
    return [
        f"{each.kind} {each.uri}: {each.text}"
        for each in status.sinks
        if each.lacks or each.state != "active"
    ]


def _cells(table: TableStatus, at_us: int) -> tuple[str, ...]:
    stored = "-" if table.stored_us is None else _ago((at_us - table.stored_us) / 1e6)
    behind = f" ({table.shards_behind} lagging)" if table.shards_behind else ""
    return (
        table.table,
        _snapshot(table),
        f"{table.changes:,}" if table.streams else "-",
        _lag(table, at_us),
        "-" if table.time_to_loss_seconds is None else for_people(table.time_to_loss_seconds),
        f"{table.shards}{behind}" if table.streams else "-",
        _losses(table),
        f"{table.dead_letters:,}",
        str(table.generation),
        stored,
    )


def _losses(table: TableStatus) -> str:
    parts = (
        (table.gaps_lost, "lost"),
        (table.gaps_repairing, "in repair"),
        (table.gaps_repaired, "repaired"),
        (table.gaps_acknowledged, "known"),
    )
    return ", ".join(f"{count:,} {word}" for count, word in parts if count) or "0"


def _snapshot(table: TableStatus) -> str:
    snapshot = table.snapshot
    if snapshot.status == "loading" and snapshot.rows_total:
        share = 100 * snapshot.rows // snapshot.rows_total
        files = f"{snapshot.files} of {snapshot.files_total} files"
        return f"{share} % of {snapshot.rows_total:,} rows, {files}"
    if snapshot.status == "done":
        return f"done, {snapshot.rows:,} rows"
    return snapshot.status


def _lag(table: TableStatus, at_us: int) -> str:
    if table.lag_seconds is None:
        return "-"
    if not table.in_last_run and table.seen_us is not None:
        return f"not read for {for_people(max(0.0, (at_us - table.seen_us) / 1e6))}"
    return "caught up" if table.caught_up else for_people(table.lag_seconds)


def _ago(seconds: float) -> str:
    return f"{for_people(max(0.0, seconds))} ago"


def _colour(cells: dict[str, Text], table: TableStatus) -> None:
    for name, bad in (("gaps", table.gaps_lost), ("dead letters", table.dead_letters)):
        if bad:
            cells[name].stylize("bold red")
    if table.caught_up is not None:
        cells["lag"].stylize("green" if table.caught_up else "yellow")
    left = table.time_to_loss_seconds
    if left is not None:
        style = "green" if left >= _CLEAR_AFTER else "yellow"
        cells["time to loss"].stylize("bold red" if left < _URGENT_BELOW else style)


def _job_line(job: FlinkJob, at_us: int) -> str:
    checkpoint = "no checkpoint yet"
    if job.checkpoint is not None:
        age = _ago((at_us - job.checkpoint.completed_us) / 1e6)
        mib = job.checkpoint.state_bytes / (1 << 20)
        checkpoint = f"checkpoint {job.checkpoint.number} {age}, {mib:,.1f} MiB"
    failed = f", {job.failed_checkpoints} failed" if job.failed_checkpoints else ""
    return (
        f"Flink: {job.name} is {job.state} since {for_people(job.uptime_seconds)}, "
        f"{job.restarts} restarts, {checkpoint}{failed}"
    )


def _vertex_lines(job: FlinkJob) -> list[str]:
    return [
        f"busy {_percent(each.busy)}, backpressured {_percent(each.backpressured)}, "
        f"{each.parallelism} subtasks: {_short(each.name)}"
        for each in job.vertices
    ]


def _percent(share: float | None) -> str:
    return "  ? %" if share is None else f"{100 * share:3.0f} %"


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:59]}…"


def _notes(status: Status) -> list[str]:
    """What is no reason for alarm and yet should be known."""
    return [
        f"{table.table}: {count:,} numbers do not fit their decimal columns in {sink}: exact in "
        "_other; a new mirror with numbers=text holds all"
        for table in status.tables
        for sink, count in sorted(table.unfit_numbers.items())
    ]


def _verdict(reasons: Sequence[str]) -> list[str]:
    return [f"attention: {each}" for each in reasons] or ["healthy"]
