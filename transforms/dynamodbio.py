# SPDX-License-Identifier: Apache-2.0
"""`ReadFromDynamoDB` and `Changes`: tables by name, for your own pipelines.

```python
with beam.Pipeline() as p:
    read = p | ReadFromDynamoDB(["orders"], region="eu-west-1").with_snapshot(export=ARN)
    _ = read.blocks | Changes() | beam.Map(print)
    _ = read.dead_letters | ...  # records that could not be handled, with their raw bytes
```

Positions are not kept: each run of a pipeline begins at `start`. On a runner with savepoints, these
keep them. For runs that continue where the last one ended, use `dynabeam replicate`.
"""

# Without `from __future__ import annotations`: Beam reads the types of `Change` for its schema.

import dataclasses
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, Optional

import apache_beam as beam
from apache_beam.transforms.display import DisplayDataItem

from dynabeam.transforms.aws.beam_s3 import fill_s3_options
from dynabeam.transforms.aws.dynamodb import TableDescription, describe_table
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.errors import ConfigurationError, TableError, ValueDecodeError
from dynabeam.transforms.export.acquire import Acquisition, open_export
from dynabeam.transforms.export.destination import Destination, parse_destination
from dynabeam.transforms.export.elements import SnapshotRequest
from dynabeam.transforms.export.manifest import Verify
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.gap import Gap, GapPolicy
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.read_tables import ReadTables, TablesRead
from dynabeam.transforms.runtime import clock
from dynabeam.transforms.state.coverage import (
    FUZZ_US,
    REQUEST_MARGIN_US,
    covered_since_us,
    uncovered,
)
from dynabeam.transforms.stream.reader_group import ReaderGroup, group_readers
from dynabeam.transforms.stream.reader_spec import TRIM_HORIZON, ReaderSpec, parse_start
from dynabeam.transforms.values.json_texts import compact_json
from dynabeam.transforms.values.keys import decode_key

__all__ = ["Change", "Changes", "ReadFromDynamoDB"]

_VIEW = "NEW_AND_OLD_IMAGES"
_REQUESTS, _SOURCES, _GAPS = "requests", "sources", "gaps"


class Change(NamedTuple):
    """One change of one item: a row with a schema, for SQL, `beam.Select` and other languages.

    Images and key are DynamoDB JSON exactly as the service sent it, such as
    `{"id":{"S":"a"},"total":{"N":"2.50"}}`. `dynabeam.decode_item` makes Python values of it,
    without loss; `dynabeam.plain_json` makes JSON without type tags.

    Attributes:
        table: Name of the table.
        key: The primary key, as DynamoDB JSON.
        version: Orders the changes of one key, as text (`transforms.model.version`): the change
            with the highest version of a key is the newest.
        op: `r` snapshot row, `c` insert, `u` update, `d` delete.
        event_time_us: When it happened, microseconds since 1970 (UTC); exact to the second for
            records of a stream. A number, because Beam SQL takes no timestamps of Python.
        old: The item before, as DynamoDB JSON; None if there was none or it is not known.
        new: The item after, as DynamoDB JSON; None after a delete.
        ttl: True if the service deleted the item because its time to live was over.
    """

    table: str
    key: str
    version: str
    op: str
    event_time_us: int
    old: Optional[str]  # noqa: UP045 - Beam takes `str | None` for any Python object
    new: Optional[str]  # noqa: UP045
    ttl: bool


# Beam would draw one for each process: then the coder's bytes, which a savepoint keeps, would
# differ from run to run, and a worker would not find this class by it. Java accepts only UUIDs.
Change._beam_schema_id = "25ad536c-e214-5d5c-8f50-e5847d41c29b"  # type: ignore[attr-defined]
beam.coders.registry.register_coder(Change, beam.coders.RowCoder)


class Changes(beam.PTransform):
    """`PCollection[Block]` → `PCollection[Change]`: each change becomes an element of its own.

    Handy, and slow: Beam handles some 50,000 Python elements a second and core, while a block goes
    through as one. Sinks therefore work on blocks, in vectorised code.
    """

    def expand(self, blocks: beam.PCollection[Block]) -> beam.PCollection[Change]:
        """Unpacks each block."""
        return blocks | "Unpack" >> beam.FlatMap(_unpack).with_output_types(Change)


def _unpack(block: Block) -> Iterator[Change]:
    """The changes of a block, in its order.

    Raises:
        ValueDecodeError: If a key is not of the table, or an image is not text.
    """
    table = block.header.table
    times = block.rows.column("event_time").cast("int64").to_pylist()
    for row, time_us in zip(block.rows.drop_columns("event_time").to_pylist(), times, strict=True):
        yield Change(
            table=table.name,
            key=compact_json(decode_key(row["key"], table.keys)),
            version=row["version"].decode("ascii"),
            op=row["op"],
            event_time_us=time_us,
            old=_text(row["old"], table),
            new=_text(row["new"], table),
            ttl=row["ttl"],
        )


