# SPDX-License-Identifier: Apache-2.0
"""Contract of few columns: the same outcome as the vectorised way, whatever the images are."""

import json
import random

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dynabeam.transforms.values.column_types import ATTRIBUTE_TAGS, ColumnTypes, NumberType
from dynabeam.transforms.values.columns import _unpack_many, unpack
from dynabeam.transforms.values.row_decoder import SMALL_BATCH_ROWS, unpack_few

from .strategies import items, number_texts, texts, wire_values

NAMES = ["a", "A", "b.c", "x/y", "~0", "", "nul\x00", "é", 'q"', "S", "back\\", "\x1f"]
NUMBERS = [
    "decimal(38,18)",
    "decimal(38,9)",
    "decimal(38,0)",
    "decimal(5,5)",
    "decimal(38,38)",
    "text",
]

names = st.sampled_from(NAMES)
column_types = st.dictionaries(names, st.sampled_from(ATTRIBUTE_TAGS), max_size=6).map(ColumnTypes)
number_types = st.sampled_from(NUMBERS).map(NumberType.parse)
forms = st.sampled_from(["dynamodb", "plain"])


class Members(list):
    """The members of a JSON object as pairs, so that a name can occur twice."""


nonsense = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.sampled_from([2**64, -(2**64), 10**40, -0.0, 1e22, 5e-324]),
        texts,
        number_texts(),
        st.sampled_from(["aGk=", "aGl=", "ab=c", "aGk", "====", "1e400", "-0", "NaN", "9" * 39]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(st.tuples(st.sampled_from([*ATTRIBUTE_TAGS, "X", "a"]), inner), max_size=2).map(
            Members
        ),
    ),
    max_leaves=5,
)
tagged = st.tuples(st.sampled_from(ATTRIBUTE_TAGS), nonsense).map(lambda pair: Members([pair]))
ordinary = st.lists(st.tuples(names, wire_values), max_size=5, unique_by=lambda pair: pair[0])
odd = st.lists(st.tuples(names, st.one_of(wire_values, tagged, nonsense)), max_size=5)


def spelled(value, dice):
    """JSON text with white space and escapes where the dice say so; 0 dice: compact."""

    def space():
        return dice.choice(["", " ", "\n\t"]) if dice and dice.random() < 0.2 else ""

    def text(string):
        return '"' + "".join(map(character, string)) + '"'

    def character(each):
        plain = json.dumps(each, ensure_ascii=False)[1:-1]
        if not dice or dice.random() < 0.9:
            return plain
        if each == "/":
            return "\\/"
        return plain if ord(each) > 0xFFFF else f"\\u{ord(each):04{dice.choice('xX')}}"

    def write(value):
        if isinstance(value, (Members, dict)):
            pairs = value.items() if isinstance(value, dict) else value
            inner = ",".join(f"{space()}{text(k)}{space()}:{write(v)}" for k, v in pairs)
            return f"{space()}{{{inner}{space()}}}{space()}"
        if isinstance(value, list):
            return f"{space()}[{','.join(map(write, value))}]{space()}"
        return space() + (text(value) if isinstance(value, str) else json.dumps(value)) + space()

    return write(value)


@st.composite
def images(draw, members):
    """One image: compact or oddly spelled, sometimes null."""
    dice = random.Random(draw(st.integers(1, 10**6))) if draw(st.booleans()) else None
    return draw(
        st.one_of(
            st.just(None) if draw(st.integers(0, 9)) == 0 else st.nothing(),
            members.map(lambda found: spelled(Members(found), dice).encode()),
        )
    )


@st.composite
def broken(draw, image):
    """An image that has lost or gained some bytes."""
    data = draw(image) or b"{}"
    at = draw(st.integers(0, len(data)))
    more = draw(
        st.one_of(
            st.binary(max_size=2),
            st.sampled_from([b",", b"}", b"\xed\xa0\x80", b"\\ud800", b"NaN"]),
        )
    )
    return data[:at] + more + data[at + draw(st.integers(0, 3)) :]


def outcome(unpacked):
    """All that `unpack` says, to be compared."""
    others = [None if each is None else json.loads(each) for each in unpacked.other.to_pylist()]
    assert unpacked.other.type == pa.string()
    return (
        unpacked.batch.schema,
        unpacked.batch.num_rows,
        unpacked.batch.to_pydict(),
        [json.dumps(each, sort_keys=True) for each in others],
        unpacked.unknown.to_json(),
    )


def compare(rows, types, numbers, nested):
    """Both ways say the same of all images that are not odd; returns how many these are."""

    def few(rows):
        return unpack_few(pa.array(rows, pa.binary()), types, numbers, nested)

    taken = [row for row in rows if few([row]) is not None]
    assert (few(rows) is None) == (len(taken) < len(rows))
    found = few(taken)
    found.batch.validate(full=True)
    many = _unpack_many(pa.array(taken, pa.binary()), types, numbers, nested)
    assert outcome(found) == outcome(many)
    return len(taken)


