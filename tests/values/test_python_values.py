# SPDX-License-Identifier: Apache-2.0
"""Contract of the Python form: every value there and back, everything else refused by path."""

import base64
import json
from decimal import Decimal

import pytest
from boto3.dynamodb.types import Binary, TypeDeserializer
from hypothesis import given

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.values.python_values import (
    NULL,
    BinarySet,
    NumberSet,
    StringSet,
    decode_item,
    decode_value,
    encode_item,
    encode_value,
)

from .strategies import items, wire_values


class TestRoundTrip:
    @given(items)
    def test_every_item_comes_back(self, item):
        decoded = decode_item(item)
        assert decode_item(json.dumps(item).encode()) == decoded
        again = decode_item(encode_item(decoded))
        assert again == decoded
        assert encode_item(again) == encode_item(decoded)
        json.dumps(encode_item(decoded))

    @given(wire_values)
    def test_tags_are_kept(self, value):
        assert list(encode_value(decode_value(value))) == list(value)

    def test_null_is_not_absent(self):
        assert decode_item({"a": {"NULL": True}}) == {"a": NULL}
        assert decode_item({}) == {}

    def test_null_false_is_null_as_in_the_sdks(self):
        assert decode_value({"NULL": False}) is NULL
        assert encode_value(NULL) == {"NULL": True}

    def test_python_relatives_are_encoded(self):
        assert encode_value(5) == {"N": "5"}
        assert encode_value(True) == {"BOOL": True}
        assert encode_value(bytearray(b"hi")) == {"B": "aGk="}
        assert encode_value((1, memoryview(b""))) == {"L": [{"N": "1"}, {"B": ""}]}


class TestSets:
    def test_empty_sets_keep_their_type(self):
        sets = [StringSet(), NumberSet(), BinarySet()]
        assert len(set(sets)) == 3
        assert [encode_value(each) for each in sets] == [{"SS": []}, {"NS": []}, {"BS": []}]
        assert sets[0] != sets[1] != sets[2] != frozenset()

    def test_order_and_repeats_do_not_count(self):
        assert StringSet("ab") == StringSet("bab")
        assert hash(StringSet("ab")) == hash(StringSet("ba"))
        assert decode_value({"NS": ["1", "1.0", "2"]}) == NumberSet([Decimal(2), Decimal(1)])

    def test_they_are_sets(self):
        assert "a" in StringSet("ab")
        assert len(StringSet("ab")) == 2
        assert StringSet("ab") & StringSet("bc") == StringSet("b")
        assert StringSet("a") <= StringSet("ab")

    def test_text_is_the_same_in_every_process(self):
        assert encode_value(StringSet("cab")) == {"SS": ["a", "b", "c"]}
        assert (
            repr(NumberSet([Decimal(2), Decimal(1)])) == "NumberSet([Decimal('1'), Decimal('2')])"
        )


class TestNumbers:
    @pytest.mark.parametrize(
        "text", ["9" * 38, "1" + "0" * 125, "-0." + "0" * 91 + "1" * 38, "1E-130", "1E+38"]
    )
    def test_no_digit_is_lost(self, text):
        decoded = decode_value({"N": text})
        assert decoded == Decimal(text)
        assert decode_value(encode_value(decoded)) == decoded
        assert "E" not in encode_value(decoded)["N"]


REFUSED = [
    {},
    {"X": "a"},
    {"S": "a", "N": "1"},
    {"S": 1},
    {"S": None},
    {"S": ["a"]},
    {"N": 1},
    {"N": 1.5},
    {"N": "a"},
    {"N": ""},
    {"N": "NaN"},
    {"N": "1" * 39},
    {"N": None},
    {"B": "aGk"},
    {"B": "a"},
    {"B": "aGk=\n"},
    {"B": "_-=="},
    {"B": "aGkx===="},
    {"B": "aG=k"},
    {"B": "é==="},
    {"B": None},
    {"B": 1},
    {"BOOL": "true"},
    {"BOOL": 1},
    {"BOOL": None},
    {"NULL": None},
    {"NULL": "true"},
    {"NULL": 0},
    {"SS": "a"},
    {"SS": [1]},
    {"SS": None},
    {"NS": [1]},
    {"NS": ["a"]},
    {"BS": ["a"]},
    {"BS": [None]},
    {"L": {}},
    {"L": None},
    {"L": ["a"]},
    {"L": [{}]},
    {"M": []},
    {"M": None},
    {"M": {"a": "b"}},
    {"M": {"a": None}},
    {"s": "a"},
    {"S": "\ud800"},
    {"M": {"\udfff": {"S": ""}}},
    {"SS": ["\ud83d"]},
    None,
    "a",
    1,
    [],
    {1: "a"},
]


