# SPDX-License-Identifier: Apache-2.0
"""Contract of columns: every item comes back from its columns and `other`; types never guess."""

import base64
import json
from decimal import Decimal
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dynabeam.transforms.errors import ConfigurationError, StateError, ValueDecodeError
from dynabeam.transforms.values import columns
from dynabeam.transforms.values.columns import ColumnTypes, NumberType, discover
from dynabeam.transforms.values.plain_json import canonical_json, plain_value_json
from dynabeam.transforms.values.python_values import decode_value

from .strategies import items, names, wire_values

TAGS = ["S", "N", "B", "BOOL", "SS", "NS", "BS", "L", "M"]


def images_of(rows, **options):
    return pa.array(
        [None if row is None else json.dumps(row, **options).encode() for row in rows], pa.binary()
    )


def unpack(images, types, **options):
    """Columns by the vectorised way, which the one for few rows equals."""
    few = columns.unpack(images, types, **options)
    with mock.patch.object(columns, "SMALL_BATCH_ROWS", -1):
        many = columns.unpack(images, types, **options)
    assert few.batch.equals(many.batch)
    assert few.unknown == many.unknown
    return many


def wire(value, tag):
    """Turn a cell back into a DynamoDB JSON value."""
    if tag in ("L", "M"):
        return {tag: json.loads(value)}
    if tag in ("SS", "NS", "BS"):
        return {tag: [wire(each, tag[0])[tag[0]] for each in value]}
    if tag == "B":
        return {"B": base64.b64encode(value).decode()}
    return {tag: str(value) if tag == "N" else value}


def repack(unpacked, types):
    rows = []
    columns = unpacked.batch.to_pydict()
    for at, other in enumerate(unpacked.other.to_pylist()):
        row = json.loads(other) if other is not None else {}
        for name, tag in types.columns.items():
            if columns[name][at] is not None:
                assert name not in row
                row[name] = wire(columns[name][at], tag)
        rows.append(row)
    return rows


column_types = st.dictionaries(names, st.sampled_from([*TAGS, "NULL"]), max_size=4).map(ColumnTypes)
number_types = st.sampled_from(
    ["decimal(38,18)", "decimal(38,9)", "decimal(38,0)", "decimal(5,5)", "decimal(38,38)", "text"]
)
spellings = st.sampled_from(
    [
        {},
        {"separators": (",", ":")},
        {"ensure_ascii": False, "separators": (",", ":")},
        {"indent": 1},
    ]
)


