# SPDX-License-Identifier: Apache-2.0
"""Rows that no DuckDB mirror can lay out: left out of their round, and what they become."""

import apache_beam as beam
import pyarrow as pa
import pytest

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.model.block import SCHEMA, Block
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.model.row_payload import block_of_payload
from dynabeam.transforms.values.keys import encode_key
from tests.sinks.changes import NO_ROUND, Change, only_block, round_number, table
from tests.sinks.targets import Target, read_back

ORDERS = table()
TARGETS = [Target("duckdb:///FOLDER/m.duckdb"), Target("duckdb:///FOLDER/m.duckdb?layout=packed")]
UNFIT = [b'{"id":{"S":"x"},,}', b'{"id":{"S":"x"},"a":{"S":"\xff"}}', b"[1]"]


def mixed():
    """Good rows and unfit ones in one block."""
    good = only_block(ORDERS, [Change(1, {"id": {"S": f"k{each}"}}) for each in range(3)])
    rows = good.rows.to_pylist()
    bad = [
        {**rows[0], "key": encode_key({"id": {"S": f"x{at}"}}, ORDERS.keys), "new": image}
        for at, image in enumerate(UNFIT)
    ]
    return good.with_rows(pa.RecordBatch.from_pylist([rows[0], *bad, *rows[1:]], schema=SCHEMA))


@pytest.mark.parametrize("target", TARGETS, ids=lambda each: each.id)
def test_the_others_are_written(target, tmp_path):
    sink, block = target.open(tmp_path), mixed()
    sink.check([ORDERS], NO_ROUND)
    reports = sink.apply_what_fits(lambda: iter([block]), round_number(1))
    assert len(read_back(target, sink, [ORDERS])["orders"]) == 3
    letters = [
        DeadLetter.from_line(each.fields["letter"].encode())
        for each in reports
        if each.kind == "refused"
    ]
    images = [block_of_payload(each.raw).rows.column("new")[0].as_py() for each in letters]
    assert images == UNFIT
    assert {(each.severity, each.origin["sink"]) for each in letters} == {("severe", sink.place)}


@pytest.mark.parametrize("target", TARGETS, ids=lambda each: each.id)
def test_a_deep_image_is_written_beside_unfit_ones(target, tmp_path):
    """An edited export may nest deeper than the service and than recursive parsers go."""
    deep = b'{"id":{"S":"deep"},"d":' + b'{"M":{"a":' * 800 + b'{"S":"x"}' + b"}}" * 800 + b"}"
    sink, block = target.open(tmp_path), mixed()
    row = {**block.rows.to_pylist()[0], "key": b"Sdeep", "new": deep}
    broken = {**row, "key": b"Sbroken", "new": deep[:-1]}
    given = block.with_rows(
        pa.RecordBatch.from_pylist([*block.rows.to_pylist(), row, broken], schema=SCHEMA)
    )
    sink.check([ORDERS], NO_ROUND)
    reports = sink.apply_what_fits(lambda: iter([given]), round_number(1))
    refused = [each for each in reports if each.kind == "refused"]
    assert len(refused) == len(UNFIT) + 1
    with sink.connect() as connection:
        rest = "item" if target.is_packed else "_other"
        found = connection.sql(f"SELECT {rest} FROM orders WHERE id = 'deep'").fetchall()
        value = connection.sql(f"SELECT {rest}->'d' FROM orders WHERE id = 'deep'").fetchall()
        assert connection.sql("SELECT count(*) FROM orders").fetchall() == [(4,)]
    assert len(found) == 1
    assert value == [(deep[len(b'{"id":{"S":"deep"},"d":') : -1].decode(),)]


def test_in_the_graph(tmp_path):
    sink = TARGETS[0].open(tmp_path)
    sink.check([ORDERS], NO_ROUND)
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        source = pipeline | beam.Create([mixed()], reshuffle=False).with_output_types(Block)
        reports = source | sink.write(round_number(1))
        assert reports.element_type is Report
    assert len(read_back(TARGETS[0], sink, [ORDERS])["orders"]) == 3


def test_what_is_not_about_rows_is_an_error(tmp_path):
    sink = TARGETS[0].open(tmp_path)
    sink.check([ORDERS], NO_ROUND)
    block = only_block(ORDERS, [Change(1, {"id": {"S": "a"}})])
    with pytest.raises(SinkError, match="belongs to state directory"):
        sink.apply_what_fits(lambda: iter([block]), round_number(1, state_id="other"))


DEEP = b'{"id":{"S":"x"},"v":' + b'{"L":[' * 600 + b"%b" + b"]}" * 600 + b"}"


@pytest.mark.parametrize("target", TARGETS, ids=lambda each: each.id)
@pytest.mark.parametrize(
    "unfit",
    [
        b'{"id":{"S":"x"},"v":{"L":[{"S":"y"},]}}',
        b'{"id":{"S":"x"},"v":{"N":NaN}}',
        b'{"id":{"S":"x"},"v":-Infinity}',
        b'{"id":{"S":"x"},}',
        DEEP % b'{"S":"y"},',
        DEEP % b"nan",
    ],
    ids=["comma", "NaN", "infinity", "last comma", "deep comma", "deep nan"],
)
def test_what_duckdb_takes_for_json_is_no_row_however_alone(target, tmp_path, unfit):
    good = only_block(ORDERS, [Change(1, {"id": {"S": "x"}}), Change(1, {"id": {"S": "good"}})])
    rows = good.rows.to_pylist()
    rows[0]["new"] = unfit
    block = good.with_rows(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
    sink = target.open(tmp_path)
    sink.check([ORDERS], NO_ROUND)
    reports = sink.apply_what_fits(lambda: iter([block]), round_number(1))
    letters = [
        block_of_payload(DeadLetter.from_line(each.fields["letter"].encode()).raw)
        for each in reports
        if each.kind == "refused"
    ]
    assert [each.rows.column("new").to_pylist() for each in letters] == [[unfit]]
    assert list(read_back(target, sink, [ORDERS])["orders"]) == [b"Sgood"]


@pytest.mark.parametrize("target", TARGETS, ids=lambda each: each.id)
def test_what_only_looks_like_it_in_a_deep_text_is_a_row(target, tmp_path):
    inner = b'{"S":"nan ,] \\" inf"}'
    block = only_block(ORDERS, [Change(1, {"id": {"S": "x"}})])
    row = {**block.rows.to_pylist()[0], "new": DEEP % inner}
    block = block.with_rows(pa.RecordBatch.from_pylist([row], schema=SCHEMA))
    sink = target.open(tmp_path)
    sink.check([ORDERS], NO_ROUND)
    reports = sink.apply_what_fits(lambda: iter([block]), round_number(1))
    assert [each.kind for each in reports] == ["sink"]
    with sink.connect() as connection:
        rest = "item" if target.is_packed else "_other"
        ((found,),) = connection.sql(f"SELECT {rest}->'v' FROM orders").fetchall()
    assert found.encode() == (DEEP % inner)[len(b'{"id":{"S":"x"},"v":') : -1]
