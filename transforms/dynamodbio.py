# SPDX-License-Identifier: Apache-2.0
"""`ReadFromDynamoDB`: tables by name, for pipelines of one's own, without the command line.

`Changes`: blocks unpacked into one Python object per change. Handy, and slow: Beam handles some
50,000 Python elements a second and core, while a block goes through as one. Sinks therefore work on
blocks, in vectorised code.

```python
with beam.Pipeline() as p:
    read = p | ReadFromDynamoDB(
        tables=["orders", "customers"],
        access=AwsAccess(region="eu-west-1"),
        s3_export_bucket="my-exports",
    )
    _ = read.blocks | Changes() | beam.Map(print)
    _ = read.dead_letters | ...  # records that could not be handled, with their raw bytes
```

Positions are not kept: each run of a pipeline begins at `start`, and on a runner with savepoints
those keep them. Who needs runs that go on where the last one ended uses `dynabeam replicate`.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import apache_beam as beam

from dynabeam.transforms.aws.dynamodb import TableDescription, describe_table
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.errors import ConfigurationError, TableError
from dynabeam.transforms.export.acquire import Acquisition, open_export
from dynabeam.transforms.export.destination import parse_destination
from dynabeam.transforms.export.elements import SnapshotRequest
from dynabeam.transforms.export.manifest import Verify
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.gap import GapPolicy
from dynabeam.transforms.read_tables import ReadTables, TablesRead
from dynabeam.transforms.runtime import clock as wall_clock
from dynabeam.transforms.state.coverage import (
    FUZZ_US,
    REQUEST_MARGIN_US,
    covered_since_us,
    uncovered,
)
from dynabeam.transforms.stream.group import grouped
from dynabeam.transforms.stream.read import Until
from dynabeam.transforms.stream.source import TRIM_HORIZON, StreamSource
from dynabeam.transforms.values.keys import decode_key
from dynabeam.transforms.values.python_values import Value, decode_item

__all__ = ["Change", "Changes", "ReadFromDynamoDB"]

_VIEW = "NEW_AND_OLD_IMAGES"


class ReadFromDynamoDB(beam.PTransform):
    """Reads tables: snapshot and stream, reconciled. Applied to a pipeline; gives a `TablesRead`.

    A run to the tip cannot wait for an export, so it needs one that is complete (`export`). A run
    forever requests its own, and needs a runner that streams (Flink, Dataflow, Prism).

    Args:
        tables: Names of the tables.
        access: Where and as whom AWS is called.
        snapshot: `auto`: export and stream. `never`: the stream alone. `only`: the export alone.
        export: A complete export to use, for one table: its ARN or location
            (`transforms.export.location`); without it a new one is requested.
        s3_export_bucket: Bucket for new exports.
        s3_export_prefix: Prefix inside it.
        s3_export_bucket_owner: Its account, if it is another.
        start: Where streams are begun: `trim_horizon`, `latest` or an RFC 3339 time.
        until: `tip`: read what is there, then end. `forever`: never end.
        readers: Readers per table: what one table's shards spread over.
        buckets: Hash buckets per table: what its changes spread over behind the reading.
        gap_policy: What lost changes do: `FAIL` or `CONTINUE`. Repairs need kept positions.
        verify: What checksums and counts that do not agree are.
    """

    def __init__(
        self,
        tables: Sequence[str],
        access: AwsAccess,
        *,
        snapshot: Literal["auto", "never", "only"] = "auto",
        export: str = "",
        s3_export_bucket: str = "",
        s3_export_prefix: str = "",
        s3_export_bucket_owner: str = "",
        start: str = TRIM_HORIZON,
        until: Until = "tip",
        readers: int = 1,
        buckets: int = 16,
        gap_policy: GapPolicy = GapPolicy.FAIL,
        verify: Verify = "strict",
    ) -> None:
        super().__init__()
        if isinstance(tables, str) or not tables:
            raise ConfigurationError(
                "a list of table names is needed", where="tables", found=repr(tables)
            )
        if snapshot != "never" and not export and (until == "tip" or not s3_export_bucket):
            raise ConfigurationError(
                "there is neither an export to use nor a bucket for a new one"
                if until == "forever"
                else "a run to the tip cannot wait for a new export",
                where="export",
                hint="Give export, until='forever' with s3_export_bucket, or snapshot='never'",
            )
        if export and len(tables) > 1:
            raise ConfigurationError(
                "an export is of one table, but several are named",
                where="export",
                found=list(tables),
                hint="Apply the transform once per table",
            )
        if gap_policy.repairs:
            raise ConfigurationError(
                "a repair takes runs that go on where the last one ended, and this keeps nothing",
                where="gap_policy",
                expected=["fail", "continue"],
                found=gap_policy.value,
                hint="Use dynabeam replicate --gaps=heal",
            )
        self._tables = tuple(dict.fromkeys(tables))
        self._access = access
        self._snapshot = snapshot
        self._export = export
        to = parse_destination(s3_export_bucket, s3_export_prefix, s3_export_bucket_owner)
        self._destination = (to.bucket, to.prefix, to.owner)
        self._start = start
        self._until: Until = until
        self._readers = readers
        self._buckets = buckets
        self._gap_policy = gap_policy
        self._verify: Verify = verify

    def expand(self, pipeline: Any) -> TablesRead:
        """Describes the tables, and reads them.

        Raises:
            TableError: A table does not exist, or its stream is off or lacks images.
            GapError: The export is older than what the stream holds, and the policy is to fail.
            ExportError: The export cannot be read, or is of another table.
            AwsAccessError: A right is missing.
            CredentialsError: There are no credentials, or they are not accepted.
        """
        found = [describe_table(self._access, name) for name in self._tables]
        if self._export:
            self._check_export(found[0])
        elements: dict[str, Any] = {}
        if self._snapshot != "never":
            requests = [self._request(each) for each in found]
            elements["requests"] = pipeline | "Requests" >> beam.Create(requests, reshuffle=False)
        if self._snapshot != "only":
            sources = [source for each in found for source in self._sources(each)]
            together = grouped(sources) if self._until == "forever" else sources
            elements["sources"] = pipeline | "Sources" >> beam.Create(together, reshuffle=False)
        read: TablesRead = elements | "ReadTables" >> ReadTables(
            self._access, until=self._until, verify=self._verify
        )
        return read

    def _request(self, described: TableDescription) -> SnapshotRequest:
        bucket, prefix, owner = self._destination
        return SnapshotRequest(
            table=described.table,
            generation=1,
            buckets=self._buckets,
            reuse=self._export,
            bucket=bucket,
            prefix=prefix,
            bucket_owner=owner,
            request_id=uuid.uuid4().hex,
            not_before_us=self._since_us(described) + FUZZ_US + REQUEST_MARGIN_US,
        )

    def _since_us(self, described: TableDescription) -> int:
        return covered_since_us(described.stream_arn, self._start, wall_clock.now_us())

    def _check_export(self, described: TableDescription) -> None:
        """An export that is older than what the stream holds leaves a gap."""
        manifest = open_export(self._export, Acquisition(self._access, verify=self._verify))
        manifest.check_table(described.table)
        if self._snapshot == "only":
            return
        gap = uncovered(
            described.table.name,
            described.stream_arn,
            self._since_us(described),
            manifest.export_time_us,
        )
        if gap is not None and self._gap_policy is GapPolicy.FAIL:
            raise gap.error()

    def _sources(self, described: TableDescription) -> list[StreamSource]:
        if not described.stream_enabled or described.stream_view_type != _VIEW:
            raise TableError(
                "its stream does not give what a replica needs",
                where=f"table {described.table.name}",
                expected=f"a stream with view type {_VIEW}",
                found=described.stream_view_type or "no stream",
                hint="Turn it on with this view type, or give snapshot='only'",
            )
        now_us = wall_clock.now_us()
        return [
            StreamSource(
                table=described.table,
                stream_arn=described.stream_arn,
                reader=reader,
                readers=self._readers,
                generation=1,
                buckets=self._buckets,
                start=self._start,
                frontier=None,
                gap_policy=self._gap_policy,
                snapshot_until_us=now_us + FUZZ_US if self._snapshot == "auto" else 0,
                max_bytes=0,
                started_us=now_us,
            )
            for reader in range(self._readers)
        ]


@dataclasses.dataclass(frozen=True)
class Change:
    """One row of history of one item; values as in `transforms.values.python_values`.

    Attributes:
        table: Name of the table.
        key: The primary key, attribute → value.
        version: Orders the changes of one key, as text (`transforms.model.version`).
        op: `r` snapshot row, `c` insert, `u` update, `d` delete.
        event_time: When it happened, to the second for stream records; UTC.
        old: The item before, None if there was none or it is not known.
        new: The item after, None after a delete.
        ttl: True if the service deleted the item because its time was over.
    """

    table: str
    key: Mapping[str, Value]
    version: str
    op: Literal["r", "c", "u", "d"]
    event_time: datetime
    old: Mapping[str, Value] | None
    new: Mapping[str, Value] | None
    ttl: bool


class Changes(beam.PTransform):
    """`PCollection[Block]` → `PCollection[Change]`."""

    def expand(self, blocks: Any) -> Any:
        """Unpacks each block."""
        return blocks | "Unpack" >> beam.FlatMap(unpack).with_output_types(Change)


def unpack(block: Block) -> Iterator[Change]:
    """The changes of a block, in its order.

    Raises:
        ValueDecodeError: If an image is not DynamoDB JSON.
    """
    table = block.header.table
    for row in block.rows.to_pylist():
        key = decode_item(decode_key(row["key"], table.keys))
        yield Change(
            table=table.name,
            key=key,
            version=row["version"].decode("ascii"),
            op=row["op"],
            event_time=row["event_time"],
            old=None if row["old"] is None else decode_item(row["old"]),
            new=None if row["new"] is None else decode_item(row["new"]),
            ttl=row["ttl"],
        )
