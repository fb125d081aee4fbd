# SPDX-License-Identifier: Apache-2.0
"""`ReadFromDynamoDB` and `Changes`, as a user of Beam meets them."""

import json
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.coders import RowCoder, registry
from apache_beam.options.pipeline_options import PipelineOptions, S3Options
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.display import DisplayData

from dynabeam.transforms.aws import session
from dynabeam.transforms.aws.roles import Role
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.dynamodbio import Change, Changes, ReadFromDynamoDB
from dynabeam.transforms.errors import ConfigurationError, GapError, TableError, ValueDecodeError
from dynabeam.transforms.model.block import SCHEMA, Block, BlockHeader
from dynabeam.transforms.model.gap import GapPolicy
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.testing.clock import SimClock
from dynabeam.transforms.testing.simulator import Simulator
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema
from dynabeam.transforms.values.keys import encode_key
from dynabeam.transforms.values.python_values import BinarySet, NumberSet, decode_item
from tests.graphs import labels_of, pickled_places

LABELS = [
    "Read",
    "Read/Describe",
    "Read/ReadTables",
    "Read/Reports",
    "Read/Tables",
]


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
def access(sim):
    return AwsAccess(region=sim.region, endpoint_url=sim.endpoint_url)


def export_of(sim, table="orders"):
    answer = sim.client("dynamodb").export_table_to_point_in_time(
        TableArn=sim.table(table).arn, S3Bucket="exports"
    )
    return answer["ExportDescription"]["ExportArn"]


def summary(change):
    new = None if change.new is None else decode_item(change.new)["total"]
    return change.op, decode_item(change.key)["id"], new


def run(read, check, *options):
    with beam.Pipeline("FnApiRunner", options=PipelineOptions(list(options))) as pipeline:
        check(pipeline | read)


class TestReading:
    def test_snapshot_and_stream(self, sim, access):
        sim.put_many("orders", [{"id": {"S": f"o{n}"}, "total": {"N": str(n)}} for n in range(5)])
        sim.clock.advance(timedelta(minutes=20))
        arn = export_of(sim)
        sim.clock.advance(timedelta(minutes=5))
        sim.client("dynamodb").delete_item(TableName="orders", Key={"id": {"S": "o1"}})
        sim.put_many("orders", [{"id": {"S": "o2"}, "total": {"N": "2.50"}}])
        sim.clock.set(datetime.now(timezone.utc))
        inserts = [("c", f"o{n}", Decimal(n)) for n in range(5)]
        later = [("d", "o1", None), ("u", "o2", Decimal("2.5"))]

        def check(read):
            found = read.blocks | Changes() | beam.Map(summary)
            # Every key was changed within what the stream holds, so each snapshot row is
            # superseded, unless its block came first.
            assert_that(found | beam.Filter(lambda each: each[0] != "r"), equal_to(inserts + later))
            assert_that(read.dead_letters, equal_to([]), label="letters")

        run(ReadFromDynamoDB(["orders"], access=access).with_snapshot(export=arn), check)

    def test_stream_alone_is_the_default(self, sim, access):
        sim.put_many("orders", [{"id": {"S": "a"}, "total": {"N": "1"}}])
        sim.clock.set(datetime.now(timezone.utc))
        reading = ReadFromDynamoDB(["orders"], access=access).with_parallelism(readers=2)

        def check(read):
            found = read.blocks | Changes() | beam.Map(summary)
            assert_that(found, equal_to([("c", "a", Decimal(1))]))

        run(reading, check)

    def test_a_snapshot_alone_waits_for_its_export(self, sim, access):
        sim.put_many("orders", [{"id": {"S": "a"}, "total": {"N": "1"}}])
        sim.clock.advance(timedelta(minutes=5))
        reading = (
            ReadFromDynamoDB(["orders"], access=access)
            .with_snapshot(s3_bucket="exports", s3_prefix="mine")
            .without_stream()
        )

        def check(read):
            assert [each.is_bounded for each in read] == [True, True, True]
            found = read.blocks | Changes() | beam.Map(summary)
            assert_that(found, equal_to([("r", "a", Decimal(1))]))

        run(reading, check)

    def test_an_export_older_than_the_stream_is_a_gap(self, sim, access):
        arn = export_of(sim)
        sim.clock.advance(timedelta(minutes=5))
        reading = (
            ReadFromDynamoDB(["orders"], access=access)
            .with_snapshot(export=arn)
            .with_stream(start="latest")
        )
        with pytest.raises(GapError, match=r"table orders.*uncovered"):
            run(reading, lambda read: read)

        def check(read):
            kinds = read.reports | beam.Map(lambda each: each.kind)
            assert_that(kinds | beam.Filter(lambda kind: kind == "gap"), equal_to(["gap"]))

        run(reading.with_gaps("continue"), check)

    @pytest.mark.parametrize(("table", "said"), [("still", "stream"), ("none", "no such table")])
    def test_a_table_that_cannot_be_read_fails_the_run(self, sim, access, table, said):
        sim.create_table("still", "id:S", stream=None)
        with pytest.raises(TableError, match=rf"{table}.*{said}"):
            run(ReadFromDynamoDB([table], access=access), lambda read: read)


