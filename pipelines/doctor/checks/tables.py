# SPDX-License-Identifier: Apache-2.0
"""Each table: that it is there, its stream, and its point-in-time recovery."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone

from dynabeam.pipelines.doctor.checks.examination import Examination
from dynabeam.pipelines.doctor.checks.finding import Finding, of_error, ok, warning
from dynabeam.transforms.aws.dynamodb import RecoveryWindow, TableDescription
from dynabeam.transforms.errors import AwsAccessError
from dynabeam.transforms.state.table_readiness import recovery_problem, stream_problem

__all__ = ["table_findings"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def table_findings(
    examination: Examination, names: Sequence[str], *, streams: bool, exports: bool, recovery: bool
) -> Iterator[Finding]:
    """Findings of tables that may be described; a missing permission is a finding of its own check.

    Args:
        examination: What was asked so far.
        names: The tables.
        streams: Their streams are read.
        exports: Exports of them are requested.
        recovery: A run checks their point-in-time recovery, so that its permission is checked.
    """
    for name in names:
        described = examination.described(name)
        if described.error is not None and not isinstance(described.error, AwsAccessError):
            yield of_error("table", name, described.error, why="there is nothing to replicate")
        if described.value is None:
            continue
        yield _table(name, described.value)
        if streams:
            yield _stream(name, described.value)
        if exports:
            window = examination.recovery(name).value
            if window is not None:
                yield _recovery(name, window)
            elif not recovery:
                yield _unseen_recovery(name)


def _table(name: str, description: TableDescription) -> Finding:
    text = f"{description.status}, {description.item_count:,} items"
    if description.status != "ACTIVE":
        why = "a table that is being made or deleted cannot be exported"
        hint = f"Wait for it: aws dynamodb wait table-exists --table-name {name}"
        return warning("table", name, text, why=why, hint=hint)
    return ok("table", name, text)


def _stream(name: str, description: TableDescription) -> Finding:
    problem = stream_problem(name, description)
    if problem is None:
        return ok("stream", name, f"on, {description.stream_view_type}")
    why = "without it no change after the export reaches the sinks"
    return of_error("stream", name, problem, why=why)


def _recovery(name: str, window: RecoveryWindow) -> Finding:
    problem = recovery_problem(name, window)
    if problem is not None:
        return of_error("recovery", name, problem, why="without an export there is no snapshot")
    since = (_EPOCH + timedelta(microseconds=window.earliest_us)).strftime("%Y-%m-%d %H:%M UTC")
    days = f", window of {window.days} days" if window.days else ""
    return ok("recovery", name, f"on since {since}{days}")


def _unseen_recovery(name: str) -> Finding:
    return warning(
        "recovery",
        name,
        "not seen, as dynamodb:DescribeContinuousBackups is not allowed; a run does not need it",
        why="if no export is young enough, a new one is requested, which takes recovery",
        hint=f"See that it is on: aws dynamodb describe-continuous-backups --table-name {name}",
    )
