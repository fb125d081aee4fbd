# SPDX-License-Identifier: Apache-2.0
"""Canonical cells: what is one value is one text, what is not is another, and so are digests."""

import json
import random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynabeam.transforms.audit.canonical_cells import canonical_cells, row_digests
from dynabeam.transforms.audit.examples import differing, item_of
from dynabeam.transforms.audit.json_values import canonical_item, canonical_plain
from dynabeam.transforms.audit.mirror_schema import MirrorShape
from dynabeam.transforms.sinks.row_layout import RowLayout, RowOptions
from dynabeam.transforms.values.column_types import NumberType
from dynabeam.transforms.values.plain_json import canonical_json
from tests.sinks.changes import table
from tests.values.strategies import items

ORDERS = table()
BIG = "12345678901234567890123456789.12345678"
UNPACKED = RowOptions()
PACKED = RowOptions("packed")
AS_TEXT = RowOptions(numbers=NumberType.parse("text"))
PLAIN = RowOptions(nested="plain")


def laid_out(item_list, options):
    """Items as a mirror that has met all of them stores them: shape and rows."""
    images = pa.array([json.dumps(each).encode() for each in item_list], pa.binary())
    keys = pa.array([b"Sa"] * len(item_list), pa.binary())
    layout = RowLayout(ORDERS, options, ())
    rows = layout.rows(keys, images)
    return MirrorShape(ORDERS, options, layout.types), rows, keys


def digests(item_list, options=UNPACKED):
    shape, rows, keys = laid_out(item_list, options)
    lower, upper = row_digests(keys, canonical_cells(rows, shape, are_text=False))
    return list(zip(lower.tolist(), upper.tolist(), strict=True))


def shuffled(value, rng):
    """The same value in other words: names and members in another order."""
    if isinstance(value, dict):
        pairs = [(name, shuffled(each, rng)) for name, each in value.items()]
        rng.shuffle(pairs)
        return {
            name: rng.sample(each, len(each)) if _is_set(name, each) else each
            for name, each in pairs
        }
    return [shuffled(each, rng) for each in value] if isinstance(value, list) else value


def _is_set(name, value):
    return name in ("SS", "NS", "BS") and isinstance(value, list)


@pytest.mark.parametrize("options", [UNPACKED, PACKED, AS_TEXT, PLAIN])
@settings(max_examples=20)
@given(item=items, seed=st.integers(0, 2**32))
def test_other_words_for_an_item_are_the_item(options, item, seed):
    item = {**item, "id": {"S": "a"}}
    one, other = digests([item, shuffled(item, random.Random(seed))], options)
    assert one == other


@settings(max_examples=20)
@given(one=items, other=items)
def test_other_items_have_other_digests(one, other):
    one, other = ({**each, "id": {"S": "a"}} for each in (one, other))
    same = canonical_json(one) == canonical_json(other)
    first, second = digests([one, other])
    assert (first == second) == same


@pytest.mark.parametrize("options", [UNPACKED, PACKED, AS_TEXT])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"S": ""}, None),
        ({"S": ""}, {"NULL": True}),
        ({"NULL": True}, None),
        ({"N": f"{BIG}9"}, {"N": f"{BIG}8"}),
        ({"N": "9" * 38}, {"N": "9" * 37 + "8"}),
        ({"S": "1"}, {"N": "1"}),
        ({"B": "YQ=="}, {"S": "a"}),
        ({"SS": ["a"]}, {"L": [{"S": "a"}]}),
        ({"L": []}, {"M": {}}),
        ({"L": [{"S": "a"}, {"S": "b"}]}, {"L": [{"S": "b"}, {"S": "a"}]}),
        ({"M": {"a": {"N": "1"}}}, {"M": {"a": {"S": "1"}}}),
        ({"BOOL": False}, {"BOOL": True}),
    ],
)  # fmt: skip
def test_pairs_that_are_not_one(one, other, options):
    pair = [{"id": {"S": "a"}, **({} if value is None else {"v": value})} for value in (one, other)]
    first, second = digests(pair, options)
    assert first != second
    shape, rows, _ = laid_out(pair, options)
    cells = canonical_cells(rows, shape, are_text=False).to_pylist()
    assert differing(*(item_of(each, shape) for each in cells)) == ["v"]


def test_cells_do_not_run_into_each_other():
    first, second = digests(
        [
            {"id": {"S": "a"}, "v": {"S": "b1:c"}, "w": {"S": ""}},
            {"id": {"S": "a"}, "v": {"S": "b"}, "w": {"S": "c"}},
        ]
    )
    assert first != second


def test_place_is_no_difference():
    """A value in `_other` and in its column is one value; digests differ, items do not."""
    item = {
        "id": {"S": "a"},
        "n": {"N": "1.50"},
        "tags": {"NS": ["2", "1"]},
        "pics": {"BS": ["Yg==", "YQ=="]},
        "pic": {"B": "YQ=="},
        "on": {"BOOL": True},
        "map": {"M": {"b": {"N": "1"}, "a": {"SS": ["y", "x"]}}},
    }
    for options in (UNPACKED, PLAIN):
        shape, rows, keys = laid_out([item], options)
        image = pa.array([json.dumps(item).encode()], pa.binary())
        narrow = RowLayout(ORDERS, options, ()).rows(keys, image, grow=False)
        moved = pa.table(
            [
                narrow.column(name) if name in narrow.column_names else pa.nulls(1, column.type)
                for name, column in zip(rows.column_names, rows.columns, strict=True)
            ],
            names=rows.column_names,
        )
        one, other = (
            item_of(canonical_cells(each, shape, are_text=False).to_pylist()[0], shape)
            for each in (rows, moved)
        )
        assert one == other
        assert set(one) == set(item)


def test_what_is_no_value_stands_for_itself():
    assert canonical_item("{broken") == "{broken"
    assert canonical_item('{"a":{"N":"x"}}') == '{"a":{"N":"x"}}'
    assert canonical_plain("[1.50,1e2,true]") == "[1.5,100,true]"


def test_damaged_number_is_not_an_empty_cell():
    shape = laid_out([{"id": {"S": "a"}, "n": {"N": "1"}}], AS_TEXT)[0]
    rows = pa.table(
        [pa.array(["a", "a"]), pa.array(["abc", None]), pa.nulls(2, pa.string())],
        names=shape.names,
    )
    assert canonical_cells(rows, shape, are_text=True).column("n").to_pylist() == ["abc", None]
