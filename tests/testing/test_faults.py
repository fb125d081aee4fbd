# SPDX-License-Identifier: Apache-2.0
"""Faults come as the service's own, only where asked for, and the same again by the same seed."""

import re
import time
from datetime import datetime, timedelta

import pytest
from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError

from dynabeam.transforms.testing.clock import SimClock
from dynabeam.transforms.testing.faults import Faults
from dynabeam.transforms.testing.simulator import Simulator
from tests.testing.conftest import ONE_TRY
from tests.testing.reading import (
    arn_of,
    code_of,
    error_of,
    iterator,
    read_shard,
    read_stream,
    shards_of,
)


@pytest.fixture
def arn(sim, streams):
    sim.create_table("table", "id:S")
    sim.put_many("table", [{"id": {"S": str(i)}} for i in range(50)])
    return arn_of(streams, "table")


@pytest.fixture
def shard(streams, arn):
    return shards_of(streams, arn)[0]["ShardId"]


class TestErrors:
    def test_throttles_of_every_kind(self, sim, streams, arn, shard):
        at = iterator(streams, arn, shard)
        sim.faults = Faults(throttle=1.0)
        errors = [error_of(streams.get_records, ShardIterator=at) for _ in range(30)]
        assert {code for code, _, _ in errors} == {
            "ProvisionedThroughputExceededException",
            "LimitExceededException",
            "ThrottlingException",
        }
        assert {status for _, _, status in errors} == {400}
        assert code_of(streams.list_streams) in ("ThrottlingException", "LimitExceededException")

    def test_a_tests_own_writes_stay_undisturbed(self, sim, dynamodb, arn):
        sim.faults = Faults(throttle=1.0, drop_before=1.0, internal_error=1.0)
        dynamodb.put_item(TableName="table", Item={"id": {"S": "mine"}})
        sim.faults = Faults(throttle=1.0, actions={"PutItem"})
        put = {"TableName": "table", "Item": {"id": {"S": "refused"}}}
        assert code_of(dynamodb.put_item, **put).endswith(("Exception",))
        assert len(sim.items("table")) == 51

    def test_internal_error(self, sim, streams, arn):
        sim.faults = Faults(internal_error=1.0)
        code, _, status = error_of(streams.describe_stream, StreamArn=arn)
        assert (code, status) == ("InternalServerError", 500)
        assert sim.stats.faults["internal_error"] == 1

    def test_denied(self, sim, streams, dynamodb, arn, shard):
        at = iterator(streams, arn, shard)
        sim.faults = Faults(
            denied_actions={"dynamodb:GetRecords", "dynamodb:DescribeTable", "s3:GetObject"}
        )
        code, message, _ = error_of(streams.get_records, ShardIterator=at)
        assert code == "AccessDeniedException"
        assert message == (
            "User: arn:aws:iam::111122223333:user/simulated is not authorized to perform:"
            f" dynamodb:GetRecords on resource: {arn} because no identity-based policy allows the"
            " dynamodb:GetRecords action"
        )
        _, message, _ = error_of(dynamodb.describe_table, TableName="table")
        assert "on resource: arn:aws:dynamodb:eu-west-1:111122223333:table/table " in message
        sim.create_bucket("bucket")
        s3 = sim.client("s3", config=ONE_TRY)
        code, message, status = error_of(s3.get_object, Bucket="bucket", Key="some/key")
        assert (code, status) == ("AccessDenied", 403)
        assert "on resource: arn:aws:s3:::bucket/some/key " in message

    def test_rate_limits(self, sim, streams, arn):
        sim.faults = Faults(rate_limits=True)
        for _ in range(10):
            streams.describe_stream(StreamArn=arn)
        assert code_of(streams.describe_stream, StreamArn=arn) == "ThrottlingException"
        for _ in range(5):
            streams.list_streams()
        assert code_of(streams.list_streams) == "ThrottlingException"
        sim.clock.advance(timedelta(seconds=1))
        streams.describe_stream(StreamArn=arn)

    def test_s3(self, sim):
        sim.create_bucket("bucket")
        sim.s3_put("bucket", "key", b"body")
        s3 = sim.client("s3", config=ONE_TRY)
        sim.faults = Faults(throttle=1.0, actions={"GetObject"})
        code, _, status = error_of(s3.get_object, Bucket="bucket", Key="key")
        assert (code, status) == ("SlowDown", 503)
        sim.faults = Faults(drop_after=1.0, actions={"*"})
        for _ in range(4):
            with pytest.raises((HTTPClientError, IncompleteReadError)):
                s3.get_object(Bucket="bucket", Key="key")["Body"].read()


class TestConnections:
    def test_dropped_before_has_no_effect_and_after_has(self, sim, arn):
        client = sim.client("dynamodb", config=ONE_TRY)
        sim.faults = Faults(drop_before=1.0, actions={"PutItem"})
        with pytest.raises(HTTPClientError):
            client.put_item(TableName="table", Item={"id": {"S": "lost"}})
        assert len(sim.items("table")) == 50
        sim.faults = Faults(drop_after=1.0, actions={"PutItem"})
        with pytest.raises(HTTPClientError):
            client.put_item(TableName="table", Item={"id": {"S": "kept"}})
        assert len(sim.items("table")) == 51

    def test_slow(self, sim, streams, arn):
        sim.faults = Faults(slow=1.0, slow_seconds=0.05)
        started = time.monotonic()
        streams.describe_stream(StreamArn=arn)
        assert time.monotonic() - started >= 0.05