class TestNothingIsLost:
    @given(st.lists(items, max_size=5), column_types, number_types, spellings, st.booleans())
    @example(
        [{"a": {"NULL": True}, "A": {"S": "x"}, "": {"S": ""}}],
        ColumnTypes({"a": "S", "A": "S"}),
        "text",
        {},
        False,
    )
    def test_repack(self, rows, types, numbers, spelling, discovered):
        images = images_of(rows, **spelling)
        if discovered:
            types = discover(images, types)
        unpacked = unpack(images, types, numbers=numbers)
        unpacked.batch.validate(full=True)
        assert unpacked.batch.num_rows == len(unpacked.other) == len(rows)
        assert unpacked.batch.schema.names == list(types.columns)
        for row, again in zip(rows, repack(unpacked, types), strict=True):
            assert canonical_json(again) == canonical_json(row)

    @given(
        st.lists(st.tuples(st.sampled_from(["a", "A", "b.c"]), wire_values), max_size=8),
        st.sampled_from(TAGS),
        number_types,
    )
    def test_conflicts(self, cells, tag, numbers):
        """Columns of one type under values of all types."""
        rows = [{name: value} for name, value in cells]
        types = ColumnTypes({"a": tag, "A": tag})
        unpacked = unpack(images_of(rows), types, numbers=numbers)
        for row, again in zip(rows, repack(unpacked, types), strict=True):
            assert canonical_json(again) == canonical_json(row)
        for (name, value), other in zip(cells, unpacked.other.to_pylist(), strict=True):
            if name == "b.c" or list(value) != [tag]:
                assert list(json.loads(other)) == [name]
            elif tag not in ("N", "NS"):
                assert other is None

    @pytest.mark.parametrize(
        "value",
        [
            {"S": 5},
            {"S": None},
            {"S": ["x"]},
            {"S": {"x": 1}},
            {"S": "a", "N": "1"},
            {"S": "a", "S2": "b"},
            {"N": 5},
            {"N": "five"},
            {"N": "1" * 39},
            {"N": "1e126"},
            {"N": "NaN"},
            {"B": "aGk"},
            {"B": 1},
            {"BOOL": 1},
            {"BOOL": "true"},
            {"BOOL": None},
            {"SS": "a"},
            {"SS": ["a", 1]},
            {"SS": ["a", None]},
            {"SS": {"a": 1}},
            {"NS": [1]},
            {"NS": ["x"]},
            {"BS": ["aGk"]},
            {"L": {}},
            {"L": None},
            {"M": []},
            {"M": {}, "X": {}},
            {"L": [], "X": []},
            {"X": "y"},
            {},
            [],
            "text",
            5,
            None,
            True,
            {"SS": ["a"], "NS": ["1"]},
        ],
        ids=json.dumps,
    )
    def test_what_is_no_value_goes_to_other_as_it_is(self, value):
        rows = [{"id": {"S": "1"}, "a": value}, {"id": {"S": "2"}}]
        for tag in [*TAGS, "NULL"]:
            types = ColumnTypes({"id": "S", "a": tag})
            for separators in [(",", ":"), (", ", ": ")]:
                unpacked = unpack(images_of(rows, separators=separators), types)
                assert json.loads(unpacked.other[0].as_py()) == {"a": value}
                assert unpacked.other[1].as_py() is None
                if tag != "NULL":
                    assert unpacked.batch.column("a").to_pylist() == [None, None]

    def test_null_differs_from_absent(self):
        unpacked = unpack(images_of([{"a": {"NULL": True}}, {}]), ColumnTypes({"a": "S"}))
        assert unpacked.batch.column("a").to_pylist() == [None, None]
        assert unpacked.other.to_pylist() == ['{"a":{"NULL":true}}', None]

    def test_null_image_is_null_everywhere(self):
        types = ColumnTypes({"a": "S", "b": "SS", "c": "BOOL"})
        unpacked = unpack(images_of([None, {"a": {"S": "x"}}, None]), types)
        assert unpacked.batch.column("a").to_pylist() == [None, "x", None]
        assert unpacked.other.to_pylist() == [None, None, None]
        assert unpack(images_of([None]), types).batch.num_rows == 1

    @pytest.mark.parametrize(
        "image",
        [
            b"",
            b"[]",
            b"42",
            b"{",
            b'"x"',
            b'{"a":{"S":"\xff"}}',
            rb'{"a":{"S":"\ud800"}}',
            b"null",
            b"{}{}",
        ],
    )
    @pytest.mark.parametrize("types", [ColumnTypes(), ColumnTypes({"a": "S"})])
    def test_what_is_no_item_is_an_error(self, image, types):
        with pytest.raises(ValueDecodeError, match="row 1"):
            unpack(pa.array([b"{}", image]), types)
        with pytest.raises(ValueDecodeError):
            discover(pa.array([b"{}"] * 100 + [image]), types)


ROW = {
    "s": {"S": 'é\x00"\\'},
    "n": {"N": "1e3"},
    "b": {"B": "aGk="},
    "t": {"BOOL": True},
    "ss": {"SS": ["b", "a"]},
    "ns": {"NS": ["1.5", "2"]},
    "bs": {"BS": ["aGk=", ""]},
    "l": {"L": [{"N": "1.50"}]},
    "m": {"M": {"S": {"S": "x"}}},
}