def _text(image: bytes | None, table: Table) -> str | None:
    try:
        return None if image is None else image.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueDecodeError(
            "an image is not UTF-8", where=f"table {table.name}", found=image
        ) from error


@dataclasses.dataclass(frozen=True)
class _Settings:
    """The settings; picklable, without secrets."""

    tables: tuple[str, ...]
    access: AwsAccess
    with_snapshot: bool = False
    export: str = ""
    to: Destination = dataclasses.field(default_factory=Destination)
    verify: Verify = "strict"
    with_stream: bool = True
    start: str = TRIM_HORIZON
    forever: bool = False
    readers: int = 1
    buckets: int = 16
    gap_policy: GapPolicy = GapPolicy.FAIL
    request_id: str = ""

    @property
    def waits(self) -> bool:
        """True if the graph does not end by itself when it has read what is there."""
        return self.forever or (self.with_snapshot and not self.export)

    def source(self, table: Table, stream_arn: str, reader: int) -> ReaderSpec:
        """One of the readers of a table."""
        now_us = clock.now_us()
        return ReaderSpec(
            table=table,
            stream_arn=stream_arn,
            reader=reader,
            readers=self.readers,
            generation=1,
            buckets=self.buckets,
            start=self.start,
            frontier=None,
            gap_policy=self.gap_policy,
            snapshot_until_us=now_us + FUZZ_US if self.with_snapshot else 0,
            max_bytes=0,
            started_us=now_us,
        )


