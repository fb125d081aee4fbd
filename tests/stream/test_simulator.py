# SPDX-License-Identifier: Apache-2.0
"""The reader against the simulated service, by real boto3."""

import dataclasses
from datetime import timedelta

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that

from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.aws.streams import Boto3Streams
from dynabeam.transforms.errors import AwsAccessError, GapError
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.gap import GapPolicy
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.model.version import decode_version
from dynabeam.transforms.runtime.clock import Clock
from dynabeam.transforms.stream.frontier import Frontier
from dynabeam.transforms.stream.read_stream import ReadStream
from dynabeam.transforms.stream.reader_spec import ReaderSpec
from dynabeam.transforms.testing.clock import SimClock
from dynabeam.transforms.testing.faults import Faults
from dynabeam.transforms.testing.simulator import Simulator
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema
from tests.stream.scripted import QUICK, run

TABLE = Table("orders", KeySchema(KeyAttribute("id", "S")))
PATIENT = dataclasses.replace(QUICK, tip_empties=5, retries=1000, throttles=1000)


class Wall(Clock):
    """The wall clock of the simulator; the monotonic one is real."""

    def __init__(self, clock):
        object.__setattr__(self, "clock", clock)

    def now_us(self):
        return self.clock.micros()


class World:
    def __init__(self, **options):
        self.clock = SimClock.manual()
        faults = options.pop("faults", Faults())
        self.sim = Simulator(clock=self.clock, **options)
        self.sim.create_table("orders", "id:S")
        # Real time is not the table's: the runs begin a little after it.
        self.clock.advance(timedelta(minutes=1))
        self.streams = Boto3Streams(self.sim.client("dynamodbstreams"))
        self.arn = self.streams._client.list_streams(TableName="orders")["Streams"][0]["StreamArn"]
        self.written = 0
        self.sim.faults = faults

    def put(self, count, size=0):
        items = [
            {"id": {"S": f"k{(self.written + n) % 17}"}, "n": {"N": str(self.written + n)}}
            for n in range(count)
        ]
        for each in items:
            if size:
                each["text"] = {"S": "x" * size}
        self.sim.put_many("orders", items)
        self.written += count

    def source(self, before=None, **changes):
        stored = before.reports()[-1]["frontier"] if before else None
        values = {
            "table": TABLE,
            "stream_arn": self.arn,
            "reader": 0,
            "readers": 1,
            "generation": 1,
            "buckets": 1,
            "start": "trim_horizon",
            "frontier": Frontier.from_json(stored) if stored else None,
            "gap_policy": GapPolicy.FAIL,
            "snapshot_until_us": 0,
            "max_bytes": 0,
            "started_us": self.clock.micros(),
        }
        return ReaderSpec(**{**values, **changes})

    def read(self, before=None, pacing=PATIENT, **changes):
        return run(
            self.streams, self.source(before, **changes), pacing=pacing, clock=Wall(self.clock)
        )

    def numbers(self):
        return [int(each["dynamodb"]["SequenceNumber"]) for each in self.sim.records("orders")]


@pytest.fixture
def world():
    with_options = []

    def make(**options):
        made = World(**options)
        with_options.append(made)
        return made

    yield make
    for each in with_options:
        each.sim.close()
        assert not each.sim.defects


def by_key_in_order(blocks):
    found = {}
    for block in blocks:
        for row in block.rows.to_pylist():
            found.setdefault(row["key"], []).append(row["version"])
    return all(versions == sorted(versions) for versions in found.values())


class TestLineages:
    def test_rollover_and_split(self, world):
        it = world()
        for step in range(4):
            it.put(40)
            if step % 2:
                it.sim.roll("orders")
            else:
                it.sim.split("orders", 3)
        result = it.read()
        assert sorted(result.sequences) == sorted(it.numbers())
        assert by_key_in_order(result.of(Block))
        assert result.reports()[0]["caught_up"]
        assert result.reports()[0]["children"] >= 4

    def test_rounds_go_on_where_they_were(self, world):
        it = world(faults=Faults(roll_after=25, roll_children=2))
        found, result = [], None
        for _ in range(4):
            it.put(60)
            it.clock.advance(timedelta(minutes=2))
            result = it.read(result)
            found += result.sequences
            assert sorted(found) == sorted(it.numbers())

    def test_images_arrive_as_they_were_written(self, world):
        it = world()
        it.put(30)
        it.sim.delete_many("orders", [{"id": {"S": "k1"}}])
        it.sim.expire("orders", {"id": {"S": "k2"}})
        rows = [row for block in it.read().of(Block) for row in block.rows.to_pylist()]
        assert [row["op"] for row in rows].count("d") == 2
        assert [row["ttl"] for row in rows].count(True) == 1

    def test_start_at_latest(self, world):
        it = world()
        it.put(10)
        it.clock.advance(timedelta(minutes=5))
        first = it.read(start="latest")
        assert first.sequences == []
        it.put(5)
        assert len(it.read(first).sequences) == 5


