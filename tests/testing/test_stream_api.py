# SPDX-License-Identifier: Apache-2.0
"""Streams as a reader meets them: iterators, pages, errors, retention, life and death."""

import base64
import http.client
import json
from datetime import timedelta

import pytest

from dynabeam.transforms.testing.simulator import Simulator
from tests.testing.reading import (
    arn_of,
    code_of,
    error_of,
    iterator,
    read_shard,
    read_stream,
    shards_of,
)

VIEW = {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}


def items(*keys, **attributes):
    return [{"id": {"S": str(key)}, **attributes} for key in keys]


def keys_of(records):
    return [record["dynamodb"]["Keys"]["id"]["S"] for record in records]


@pytest.fixture
def arn(sim, streams):
    sim.create_table("table", "id:S")
    return arn_of(streams, "table")


@pytest.fixture
def shard(streams, arn):
    return shards_of(streams, arn)[0]["ShardId"]


class TestIterators:
    @pytest.fixture
    def numbers(self, sim, arn):
        sim.put_many("table", items(*range(5)))
        return [record["dynamodb"]["SequenceNumber"] for record in sim.records("table")]

    def read(self, streams, arn, shard, kind, **options):
        at = iterator(streams, arn, shard, kind, **options)
        return keys_of(streams.get_records(ShardIterator=at)["Records"])

    def test_trim_horizon_latest_and_by_number(self, streams, arn, shard, numbers):
        assert self.read(streams, arn, shard, "TRIM_HORIZON") == list("01234")
        assert self.read(streams, arn, shard, "LATEST") == []
        at = {"SequenceNumber": numbers[2]}
        assert self.read(streams, arn, shard, "AT_SEQUENCE_NUMBER", **at) == list("234")
        assert self.read(streams, arn, shard, "AFTER_SEQUENCE_NUMBER", **at) == list("34")

    def test_latest_gives_what_is_written_next(self, sim, streams, arn, shard, numbers):
        at = iterator(streams, arn, shard, "LATEST")
        sim.put_many("table", items("next"))
        assert keys_of(streams.get_records(ShardIterator=at)["Records"]) == ["next"]

    def test_starting_number_of_the_shard_can_be_used(self, streams, arn, shard, numbers):
        start = shards_of(streams, arn)[0]["SequenceNumberRange"]["StartingSequenceNumber"]
        for kind in ("AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"):
            assert self.read(streams, arn, shard, kind, SequenceNumber=start) == list("01234")

    def test_by_time(self, sim, streams, arn, shard, numbers):
        start = sim.clock.now()
        sim.clock.advance(timedelta(seconds=10))
        sim.put_many("table", items("later"))
        at = sim.clock.now() - timedelta(seconds=5)
        assert self.read(streams, arn, shard, "AT_TIMESTAMP", Timestamp=at) == ["later"]
        old = start - timedelta(days=3)
        assert self.read(streams, arn, shard, "AT_TIMESTAMP", Timestamp=old)[0] == "0"
        future = sim.clock.now() + timedelta(minutes=1)
        get = streams.get_shard_iterator
        asked = {"StreamArn": arn, "ShardId": shard, "ShardIteratorType": "AT_TIMESTAMP"}
        assert code_of(get, **asked, Timestamp=future) == "ValidationException"
        assert code_of(get, **asked) == "ValidationException"

    @pytest.mark.parametrize(
        ("kind", "number"),
        [
            ("AT_SEQUENCE_NUMBER", None),
            ("AFTER_SEQUENCE_NUMBER", None),
            ("TRIM_HORIZON", "1" * 21),
            ("LATEST", "1" * 21),
            ("AT_SEQUENCE_NUMBER", "1" * 40),
            ("AT_SEQUENCE_NUMBER", "x" * 21),
            ("SOMETIME", None),
        ],
    )
    def test_nonsense_is_refused(self, streams, arn, shard, kind, number):
        asked = {"StreamArn": arn, "ShardId": shard, "ShardIteratorType": kind}
        if number is not None:
            asked["SequenceNumber"] = number
        assert code_of(streams.get_shard_iterator, **asked) == "ValidationException"

    def test_unknown_places(self, streams, arn, shard):
        asked = {"ShardIteratorType": "TRIM_HORIZON"}
        other_shard = "shardId-00000000000000000001-00000000"
        get = streams.get_shard_iterator
        missing = "ResourceNotFoundException"
        assert code_of(get, StreamArn=arn, ShardId=other_shard, **asked) == missing
        assert code_of(get, StreamArn=arn + "x", ShardId=shard, **asked) == missing
        junk = "junk" * 10
        assert code_of(get, StreamArn=junk, ShardId=shard, **asked) == "ValidationException"

    @pytest.mark.parametrize(
        "junk", ["junk", "a|1|b", "arn:aws:dynamodb:x:y:table/t/stream/l|1|AA=="]
    )
    def test_junk_iterator(self, streams, junk):
        assert code_of(streams.get_records, ShardIterator=junk) == "ValidationException"

    def test_forged_iterator(self, streams, arn, shard):
        good = iterator(streams, arn, shard)
        head, packed = good.rsplit("|", 1)
        changed = base64.b64decode(packed).replace(b"|0|", b"|1|")
        forged = f"{head}|{base64.b64encode(changed).decode()}"
        assert code_of(streams.get_records, ShardIterator=forged) == "ValidationException"

    def test_expire_after_fifteen_minutes(self, sim, streams, arn, shard):
        at = iterator(streams, arn, shard)
        sim.clock.advance(timedelta(minutes=15))
        assert streams.get_records(ShardIterator=at)["Records"] == []
        sim.clock.advance(timedelta(microseconds=1))
        code, message, status = error_of(streams.get_records, ShardIterator=at)
        assert (code, status) == ("ExpiredIteratorException", 400)
        assert "15 minutes" in message