class TestBothWaysAgree:
    @given(st.lists(images(ordinary), max_size=8), column_types, number_types, forms)
    def test_on_items(self, rows, types, numbers, nested):
        compare(rows, types, numbers, nested)

    @given(st.lists(images(odd), max_size=8), column_types, number_types, forms)
    @example([b'{"a":{"S":"1"},"a":{"S":"2"}}'], ColumnTypes({"a": "S"}), NumberType(), "dynamodb")
    @example([b'{"a":{"\\u0053":"1"}}'], ColumnTypes(), NumberType(), "dynamodb")
    @example([b'{"a":{"L":[1.50,1e3,-0]}}'], ColumnTypes({"a": "L"}), NumberType(), "dynamodb")
    @example(
        [b'{"a":{"L":["\\u001a\\\\u001a"]}}'], ColumnTypes({"a": "L"}), NumberType(), "dynamodb"
    )
    @example([b'{"a":{"S":"x","N":"1"}}'], ColumnTypes({"a": "S"}), NumberType(), "dynamodb")
    @example([b'{"a":{"S":"x","N":"1"}}'], ColumnTypes(), NumberType(), "dynamodb")
    @example([b'{"a":{"NULL":false}}'], ColumnTypes({"a": "NULL"}), NumberType(), "plain")
    @example([b'{"a":{"B":"ab=c"}}'], ColumnTypes({"a": "B"}), NumberType(), "plain")
    def test_on_anything(self, rows, types, numbers, nested):
        compare(rows, types, numbers, nested)

    @given(st.lists(broken(images(odd)), max_size=8), column_types, number_types, forms)
    @example([b"{}", b"\xff"], ColumnTypes(), NumberType(), "dynamodb")
    @example([b"\xef\xbb\xbf{}"], ColumnTypes(), NumberType(), "dynamodb")
    @example([b'{"a":{"S":"x"},}'], ColumnTypes({"a": "S"}), NumberType(), "dynamodb")
    @example([b'{"a":' + b"[" * 3000], ColumnTypes({"a": "L"}), NumberType(), "dynamodb")
    def test_on_what_is_no_json(self, rows, types, numbers, nested):
        compare(rows, types, numbers, nested)

    @pytest.mark.parametrize("nested", ["dynamodb", "plain"])
    @pytest.mark.parametrize("depth", [30, 125, 140, 300])
    def test_on_deep_values(self, nested, depth):
        deep = b'{"a":' + b'{"L":[' * depth + b"]}" * depth + b"}"
        compare([deep], ColumnTypes({"a": "L"}), NumberType(), nested)

    @given(st.lists(number_texts(), min_size=1, max_size=5), number_types)
    def test_on_numbers(self, found, numbers):
        rows = [{"n": {"N": text}, "ns": {"NS": ["0", text]}} for text in found]
        encoded = [json.dumps(row).encode() for row in rows]
        assert len(found) == compare(
            encoded, ColumnTypes({"n": "N", "ns": "NS"}), numbers, "dynamodb"
        )

    @pytest.mark.parametrize(
        "kind", [pa.string(), pa.binary(), pa.large_string(), pa.large_binary()]
    )
    def test_on_other_arrays(self, kind):
        column = pa.array(["junk", None, '{"a":{"S":"x"}}'], kind)[1:]
        found = unpack_few(column, ColumnTypes({"a": "S"}), NumberType(), "dynamodb")
        assert found.batch.to_pydict() == {"a": [None, "x"]}


@given(
    st.lists(items, max_size=4),
    st.sampled_from([{}, {"separators": (",", ":")}, {"ensure_ascii": False}, {"indent": 1}]),
)
def test_every_item_takes_the_quick_way(rows, spelling):
    column = pa.array([json.dumps(row, **spelling) for row in rows], pa.string())
    types = ColumnTypes({"a": "M", "S": "S"})
    assert unpack_few(column, types, NumberType(), "plain") is not None


@pytest.mark.parametrize(
    "image",
    [
        b"[]",
        b"",
        b"\xff",
        b'{"a":1,"a":2}',
        b'{"a":{"L":[{"S":"x","S":"y"}]} }',
        b'{"a":1.5}',
        b'{"a": 5}',
        b'{"a":NaN}',
        b'{"a":"\\ud800"}',
        b'{"a":{"\\u0053":"x"}}',
        b'{"a":{"B\\u004fOL":true}}',
        b"{},",
        b'{"a":' + b'{"L":[' * 2000 + b"]}" * 2000 + b"}",
    ],
    ids=range(13),
)
def test_odd_images_do_not(image):
    types = ColumnTypes({"a": "S"})
    assert unpack_few(pa.array([b"{}", image]), types, NumberType(), "dynamodb") is None


def test_odd_images_are_unpacked_nevertheless():
    column = pa.array([b'{"a":{"S":"x","S":"x"}}', b'{"a":{"S":"y"},}'])
    types = ColumnTypes({"a": "S"})
    assert outcome(unpack(column, types)) == outcome(
        _unpack_many(column, types, NumberType(), "dynamodb")
    )


def test_many_rows_do_not(monkeypatch):
    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr("dynabeam.transforms.values.columns.unpack_few", refuse)
    types = ColumnTypes({"a": "S"})
    found = unpack(pa.array(['{"a":{"S":"x"}}'] * (SMALL_BATCH_ROWS + 1)), types)
    assert found.batch.num_rows == SMALL_BATCH_ROWS + 1
    with pytest.raises(AssertionError):
        unpack(pa.array(['{"a":{"S":"x"}}'] * SMALL_BATCH_ROWS), types)