class TestTypes:
    def test_each_tag(self):
        images = images_of([ROW, {}])
        types = discover(images)
        assert types.to_json() == [[name, next(iter(value))] for name, value in ROW.items()]
        unpacked = unpack(images, types)
        number = pa.decimal128(38, 18)
        assert unpacked.batch.schema.types == [
            pa.string(),
            number,
            pa.binary(),
            pa.bool_(),
            pa.list_(pa.string()),
            pa.list_(number),
            pa.list_(pa.binary()),
            pa.string(),
            pa.string(),
        ]
        assert unpacked.batch.to_pylist() == [
            {
                "s": 'é\x00"\\',
                "n": Decimal(1000),
                "b": b"hi",
                "t": True,
                "ss": ["b", "a"],
                "ns": [Decimal("1.5"), Decimal(2)],
                "bs": [b"hi", b""],
                "l": '[{"N":"1.50"}]',
                "m": '{"S":{"S":"x"}}',
            },
            dict.fromkeys(ROW),
        ]
        assert unpacked.other.null_count == 2

    def test_numbers_as_text_are_canonical(self):
        types = ColumnTypes({"n": "N", "ns": "NS"})
        images = images_of([{"n": {"N": "1.50E+2"}, "ns": {"NS": ["007", "9" * 38]}}])
        unpacked = unpack(images, types, numbers="text")
        assert unpacked.batch.to_pylist() == [{"n": "150", "ns": ["7", "9" * 38]}]
        assert unpacked.batch.schema.types == [pa.string(), pa.list_(pa.string())]

    @pytest.mark.parametrize(
        ("numbers", "fitting", "misfits"),
        [
            (
                "decimal(38,9)",
                ["9" * 29, "-" + "9" * 29 + ".999999999", "0.000000001", "-0.5", "0"],
                ["1" + "0" * 29, "0.0000000001", "1e125"],
            ),
            ("decimal(5,2)", ["999.99", "-999.99", "0.01", "100"], ["1000", "0.001", "-1000.5"]),
            ("decimal(2,2)", ["0.99", "-0.99", "0"], ["1", "0.999", "-1"]),
            ("decimal(38,0)", ["9" * 38, "-" + "9" * 38], ["0.5", "1" + "0" * 38]),
            ("decimal(38,38)", ["0." + "9" * 38, "-0." + "0" * 37 + "1"], ["1", "1e-39"]),
        ],
    )
    def test_decimals_hold_what_fits_exactly(self, numbers, fitting, misfits):
        rows = [{"n": {"N": text}, "ns": {"NS": ["0", text]}} for text in fitting + misfits]
        unpacked = unpack(images_of(rows), ColumnTypes({"n": "N", "ns": "NS"}), numbers=numbers)
        cells = [Decimal(text) for text in fitting]
        none = [None] * len(misfits)
        assert unpacked.batch.column("n").to_pylist() == cells + none
        assert (
            unpacked.batch.column("ns").to_pylist() == [[Decimal(0), each] for each in cells] + none
        )
        others = [None if each is None else json.loads(each) for each in unpacked.other.to_pylist()]
        assert others == [None] * len(fitting) + rows[len(fitting) :]

    @given(st.lists(wire_values.filter(lambda value: next(iter(value)) in ("L", "M")), max_size=4))
    def test_plain_nested(self, values):
        rows = [{next(iter(value)): value} for value in values]
        unpacked = unpack(images_of(rows), ColumnTypes({"L": "L", "M": "M"}), nested="plain")
        for at, value in enumerate(values):
            text = unpacked.batch.column(next(iter(value)))[at].as_py()
            expected = json.loads(plain_value_json(value), parse_float=Decimal)
            assert json.loads(text, parse_float=Decimal) == expected

    def test_nested_nonsense_is_no_plain_json(self):
        rows = [{"l": {"L": [{"S": 1}]}}]
        types = ColumnTypes({"l": "L"})
        assert (
            json.loads(unpack(images_of(rows), types, nested="plain").other[0].as_py()) == rows[0]
        )
        assert unpack(images_of(rows), types).batch.to_pylist() == [{"l": '[{"S":1}]'}]

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "decimal",
            "decimal(39,1)",
            "decimal(0,0)",
            "decimal(5,6)",
            "float",
            "decimal(5)",
            "TEXT",
        ],
    )
    def test_impossible_number_types(self, text):
        with pytest.raises(ConfigurationError):
            NumberType.parse(text)

    def test_input_types(self):
        types = ColumnTypes({"a": "S"})
        image = '{"a":{"S":"x"}}'
        for array in [
            pa.array([image]),
            pa.array([image.encode()]),
            pa.array([image], pa.large_string()),
            pa.chunked_array([[image.encode()]]),
            pa.array([None, "junk", image])[2:],
        ]:
            assert unpack(array, types).batch.to_pylist() == [{"a": "x"}]
        assert unpack(pa.array([], pa.binary()), types).batch.num_rows == 0


