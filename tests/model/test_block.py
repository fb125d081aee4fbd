# SPDX-License-Identifier: Apache-2.0
"""Blocks: explicit, versioned bytes; one bucket each; nothing lost on the way."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import pathlib

import apache_beam as beam
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.model.block import SCHEMA, Block, BlockCoder, BlockHeader, split_by_bucket
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.model.version import encode_version
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema
from dynabeam.transforms.values.keys import encode_key

_TABLE = Table(
    "orders",
    KeySchema(KeyAttribute("customer", "S"), KeyAttribute("number", "N")),
    "arn:aws:dynamodb:eu-west-1:111122223333:table/orders",
)
_GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "block-format-1.base64"


def _header(**changes) -> BlockHeader:
    header = BlockHeader(
        table=_TABLE,
        bucket=0,
        buckets=4,
        generation=2,
        source="stream",
        origin={"stream_arn": "arn:stream", "shard_id": "shardId-1"},
        snapshot_until_us=1_700_000_000_000_000,
    )
    return dataclasses.replace(header, **changes)


def _rows(keys: list[dict]) -> pa.RecordBatch:
    when = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.timezone.utc)
    count = len(keys)
    return pa.record_batch(
        [
            pa.array([encode_key(key, _TABLE.keys) for key in keys], pa.binary()),
            pa.array([encode_version(2, n + 1) for n in range(count)], pa.binary()),
            pa.array(["u"] * count, pa.string()),
            pa.array([when] * count, pa.timestamp("us", "UTC")),
            pa.array([None] * count, pa.binary()),
            pa.array([b'{"customer":{"S":"a"}}'] * count, pa.binary()),
            pa.array([False] * count, pa.bool_()),
            pa.array([b'{"eventID":"1"}'] * count, pa.binary()),
        ],
        schema=SCHEMA,
    )


def _key(customer: str, number: int) -> dict:
    return {"customer": {"S": customer}, "number": {"N": str(number)}}


def test_round_trip():
    block = Block(_header(), _rows([_key("a", 1), _key("b", 2)]))
    decoded = BlockCoder().decode(BlockCoder().encode(block))
    assert decoded.header == block.header
    assert decoded.rows.equals(block.rows)


def test_an_empty_block_survives():
    block = Block(_header(), _rows([]))
    assert BlockCoder().decode(BlockCoder().encode(block)).rows.num_rows == 0


def test_golden_bytes_of_format_1_are_still_read():
    block = BlockCoder().decode(base64.b64decode(_GOLDEN.read_text()))
    assert block.header == _header()
    assert block.rows.equals(_rows([_key("a", 1), _key("b", -2)]))


def test_the_coder_is_deterministic_and_registered():
    block = Block(_header(), _rows([_key("a", 1)]))
    assert BlockCoder().encode(block) == BlockCoder().encode(block)
    assert isinstance(beam.coders.registry.get_coder(Block), BlockCoder)
    assert BlockCoder().is_deterministic()


def test_an_unknown_format_is_refused():
    document = _header().to_json() | {"format": 99}
    with pytest.raises(ValueDecodeError, match="unknown format"):
        BlockHeader.from_json(document)


def test_a_batch_without_a_header_is_refused():
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_batch(_rows([_key("a", 1)]))
    with pytest.raises(ValueDecodeError, match="header is missing"):
        BlockCoder().decode(sink.getvalue().to_pybytes())


@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=4), st.integers(0, 30)), max_size=30),
    st.integers(1, 8),
)
def test_splitting_by_bucket_keeps_every_row_and_its_order(keys, buckets):
    rows = _rows([_key(customer, number) for customer, number in keys])
    blocks = list(split_by_bucket(_header(buckets=buckets), rows))
    assert sum(block.rows.num_rows for block in blocks) == rows.num_rows
    assert len({block.header.bucket for block in blocks}) == len(blocks)
    place_of = {}
    for block in blocks:
        assert block.rows.num_rows > 0
        versions = block.rows.column("version").to_pylist()
        assert versions == sorted(versions)
        for key in block.rows.column("key").to_pylist():
            assert place_of.setdefault(key, block.header.bucket) == block.header.bucket


def test_blocks_are_grouped_by_table_and_bucket():
    assert Block(_header(bucket=3), _rows([])).group == "orders/3"
