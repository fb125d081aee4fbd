# SPDX-License-Identifier: Apache-2.0
"""How a table is read: its first state, and what is to be read from a state on.

The command line and the graph of a continuous run both begin tables, so both use this. A state is
what the position document says of one table, JSON-able: `table` (name, keys, ARN), `table_id`,
`generation`, `stream` (None, or `arn`, `since_us`, one frontier per reader, and `seen`: what each
saw when it looked last), `snapshot` (`status` none | pending | loading | done, `generation`,
`reuse`, `manifest`, `files` path → lines or "done", `bytes`, `rows`; and if exports have failed,
`attempt`, how many, and `failed`, what the last one said), `totals`; `keys_given` if the key is
what `--keys` says. A table that is
repaired (`pipelines.table_repair`) also has `repair`, and while it is healed `heal`: its windows,
each like `snapshot` with `from_us` and `to_us`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from transforms.aws.dynamodb import TableDescription
from transforms.aws.session import AwsAccess
from transforms.aws.streams import connect
from transforms.coverage import FUZZ_US, REQUEST_MARGIN_US, covered_since_us
from transforms.export.elements import SnapshotRequest
from transforms.gaps import GapPolicies
from transforms.stream.frontier import Frontier
from transforms.stream.lineage import redistribute
from transforms.stream.source import StreamSource
from transforms.tables import Table
from transforms.wall_clock import now_us

__all__ = [
    "READERS",
    "ReadingOptions",
    "SnapshotMode",
    "choose_readers",
    "for_readers",
    "loads_of",
    "new_load",
    "new_table_state",
    "open_loads",
    "readers_of_each",
    "snapshot_requests",
    "stream_sources",
]

SnapshotMode: TypeAlias = Literal["auto", "never", "only"]

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
        return ReadingOptions(**{**document, "gaps": GapPolicies.from_json(document["gaps"])})


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


def open_loads(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The exports of a table that are not loaded to their end."""
    return [each for each in loads_of(state) if each["status"] in ("pending", "loading")]


def stream_sources(
    state: dict[str, Any], options: ReadingOptions, max_bytes: int, started_us: int
) -> list[StreamSource]:
    """The stream readers of one table for one round."""
    stream = state["stream"]
    if stream is None:
        return []
    pending = bool(open_loads(state))
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
            gap_policy=options.gaps.of(state["table"]["name"]),
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
    client, shards, after = connect(access), 0, ""
    while True:
        page = client.describe(stream["arn"], after=after)
        shards += sum(not each.closed for each in page.shards)
        after = page.next_after
        if not after or shards >= most:
            break
    readers = min(max(1, shards), most)
    stream["frontiers"] = for_readers(stream["frontiers"], readers)


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
            generation=state["generation"],
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
        )
        for load in open_loads(state)
    ]