class TestPages:
    def test_limit_by_count(self, sim, streams, arn, shard):
        sim.put_many("table", items(*range(1500)))
        at = iterator(streams, arn, shard)
        page = streams.get_records(ShardIterator=at)
        assert len(page["Records"]) == 1000
        rest = streams.get_records(ShardIterator=page["NextShardIterator"])
        assert len(rest["Records"]) == 500
        assert keys_of(streams.get_records(ShardIterator=at, Limit=2)["Records"]) == ["0", "1"]

    @pytest.mark.parametrize("limit", [0, 1001])
    def test_limit_out_of_range(self, sim, arn, limit):
        body = {"ShardIterator": "x", "Limit": limit}
        status, answer = post(sim, "DynamoDBStreams_20120810.GetRecords", body)
        assert status == 400
        assert answer["__type"].endswith("#ValidationException")

    def test_limit_by_bytes(self, sim, streams, arn, shard):
        sim.put_many("table", items(*range(10), x={"S": "x" * 300_000}))
        at = iterator(streams, arn, shard)
        assert len(streams.get_records(ShardIterator=at)["Records"]) == 3
        assert keys_of(read_shard(streams, arn, shard)) == list("0123456789")

    def test_empty_page_of_an_open_shard_goes_on(self, streams, arn, shard):
        page = streams.get_records(ShardIterator=iterator(streams, arn, shard))
        assert page["Records"] == []
        assert page["NextShardIterator"]

    def test_tail_page_has_records_and_no_iterator(self, sim, streams, arn, shard):
        sim.put_many("table", items("a"))
        drained = streams.get_records(ShardIterator=iterator(streams, arn, shard))
        sim.roll("table")
        page = streams.get_records(ShardIterator=iterator(streams, arn, shard))
        assert keys_of(page["Records"]) == ["a"]
        assert "NextShardIterator" not in page
        page = streams.get_records(ShardIterator=drained["NextShardIterator"])
        assert page["Records"] == []
        assert "NextShardIterator" not in page

    def test_headers(self, sim, streams, arn):
        answer = streams.describe_stream(StreamArn=arn)["ResponseMetadata"]
        assert answer["RequestId"]
        assert answer["HTTPHeaders"]["x-amz-crc32"].isdecimal()


