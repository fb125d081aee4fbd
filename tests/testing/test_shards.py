# SPDX-License-Identifier: Apache-2.0
"""Lineages: a key stays in its line of descent, and numbers rise down it and only there."""

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.testing.clock import SimClock
from dynabeam.transforms.testing.faults import Faults
from dynabeam.transforms.testing.simulator import Simulator
from tests.testing.reading import Direct, arn_of, read_stream, shards_of

SHARD_ID = re.compile(r"shardId-\d{20}-[0-9a-f]{8}")


def puts(sim, count, start=0):
    sim.put_many(
        "table",
        [{"id": {"S": f"k{i % 17}"}, "n": {"N": str(start + i)}} for i in range(count)],
    )


def ancestors(shards, shard_id):
    parents = {s["ShardId"]: s.get("ParentShardId") for s in shards}
    line = []
    while shard_id is not None:
        line.append(shard_id)
        shard_id = parents.get(shard_id)
    return line


@pytest.fixture
def arn(sim, streams):
    sim.create_table("table", "id:S")
    return arn_of(streams, "table")


class TestLineages:
    def test_roll_gives_each_open_shard_one_child(self, sim, streams, arn):
        first = shards_of(streams, arn)[0]["ShardId"]
        (second,) = sim.roll("table")
        parent, child = shards_of(streams, arn)
        assert (parent["ShardId"], child["ShardId"]) == (first, second)
        assert child["ParentShardId"] == first
        assert "ParentShardId" not in parent
        assert "EndingSequenceNumber" in parent["SequenceNumberRange"]
        assert "EndingSequenceNumber" not in child["SequenceNumberRange"]

    def test_split_in_many(self, sim, streams, arn):
        born = sim.split("table", 5)
        assert len(born) == 5
        puts(sim, 200)
        read = read_stream(streams, arn)
        assert sum(bool(read[shard_id]) for shard_id in born) > 1
        grandchildren = sim.split("table", 2, shard_id=born[3])
        parents = {s["ShardId"]: s.get("ParentShardId") for s in shards_of(streams, arn)}
        assert [parents[shard_id] for shard_id in grandchildren] == [born[3]] * 2

    def test_automatic_roll(self, sim, streams, arn):
        sim.faults = Faults(roll_after=10, roll_children=3)
        puts(sim, 100)
        shards = shards_of(streams, arn)
        assert len(shards) > 5
        closed = [s for s in shards if "EndingSequenceNumber" in s["SequenceNumberRange"]]
        read = read_stream(streams, arn)
        assert all(len(read[s["ShardId"]]) == 10 for s in closed)

    def test_ids_are_well_formed_and_rise(self, sim, streams, arn):
        for _ in range(20):
            sim.roll("table")
            sim.split("table", 3)
            sim.clock.advance(timedelta(milliseconds=1))
        ids = [shard["ShardId"] for shard in shards_of(streams, arn)]
        assert all(SHARD_ID.fullmatch(shard_id) for shard_id in ids)
        assert ids == sorted(set(ids))
        created = [s.id for s in sim.table("table").stream.shards.values()]
        assert created == ids


class TestSequenceNumbers:
    @given(
        seed=st.integers(0, 10_000),
        steps=st.lists(st.sampled_from(["put", "roll", "split"]), min_size=3, max_size=12),
    )
    def test_rise_down_every_lineage_and_keys_stay_in_theirs(self, seed, steps):
        with Simulator(seed=seed, clock=SimClock.manual(), initial_shards=3) as sim:
            sim.create_table("table", "id:S")
            for number, step in enumerate(steps):
                if step == "put":
                    puts(sim, 40, start=number * 100)
                elif step == "roll":
                    sim.roll("table")
                else:
                    sim.split("table", 2)
            client = Direct(sim)
            arn = arn_of(client, "table")
            shards = shards_of(client, arn)
            read = read_stream(client, arn)
            records = sim.records("table")
        ranges = {s["ShardId"]: s["SequenceNumberRange"] for s in shards}
        for shard in shards:
            bounds = ranges[shard["ShardId"]]
            numbers = [int(r["dynamodb"]["SequenceNumber"]) for r in read[shard["ShardId"]]]
            assert numbers == sorted(set(numbers))
            assert all(n >= int(bounds["StartingSequenceNumber"]) for n in numbers)
            assert all(n <= int(bounds.get("EndingSequenceNumber", 10**40)) for n in numbers)
            if "ParentShardId" in shard:
                parent_end = int(ranges[shard["ParentShardId"]]["EndingSequenceNumber"])
                assert parent_end < int(bounds["StartingSequenceNumber"])
        last = {}
        for record in records:
            key = record["dynamodb"]["Keys"]["id"]["S"]
            number = int(record["dynamodb"]["SequenceNumber"])
            if key in last:
                before, shard_id = last[key]
                assert before < number
                assert shard_id in ancestors(shards, record["ShardId"])
            last[key] = (number, record["ShardId"])

    def test_text_order_is_wrong_somewhere_and_lengths_differ(self, sim, streams, arn):
        for _ in range(12):
            puts(sim, 3)
            sim.put_many("table", [{"id": {"S": "a"}, "n": {"N": str(len(sim.records("table")))}}])
            sim.roll("table")
        numbers = [record["dynamodb"]["SequenceNumber"] for record in sim.records("table")]
        assert all(21 <= len(number) <= 25 for number in numbers)
        assert len({len(number) for number in numbers}) > 2
        assert numbers != sorted(numbers)
        assert [int(number) for number in numbers] == sorted(map(int, numbers))
