# SPDX-License-Identifier: Apache-2.0
"""The reading half of the graph: its labels, its coders, and its public form for Beam users."""

from datetime import datetime, timedelta, timezone
from decimal import Decimal

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.dynamodbio import Changes, ReadFromDynamoDB
from dynabeam.transforms.errors import ConfigurationError, GapError, TableError
from dynabeam.transforms.export.elements import SnapshotRequest
from dynabeam.transforms.model.gap import GapPolicy
from dynabeam.transforms.read_tables import ReadTables
from dynabeam.transforms.stream.group import SourceGroup
from dynabeam.transforms.stream.source import StreamSource
from dynabeam.transforms.testing.clock import SimClock
from dynabeam.transforms.testing.simulator import Simulator
from tests.graphs import labels_of, pickled_places

LABELS = {
    "tip": [
        "ReadTables",
        "ReadTables/Blocks",
        "ReadTables/DeadLetters",
        "ReadTables/Reconcile",
        "ReadTables/Reconcile/ByTableAndBucket",
        "ReadTables/Reconcile/OrderRule",
        "ReadTables/Reports",
        "ReadTables/Snapshot",
        "ReadTables/Snapshot/EnsureExport",
        "ReadTables/Snapshot/EnsureExport/PollExport",
        "ReadTables/Snapshot/ReadExportFiles",
        "ReadTables/Snapshot/ReadExportFiles/ReadSlice",
        "ReadTables/Snapshot/ReadExportFiles/Spread",
        "ReadTables/Snapshot/Reports",
        "ReadTables/Stream",
        "ReadTables/Stream/ReadStream",
        "ReadTables/Stream/ReadStream/Read",
        "ReadTables/Stream/SpreadReaders",
    ]
}
LABELS["forever"] = [each.replace("PollExport", "WaitForExport") for each in LABELS["tip"]]


def graph(until):
    pipeline = beam.Pipeline(runner="FnApiRunner")
    kind = StreamSource if until == "tip" else SourceGroup
    elements = {
        "requests": pipeline | "Requests" >> beam.Create([]).with_output_types(SnapshotRequest),
        "sources": pipeline | "Sources" >> beam.Create([]).with_output_types(kind),
    }
    _ = elements | "ReadTables" >> ReadTables(AwsAccess(region="eu-west-1"), until=until)
    return pipeline


class TestGraph:
    @pytest.mark.parametrize("until", ["tip", "forever"])
    def test_labels(self, until):
        """Savepoints find their state by these: a change here is a change of the release line."""
        labels = labels_of(graph(until), below="ReadTables")
        assert sorted(labels) == LABELS[until]

    def test_nothing_is_pickled_that_a_savepoint_keeps(self):
        assert pickled_places(graph("forever")) == []


@pytest.fixture
def sim(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
    clock = SimClock(datetime.now(timezone.utc) - timedelta(minutes=30))
    with Simulator(seed=2, clock=clock) as simulator:
        simulator.create_table("orders", "id:S")
        simulator.create_bucket("exports")
        simulator.client("dynamodb").update_continuous_backups(
            TableName="orders",
            PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
        )
        yield simulator


@pytest.fixture
def access(sim, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", sim.endpoint_url)
    return AwsAccess(region=sim.region, endpoint_url=sim.endpoint_url)


def options(sim):
    return beam.options.pipeline_options.PipelineOptions(
        [f"--s3_endpoint_url={sim.endpoint_url}", f"--s3_region_name={sim.region}"]
    )


def summary(change):
    new = None if change.new is None else change.new["total"]
    return change.op, change.key["id"], new


class TestReadFromDynamoDB:
    def test_snapshot_and_stream(self, sim, access):
        sim.put_many("orders", [{"id": {"S": f"o{n}"}, "total": {"N": str(n)}} for n in range(5)])
        sim.clock.advance(timedelta(minutes=20))
        client = sim.client("dynamodb")
        arn = client.export_table_to_point_in_time(
            TableArn=sim.table("orders").arn, S3Bucket="exports"
        )["ExportDescription"]["ExportArn"]
        sim.clock.advance(timedelta(minutes=5))
        client.delete_item(TableName="orders", Key={"id": {"S": "o1"}})
        sim.put_many("orders", [{"id": {"S": "o2"}, "total": {"N": "2.50"}}])
        sim.clock.set(datetime.now(timezone.utc))
        pipeline = beam.Pipeline(runner="FnApiRunner", options=options(sim))
        read = pipeline | ReadFromDynamoDB(tables=["orders"], access=access, export=arn)
        found = read.blocks | Changes() | beam.Map(summary)
        inserts = [("c", f"o{n}", Decimal(n)) for n in range(5)]
        later = [("d", "o1", None), ("u", "o2", Decimal("2.5"))]
        # Every key was changed within what the stream holds, so each snapshot row is superseded,
        # unless its block came first.
        assert_that(found | beam.Filter(lambda each: each[0] != "r"), equal_to(inserts + later))
        assert_that(read.dead_letters, equal_to([]), label="letters")
        pipeline.run().wait_until_finish()

    def test_stream_alone(self, sim, access):
        sim.put_many("orders", [{"id": {"S": "a"}, "total": {"N": "1"}}])
        sim.clock.set(datetime.now(timezone.utc))
        with beam.Pipeline(runner="FnApiRunner", options=options(sim)) as pipeline:
            read = pipeline | ReadFromDynamoDB(["orders"], access, snapshot="never", readers=2)
            assert_that(
                read.blocks | Changes() | beam.Map(summary), equal_to([("c", "a", Decimal(1))])
            )

    def test_an_export_older_than_the_stream_is_a_gap(self, sim, access):
        client = sim.client("dynamodb")
        arn = client.export_table_to_point_in_time(
            TableArn=sim.table("orders").arn, S3Bucket="exports"
        )["ExportDescription"]["ExportArn"]
        sim.clock.advance(timedelta(minutes=5))
        pipeline = beam.Pipeline(runner="FnApiRunner", options=options(sim))
        with pytest.raises(GapError, match="uncovered"):
            pipeline | ReadFromDynamoDB(["orders"], access, export=arn, start="latest")
        accepted = ReadFromDynamoDB(
            ["orders"], access, export=arn, start="latest", gap_policy=GapPolicy.CONTINUE
        )
        assert (pipeline | "Accepted" >> accepted).blocks is not None

    def test_a_table_without_a_stream(self, sim, access):
        sim.create_table("still", "id:S", stream=None)
        with pytest.raises(TableError, match="table still"):
            beam.Pipeline() | ReadFromDynamoDB(["still"], access, snapshot="never")

    @pytest.mark.parametrize(
        ("given", "where"),
        [
            ({"tables": []}, "tables"),
            ({"tables": "orders"}, "tables"),
            ({"tables": ["orders"]}, "export"),
            ({"tables": ["orders"], "s3_export_bucket": "b"}, "cannot wait"),
            ({"tables": ["orders"], "until": "forever"}, "no.* bucket|bucket for a new one"),
            ({"tables": ["a", "b"], "export": "x"}, "one table"),
        ],
    )
    def test_what_cannot_work_is_refused(self, given, where):
        with pytest.raises(ConfigurationError, match=where):
            ReadFromDynamoDB(access=AwsAccess(region="eu-west-1"), **given)