class TestLists:
    def test_shards_are_paged(self, streams):
        with Simulator(seed=3, initial_shards=250) as sim:
            sim.create_table("table")
            client = sim.client("dynamodbstreams")
            arn = arn_of(client, "table")
            page = client.describe_stream(StreamArn=arn)["StreamDescription"]
            assert len(page["Shards"]) == 100
            assert page["LastEvaluatedShardId"] == page["Shards"][-1]["ShardId"]
            found = [shard["ShardId"] for shard in shards_of(client, arn, Limit=99)]
            assert len(found) == 250
            assert found == sorted(set(found))

    def test_unknown_start_gives_an_empty_list(self, streams, arn):
        start = "shardId-00000000000000000001-00000000"
        answer = streams.describe_stream(StreamArn=arn, ExclusiveStartShardId=start)
        assert answer["StreamDescription"]["Shards"] == []

    def test_description(self, sim, streams, arn):
        answer = streams.describe_stream(StreamArn=arn)["StreamDescription"]
        assert answer["StreamStatus"] == "ENABLED"
        assert answer["StreamViewType"] == "NEW_AND_OLD_IMAGES"
        assert answer["TableName"] == "table"
        assert answer["KeySchema"] == [{"AttributeName": "id", "KeyType": "HASH"}]
        assert answer["StreamLabel"] in arn

    def test_filter_by_parent(self, sim, streams, arn, shard):
        wanted = {"Type": "CHILD_SHARDS", "ShardId": shard}
        assert shards_of(streams, arn, ShardFilter=wanted) == []
        born = sim.split("table", 3)
        sim.roll("table")
        found = shards_of(streams, arn, ShardFilter=wanted)
        assert [s["ShardId"] for s in found] == born
        assert {s["ParentShardId"] for s in found} == {shard}

    @pytest.mark.parametrize(
        "wanted",
        [
            {"Type": "CHILD_SHARDS"},
            {"ShardId": "shardId-00000000000000000001-00000000"},
            {"Type": "PARENTS", "ShardId": "shardId-00000000000000000001-00000000"},
            {"Type": "CHILD_SHARDS", "ShardId": "junk"},
        ],
    )
    def test_bad_filter(self, sim, arn, wanted):
        body = {"StreamArn": arn, "ShardFilter": wanted}
        status, answer = post(sim, "DynamoDBStreams_20120810.DescribeStream", body)
        assert status == 400
        assert answer["__type"].endswith("#ValidationException")

    def test_streams_are_paged(self, sim, streams):
        for name in ("aaa", "bbb", "ccc"):
            sim.create_table(name)
        sim.create_table("none", stream=None)
        first = streams.list_streams(Limit=2)
        assert [s["TableName"] for s in first["Streams"]] == ["aaa", "bbb"]
        last = first["LastEvaluatedStreamArn"]
        rest = streams.list_streams(ExclusiveStartStreamArn=last)
        assert [s["TableName"] for s in rest["Streams"]] == ["ccc"]
        assert streams.list_streams(TableName="none")["Streams"] == []
        assert code_of(streams.list_streams, TableName="nope") == "ResourceNotFoundException"


