# SPDX-License-Identifier: Apache-2.0
"""Frontiers: format, coder, identity of shards."""

import dataclasses
import json

import apache_beam as beam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.errors import ConfigurationError, ValueDecodeError
from dynabeam.transforms.model.gap import GapPolicy
from dynabeam.transforms.stream.frontier import (
    Counts,
    Frontier,
    FrontierCoder,
    ShardPosition,
    created_ms,
    owner,
)
from dynabeam.transforms.stream.reader_spec import ReaderSpec, ReaderSpecCoder
from tests.stream.scripted import ARN, TABLE

texts = st.text(max_size=12)
numbers = st.integers(0, 2**62)
positions = st.builds(
    ShardPosition,
    texts,
    st.sampled_from(["trim_horizon", "after", "at_timestamp", "ended"]),
    texts,
    texts,
    numbers,
    texts,
    numbers,
    numbers,
    numbers,
    numbers,
)
frontiers = st.builds(
    Frontier,
    st.lists(positions, max_size=4).map(tuple),
    st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    st.lists(st.tuples(texts, numbers), max_size=3).map(tuple),
    st.lists(texts, max_size=3).map(tuple),
    numbers,
    numbers,
    st.booleans(),
    st.builds(Counts, *[numbers] * 7),
)

EXAMPLE = Frontier(
    shards=(
        ShardPosition("shardId-1", "after", "shardId-0", "100", iterator="it", polled_us=7),
        ShardPosition("shardId-2", "at_timestamp", at_us=5, low_us=5, since_us=6),
        ShardPosition("shardId-3", "ended", sequence="9", ended_us=8),
    ),
    pending=(("shardId-4", "shardId-3"),),
    finished=(("shardId-0", 6),),
    foreign=("shardId-9",),
    foreign_before_ms=3,
    swept_us=4,
    counts=Counts(changes=1, bytes=2, newest_event_us=3),
)
GOLDEN = (
    b'{"closed":false,"counts":{"bytes":2,"changes":1,"children":0,"empty_polls":0,'
    b'"newest_event_us":3,"pages":0,"throttles":0},"finished":[["shardId-0",6]],'
    b'"foreign":["shardId-9"],"foreign_before_ms":3,"format":1,'
    b'"pending":[["shardId-4","shardId-3"]],"shards":[{"iterator":"it","kind":"after",'
    b'"parent_id":"shardId-0","polled_us":7,"sequence":"100","shard_id":"shardId-1"},'
    b'{"at_us":5,"kind":"at_timestamp","low_us":5,"shard_id":"shardId-2","since_us":6},'
    b'{"ended_us":8,"kind":"ended","sequence":"9","shard_id":"shardId-3"}],"swept_us":4}'
)


class TestCoder:
    def test_golden_bytes(self):
        assert FrontierCoder().encode(EXAMPLE) == GOLDEN
        assert FrontierCoder().decode(GOLDEN) == EXAMPLE

    @given(frontiers)
    def test_round_trip(self, frontier):
        assert FrontierCoder().decode(FrontierCoder().encode(frontier)) == frontier

    def test_an_unknown_format_is_refused(self):
        document = json.loads(GOLDEN) | {"format": 2}
        with pytest.raises(ValueDecodeError, match="expected 1; found 2"):
            FrontierCoder().decode(json.dumps(document).encode())

    def test_it_is_registered_and_deterministic(self):
        coder = beam.coders.registry.get_coder(Frontier)
        assert isinstance(coder, FrontierCoder)
        assert coder.is_deterministic()


class TestSource:
    SOURCE = ReaderSpec(
        TABLE, ARN, 1, 4, 2, 16, "latest", EXAMPLE, GapPolicy.CONTINUE, 5, 6, 10**15
    )

    def test_golden_bytes(self):
        golden = (
            b'{"buckets":16,"format":1,"frontier":' + GOLDEN + b',"gap_policy":"continue",'
            b'"generation":2,"max_bytes":6,"reader":1,"readers":4,"snapshot_until_us":5,'
            b'"start":"latest","started_us":1000000000000000,"stream_arn":"' + ARN.encode() + b'",'
            b'"table":{"arn":"","keys":[{"name":"id","type":"S"}],"name":"orders"}}'
        )
        assert ReaderSpecCoder().encode(self.SOURCE) == golden
        assert ReaderSpecCoder().decode(golden) == self.SOURCE
        assert isinstance(beam.coders.registry.get_coder(ReaderSpec), ReaderSpecCoder)

    def test_an_unknown_format_is_refused(self):
        with pytest.raises(ValueDecodeError, match="expected 1; found 9"):
            ReaderSpec.from_json(self.SOURCE.to_json() | {"format": 9})

    def test_the_first_restriction_is_the_stored_one_with_fresh_counts(self):
        closed = dataclasses.replace(
            self.SOURCE, frontier=dataclasses.replace(EXAMPLE, closed=True)
        )
        first = closed.first_restriction()
        assert first == dataclasses.replace(EXAMPLE, counts=Counts())
        assert dataclasses.replace(closed, frontier=None).first_restriction() == Frontier()

    def test_starting_points(self):
        def begin(text):
            return dataclasses.replace(self.SOURCE, start=text).starting_point()

        assert begin("trim_horizon").kind == "trim_horizon"
        assert begin("latest").open_only
        assert begin("latest").at_us == 10**15 - 2_000_000
        assert begin("1970-01-01T00:00:01.5Z").at_us == 1_500_000
        assert begin("1970-01-01T01:00:00+01:00").at_us == 0
        for wrong in ("yesterday", "2026-01-01T00:00:00"):
            with pytest.raises(ConfigurationError, match="start"):
                begin(wrong)


class TestIdentity:
    def test_the_owner_is_a_fixed_hash(self):
        # crc32 of the id: the same for ever and everywhere, or positions would change hands.
        assert [owner(f"shardId-{n}", 7) for n in range(6)] == [
            zlib_crc32(f"shardId-{n}") % 7 for n in range(6)
        ]
        assert owner("shardId-00000001541626099285-f35f62ef", 1000) == 43

    def test_creation_time_of_real_ids_only(self):
        assert created_ms("shardId-00000001541626099285-f35f62ef") == 1541626099285
        assert created_ms("shard-1") is None

    def test_positions_are_replaced_in_order(self):
        frontier = Frontier()
        for name in ("b", "a", "c", "b"):
            frontier = frontier.with_shard(ShardPosition(name, sequence=name))
        assert [each.shard_id for each in frontier.shards] == ["a", "b", "c"]
        assert frontier.shard("b") == ShardPosition("b", sequence="b")
        assert frontier.shard("d") is None


def zlib_crc32(text):
    # Computed bit by bit, so that the fixed hash is held by its definition and not by itself.
    crc = 0xFFFFFFFF
    for byte in text.encode():
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
