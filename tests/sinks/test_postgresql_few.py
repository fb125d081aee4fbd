# SPDX-License-Identifier: Apache-2.0
"""Contract of a few rows on their way into PostgreSQL: the document of the general way."""

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.model.order import newest_per_key
from dynabeam.transforms.sinks.postgresql.connection import PostgresSettings
from dynabeam.transforms.sinks.postgresql.merge import FEW_BYTES, SMALL_BATCH_ROWS
from dynabeam.transforms.sinks.postgresql.small_batch import SmallBatchLayout
from dynabeam.transforms.sinks.postgresql.table import MirrorTable
from dynabeam.transforms.sinks.postgresql.values import KEY_BYTES, json_rows
from dynabeam.transforms.sinks.row_layout import RowLayout, RowOptions
from dynabeam.transforms.values.column_types import ColumnTypes, NumberType
from tests.sinks.changes import Change, blocks, table
from tests.values.strategies import items

ORDERS = table()
COMPOSITE = table("composite", ("id", "S"), ("at", "N"))
BINARY = table("binary", ("id", "B"), ("sort", "S"))
SETTINGS = PostgresSettings((), "s", 0.0, "postgresql://")
TEXT = NumberType.parse("text")
OPTIONS = [
    RowOptions("packed", TEXT),
    RowOptions("unpacked", TEXT),
    RowOptions("unpacked", TEXT, "plain"),
]
VALUES = {
    "S": st.sampled_from(["a", "a b", "\x00", 'q"\\', "é😀", "\x1f", "k" * (KEY_BYTES + 5)]),
    "N": st.sampled_from(["1", "-0.5", "1e3", "12345678901234567890123456789012345678"]),
    "B": st.sampled_from(["AA==", "AAEC/w=="]),
}
ODD = [{"S": "x\x00"}, {"SS": ["a", "b"]}, {"BS": ["AA=="]}, {"NULL": True}, {"N": "9" * 38}]


def both_ways(of, options, changes, types):
    """The documents of the few and of the general way; None where there is none."""
    rows = pa.concat_batches([each.rows for each in blocks(of, changes)]).select(
        ["key", "version", "op", "event_time", "new", "ttl"]
    )
    layout = RowLayout(of, options, ["_key"])
    layout.add(types)
    few = SmallBatchLayout(of.keys, layout, options).document(rows)
    general = MirrorTable(of, options, "numeric", SETTINGS)
    general._layout.restore(layout.types)
    # A layout that grows would ask the database.
    general._grow_after = float("inf")
    typed = general._lay_out(None, newest_per_key(rows))
    return few, json_rows(general._storable(typed))


@st.composite
def histories(draw, of):
    """Changes of some keys, repeats and deletes among them."""
    key = st.fixed_dictionaries(
        {
            each.name: st.fixed_dictionaries({each.type: VALUES[each.type]})
            for each in of.keys.attributes
        }
    )
    keys = draw(st.lists(key, min_size=1, max_size=4))
    odd = st.dictionaries(
        st.sampled_from(["x", "X", "é", "n\x00"]), st.sampled_from(ODD), max_size=3
    )
    return [
        Change(draw(st.integers(1, 9)), None, keys=each)
        if draw(st.booleans())
        else Change(draw(st.integers(1, 9)), {**draw(st.one_of(items, odd)), **each})
        for each in keys
        for _ in range(draw(st.integers(1, 2)))
    ]


@pytest.mark.parametrize("options", OPTIONS, ids=["packed", "unpacked", "plain"])
@pytest.mark.parametrize("of", [ORDERS, COMPOSITE, BINARY], ids=lambda each: each.name)
@given(data=st.data())
def test_the_same_document(of, options, data):
    changes = data.draw(histories(of))
    tags = st.sampled_from(["S", "N", "B", "SS", "BS", "L", "M", "BOOL", "NULL"])
    names = sorted({name for each in changes for name in each.new or ()} | {"x"})
    types = ColumnTypes(data.draw(st.dictionaries(st.sampled_from(names), tags, max_size=6)))
    few, general = both_ways(of, options, changes, types)
    if few is not None:
        assert json.loads(few) == json.loads(general)


@pytest.mark.parametrize("options", OPTIONS, ids=["packed", "unpacked", "plain"])
def test_ordinary_rows_go_this_way(options):
    changes = [
        Change(7, {"id": {"S": "b"}, "x": {"S": "new"}}),
        Change(3, {"id": {"S": "b"}, "x": {"S": "old"}}),
        Change(4, None, keys={"id": {"S": "a"}}),
        Change(5, {"id": {"S": "c"}, "x": {"S": "\x00"}}),
        Change(6, {"id": {"S": "c" * (KEY_BYTES + 1)}, "x": {"N": "1"}}),
    ]
    few, general = both_ways(ORDERS, options, changes, ColumnTypes({"x": "S"}))
    assert len(json.loads(few)) == 4
    assert json.loads(few) == json.loads(general)


def document(*changes, options=OPTIONS[1]):
    rows = pa.concat_batches([each.rows for each in blocks(ORDERS, changes)])
    return SmallBatchLayout(ORDERS.keys, RowLayout(ORDERS, options, []), options).document(rows)


def test_what_goes_the_general_way():
    key = {"id": {"S": "a"}}
    assert document(Change(1, key)) is not None
    assert document(Change(1, {**key, "new": {"S": "attribute"}})) is None
    assert document(Change(1, None, keys=key, op="u")) is None, "an image is missing"
    assert document(Change(1, {"id": {"S": "\x00"}}), options=OPTIONS[0]) is None
    many = [Change(1, {"id": {"S": str(at)}}) for at in range(SMALL_BATCH_ROWS + 1)]
    assert document(*many[1:]) is not None
    assert document(*many) is None
    assert document(Change(1, {**key, "long": {"S": "x" * FEW_BYTES}})) is None
