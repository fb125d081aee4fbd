# SPDX-License-Identifier: Apache-2.0
"""What follows a stream: the table's next one, nothing yet, or the end of the table.

A stream ends when it is switched off or its table is deleted. All that was written before is still
read through its ARN, for 24 hours. Only then comes this question. What is written while a table has
no stream is in no stream: that, and no more, is a gap.

A table that was deleted and made again is another table under the old name: its `TableId` tells.
Nothing of it is the sequel of the old one's stream.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Literal

from dynabeam.transforms.aws.dynamodb import TableDescription, describe_table
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.aws.stream_listing import list_streams, summarise_stream
from dynabeam.transforms.errors import AwsAccessError, TableError
from dynabeam.transforms.model.gap import Gap, GapKind
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.model.table import Table

__all__ = ["NextStream", "Sequel", "find_sequel", "other_key_problem", "read_us", "switch_gap"]

_LOGGER = logging.getLogger(__name__)

_VIEW = "NEW_AND_OLD_IMAGES"
_DAY_US = 24 * 3600 * 1_000_000

SequelKind = Literal["same", "next", "off", "deleted", "recreated"]


@dataclasses.dataclass(frozen=True)
class NextStream:
    """A stream that was switched on after another one.

    Attributes:
        arn: Its ARN.
        created_us: When it was switched on, microseconds since 1970.
    """

    arn: str
    created_us: int


@dataclasses.dataclass(frozen=True)
class Sequel:
    """What follows a stream.

    Attributes:
        kind: `same` (it is the table's latest one and switched on), `next` (there is another one),
            `off` (it was switched off, and no other one that can be read was switched on),
            `deleted` (there is no such table any more), `recreated` (there is another table of
            that name).
        description: The table of that name; None if there is none.
        next_stream: The oldest stream that came after it, if the kind is `next`.
        readable: The stream itself can still be read.
    """

    kind: SequelKind
    description: TableDescription | None
    next_stream: NextStream | None = None
    readable: bool = True

    @property
    def end(self) -> Literal["", "deleted", "recreated"]:
        """How the table has ended; empty if it goes on."""
        if self.kind == "deleted":
            return "deleted"
        return "recreated" if self.kind == "recreated" else ""


def find_sequel(access: AwsAccess, table: str, table_id: str, stream_arn: str) -> Sequel:
    """Asks what follows a stream.

    Args:
        access: Where and as whom AWS is called.
        table: Name of the table.
        table_id: Its id; empty if that is not known.
        stream_arn: The stream; empty if only the table's end is asked for.

    Raises:
        AwsAccessError: A right is missing; `dynamodb:ListStreams` is not needed, but without it
            only the latest of several streams is found.
        CredentialsError: There are no usable credentials.
        ClientError: AWS answered what is not understood.
    """
    try:
        description = describe_table(access, table)
    except TableError:
        description = None
    if description is None or description.status == "DELETING":
        return Sequel("deleted", None, readable=_is_readable(access, stream_arn))
    if table_id and description.table_id and description.table_id != table_id:
        readable = _is_readable(access, stream_arn)
        return Sequel("recreated", description, readable=readable)
    if not stream_arn:
        return Sequel("same", description)
    if description.stream_arn == stream_arn:
        return Sequel("same" if description.stream_enabled else "off", description)
    readable = _is_readable(access, stream_arn)
    for arn in _later(access, table, stream_arn, description.stream_arn):
        found = summarise_stream(access, arn)
        if found is not None and found.view_type in ("", _VIEW):
            return Sequel("next", description, NextStream(arn, found.created_us), readable)
    return Sequel("off", description, readable=readable)


def _is_readable(access: AwsAccess, stream_arn: str) -> bool:
    return bool(stream_arn) and summarise_stream(access, stream_arn) is not None


def _later(access: AwsAccess, table: str, stream_arn: str, latest_arn: str) -> list[str]:
    """The streams that came after one, oldest first."""
    try:
        listed = list_streams(access, table)
    except AwsAccessError as problem:
        _LOGGER.warning(
            "%s: streams between %s and %s are not looked for, and changes in them are lost: %s",
            *(table, stream_arn, latest_arn, problem),
        )
        listed = []
    return sorted({each for each in (*listed, latest_arn) if each > stream_arn})


def other_key_problem(old: Table, description: TableDescription) -> TableError | None:
    """What keeps a table that was made again from taking the place of the old one: its key.

    Args:
        old: The table that was deleted.
        description: The other one of its name.
    """
    if description.table.keys == old.keys:
        return None
    return TableError(
        "the table was deleted and created again with another primary key, which the sinks' rows "
        "of it do not have",
        where=f"table {old.name}",
        expected=str(old.keys),
        found=str(description.table.keys),
        hint="Replicate it with a --state_dir and sinks of its own",
    )


def read_us(report: Report) -> int:
    """Up to when a reader's report says that its stream was read, microseconds since 1970.

    A stream ends for all of its shards at once. So if it has been switched off since, that was at
    this time or later.
    """
    fields = report.fields
    lows = [
        shard.get("low_us", 0)
        for shard in fields["frontier"]["shards"]
        if shard.get("kind", "") != "ended"
    ]
    return max(fields["newest_event_us"], min(lows, default=0), fields.get("read_us", 0))


def switch_gap(
    table: str,
    stream_arn: str,
    following: NextStream,
    *,
    read_us: int,
    now_us: int,
    generation: int,
) -> Gap:
    """The gap between a stream that was read to its end and the one after it.

    Args:
        table: Name of the table.
        stream_arn: The stream that was read.
        following: The stream after it.
        read_us: Up to when its changes are known to be read, microseconds since 1970; 0 if unknown.
        now_us: The time.
        generation: The table's generation behind the gap.
    """
    # What the next stream held longer ago than a day is gone too.
    to_us = max(following.created_us, now_us - _DAY_US) if following.created_us else now_us
    return Gap(
        table=table,
        kind=GapKind.STREAM_CHANGED,
        stream_arn=stream_arn,
        shard_id="",
        last_sequence="",
        from_us=read_us,
        to_us=to_us,
        detail=f"the table's stream was switched off, and is now {following.arn}",
        generation=generation,
    )