class TestPages:
    def test_empty_pages_end(self, sim, streams, arn, shard):
        sim.faults = Faults(empty_page=1.0, max_empty_run=2)
        at, sizes = iterator(streams, arn, shard), []
        for _ in range(6):
            page = streams.get_records(ShardIterator=at, Limit=10)
            sizes.append(len(page["Records"]))
            at = page["NextShardIterator"]
        assert sizes == [0, 0, 10, 0, 0, 10]

    def test_short_pages_lose_nothing(self, sim, streams, arn, shard):
        sim.faults = Faults(short_page=1.0, empty_page=0.3)
        assert len(read_shard(streams, arn, shard)) == 50

    def test_late_end(self, sim, streams, arn, shard):
        sim.roll("table")
        sim.faults = Faults(late_end=1.0)
        page = streams.get_records(ShardIterator=iterator(streams, arn, shard))
        assert len(page["Records"]) == 50
        page = streams.get_records(ShardIterator=page["NextShardIterator"])
        assert page["Records"] == []
        assert "NextShardIterator" not in page

    def test_expired_iterators(self, sim, streams, arn, shard):
        at = iterator(streams, arn, shard)
        sim.faults = Faults(expired_iterator=1.0)
        assert code_of(streams.get_records, ShardIterator=at) == "ExpiredIteratorException"

    def test_latest_slack(self, sim, streams, arn, shard):
        sim.faults = Faults(latest_slack=3)
        sizes = set()
        for _ in range(40):
            at = iterator(streams, arn, shard, "LATEST")
            sizes.add(len(streams.get_records(ShardIterator=at)["Records"]))
        assert sizes == {0, 1, 2, 3}

    def test_times_in_e_notation_are_the_same_times(self, sim, streams, arn, shard):
        sim.faults = Faults(e_notation_times=1.0)
        sim.put_many("table", [{"id": {"S": "e"}}])
        raw = sim.table("table").stream.log[-1][1]
        assert re.search(rb'"ApproximateCreationDateTime":1\.767323045E9,', raw)
        times = {
            r["dynamodb"]["ApproximateCreationDateTime"] for r in read_shard(streams, arn, shard)
        }
        assert times == {datetime.fromisoformat("2026-01-02T03:04:05+00:00")}


class TestListings:
    def test_late_children(self, sim, streams, arn, shard):
        sim.faults = Faults(late_listing=1.0, late_listing_asks=2)
        (child,) = sim.roll("table")
        wanted = {"Type": "CHILD_SHARDS", "ShardId": shard}
        listed = [[s["ShardId"] for s in shards_of(streams, arn)] for _ in range(2)]
        assert listed == [[shard], [shard]]
        found = shards_of(streams, arn, ShardFilter=wanted)
        assert [s["ShardId"] for s in found] == [child]

    def test_children_filter_empty_at_first(self, sim, streams, arn, shard):
        sim.faults = Faults(child_filter_empty_asks=3)
        sim.roll("table")
        wanted = {"Type": "CHILD_SHARDS", "ShardId": shard}
        counts = [len(shards_of(streams, arn, ShardFilter=wanted)) for _ in range(4)]
        assert counts == [0, 0, 0, 1]
        assert len(shards_of(streams, arn)) == 2

    def test_enabling(self, sim, streams):
        sim.faults = Faults(enabling_asks=1)
        sim.create_table("fresh")
        arn = arn_of(streams, "fresh")
        first = streams.describe_stream(StreamArn=arn)["StreamDescription"]
        assert (first["StreamStatus"], first["Shards"]) == ("ENABLING", [])
        second = streams.describe_stream(StreamArn=arn)["StreamDescription"]
        assert (second["StreamStatus"], len(second["Shards"])) == ("ENABLED", 1)


class TestFaultsAsAValue:
    def test_through_json(self):
        faults = Faults(throttle=0.25, denied_actions={"s3:GetObject"}, roll_after=3)
        assert Faults.from_json(faults.to_json()) == faults

    @pytest.mark.parametrize("bad", [{"throttle": -0.1}, {"roll_children": 0}])
    def test_bad_values(self, bad):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Faults(**bad)

    def test_unknown_name(self):
        with pytest.raises(TypeError, match="thrttle"):
            Faults.from_json({"thrttle": 1})

    def test_same_seed_same_run(self):
        def run(seed):
            faults = Faults(throttle=0.3, empty_page=0.3, roll_after=7, roll_children=3)
            clock = SimClock.manual(datetime.fromisoformat("2026-01-01T00:00:00+00:00"))
            with Simulator(seed=seed, clock=clock, faults=faults) as sim:
                sim.create_table("table", "id:S")
                sim.put_many("table", [{"id": {"S": str(i)}} for i in range(40)])
                client = sim.client("dynamodbstreams", config=ONE_TRY)
                outcomes = []
                for _ in range(30):
                    try:
                        outcomes.append(len(client.list_streams()["Streams"]))
                    except ClientError as error:
                        outcomes.append(error.response["Error"]["Code"])
                return outcomes, sim.records("table")

        assert run(5) == run(5)
        assert run(5) != run(6)

    def test_none_by_default(self, sim, streams, arn):
        for _ in range(20):
            assert sum(map(len, read_stream(streams, arn).values())) == 50
        assert sim.stats.to_json()["faults"] == {}
        assert sim.stats.to_json()["errors"] == {}
