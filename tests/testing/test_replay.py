# SPDX-License-Identifier: Apache-2.0
"""Any workload: the stream replays to the table, images chain, and the past can be asked for."""

import json
from datetime import datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.testing.api_error import ApiError
from dynabeam.transforms.testing.clock import SimClock, datetime_of
from dynabeam.transforms.testing.faults import Faults
from dynabeam.transforms.testing.simulator import Simulator
from tests.testing.reading import Direct, arn_of, read_stream

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
KEYS = st.sampled_from(["a", "b", "c", "ä"])
NUMBERS = st.sampled_from(["0", "1", "1.0", "1e3", "-2.50"])
VALUES = st.recursive(
    st.one_of(
        st.builds(lambda n: {"N": n}, NUMBERS),
        st.sampled_from([{"S": ""}, {"S": "x"}, {"BOOL": False}, {"NULL": True}, {"B": "AAE="}]),
        st.sampled_from([{"SS": ["a", "b"]}, {"SS": ["b", "a"]}, {"NS": ["1", "2e1"]}]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2).map(lambda members: {"L": members}),
        st.dictionaries(st.sampled_from(["S", "M", "x.y"]), inner, max_size=2).map(
            lambda members: {"M": members}
        ),
    ),
    max_leaves=4,
)
ITEMS = st.builds(
    lambda key, rest: {"id": {"S": key}, **rest},
    KEYS,
    st.dictionaries(st.sampled_from(["N", "v", "w"]), VALUES, max_size=2),
)
STEPS = st.one_of(
    st.tuples(st.just("PutItem"), ITEMS),
    st.tuples(st.just("put_many"), st.lists(ITEMS, max_size=3)),
    st.tuples(st.just("DeleteItem"), KEYS),
    st.tuples(st.just("UpdateItem"), st.tuples(KEYS, NUMBERS)),
    st.tuples(st.just("Transact"), st.tuples(ITEMS, KEYS)),
    st.tuples(st.just("expire"), KEYS),
    st.tuples(st.just("roll"), st.none()),
    st.tuples(st.just("split"), st.integers(2, 4)),
)


def call(sim, action, **body):
    # A copy, as a request over HTTP is one: the simulator rewrites what it is given.
    try:
        status, _ = sim.call("DynamoDB_20120810", action, json.loads(json.dumps(body)))
    except ApiError as error:
        status = error.status
    assert status in (200, 400)


def carry_out(sim, step, given):
    if step == "PutItem":
        call(sim, step, TableName="table", Item=given)
    elif step == "put_many":
        sim.put_many("table", given)
    elif step == "DeleteItem":
        call(sim, step, TableName="table", Key={"id": {"S": given}})
    elif step == "UpdateItem":
        values = {":n": {"N": given[1]}}
        call(
            sim,
            step,
            TableName="table",
            Key={"id": {"S": given[0]}},
            UpdateExpression="SET v = if_not_exists(v, :n) + :n, w = :n",
            ExpressionAttributeValues=values,
        )
    elif step == "Transact":
        put = {"Put": {"TableName": "table", "Item": given[0]}}
        delete = {"Delete": {"TableName": "table", "Key": {"id": {"S": given[1]}}}}
        call(sim, "TransactWriteItems", TransactItems=[put, delete])
    elif step == "expire":
        sim.expire("table", {"id": {"S": given}})
    elif step == "roll":
        sim.roll("table")
    else:
        sim.split("table", given)


def replay(records):
    state = {}
    for record in records:
        change = record["dynamodb"]
        key = change["Keys"]["id"]["S"]
        assert change.get("OldImage") == state.get(key), "images chain"
        assert change.get("OldImage") != change.get("NewImage"), "no record for nothing"
        if record["eventName"] == "REMOVE":
            assert "NewImage" not in change
            del state[key]
        else:
            assert (record["eventName"] == "INSERT") == (key not in state)
            state[key] = change["NewImage"]
    return state


def by_key(items):
    return {item["id"]["S"]: item for item in items}


@given(steps=st.lists(STEPS, max_size=15), seed=st.integers(0, 1000), roll_after=st.integers(0, 3))
def test_any_workload(steps, seed, roll_after):
    clock = SimClock.manual(START)
    faults = Faults(roll_after=roll_after, roll_children=2)
    with Simulator(seed=seed, clock=clock, faults=faults, initial_shards=2) as sim:
        sim.create_table("table", "id:S")
        past = []
        for step, given_step in steps:
            carry_out(sim, step, given_step)
            past.append((clock.now(), by_key(sim.items("table"))))
            clock.advance(timedelta(seconds=1))

        now = by_key(sim.items("table"))
        assert replay(sim.records("table")) == now
        _, scanned = sim.call("DynamoDB_20120810", "Scan", {"TableName": "table"})
        assert {item["id"]["S"] for item in json.loads(scanned)["Items"]} == set(now)

        streams = Direct(sim)
        read = [
            record
            for page in read_stream(streams, arn_of(streams, "table")).values()
            for record in page
        ]
        assert replay(read) == now

        table = sim.table("table")
        for moment, items in past:
            assert by_key(table.items_at(moment)) == items
        changes = table.changes(START, clock.now())
        assert len(changes) == len(read)
        assert all(START <= datetime_of(change.micros) < clock.now() for change in changes)