class TestDiscovery:
    @given(st.lists(items, max_size=6))
    def test_first_type_that_is_not_null_in_order_of_meeting(self, rows):
        types = discover(images_of(rows))
        expected = ColumnTypes()
        for row in rows:
            expected = expected.with_attributes(
                (name, next(iter(value))) for name, value in row.items()
            )
        assert types.tags == expected.tags
        for name, tag in types.tags.items():
            assert tag in {next(iter(row[name])) for row in rows if name in row}

    def test_rare_attributes_in_many_rows(self):
        rows = [{"id": {"S": str(at)}, "late": {"NULL": True}} for at in range(3000)]
        rows[2500]["rare"] = {"N": "1"}
        rows[2800]["late"] = {"S": "now"}
        types = discover(images_of(rows))
        assert types.to_json() == [["id", "S"], ["rare", "N"], ["late", "S"]]

    def test_ever_new_names(self):
        rows = [{f"n{at}": {"S": "x"}} for at in range(2000)]
        assert len(discover(images_of(rows), max_columns=5000).columns) == 2000
        types = discover(images_of(rows), max_columns=10)
        assert list(types.tags) == [f"n{at}" for at in range(10)]
        unpacked = unpack(images_of(rows), types)
        assert repack(unpacked, types) == rows

    def test_unpack_tells_what_has_no_column(self):
        rows = [
            {"id": {"S": "1"}, "new": {"N": "1"}, "empty": {"NULL": True}},
            {"late": {"BOOL": True}},
        ]
        types = ColumnTypes({"id": "S", "late": "NULL"})
        unpacked = unpack(images_of(rows), types)
        assert unpacked.unknown.tags == {"new": "N", "empty": "NULL", "late": "BOOL"}
        merged = types.merge(unpacked.unknown)
        assert merged.to_json() == [["id", "S"], ["new", "N"], ["empty", "NULL"], ["late", "BOOL"]]
        again = unpack(images_of(rows), merged)
        assert not again.unknown
        assert again.other.to_pylist() == ['{"empty":{"NULL":true}}', None]

    def test_merge_keeps_place_and_type(self):
        one = ColumnTypes({"a": "S", "b": "N"})
        assert one.merge(ColumnTypes({"b": "S", "c": "M"})).to_json() == [
            ["a", "S"],
            ["b", "N"],
            ["c", "M"],
        ]
        assert one.merge(ColumnTypes({"c": "M"}), max_columns=2) is one
        assert one.merge(ColumnTypes()) is one

    @given(column_types)
    def test_goes_through_json(self, types):
        again = ColumnTypes.from_json(json.loads(json.dumps(types.to_json())))
        assert again == types
        assert list(again.tags) == list(types.tags)

    @pytest.mark.parametrize("value", [None, 1, [["a"]], [["a", "X"]], [["a", "S", "b"]]])
    def test_impossible_json(self, value):
        with pytest.raises(StateError):
            ColumnTypes.from_json(value)


@given(wire_values)
def test_cells_mean_what_the_python_form_says(value):
    (tag,) = value
    if tag == "NULL":
        return
    unpacked = unpack(images_of([{"a": value}]), ColumnTypes({"a": tag}), numbers="text")
    cell = unpacked.batch.column("a")[0].as_py()
    assert decode_value(wire(cell, tag)) == decode_value(value)
