# SPDX-License-Identifier: Apache-2.0
"""Reading a simulated stream the plain way: parents first, every page, to the tip."""

import json

from botocore.exceptions import ClientError


class Direct:
    """The streams of a simulator without HTTP, for tests of many examples."""

    def __init__(self, sim):
        self._sim = sim

    def __getattr__(self, name):
        action = "".join(word.title() for word in name.split("_"))

        def call(**arguments):
            _, answer = self._sim.call("DynamoDBStreams_20120810", action, arguments)
            return json.loads(answer)

        return call


def error_of(call, **arguments):
    """Code and message of the error that a call must answer with, and its HTTP status."""
    try:
        call(**arguments)
    except ClientError as error:
        answer = error.response
        return (
            answer["Error"]["Code"],
            answer["Error"]["Message"],
            answer["ResponseMetadata"]["HTTPStatusCode"],
        )
    raise AssertionError(f"no error from {call} with {arguments}")


def code_of(call, **arguments):
    return error_of(call, **arguments)[0]


def arn_of(streams, table):
    return streams.list_streams(TableName=table)["Streams"][-1]["StreamArn"]


def shards_of(streams, arn, **options):
    found, start = [], {}
    while True:
        answer = streams.describe_stream(StreamArn=arn, **options, **start)["StreamDescription"]
        found += answer["Shards"]
        if "LastEvaluatedShardId" not in answer:
            return found
        start = {"ExclusiveStartShardId": answer["LastEvaluatedShardId"]}


def iterator(streams, arn, shard_id, kind="TRIM_HORIZON", **options):
    return streams.get_shard_iterator(
        StreamArn=arn, ShardId=shard_id, ShardIteratorType=kind, **options
    )["ShardIterator"]


def read_shard(streams, arn, shard_id, **options):
    """All records of a shard up to its end or tip."""
    found, at, empty = [], iterator(streams, arn, shard_id), 0
    while at is not None and empty < 10:
        page = streams.get_records(ShardIterator=at, **options)
        found += page["Records"]
        empty = 0 if page["Records"] else empty + 1
        at = page.get("NextShardIterator")
    return found


def read_stream(streams, arn):
    """Records by shard, in the order of the listing: a parent comes before its children."""
    return {
        shard["ShardId"]: read_shard(streams, arn, shard["ShardId"])
        for shard in shards_of(streams, arn)
    }
