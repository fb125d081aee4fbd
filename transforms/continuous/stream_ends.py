# SPDX-License-Identifier: Apache-2.0
"""Streams of a run that never ends which have ended, and what was read behind them.

| path below the folder | written by | what |
|---|---|---|
| `ends/<table>.json` | `StorePositions` | the stream that all readers have read to its end |
| `followed/<table>.json` | `DiscoverTables` | the streams that were begun behind it, oldest first |

An end is written behind the positions: all that the stream held is in the sinks by then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from dynabeam.transforms.continuous.control_folder import ControlFolder
from dynabeam.transforms.continuous.generations import read_generation
from dynabeam.transforms.errors import StateError
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.runtime.stored_format import DocumentFormat, canonical, typed_fields
from dynabeam.transforms.state.stream_successor import read_us
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.storage.versioned_file import VersionedFile
from dynabeam.transforms.stream.reader_spec import ReaderSpec

__all__ = [
    "Followed",
    "StreamEnd",
    "add_followed",
    "read_ends",
    "read_followed",
    "source_of",
    "stream_end",
    "table_id_of",
    "write_end",
]


@dataclasses.dataclass(frozen=True)
class StreamEnd:
    """A stream that was read to its end.

    Attributes:
        table: Name of the table.
        stream_arn: The stream.
        readers: How many readers it had.
        generation: The highest generation of its changes.
        read_us: Up to when it was read, microseconds since 1970; it ended then or later.
    """

    table: str
    stream_arn: str
    readers: int
    generation: int
    read_us: int


@dataclasses.dataclass(frozen=True)
class Followed:
    """A stream that is read behind another one.

    Attributes:
        arn: The stream.
        created_us: When it was switched on, microseconds since 1970.
        table_id: The id of its table.
        table: The table as JSON (`transforms.model.table`).
    """

    arn: str
    created_us: int
    table_id: str
    table: Mapping[str, Any]


_FORMAT = DocumentFormat(
    "what is known of a stream that has ended",
    hint="Restore the state directory from a copy, or start with a new one",
)
_END = VersionedFile(StreamEnd, _FORMAT)
_FOLLOWED = dataclasses.replace(_FORMAT, fields=("streams",))


def stream_end(table: str, reports: Sequence[Report]) -> StreamEnd | None:
    """The end of a table's stream, if its stored positions are those of one.

    Args:
        table: Name of the table.
        reports: Its condensed reports.
    """
    streams = [each for each in reports if each.kind == "stream"]
    over = {each.fields["reader"] for each in streams if each.fields.get("over")}
    readers = max((each.fields["readers"] for each in streams), default=0)
    if not readers or len(over) < readers:
        return None
    return StreamEnd(
        table=table,
        stream_arn=streams[0].fields["stream_arn"],
        readers=readers,
        generation=max(int(each.fields.get("generation", 0)) for each in streams),
        read_us=max(map(read_us, streams)),
    )


def write_end(folder: ControlFolder, end: StreamEnd) -> None:
    """Keeps the end of a table's stream.

    Raises:
        StateError: It cannot be written.
    """
    _END.write(_path(folder, "ends", end.table), end)


def read_ends(folder: ControlFolder) -> list[StreamEnd]:
    """The last end of each table whose stream has ended.

    Raises:
        StateError: A file is of an unknown format.
    """
    paths = filesystem.list_files(filesystem.join(folder.path, "ends"))
    return [_END.read(each) for each in paths if each.endswith(".json")]


def add_followed(folder: ControlFolder, table: str, followed: Followed) -> None:
    """Keeps that a stream is read behind another one; repeating it changes nothing.

    Raises:
        StateError: It cannot be written.
    """
    known = read_followed(folder, table)
    if any(each.arn == followed.arn for each in known):
        return
    document = _FOLLOWED.dump(
        {"streams": [dataclasses.asdict(each) for each in (*known, followed)]}
    )
    filesystem.write_atomic(_path(folder, "followed", table), canonical(document), StateError)


def read_followed(folder: ControlFolder, table: str) -> list[Followed]:
    """The streams that were begun behind a table's first one, oldest first.

    Raises:
        StateError: The file is of an unknown format.
    """
    path = _path(folder, "followed", table)
    if not filesystem.exists(path):
        return []
    with _FOLLOWED.load(filesystem.read_bytes(path, StateError), where=path) as fields:
        return [typed_fields(Followed, each) for each in fields["streams"]]


def table_id_of(folder: ControlFolder, table: str) -> str:
    """The id of the table that is read under a name; empty if nobody has written it down."""
    followed = read_followed(folder, table)
    if followed:
        return followed[-1].table_id
    known = read_generation(folder, table).table_id
    if known:
        return known
    found = folder.read_table(table)
    return found.table_id if found else ""


def source_of(folder: ControlFolder, table: str) -> ReaderSpec:
    """A reader of a table, as it was assigned.

    Raises:
        StateError: No assignment has the table.
    """
    paths = folder.assignments()
    for path in paths:
        for source in folder.read_assignment(path).sources:
            if source.table.name == table:
                return source
    raise StateError(
        "the run was never assigned to read this table",
        where=f"{folder.path}, table {table}",
        found=list(paths),
    )


def _path(folder: ControlFolder, kind: str, table: str) -> str:
    return filesystem.join(folder.path, kind, f"{quote(table, safe='')}.json")