class ReadFromDynamoDB(beam.PTransform):
    """Reads tables: by default what their streams hold, at most 24 hours; a snapshot on request.

    ```python
    ReadFromDynamoDB(["orders", "customers"], region="eu-west-1")
        .with_snapshot(s3_bucket="my-exports")
        .with_stream(until="forever")
        .with_gaps("continue")
    ```

    Applied to a pipeline, it returns a `TablesRead` of `blocks`, `reports` and `dead_letters`. Each
    `with_…` method returns a new transform, and checks its arguments at once.

    Snapshot and stream are reconciled: a snapshot row that a change has superseded is left out, and
    the change with the highest version of a key is what the table holds. Delivery is at least once:
    a bundle that is retried delivers again, under the same versions.

    AWS is called on the workers only, never while the pipeline is built: the first step of the
    graph describes the tables. So a table that does not exist or has no stream fails the run
    with a `TableError`, and an export that is older than what the stream holds with a `GapError`:
    in-process as these classes, elsewhere as the text of an error of the runner.

    Exports are read through Beam's S3 filesystem. Endpoint, region and bucket role of `access`
    become its pipeline options `--s3_…`, where these are not given; keys are what boto3 finds.
    (Worker processes of the in-process runner get no such options: there boto3's settings apply.)

    Args:
        tables: Names of the tables.
        region: AWS region; empty for what boto3 finds.
        access: Endpoint and identity of the calls of AWS, if the region is not enough.

    Raises:
        ConfigurationError: There is no table, or a region is given twice.
    """

    def __init__(
        self, tables: Sequence[str], *, region: str = "", access: AwsAccess | None = None
    ) -> None:
        super().__init__()
        if isinstance(tables, str) or not tables or not all(tables):
            raise ConfigurationError(
                "a list of table names is needed", where="tables", found=repr(tables)
            )
        if region and access is not None:
            raise ConfigurationError(
                "the region is given beside an access, which has its own",
                where="region",
                found=region,
                hint="Write access=AwsAccess(region=…, …)",
            )
        self._settings = _Settings(tuple(dict.fromkeys(tables)), access or AwsAccess(region=region))

    def with_snapshot(
        self,
        *,
        export: str = "",
        s3_bucket: str = "",
        s3_prefix: str = "",
        s3_bucket_owner: str = "",
        verify: Verify = "strict",
    ) -> "ReadFromDynamoDB":
        """Also reads an export of each table: a given one, or one that it requests.

        A new export takes minutes, and DynamoDB bills it. It needs point-in-time recovery, and a
        read that waits: `with_stream(until="forever")`, on a streaming runner, or
        `without_stream()`, on any (the in-process one keeps a third of a core busy meanwhile).

        Args:
            export: A complete export to use, of one table: its ARN or location
                (`transforms.export.location`).
            s3_bucket: Bucket for new exports.
            s3_prefix: Prefix inside it.
            s3_bucket_owner: Its account, if it is not the tables'.
            verify: Whether a wrong checksum or count is an error (`strict`) or a warning (`warn`).

        Raises:
            ConfigurationError: Neither or both are given, a name is not valid, or there are
                several tables for one export.
        """
        if bool(export) == bool(s3_bucket):
            raise ConfigurationError(
                "a snapshot needs either an export to use or a bucket for a new one",
                where="with_snapshot",
                hint="Give export=ARN or s3_bucket=NAME",
            )
        if export and len(self._settings.tables) > 1:
            raise ConfigurationError(
                "an export is of one table, but several are named",
                where="export",
                found=list(self._settings.tables),
                hint="Apply the transform once per table",
            )
        to = parse_destination(s3_bucket, s3_prefix, s3_bucket_owner)
        _one_of("verify", verify, ("strict", "warn"))
        return self._with(with_snapshot=True, export=export, to=to, verify=verify)

    def with_stream(
        self,
        *,
        start: str | datetime = TRIM_HORIZON,
        until: Literal["caught_up", "forever"] = "caught_up",
    ) -> "ReadFromDynamoDB":
        """Sets which part of the streams is read.

        Args:
            start: `trim_horizon` (the oldest record that remains), `latest`, or a time: a datetime
                with a time zone or RFC 3339 text.
            until: `caught_up`: read what is there, then end; the output is bounded. `forever`:
                never end, on a streaming runner (Flink, Dataflow, Prism). The in-process runner
                would emit nothing past the first shuffle.

        Raises:
            ConfigurationError: `start` or `until` is not valid.
        """
        _one_of("until", until, ("caught_up", "forever"))
        text = start.isoformat() if isinstance(start, datetime) else start
        parse_start(text, 0)  # the workers do it; a mistake has to show here
        return self._with(with_stream=True, start=text, forever=until == "forever")

    def without_stream(self) -> "ReadFromDynamoDB":
        """Reads only the snapshot. It waits for a new export."""
        return self._with(with_stream=False, start=TRIM_HORIZON, forever=False)

    def with_gaps(self, policy: GapPolicy | Literal["fail", "continue"]) -> "ReadFromDynamoDB":
        """Sets what happens if the stream lost changes, or does not reach back to the snapshot.

        Args:
            policy: `fail`, the default: the run fails. `continue`: a report of kind `gap`, and the
                read goes on after it.

        Raises:
            ConfigurationError: It is another policy: a repair needs runs that continue where the
                last one ended.
        """
        given = policy.value if isinstance(policy, GapPolicy) else policy
        if given in (GapPolicy.HEAL.value, GapPolicy.RESNAPSHOT.value):
            raise ConfigurationError(
                "a repair needs runs that continue where the last ended; this keeps no positions",
                where="with_gaps",
                expected=["fail", "continue"],
                found=given,
                hint=f"Use dynabeam replicate --gaps={given}",
            )
        _one_of("with_gaps", given, ("fail", "continue"))
        return self._with(gap_policy=GapPolicy(given))

    def with_parallelism(self, *, readers: int = 1, buckets: int = 16) -> "ReadFromDynamoDB":
        """Sets how the work on each table is split.

        Args:
            readers: Readers that the shards of a table's stream are spread over.
            buckets: Hash buckets that its changes are spread over after the reading.

        Raises:
            ConfigurationError: A number is not positive.
        """
        for name, number in (("readers", readers), ("buckets", buckets)):
            if number < 1:
                raise ConfigurationError("not a positive number", where=name, found=number)
        return self._with(readers=readers, buckets=buckets)

    def display_data(self) -> dict[str, Any]:
        """What the runner shows of it."""
        its = self._settings
        shown = {
            "tables": (", ".join(its.tables), "Tables"),
            "region": (its.access.region or "from the environment", "AWS region"),
            "snapshot": (its.export or its.to.bucket or "none", "Export, or bucket for one"),
            "start": (its.start if its.with_stream else "not read", "Start of the streams"),
            "until": ("forever" if its.forever else "caught_up", "Until"),
            "gaps": (its.gap_policy.value, "Policy for lost changes"),
        }
        return {name: DisplayDataItem(value, label=label) for name, (value, label) in shown.items()}

    def expand(self, pipeline: beam.pvalue.PBegin) -> "TablesRead":
        """Describes the tables on a worker, and reads them.

        Raises:
            ConfigurationError: Options that exclude each other.
        """
        settings = dataclasses.replace(self._settings, request_id=uuid.uuid4().hex)
        _check_together(settings)
        fill_s3_options(pipeline.pipeline.options, settings.access)
        described = (
            pipeline
            | "Tables"
            >> beam.Create([settings.tables], reshuffle=False).with_output_types(tuple[str, ...])
            | "Describe"
            >> beam.ParDo(_DescribeFn(settings))
            .with_output_types(
                SnapshotRequest,
                **{_SOURCES: ReaderGroup if settings.waits else ReaderSpec, _GAPS: Report},
            )
            .with_outputs(_SOURCES, _GAPS, main=_REQUESTS)
        )
        wanted = {_REQUESTS: settings.with_snapshot, _SOURCES: settings.with_stream}
        elements = {name: described[name] for name, is_wanted in wanted.items() if is_wanted}
        read: TablesRead = elements | "ReadTables" >> ReadTables(
            settings.access,
            until="forever" if settings.waits else "tip",
            verify=settings.verify,
        )
        if not settings.forever:
            for output in read:
                output.is_bounded = True  # what waits for an export ends with it, too
        reports = (read.reports, described[_GAPS]) | "Reports" >> beam.Flatten()
        reports.element_type = Report
        return read._replace(reports=reports)

    def _with(self, **changed: Any) -> "ReadFromDynamoDB":
        made = ReadFromDynamoDB(self._settings.tables, access=self._settings.access)
        made._settings = dataclasses.replace(self._settings, **changed)
        return made