class TestRefusals:
    @pytest.mark.parametrize("value", REFUSED, ids=repr)
    def test_what_is_no_value(self, value):
        with pytest.raises(ValueDecodeError):
            decode_item({"a": value})
        if not isinstance(value, str):  # a text is parsed as JSON here
            with pytest.raises(ValueDecodeError):
                decode_value(value)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"{",
            b"[]",
            b'{"a":{"S":"\xff"}}',
            rb'{"a":{"S":"\ud800"}}',
            b'{"a":{"N":1}}',
            b'{"a":{"S":"x"},}',
            b'{"a":NaN}',
            b"null",
            "{",
            b"[" * 5000,
        ],
    )
    def test_what_is_no_item_text(self, data):
        with pytest.raises(ValueDecodeError):
            decode_item(data)

    def test_the_path_and_the_value_are_named(self):
        item = {"a": {"L": [{"M": {"b.c": {"N": "twelve"}}}]}}
        with pytest.raises(ValueDecodeError) as caught:
            decode_item(item)
        assert '$["a"][0]["b.c"]' in str(caught.value)
        assert "twelve" in str(caught.value)

    def test_depth_is_bounded(self):
        fine = {"S": "x"}
        for _ in range(100):
            fine = {"L": [fine]}
        assert encode_value(decode_value(fine)) == fine
        for _ in range(5000):
            fine = {"M": {"m": fine}}
        with pytest.raises(ValueDecodeError, match="nested"):
            decode_value(fine)

    @pytest.mark.parametrize(
        "value",
        [
            1.5,
            float("nan"),
            object(),
            {1: 2},
            {"a": 1.5},
            "\ud800",
            {"a"},
            frozenset(),
            Decimal("NaN"),
            Decimal("Infinity"),
            Decimal("1e126"),
            10**39 + 1,
            pytest.param(10**5000, id="huge"),
        ],
    )
    def test_what_cannot_be_encoded(self, value):
        with pytest.raises(ValueDecodeError):
            encode_value(value)


def boto3_form(value):
    """Turn our Python form into what boto3's deserialiser makes of the same value."""
    if isinstance(value, bytes):
        return Binary(value)
    if isinstance(value, list):
        return [boto3_form(each) for each in value]
    if isinstance(value, dict):
        return {name: boto3_form(each) for name, each in value.items()}
    if isinstance(value, (StringSet, NumberSet, BinarySet)):
        return {boto3_form(each) for each in value}
    return value


def with_bytes(value):
    """Turn wire values into what boto3's client hands to its deserialiser."""
    ((tag, payload),) = value.items()
    if tag == "B":
        return {"B": base64.b64decode(payload)}
    if tag == "BS":
        return {"BS": [base64.b64decode(each) for each in payload]}
    if tag == "L":
        return {"L": [with_bytes(each) for each in payload]}
    if tag == "M":
        return {"M": {name: with_bytes(each) for name, each in payload.items()}}
    return value


class TestBoto3Oracle:
    @given(wire_values)
    def test_same_values_as_boto3(self, value):
        client_value = with_bytes(value)
        assert decode_value(client_value) == decode_value(value)
        try:
            expected = TypeDeserializer().deserialize(client_value)
        except ArithmeticError:  # boto3 cannot read plain numbers of more than 38 digits
            return
        assert boto3_form(decode_value(value)) == expected