class TestRetention:
    def test_trimmed_positions(self, sim, streams, arn, shard):
        sim.put_many("table", items("old"))
        before = iterator(streams, arn, shard)
        sim.clock.advance(timedelta(minutes=1))
        sim.put_many("table", items("new"))
        sim.trim("table", before=sim.clock.now())
        trimmed = "TrimmedDataAccessException"
        assert code_of(streams.get_records, ShardIterator=before) == trimmed
        old, new = (r["dynamodb"]["SequenceNumber"] for r in sim.records("table"))
        asked = {"StreamArn": arn, "ShardId": shard, "SequenceNumber": old}
        get = streams.get_shard_iterator
        assert code_of(get, **asked, ShardIteratorType="AT_SEQUENCE_NUMBER") == trimmed
        after = iterator(streams, arn, shard, "AFTER_SEQUENCE_NUMBER", SequenceNumber=old)
        assert keys_of(streams.get_records(ShardIterator=after)["Records"]) == ["new"]
        assert keys_of(read_shard(streams, arn, shard)) == ["new"]
        at = iterator(streams, arn, shard, "AT_SEQUENCE_NUMBER", SequenceNumber=new)
        assert keys_of(streams.get_records(ShardIterator=at)["Records"]) == ["new"]

    def test_by_the_clock_after_24_hours(self, sim, streams, arn, shard):
        sim.put_many("table", items("old"))
        sim.clock.advance(timedelta(hours=24))
        assert keys_of(read_shard(streams, arn, shard)) == ["old"]
        sim.clock.advance(timedelta(seconds=2))
        assert read_shard(streams, arn, shard) == []
        assert keys_of(sim.records("table")) == ["old"]

    def test_closed_shards_vanish_and_children_keep_their_parent(self, sim, streams, arn, shard):
        sim.put_many("table", items("old"))
        (child,) = sim.roll("table")
        at = iterator(streams, arn, shard)
        sim.clock.advance(timedelta(minutes=1))
        sim.trim("table", before=sim.clock.now())
        (left,) = shards_of(streams, arn)
        assert (left["ShardId"], left["ParentShardId"]) == (child, shard)
        missing = "ResourceNotFoundException"
        assert code_of(streams.get_records, ShardIterator=at) == missing
        asked = {"StreamArn": arn, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"}
        assert code_of(streams.get_shard_iterator, **asked) == missing


class TestLifeOfAStream:
    def switch(self, dynamodb, specification):
        return dynamodb.update_table(TableName="table", StreamSpecification=specification)

    def test_disabled_stream_stays_readable_and_a_new_one_is_another(
        self, sim, dynamodb, streams, arn, shard
    ):
        sim.put_many("table", items("a"))
        self.switch(dynamodb, {"StreamEnabled": False})
        sim.put_many("table", items("unseen"))
        described = streams.describe_stream(StreamArn=arn)["StreamDescription"]
        assert described["StreamStatus"] == "DISABLED"
        assert all("EndingSequenceNumber" in s["SequenceNumberRange"] for s in described["Shards"])
        assert len(described["Shards"]) == 1
        assert dynamodb.describe_table(TableName="table")["Table"]["LatestStreamArn"] == arn

        answer = self.switch(dynamodb, VIEW)["TableDescription"]
        assert answer["LatestStreamArn"] != arn
        sim.put_many("table", items("b"))
        found = {s["StreamArn"] for s in streams.list_streams(TableName="table")["Streams"]}
        assert found == {arn, answer["LatestStreamArn"]}
        assert keys_of(read_shard(streams, arn, shard)) == ["a"]
        (new,) = read_stream(streams, answer["LatestStreamArn"]).values()
        assert keys_of(new) == ["b"]
        assert keys_of(sim.records("table")) == ["a", "b"]

    def test_disabled_stream_is_gone_after_24_hours(self, sim, dynamodb, streams, arn):
        sim.put_many("table", items("a"))
        self.switch(dynamodb, {"StreamEnabled": False})
        sim.clock.advance(timedelta(hours=24, seconds=2))
        assert streams.list_streams(TableName="table")["Streams"] == []
        assert code_of(streams.describe_stream, StreamArn=arn) == "ResourceNotFoundException"

    def test_switching_to_what_is(self, dynamodb, arn):
        code, message, _ = error_of(self.switch, dynamodb=dynamodb, specification=VIEW)
        assert code == "ValidationException"
        assert "already" in message
        self.switch(dynamodb, {"StreamEnabled": False})
        again = {"dynamodb": dynamodb, "specification": {"StreamEnabled": False}}
        assert code_of(self.switch, **again) == "ValidationException"

    def test_stream_of_a_deleted_table_lingers(self, sim, dynamodb, streams, arn, shard):
        sim.put_many("table", items("a"))
        dynamodb.delete_table(TableName="table")
        status = streams.describe_stream(StreamArn=arn)["StreamDescription"]["StreamStatus"]
        assert status == "DISABLED"
        assert keys_of(read_shard(streams, arn, shard)) == ["a"]


def post(sim, target, body):
    """A request that boto3 would refuse to send, unsigned."""
    connection = http.client.HTTPConnection(sim.endpoint_url.removeprefix("http://"))
    try:
        connection.request("POST", "/", json.dumps(body), {"X-Amz-Target": target})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()
