# SPDX-License-Identifier: Apache-2.0
"""Can a table be replicated? Its stream, the stream's images, and point-in-time recovery."""

from __future__ import annotations

from dynabeam.transforms.aws.dynamodb import (
    RecoveryWindow,
    TableDescription,
    continuous_backups,
    describe_table,
)
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.errors import TableError

__all__ = ["describe_ready", "readiness_problem", "recovery_problem", "stream_problem"]

_VIEW = "NEW_AND_OLD_IMAGES"
_NOT_YET = ("CREATING", "DELETING")


def describe_ready(access: AwsAccess, name: str, *, stream: bool, export: bool) -> TableDescription:
    """Describes a table that has what is needed of it.

    Args:
        access: Where and as whom AWS is called.
        name: The table.
        stream: Its stream is to be read.
        export: An export of it is to be requested.

    Raises:
        TableError: There is no such table, or it lacks something; the text says what to do.
        AwsAccessError: A right is missing.
        CredentialsError: There are no usable credentials.
    """
    description = describe_table(access, name)
    problem = readiness_problem(access, description, stream=stream, export=export)
    if problem is not None:
        raise problem
    return description


def readiness_problem(
    access: AwsAccess, description: TableDescription, *, stream: bool, export: bool
) -> TableError | None:
    """What a table lacks that is needed of it; None for nothing.

    Args:
        access: Where and as whom AWS is called.
        description: The table.
        stream: Its stream is to be read.
        export: An export of it is to be requested.

    Raises:
        AwsAccessError: A right is missing.
        CredentialsError: There are no usable credentials.
    """
    name = description.table.name
    if description.status in _NOT_YET:
        return TableError(
            "the table cannot be read at present",
            where=f"table {name}, status",
            expected="ACTIVE",
            found=description.status,
            hint="Wait until it is created, or leave it out",
        )
    problem = stream_problem(name, description) if stream else None
    if problem is None and export:
        problem = recovery_problem(name, continuous_backups(access, name))
    return problem


def stream_problem(name: str, description: TableDescription) -> TableError | None:
    """What keeps a table's stream from being replicated; None for nothing."""
    turn_on = (
        f"aws dynamodb update-table --table-name {name} --stream-specification "
        f"StreamEnabled=true,StreamViewType={_VIEW}"
    )
    if not description.stream_enabled:
        return TableError(
            "the table has no stream, so its changes cannot be captured",
            where=f"table {name}",
            hint=f"Turn it on: {turn_on} (or give --snapshot=only)",
        )
    if description.stream_view_type != _VIEW:
        return TableError(
            "the stream's records lack the images that a replica needs",
            where=f"table {name}, stream view type",
            expected=_VIEW,
            found=description.stream_view_type,
            hint=(
                "A view type cannot be changed: turn the stream off (StreamEnabled=false), then "
                f"on again: {turn_on}. The new stream begins empty"
            ),
        )
    return None


def recovery_problem(name: str, window: RecoveryWindow) -> TableError | None:
    """What keeps a table from being exported; None for nothing."""
    if window.enabled:
        return None
    return TableError(
        "point-in-time recovery is off, and an export needs it",
        where=f"table {name}",
        hint=(
            "Turn it on: aws dynamodb update-continuous-backups --table-name "
            f"{name} --point-in-time-recovery-specification "
            "PointInTimeRecoveryEnabled=true"
        ),
    )
