# SPDX-License-Identifier: Apache-2.0
"""How a table is read: its first state, and what is to be read from a state on.

The command line and the graph of a continuous run both begin tables, so both use this.
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
from dynabeam.transforms.state.table_state import NO_TOTALS, LoadState, StreamState, TableState
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
    "new_table_state",
    "readers_of_each",
    "snapshot_request",
    "snapshot_requests",
    "stream_sources",
]

SnapshotMode: TypeAlias = Literal["auto", "never", "only"]

_LISTED_LATELY_US = 12 * 3_600 * 1_000_000
"""A shard is listed for a day at least after it was made."""

# Of all tables together: more than subtasks, so that they spread evenly over these; each further
# one makes the others wait for its turn.
READERS = 8


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
) -> TableState:
    """The state of a table that no round has read yet."""
    stream = None
    if description is not None and options.snapshot != "only":
        stream = StreamState(
            description.stream_arn,
            covered_since_us(description.stream_arn, options.start, now_us()),
            (None,) * max(1, options.readers),
        )
    return TableState(
        table,
        description.table_id if description else "",
        1,
        stream,
        LoadState.new("none" if options.snapshot == "never" else "pending"),
        NO_TOTALS,
    )


def stream_sources(
    state: TableState, options: ReadingOptions, max_bytes: int, started_us: int
) -> list[ReaderSpec]:
    """The stream readers of one table for one round."""
    stream = state.stream
    if stream is None:
        return []
    frontiers = for_readers(stream.frontiers, options.readers)
    return [
        ReaderSpec(
            table=state.table,
            stream_arn=stream.arn,
            reader=reader,
            readers=len(frontiers),
            generation=state.generation,
            buckets=options.buckets,
            start=stream.start or options.start,
            frontier=frontier,
            gap_policy=options.gaps.of(state.name),
            snapshot_until_us=started_us + FUZZ_US if state.open_loads else 0,
            max_bytes=max(1, max_bytes // len(frontiers)),
            started_us=started_us,
        )
        for reader, frontier in enumerate(frontiers)
    ]


def for_readers(
    frontiers: tuple[Frontier | None, ...], readers: int
) -> tuple[Frontier | None, ...]:
    """The stored positions, dealt out again if the number of readers has changed.

    None if there are none; a reader without any beside others that have some begins with an empty
    one, so that nothing that those have read is read again.

    Args:
        frontiers: The positions, one per reader.
        readers: How many readers there are to be; 0 for as many as there are.
    """
    readers = readers or len(frontiers)
    if all(each is None for each in frontiers):
        return (None,) * readers
    if len(frontiers) == readers == 1:
        return frontiers
    return tuple(agree(redistribute([each or Frontier() for each in frontiers], readers)))


def choose_readers(state: TableState, access: AwsAccess, most: int) -> TableState:
    """As many readers as there are open shards, within bounds: one does nothing without a shard.

    Args:
        state: The table's state.
        access: Where and as whom AWS is called.
        most: The upper bound; at least 1.
    """
    stream = state.stream
    if stream is None:
        return state
    listed = list_shards(connect(access), stream.arn, most_open=most)
    readers = min(max(1, len(listed.open)), most)
    return _with_frontiers(state, for_readers(stream.frontiers, readers))


def list_for_readers(
    state: TableState, options: ReadingOptions, access: AwsAccess, started_us: int
) -> TableState:
    """Has all readers of a table begin with one listing, where each its own could tell them apart.

    A shard that is trimmed between the listings of two readers may make one read what is another's.
    Whatever is listed for the first time is listed for hours yet, so that this concerns the first
    listing and the first one after a long pause alone, and costs nothing otherwise.

    Args:
        state: The table's state.
        options: How tables are read.
        access: Where and as whom AWS is called.
        started_us: When the run began, microseconds since 1970.

    Returns:
        The state, with a position for each reader.

    Raises:
        StreamError: The service did not answer too often in a row.
    """
    stream = state.stream
    if stream is None:
        return state
    state = _with_frontiers(state, for_readers(stream.frontiers, options.readers))
    frontiers = [each or Frontier() for each in state.frontiers]
    oldest_us = min(each.swept_us for each in frontiers)
    if len(frontiers) < 2 or 0 <= started_us - oldest_us < _LISTED_LATELY_US:
        return state
    began_us = now_us()
    try:
        listed = list_shards(connect(access), stream.arn)
    except ClientError as error:
        if classify(error) is AwsErrorKind.GONE:
            return state  # The readers judge what is lost with a stream that is no longer there.
        raise
    if listed.shards and listed.status != "ENABLING":
        start = stream_sources(state, options, 0, started_us)[0].starting_point()
        adopted = adopt_together(frontiers, listed.shards, start, began_us)
        return _with_frontiers(state, tuple(adopted))
    return state


def _with_frontiers(state: TableState, frontiers: tuple[Frontier | None, ...]) -> TableState:
    assert state.stream is not None
    return dataclasses.replace(state, stream=dataclasses.replace(state.stream, frontiers=frontiers))


def readers_of_each(tables: int) -> int:
    """How many readers a table may have if there are so many tables in one job."""
    return max(1, -(-READERS // max(1, tables)))


def snapshot_requests(
    state: TableState, options: ReadingOptions, state_id: str
) -> list[SnapshotRequest]:
    """The exports of one table that are still to be read; none if all are loaded."""
    return [snapshot_request(state, each, options, state_id) for each in state.readable_loads]


def snapshot_request(
    state: TableState, load: LoadState, options: ReadingOptions, state_id: str
) -> SnapshotRequest:
    """One export of a table as an element of a graph."""
    stream, not_before_us = state.stream, load.not_before_us
    if not_before_us is None:
        not_before_us = stream.since_us + FUZZ_US + REQUEST_MARGIN_US if stream else 0
    return SnapshotRequest(
        table=state.table,
        # That of the load: rows of a snapshot do not win over changes that came after it, also if
        # the generation went up meanwhile because the stream was switched off and on.
        generation=load.generation,
        buckets=options.buckets,
        reuse=load.reuse,
        bucket=options.bucket,
        prefix=options.prefix,
        bucket_owner=options.bucket_owner,
        request_id=state_id,
        not_before_us=not_before_us,
        loaded=load.files,
        loaded_bytes=load.bytes,
        manifest=None if load.manifest is None else load.manifest.to_json(),
        from_us=load.from_us,
        to_us=load.to_us,
        key_range=load.key_range,
        attempt=load.attempt,
        table_id=state.table_id,
    )
