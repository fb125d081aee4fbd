# SPDX-License-Identifier: Apache-2.0
"""What about a replication needs somebody's attention, one line each."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from dynabeam.pipelines.status.reading import Status, TableStatus
from dynabeam.transforms.flink.job import FlinkJob

__all__ = ["Limits", "for_people", "reasons"]

_LEAST_TO_LOSS = 4 * 3600
"""Seconds: enough to do something about it before the stream loses changes."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is still healthy.

    Attributes:
        max_lag: Seconds that the reading may be behind; 0 for any.
        max_quiet: Seconds since positions were stored; 0 for any, as with runs from cron. Of a
            run that ended as it should only on request.
        asked_quiet: Whether it is requested.
    """

    max_lag: float
    max_quiet: float
    asked_quiet: bool = False


def reasons(status: Status, job: FlinkJob | None, limits: Limits) -> list[str]:
    """Why the replication is not healthy; empty if it is."""
    found = [] if status.tables else [f"{status.state_dir}: no table has been read yet"]
    found += _of_run(status)
    ended = status.run is not None and status.run.outcome == "caught_up"
    over = ended and not limits.asked_quiet
    of_tables = dataclasses.replace(limits, max_quiet=0) if over else limits
    for each in status.tables:
        found += [f"{each.table}: {text}" for text in _of_table(each, status.at_us, of_tables)]
    found += [f"{each.uri}: {each.text}" for each in status.sinks if each.state == "loading"]
    if job is not None:
        found += [f"Flink: {text}" for text in _of_job(job, status.at_us, limits)]
    return found


def for_people(seconds: float) -> str:
    """A duration in its two largest units: `850 ms`, `12 s`, `3 m 20 s`, `23 h 58 m`, `2 d 1 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    whole = int(seconds)
    for size, unit, smaller, name in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit} {rest} {name}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def _of_run(status: Status) -> list[str]:
    run = status.run
    if run is None or run.outcome not in ("failed", "died"):
        return []
    if run.outcome == "failed":
        ago = for_people(max(0, status.at_us - run.ended_us) / 1e6)
        return [f"the last run failed {ago} ago: {run.reason}"]
    ago = for_people(max(0, status.at_us - run.began_us) / 1e6)
    return [f"the run that began {ago} ago was killed: it has not ended, and no process runs it"]


def _of_table(table: TableStatus, at_us: int, limits: Limits) -> Iterator[str]:
    if table.stopped:
        yield f"the run cannot continue: {table.stopped}"
    if table.finding:
        yield table.finding.removeprefix(f"{table.table}: ")
    if table.gaps_lost:
        times = "once" if table.gaps_lost == 1 else f"{table.gaps_lost} times"
        yield f"the stream lost changes {times}, the last: {table.newest_gap or 'not known'}"
    if table.gaps_repairing:
        yield f"lost changes are being repaired: {table.newest_gap}"
    if table.dead_letters:
        yield f"{table.dead_letters:,} dead letters: records that could not be handled"
    if table.streams and limits.max_lag and (table.lag_seconds or 0) > limits.max_lag:
        lag, most = for_people(table.lag_seconds or 0), for_people(limits.max_lag)
        yield f"the lag is {lag}, more than --max_lag={most}"
    left = table.time_to_loss_seconds
    if left is not None and left < _LEAST_TO_LOSS:
        yield (
            f"changes may be lost in {for_people(left)}: the oldest unread one is up to "
            f"{for_people(table.unread_age_seconds or 0)} old, and the stream keeps 24 h"
        )
    if table.stored_us is None:
        yield "nothing has been stored yet"
    elif limits.max_quiet and (at_us - table.stored_us) / 1e6 > limits.max_quiet:
        quiet, most = (at_us - table.stored_us) / 1e6, for_people(limits.max_quiet)
        yield f"nothing has been stored for {for_people(quiet)}, more than --max_quiet={most}"


def _of_job(job: FlinkJob, at_us: int, limits: Limits) -> Iterator[str]:
    if job.state != "RUNNING":
        yield f"the job {job.name} is {job.state} since {for_people(job.uptime_seconds)}"
        return
    if job.checkpoint is None:
        if limits.max_quiet and job.uptime_seconds > limits.max_quiet:
            yield f"no checkpoint was completed in {for_people(job.uptime_seconds)}"
        return
    age = (at_us - job.checkpoint.completed_us) / 1e6
    if limits.max_quiet and age > limits.max_quiet:
        yield f"the last checkpoint is {for_people(age)} old"