def _one_of(where: str, found: str, allowed: tuple[str, ...]) -> None:
    if found not in allowed:
        raise ConfigurationError(
            "there is no such choice", where=where, expected=" | ".join(allowed), found=found
        )


def _check_together(settings: _Settings) -> None:
    if not settings.with_snapshot and not settings.with_stream:
        raise ConfigurationError(
            "there is nothing to read",
            where="without_stream",
            hint="Add a snapshot: with_snapshot(…)",
        )
    if settings.waits and settings.with_stream and not settings.forever:
        raise ConfigurationError(
            "a read that ends when it has caught up cannot wait for a new export",
            where="with_snapshot",
            hint="Give with_snapshot(export=…), with_stream(until='forever') or without_stream()",
        )


class _DescribeFn(beam.DoFn):
    """Names of tables to what is to be read of them: the only step that asks AWS about tables."""

    def __init__(self, settings: _Settings) -> None:
        self._settings = settings

    def process(self, names: tuple[str, ...]) -> Iterator[Any]:
        """Describes all tables at once, as the readers of all of them are dealt out to groups."""
        its = self._settings
        sources: list[ReaderSpec] = []
        for name in names:
            described = describe_table(its.access, name)
            if its.with_stream:
                stream_arn = _usable_stream(described)
                sources += [
                    its.source(described.table, stream_arn, reader) for reader in range(its.readers)
                ]
            if its.with_snapshot:
                gap = self._gap(described)
                if gap is not None:
                    if its.gap_policy is GapPolicy.FAIL:
                        raise gap.error()
                    yield beam.pvalue.TaggedOutput(_GAPS, gap.report())
                yield self._request(described)
        for source in group_readers(sources) if its.waits and sources else sources:
            yield beam.pvalue.TaggedOutput(_SOURCES, source)

    def _request(self, described: TableDescription) -> SnapshotRequest:
        its = self._settings
        return SnapshotRequest(
            table=described.table,
            generation=1,
            buckets=its.buckets,
            reuse=its.export,
            bucket=its.to.bucket,
            prefix=its.to.prefix,
            bucket_owner=its.to.owner,
            request_id=its.request_id,
            not_before_us=self._not_before_us(described),
        )

    def _not_before_us(self, described: TableDescription) -> int:
        """When a new export may be requested: the stream has to reach to before its fuzzy edge."""
        if not self._settings.with_stream:
            return 0
        return self._since_us(described) + FUZZ_US + REQUEST_MARGIN_US

    def _since_us(self, described: TableDescription) -> int:
        return covered_since_us(described.stream_arn, self._settings.start, clock.now_us())

    def _gap(self, described: TableDescription) -> Gap | None:
        """An export that is older than what the stream holds leaves a gap."""
        its = self._settings
        if not its.export:
            return None
        manifest = open_export(its.export, Acquisition(its.access, verify=its.verify))
        manifest.check_table(described.table)
        if not its.with_stream:
            return None
        return uncovered(
            described.table.name,
            described.stream_arn,
            self._since_us(described),
            manifest.export_time_us,
        )


def _usable_stream(described: TableDescription) -> str:
    if not described.stream_enabled or described.stream_view_type != _VIEW:
        raise TableError(
            "its stream does not give what a replica needs",
            where=f"table {described.table.name}",
            expected=f"a stream with view type {_VIEW}",
            found=described.stream_view_type or "no stream",
            hint="Turn it on with this view type, or read the snapshot alone: without_stream()",
        )
    return described.stream_arn
