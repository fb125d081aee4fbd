# SPDX-License-Identifier: Apache-2.0
"""What replication needs to be on at a table, and turning it on: the stream and recovery.

The only calls of this project that change a table. All may be repeated: what is on already, or is
being changed by somebody else, is left as it is and read again.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from dynabeam.transforms.aws import dynamodb
from dynabeam.transforms.aws.errors import AwsErrorKind, classify, error_code, raise_access_error
from dynabeam.transforms.aws.session import AwsAccess, client
from dynabeam.transforms.errors import TableError

__all__ = ["VIEW_TYPE", "Needs", "Pacing", "TableSettings", "apply_settings", "read_settings"]

_LOGGER = logging.getLogger(__name__)

VIEW_TYPE = "NEW_AND_OLD_IMAGES"
"""What records have to hold: a mirror is written from new images, a changelog from both."""

_FIRST_PAUSE = 0.1
_BUSY = frozenset(
    {
        "ContinuousBackupsUnavailableException",  # for a while after CreateTable
        "LimitExceededException",  # too many tables are being changed
        "ResourceInUseException",  # the table is being changed
    }
)


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a replication needs of its tables: a stream, point-in-time recovery."""

    stream: bool
    recovery: bool


@dataclasses.dataclass(frozen=True)
class TableSettings:
    """What is on at a table.

    Attributes:
        name: The table.
        active: It is not being changed.
        view_type: View type of its stream, empty if that is off.
        stream_arn: Its newest stream, also one that is off.
        recovery: Point-in-time recovery is on; True too if that is not needed.
        size_bytes: Its size, which recovery is billed by.
    """

    name: str
    active: bool
    view_type: str
    stream_arn: str
    recovery: bool
    size_bytes: int

    def lacks_stream(self, needs: Needs) -> bool:
        """True if a stream is needed and none is on."""
        return needs.stream and not self.view_type

    def has_other_stream(self, needs: Needs) -> bool:
        """True if a stream is on whose records lack images."""
        return needs.stream and self.view_type not in ("", VIEW_TYPE)

    def lacks_recovery(self, needs: Needs) -> bool:
        """True if recovery is needed and off."""
        return needs.recovery and not self.recovery

    def satisfies(self, needs: Needs) -> bool:
        """True if everything needed is on, and the table at rest."""
        return self.active and not (
            self.lacks_stream(needs) or self.has_other_stream(needs) or self.lacks_recovery(needs)
        )


@dataclasses.dataclass(frozen=True)
class Pacing:
    """How long a change is waited for: `seconds` in all, reading at least once `every` seconds."""

    seconds: float = 300.0
    every: float = 2.0
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.monotonic


def read_settings(access: AwsAccess, name: str, needs: Needs) -> TableSettings:
    """What is on at a table now.

    Raises:
        TableError: There is no such table.
        AwsAccessError: A permission is missing.
        CredentialsError: There are no usable credentials.
    """
    described = dynamodb.describe_table(access, name)
    recovery = not needs.recovery or dynamodb.continuous_backups(access, name).enabled
    return TableSettings(
        name=name,
        active=described.status == "ACTIVE",
        view_type=described.stream_view_type if described.stream_enabled else "",
        stream_arn=described.stream_arn,
        recovery=recovery,
        size_bytes=described.size_bytes,
    )


def apply_settings(
    access: AwsAccess, name: str, needs: Needs, *, replace_stream: bool, pacing: Pacing
) -> TableSettings:
    """Turns on what a table lacks, and waits until it is on.

    Args:
        access: AWS.
        name: The table.
        needs: What has to be on.
        replace_stream: A stream with another view type is turned off, and a new one on.
        pacing: How long to wait.

    Returns:
        What is on at the end.

    Raises:
        TableError: It is not on in time, there is no such table, or AWS refuses the change.
        AwsAccessError: A permission is missing.
        CredentialsError: There are no usable credentials.
    """
    ends = pacing.now() + pacing.seconds
    pause = _FIRST_PAUSE
    while True:
        found = read_settings(access, name, needs)
        if found.satisfies(needs):
            return found
        if found.has_other_stream(needs) and not replace_stream:
            raise TableError(
                "the stream has another view type, and is replaced only on request",
                where=f"table {name}",
                expected=VIEW_TYPE,
                found=found.view_type,
                hint="Give --replace_streams",
            )
        if pacing.now() > ends:
            raise TableError(
                f"it was not on after {pacing.seconds:.0f} s",
                where=f"table {name}",
                found="the table is being changed" if not found.active else found.view_type,
                hint="Run the command again: it continues where this one stopped",
            )
        if found.active:
            _ask(access, found, needs)
        pacing.sleep(pause)
        pause = min(pacing.every, 2 * pause)


def _ask(access: AwsAccess, found: TableSettings, needs: Needs) -> None:
    """Asks for the next step: one change of the stream, and recovery."""
    name = found.name
    stream: dict[str, Any] = {}
    if found.has_other_stream(needs):
        stream = {"StreamEnabled": False}
    elif found.lacks_stream(needs):
        stream = {"StreamEnabled": True, "StreamViewType": VIEW_TYPE}
    if stream:
        _call(access, "UpdateTable", "update_table", name, StreamSpecification=stream)
    if found.lacks_recovery(needs):
        _call(
            access,
            "UpdateContinuousBackups",
            "update_continuous_backups",
            name,
            PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
        )


def _call(access: AwsAccess, operation: str, method: str, name: str, **arguments: Any) -> None:
    try:
        getattr(client(access, "dynamodb"), method)(TableName=name, **arguments)
    except (BotoCoreError, ClientError) as error:
        raise_access_error(error, f"dynamodb:{operation}", name)
        # AWS says "already" if somebody else was quicker (seen on AWS, not documented).
        already = error_code(error) == "ValidationException" and "already" in str(error)
        if already or error_code(error) in _BUSY or classify(error) is AwsErrorKind.THROTTLED:
            _LOGGER.info("table %s: %s, trying again", name, error)
            return
        if not error_code(error):
            raise
        raise TableError(
            f"AWS refused {operation}: {error}",
            where=f"table {name}",
            hint="Fix what the message says, then run the command again",
        ) from error