class TestGraph:
    def test_nothing_is_asked_of_aws_while_it_is_made(self, monkeypatch):
        def refuse(*_):
            raise AssertionError("AWS is called")

        monkeypatch.setattr(session.AwsAccess, "new_client", refuse)
        pipeline = beam.Pipeline()
        read = pipeline | "Read" >> ReadFromDynamoDB(["orders"], region="eu-west-1").with_snapshot(
            export="arn:aws:dynamodb:eu-west-1:1:table/orders/export/01"
        )
        assert read.blocks.element_type is Block

    def test_labels(self):
        """Savepoints find their state by these: a change here is a change of the release line."""
        pipeline = beam.Pipeline()
        _ = pipeline | "Read" >> ReadFromDynamoDB(["orders"], region="eu-west-1")
        labels = labels_of(pipeline, below="Read")
        assert [each for each in sorted(labels) if each.count("/") < 2] == LABELS

    def test_nothing_is_pickled_that_a_savepoint_keeps(self):
        pipeline = beam.Pipeline()
        reading = ReadFromDynamoDB(["orders"], region="eu-west-1")
        reading = reading.with_snapshot(s3_bucket="exports").with_stream(until="forever")
        _ = (pipeline | reading).blocks | Changes()
        assert pickled_places(pipeline) == []

    @pytest.mark.parametrize(("until", "bounded"), [("caught_up", True), ("forever", False)])
    def test_the_end_is_known(self, until, bounded):
        reading = ReadFromDynamoDB(["orders"], region="eu-west-1").with_stream(until=until)
        assert (beam.Pipeline() | reading).blocks.is_bounded is bounded

    def test_the_bucket_is_read_as_the_access_says(self):
        access = AwsAccess("eu-west-1", "http://here", bucket_role=Role("arn:aws:iam::1:role/r"))
        options = PipelineOptions(["--s3_region_name=us-east-1"])
        pipeline = beam.Pipeline(options=options)
        _ = pipeline | ReadFromDynamoDB(["orders"], access=access)
        told = pipeline.options.view_as(S3Options)
        assert (told.s3_endpoint_url, told.s3_region_name) == ("http://here", "us-east-1")
        assert pipeline.options.get_all_options()["s3_role_arn"] == "arn:aws:iam::1:role/r"

    def test_display_data(self):
        reading = ReadFromDynamoDB(["a", "b"], region="eu-west-1").with_snapshot(s3_bucket="bucket")
        items = DisplayData.create_from(reading).items
        assert {each.key: each.value for each in items if each.key != "fn"} == {
            "tables": "a, b",
            "region": "eu-west-1",
            "snapshot": "bucket",
            "start": "trim_horizon",
            "until": "caught_up",
            "gaps": "fail",
        }


ARN = "arn:aws:dynamodb:eu-west-1:1:table/orders/export/01"


class TestArguments:
    @pytest.mark.parametrize(
        ("method", "given", "where"),
        [
            ("with_snapshot", {}, "either an export"),
            ("with_snapshot", {"export": ARN, "s3_bucket": "bucket"}, "either an export"),
            ("with_snapshot", {"export": ARN}, "of one table"),
            ("with_snapshot", {"s3_bucket": "No_Bucket"}, "No_Bucket"),
            ("with_snapshot", {"s3_bucket": "bucket", "verify": "lax"}, "verify"),
            ("with_stream", {"start": "yesterday"}, "start"),
            ("with_stream", {"start": datetime(2026, 1, 1)}, "time zone"),  # noqa: DTZ001
            ("with_stream", {"until": "tip"}, "until"),
            ("with_gaps", {"policy": "heal"}, "replicate --gaps=heal"),
            ("with_gaps", {"policy": GapPolicy.RESNAPSHOT}, "continue where"),
            ("with_gaps", {"policy": "ignore"}, "no such choice"),
            ("with_parallelism", {"readers": 0}, "readers"),
            ("with_parallelism", {"buckets": 0}, "buckets"),
        ],
    )
    def test_are_checked_when_given(self, method, given, where):
        reading = ReadFromDynamoDB(["a", "b"], region="eu-west-1")
        with pytest.raises(ConfigurationError, match=where):
            getattr(reading, method)(**given)

    @pytest.mark.parametrize(
        ("tables", "given", "where"),
        [
            ([], {}, "tables"),
            ("orders", {}, "tables"),
            (["a", ""], {}, "tables"),
            (["a"], {"region": "eu-west-1", "access": AwsAccess("eu-west-1")}, "region"),
        ],
    )
    def test_tables_and_access(self, tables, given, where):
        with pytest.raises(ConfigurationError, match=where):
            ReadFromDynamoDB(tables, **given)

    def test_what_does_not_go_together_is_refused_before_a_run(self):
        reading = ReadFromDynamoDB(["a"], region="eu-west-1")
        for impossible, where in (
            (reading.without_stream(), "nothing to read"),
            (reading.with_snapshot(s3_bucket="bucket"), "cannot wait"),
        ):
            with pytest.raises(ConfigurationError, match=where):
                beam.Pipeline() | impossible

    def test_each_gives_a_new_transform(self):
        reading = ReadFromDynamoDB(["a"], region="eu-west-1")
        forever = reading.with_stream(until="forever")
        assert not (beam.Pipeline() | forever).blocks.is_bounded
        assert (beam.Pipeline() | reading).blocks.is_bounded

    def test_a_start_may_be_a_time(self):
        reading = ReadFromDynamoDB(["a"]).with_stream(
            start=datetime(2026, 1, 1, tzinfo=timezone.utc)
        )
        items = DisplayData.create_from(reading).items
        assert "2026-01-01T00:00:00+00:00" in [each.value for each in items]


