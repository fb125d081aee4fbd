# SPDX-License-Identifier: Apache-2.0
"""Rows leave as few blocks as possible, and every row still says which shard it is from."""

import json

from dynabeam.transforms.stream.block_builder import BlockBuilder, oldest_event_us
from dynabeam.transforms.stream.page_parser import PageParser
from tests.stream.scripted import ARN, record, shard_id, source

A, B = shard_id(0), shard_id(1)


def rows(*numbers, **fields):
    body = json.dumps({"Records": [record(n, key=f"k{n}", **fields) for n in numbers]}).encode()
    element = source()
    return PageParser(element.table, 1, ARN).parse(body, A).rows


def told(blocks):
    """Sequence number → shard, from wherever it stands."""
    found = {}
    for block in blocks:
        for row in block.rows.to_pylist():
            envelope = json.loads(row["envelope"])
            shard = block.header.origin.get("shard_id") or envelope["shardId"]
            found[int(row["version"].partition(b".")[2])] = shard
            assert block.header.origin["stream_arn"] == ARN
    return found


class TestBlockBuilder:
    def test_one_shard_is_named_in_the_header(self):
        builder = BlockBuilder(source(buckets=1), 1 << 20)
        builder.add(A, rows(1, 2), 10, last=False)
        (block,) = builder.flush()
        assert block.header.origin == {"stream_arn": ARN, "shard_id": A}
        assert b"shardId" not in block.rows.column("envelope")[0].as_py()

    def test_shards_that_leave_together_share_blocks(self):
        builder = BlockBuilder(source(buckets=1), 1 << 20)
        builder.add(A, rows(1, 2), 10, last=False)
        builder.add(B, rows(3), 10, last=False)
        blocks = list(builder.flush())
        assert len(blocks) == 1
        assert told(blocks) == {1: A, 2: A, 3: B}
        assert builder.bytes == 0

    def test_an_envelope_that_says_nothing_else(self):
        builder = BlockBuilder(source(buckets=1), 1 << 20)
        bare = rows(1).set_column(7, "envelope", [b"{}"])
        builder.add(A, bare, 10, last=False)
        builder.add(B, rows(2), 10, last=False)
        (block,) = builder.flush()
        assert block.rows.column("envelope")[0].as_py() == f'{{"shardId":"{A}"}}'.encode()

    def test_what_is_large_goes_by_itself(self):
        builder = BlockBuilder(source(buckets=1), 100)
        for number, name in enumerate((A, B, shard_id(2))):
            builder.add(name, rows(number), 99, last=False)
        blocks = list(builder.flush())
        assert [block.rows.num_rows for block in blocks] == [2, 1]
        assert blocks[1].header.origin["shard_id"] == shard_id(2)

    def test_the_last_rows_of_a_shard_leave_before_its_children_are_read(self):
        builder = BlockBuilder(source(buckets=1), 1 << 20)
        builder.add(A, rows(1), 10, last=True)
        builder.add(B, rows(2), 10, last=False)
        assert told(builder.flush_full()) == {1: A}
        assert told(builder.flush()) == {2: B}

    def test_the_oldest_event_of_a_block(self):
        builder = BlockBuilder(source(buckets=1), 1 << 20)
        builder.add(A, rows(1, time=7), 10, last=False)
        builder.add(B, rows(2, time=5), 10, last=False)
        (block,) = builder.flush()
        assert oldest_event_us(block) == 5_000_000