class TestFaults:
    @pytest.mark.parametrize(
        "faults",
        [
            Faults(throttle=0.3),
            Faults(internal_error=0.2),
            Faults(drop_before=0.15, drop_after=0.15),
            Faults(empty_page=0.5, max_empty_run=3),
            Faults(short_page=0.8),
            Faults(late_end=1.0),
            Faults(expired_iterator=0.3),
            Faults(late_listing=0.7, late_listing_asks=2),
            Faults(child_filter_empty_asks=3),
            Faults(child_filter_empty_asks=99),
            Faults(enabling_asks=2),
            Faults(e_notation_times=0.5),
        ],
        ids=lambda each: ",".join(k for k, v in vars(each).items() if v != getattr(Faults(), k)),
    )
    def test_every_record_comes_exactly_once(self, world, faults):
        it = world(seed=3, faults=dataclasses.replace(faults, roll_after=20, roll_children=2))
        found, result = [], None
        for _ in range(3):
            it.put(50)
            result = it.read(result)
            found += result.sequences
            it.clock.advance(timedelta(minutes=2))
        # What is listed late may only be found by the listing of the next round.
        result = it.read(result)
        found += result.sequences
        assert sorted(found) == sorted(it.numbers())

    def test_pages_end_at_a_megabyte(self, world):
        it = world()
        it.put(40, size=100_000)
        result = it.read()
        assert sorted(result.sequences) == sorted(it.numbers())
        assert result.reports()[0]["pages"] > 3

    def test_a_missing_permission(self, world):
        it = world(faults=Faults(denied_actions=frozenset({"dynamodb:GetRecords"})))
        it.put(1)
        with pytest.raises(AwsAccessError, match="dynamodb:GetRecords") as caught:
            it.read()
        assert it.arn in str(caught.value)


class TestRetention:
    def test_trimmed_records_are_a_gap(self, world):
        it = world()
        it.put(10)
        first = it.read()
        it.clock.advance(timedelta(hours=1))
        it.put(10)
        it.clock.advance(timedelta(hours=1))
        it.sim.trim("orders", before=it.clock.now() - timedelta(minutes=1))
        it.put(5)
        with pytest.raises(GapError, match="trimmed"):
            it.read(first)
        result = it.read(first, gap_policy=GapPolicy.CONTINUE)
        assert len(result.sequences) == 5
        assert result.reports("gap")[0]["kind"] == "trimmed"

    def test_a_day_and_a_half_away_is_a_gap(self, world):
        it = world()
        it.put(10)
        it.sim.roll("orders")
        first = it.read()
        it.put(10)
        it.sim.roll("orders")
        it.clock.advance(timedelta(hours=36))
        it.put(3)
        with pytest.raises(GapError):
            it.read(first)
        result = it.read(first, gap_policy=GapPolicy.CONTINUE)
        assert len(result.sequences) == 3
        assert len(result.reports("gap")) >= 1

    def test_an_iterator_lives_fifteen_minutes(self, world):
        it = world()
        it.put(10)
        first = it.read()
        it.clock.advance(timedelta(minutes=14, seconds=30))
        it.put(5)
        assert len(it.read(first).sequences) == 5

    def test_a_stream_that_is_switched_off_is_read_to_its_end(self, world):
        it = world()
        it.put(10)
        it.sim.client("dynamodb").update_table(
            TableName="orders", StreamSpecification={"StreamEnabled": False}
        )
        result = it.read()
        assert len(result.sequences) == 10
        assert result.reports()[0]["frontier"]["shards"] == []


class TestPipeline:
    def test_the_whole_transform(self, world, monkeypatch):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
        sim_options = {"faults": Faults(throttle=0.1, short_page=0.3), "initial_shards": 5}
        it = world(**sim_options)
        for _ in range(3):
            it.put(100)
            it.sim.split("orders", 2)
        access = AwsAccess(region="eu-west-1", endpoint_url=it.sim.endpoint_url)
        expected = sorted(it.numbers())
        sources = [
            dataclasses.replace(it.source(), reader=n, readers=3, started_us=it.clock.micros())
            for n in range(3)
        ]

        def numbers(block):
            return [decode_version(each)[1] for each in block.rows.column("version").to_pylist()]

        def check(found):
            assert sorted(found) == expected

        with beam.Pipeline("FnApiRunner") as pipeline:
            read = (
                pipeline
                | beam.Create(sources)
                | beam.Reshuffle()
                | ReadStream(access, "tip", PATIENT)
            )
            assert_that(read["blocks"] | beam.FlatMap(numbers), check)
