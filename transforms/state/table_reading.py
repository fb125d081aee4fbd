# SPDX-License-Identifier: Apache-2.0
"""How a table is read: its first state, and what is to be read from a state on.

The command line and the graph of a continuous run both begin tables, so both use this. A state is
what the position document says of one table, JSON-able: `table` (name, keys, ARN), `table_id`,
`generation`, `stream` (None, or `arn`, `since_us`, one frontier per reader, `seen`: what each saw
when it looked last, `read_us`: up to when it was read, and, of one that came after another one,
`start`: where it is begun), `snapshot` (`status` none | pending | loading | done, `generation`,
`reuse`, `manifest`, `files` path → lines or "done", `bytes`, `rows`; and if exports have failed,
`attempt`, how many, and `failed`, what the last one said), `totals`; `keys_given` if the key is
what `--keys` says. A table that is
repaired (`pipelines.table_repair`) also has `repair`, and while it is healed `heal`: its windows,
each like `snapshot` with `from_us` and `to_us`. One that was deleted has `end`: `deleted`, or
`recreated` if there is another table of its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from botocore.exceptions import ClientError

from dynabeam.transforms.aws.dynamodb import TableDescription
from dynabeam.transforms.aws.errors import AwsErrorKind, classify
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.aws.streams import connect
from dynabeam.transforms.export.elements import SnapshotRequest
from dynabeam.transforms.model.gap import GapPolicies
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.runtime.stored_format import typed_fields
from dynabeam.transforms.state.coverage import FUZZ_US, REQUEST_MARGIN_US, covered_since_us
from dynabeam.transforms.stream.frontier import Frontier
from dynabeam.transforms.stream.lineage import adopt_together, agree, redistribute
from dynabeam.transforms.stream.reader_spec import ReaderSpec
from dynabeam.transforms.stream.shard_listing import list_shards

__all__ = [
    "READERS",
    "ReadingOptions",
    "SnapshotMode",
    "choose_readers",
    "for_readers",
    "list_for_readers",
    "loads_of",
    "new_load",
    "new_table_state",
    "open_loads",
    "readable_loads",
    "readers_of_each",
    "snapshot_requests",
    "stream_sources",
]

SnapshotMode: TypeAlias = Literal["auto", "never", "only"]

_LISTED_LATELY_US = 12 * 3_600 * 1_000_000
"""A shard is listed for a day at least after it was made."""

# Of all tables together: more than subtasks, so that they spread evenly over these; each further
# one makes the others wait for its turn.
READERS = 8

_NO_TOTALS = {
    "changes": 0,
    "snapshot_rows": 0,
    "stale": 0,
    "dead_letters": 0,
    "gaps": 0,
    "healed_rows": 0,
    "swept": 0,
    "newest_us": 0,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How tables are to be read.

    Attributes:
        snapshot: `auto`, `never` or `only`.
        start: Where streams are begun: `trim_horizon`, `latest` or an RFC 3339 time.
        bucket: S3 bucket for new exports, with `prefix` and `bucket_owner`.
        gaps: What a gap does, per table.
        buckets: Hash buckets per table.
        readers: Stream readers per table; 0 for as many as the state has.
    """

    snapshot: SnapshotMode
    start: str
    bucket: str
    prefix: str
    bucket_owner: str
    gaps: GapPolicies
    buckets: int
    readers: int

    def to_json(self) -> dict[str, Any]:
        """How tables are read as a JSON-able dict, without what a subclass adds."""
        names = [each.name for each in dataclasses.fields(ReadingOptions)]
        document = {name: getattr(self, name) for name in names}
        return {**document, "gaps": self.gaps.to_json()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ReadingOptions:
        """Reads what `to_json` wrote."""
        return typed_fields(ReadingOptions, document, gaps=GapPolicies.from_json(document["gaps"]))


def new_table_state(
    table: Table, description: TableDescription | None, options: ReadingOptions
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
        "snapshot": new_load("pending" if wanted else "none"),
        "totals": dict(_NO_TOTALS),
    }


def new_load(
    status: str,
    *,
    generation: int = 1,
    not_before_us: int = 0,
    window: tuple[int, int] = (0, 0),
    key_range: str = "",
) -> dict[str, Any]:
    """An export that is to be loaded: a full one, a range of its keys, or that of a window."""
    load: dict[str, Any] = {
        "status": status,
        "generation": generation,
        "reuse": "",
        "manifest": None,
        "files": {},
        "bytes": 0,
        "rows": 0,
    }
    if not_before_us:
        load["not_before_us"] = not_before_us
    if window[0]:
        load["from_us"], load["to_us"] = window
    if key_range:
        load["key_range"] = key_range
    return load


def loads_of(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The exports of a table: its snapshot, and the windows of a heal."""
    return [state["snapshot"], *state.get("heal", ())]


def generation_of(load: Mapping[str, Any]) -> int:
    """The generation of an export's rows; documents of before there were repairs do not say it."""
    return int(load.get("generation", 1))


def repair_generation(state: Mapping[str, Any]) -> int:
    """The generation of what the repair of a table loads.

    The table's own is higher if its stream was switched off and on since the repair began: what the
    other stream brings wins over the repair, and is not swept by it.
    """
    return max(map(generation_of, state.get("heal") or [state["snapshot"]]))


def open_loads(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The exports of a table that are not loaded to their end."""
    return [each for each in loads_of(state) if each["status"] in ("pending", "loading")]


def readable_loads(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The open loads that can still be read: of a table that ended, those whose export is there.

    An export that would be requested now would be of another table of the same name.
    """
    ended = "end" in state
    return [each for each in open_loads(state) if not ended or each["manifest"] is not None]


def stream_sources(
    state: dict[str, Any], options: ReadingOptions, max_bytes: int, started_us: int
) -> list[ReaderSpec]:
    """The stream readers of one table for one round."""
    stream = state["stream"]
    if stream is None:
        return []
    pending = bool(open_loads(state))
    frontiers = for_readers(stream["frontiers"], options.readers or len(stream["frontiers"]))
    stream["frontiers"] = frontiers
    return [
        ReaderSpec(
            table=Table.from_json(state["table"]),
            stream_arn=stream["arn"],
            reader=reader,
            readers=len(frontiers),
            generation=state["generation"],
            buckets=options.buckets,
            start=stream.get("start", options.start),
            frontier=None if frontier is None else Frontier.from_json(frontier),
            gap_policy=options.gaps.of(state["table"]["name"]),
            snapshot_until_us=started_us + FUZZ_US if pending else 0,
            max_bytes=max(1, max_bytes // len(frontiers)),
            started_us=started_us,
        )
        for reader, frontier in enumerate(frontiers)
    ]


def for_readers(frontiers: list[Any], readers: int) -> list[Any]:
    """The stored positions, dealt out again if the number of readers has changed.

    None if there are none; a reader without any beside others that have some begins with an empty
    one, so that nothing that those have read is read again.
    """
    if all(each is None for each in frontiers):
        return [None] * readers
    if len(frontiers) == readers == 1:
        return frontiers
    stored = [Frontier() if each is None else Frontier.from_json(each) for each in frontiers]
    return [each.to_json() for each in agree(redistribute(stored, readers))]


def choose_readers(state: dict[str, Any], access: AwsAccess, most: int) -> None:
    """As many readers as there are open shards, within bounds: one does nothing without a shard.

    Args:
        state: The table's state, changed in place.
        access: Where and as whom AWS is called.
        most: The upper bound; at least 1.
    """
    stream = state["stream"]
    if stream is None:
        return
    listed = list_shards(connect(access), stream["arn"], most_open=most)
    readers = min(max(1, len(listed.open)), most)
    stream["frontiers"] = for_readers(stream["frontiers"], readers)


def list_for_readers(
    state: dict[str, Any], options: ReadingOptions, access: AwsAccess, started_us: int
) -> None:
    """Has all readers of a table begin with one listing, where each its own could tell them apart.

    A shard that is trimmed between the listings of two readers may make one read what is another's.
    Whatever is listed for the first time is listed for hours yet, so that this concerns the first
    listing and the first one after a long pause alone, and costs nothing otherwise.

    Args:
        state: The table's state, changed in place.
        options: How tables are read.
        access: Where and as whom AWS is called.
        started_us: When the run began, microseconds since 1970.

    Raises:
        StreamError: The service did not answer too often in a row.
    """
    stream = state["stream"]
    if stream is None:
        return
    stored = for_readers(stream["frontiers"], options.readers or len(stream["frontiers"]))
    frontiers = [Frontier() if each is None else Frontier.from_json(each) for each in stored]
    oldest_us = min(each.swept_us for each in frontiers)
    if len(frontiers) < 2 or 0 <= started_us - oldest_us < _LISTED_LATELY_US:
        return
    began_us = now_us()
    try:
        listed = list_shards(connect(access), stream["arn"])
    except ClientError as error:
        if classify(error) is AwsErrorKind.GONE:
            return  # The readers judge what is lost with a stream that is no longer there.
        raise
    if listed.shards and listed.status != "ENABLING":
        start = stream_sources(state, options, 0, started_us)[0].starting_point()
        adopted = adopt_together(frontiers, listed.shards, start, began_us)
        stream["frontiers"] = [each.to_json() for each in adopted]


def readers_of_each(tables: int) -> int:
    """How many readers a table may have if there are so many tables in one job."""
    return max(1, -(-READERS // max(1, tables)))


def snapshot_requests(
    state: dict[str, Any], options: ReadingOptions, state_id: str, max_bytes: int
) -> list[SnapshotRequest]:
    """The exports of one table that one round is to read; none if all are loaded."""
    stream = state["stream"]
    covered_us = stream["since_us"] + FUZZ_US + REQUEST_MARGIN_US if stream else 0
    return [
        SnapshotRequest(
            table=Table.from_json(state["table"]),
            # That of the load: rows of a snapshot do not win over changes that came after it, also
            # if the generation went up meanwhile because the stream was switched off and on.
            generation=generation_of(load),
            buckets=options.buckets,
            reuse=load["reuse"],
            bucket=options.bucket,
            prefix=options.prefix,
            bucket_owner=options.bucket_owner,
            request_id=state_id,
            not_before_us=load.get("not_before_us", covered_us),
            max_bytes=max_bytes,
            loaded=load["files"],
            loaded_bytes=load["bytes"],
            manifest=load["manifest"],
            from_us=load.get("from_us", 0),
            to_us=load.get("to_us", 0),
            key_range=load.get("key_range", ""),
            attempt=load.get("attempt", 0),
            table_id=state["table_id"],
        )
        for load in readable_loads(state)
    ]
