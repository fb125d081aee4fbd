# SPDX-License-Identifier: Apache-2.0
"""Who lists a stream once waits for a throttled call as a reader does, within bounds."""

import dataclasses

import pytest
from botocore.exceptions import ClientError

from dynabeam.transforms.errors import StreamError
from dynabeam.transforms.planning.sample import sample_stream
from dynabeam.transforms.stream.shard_listing import list_shards
from tests.stream.scripted import (
    ARN,
    NOW_US,
    QUICK,
    ScriptedStreams,
    Shard,
    api_error,
    record,
    shard_id,
    unreachable,
)

NAMES = [shard_id(n) for n in range(5)]
IMPATIENT = dataclasses.replace(QUICK, retries=2, throttles=3)


def client(*failures, operation="describe"):
    made = ScriptedStreams(*(Shard(each, closed=n == 0) for n, each in enumerate(NAMES)))
    made.per_page = 2
    made.failures[operation] = list(failures)
    return made


def throttled(operation="DescribeStream"):
    return api_error("ThrottlingException", operation=operation)


@pytest.mark.parametrize(
    "failures",
    [
        [],
        [throttled()],
        [api_error("LimitExceededException"), None, throttled(), throttled()],
        [unreachable(), None, api_error("InternalServerError", 500)],
    ],
)
def test_all_shards_are_listed_whatever_fails_in_between(failures):
    waits = []
    listed = list_shards(client(*failures), ARN, pacing=QUICK, sleep=waits.append)
    assert [each.shard_id for each in listed.shards] == NAMES
    assert [each.shard_id for each in listed.open] == NAMES[1:]
    assert listed.status == "ENABLED"
    assert len(waits) == sum(each is not None for each in failures)
    assert all(each > 0 for each in waits)


def test_it_stops_at_as_many_open_shards_as_are_wanted():
    made = client()
    assert len(list_shards(made, ARN, most_open=1).shards) == 2
    assert made.count("describe") == 1


@pytest.mark.parametrize(("failure", "times"), [(throttled(), 4), (unreachable(), 3)])
def test_patience_has_an_end(failure, times):
    made = client(*[failure] * 20)
    with pytest.raises(StreamError, match=f"DescribeStream failed {times} times") as caught:
        list_shards(made, ARN, pacing=IMPATIENT, sleep=lambda _: None)
    assert ARN in str(caught.value)
    assert caught.value.__cause__ is failure


def test_what_does_not_pass_is_raised_at_once():
    made = client(api_error("ResourceNotFoundException"))
    with pytest.raises(ClientError):
        list_shards(made, ARN, sleep=lambda _: pytest.fail("waited"))


@pytest.mark.parametrize("operation", ["shard_iterator", "get_records"])
def test_a_sample_waits_too(operation):
    made = ScriptedStreams(Shard(NAMES[1], "", [[record(10**21, time=NOW_US // 10**6 - 5)]]))
    made.failures[operation] = [throttled("GetRecords")]
    rate = sample_stream(made, ARN, [NAMES[1]], 60.0, NOW_US)
    # One change in the 55 seconds up to it: the pages that a sample may read end there.
    assert rate.changes * 55 == pytest.approx(1)