TABLE = Table("orders", KeySchema(KeyAttribute("id", "S"), KeyAttribute("n", "N")))
ITEM = (
    '{"id":{"S":"ä"},"n":{"N":"1"},"many":{"NS":["1e3","12345678901234567890.123456789012345678"]}'
    ',"bytes":{"BS":["AAE="]},"none":{"NULL":true}}'
)


def block(**changed):
    row = {
        "key": encode_key({"id": {"S": "ä"}, "n": {"N": "1"}}, TABLE.keys),
        "version": b"0" * 49,
        "op": "u",
        "event_time": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc),
        "old": None,
        "new": ITEM.encode(),
        "ttl": False,
        "envelope": None,
        **changed,
    }
    header = BlockHeader(TABLE, 0, 1, 1, "stream")
    return Block(header, pa.RecordBatch.from_pylist([row], schema=SCHEMA))


class TestChange:
    def changes(self, *blocks):
        pipeline = beam.Pipeline("FnApiRunner")
        made = pipeline | beam.Create(blocks, reshuffle=False).with_output_types(Block)
        return pipeline, made | Changes()

    def test_it_is_a_row_with_a_schema_that_is_the_same_in_every_process(self):
        coder = registry.get_coder(Change)
        assert isinstance(coder, RowCoder)
        assert coder.to_type_hint() is Change
        assert coder.is_deterministic()
        assert coder.schema.id == "25ad536c-e214-5d5c-8f50-e5847d41c29b"
        fields = {
            each.name: (each.type.WhichOneof("type_info"), each.type.nullable)
            for each in coder.schema.fields
        }
        # Atomic types alone: Beam SQL has no type for a timestamp of Python.
        assert {kind for kind, _ in fields.values()} == {"atomic_type"}
        assert [name for name, (_, nullable) in fields.items() if nullable] == ["old", "new"]

    def test_images_are_what_the_service_sent(self):
        pipeline, changes = self.changes(block())
        expected = Change(
            table="orders",
            key='{"id":{"S":"ä"},"n":{"N":"1"}}',
            version="0" * 49,
            op="u",
            event_time_us=1_767_323_045_678_901,
            old=None,
            new=ITEM,
            ttl=False,
        )
        assert_that(changes, equal_to([expected]))
        pipeline.run().wait_until_finish()
        values = decode_item(expected.new)
        digits = "12345678901234567890.123456789012345678"
        assert values["many"] == NumberSet([Decimal(1000), Decimal(digits)])
        assert values["bytes"] == BinarySet([b"\x00\x01"])
        assert "none" in values
        assert values["none"] is None

    def test_rows_can_be_selected_and_grouped(self):
        pipeline, changes = self.changes(block(), block(op="d", new=None, old=b"{}"))
        rows = changes | beam.Select("op", has_new=lambda row: row.new is not None)
        counted = changes | beam.GroupBy("table").aggregate_field(
            "event_time_us", beam.combiners.CountCombineFn(), "count"
        )
        assert_that(
            rows | beam.Map(lambda row: (row.op, row.has_new)),
            equal_to([("u", True), ("d", False)]),
        )
        assert_that(
            counted | beam.Map(lambda row: (row.table, row.count)),
            equal_to([("orders", 2)]),
            label="counted",
        )
        pipeline.run().wait_until_finish()

    def test_rows_reach_other_languages_as_json(self):
        pipeline, changes = self.changes(block())
        texts = changes | beam.Map(lambda row: json.dumps(row._asdict(), ensure_ascii=False))
        assert_that(
            texts | beam.Map(lambda text: json.loads(json.loads(text)["new"])),
            equal_to([json.loads(ITEM)]),
        )
        pipeline.run().wait_until_finish()

    def test_an_image_that_is_no_text_says_so(self):
        pipeline, _ = self.changes(block(new=b"\xff"))
        with pytest.raises(ValueDecodeError, match="table orders: an image is not UTF-8"):
            pipeline.run()
