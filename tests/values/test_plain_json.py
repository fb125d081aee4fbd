# SPDX-License-Identifier: Apache-2.0
"""Contract of plain JSON (all digits, no tags) and canonical JSON (same item, same bytes)."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.values.plain_json import (
    canonical_json,
    canonical_value_json,
    plain_json,
    plain_value_json,
    same_item,
)
from dynabeam.transforms.values.python_values import decode_item, decode_value, encode_item

from .strategies import items, wire_values


class TestPlain:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ({"S": 'q"\n\x00é'}, b'"q\\"\\n\\u0000\xc3\xa9"'),
            ({"N": "1e3"}, b"1000"),
            (
                {"N": "12345678901234567890123456789012345678"},
                b"12345678901234567890123456789012345678",
            ),
            ({"N": "1E-20"}, b"0.00000000000000000001"),
            ({"B": "aGk="}, b'"aGk="'),
            ({"BOOL": True}, b"true"),
            ({"NULL": True}, b"null"),
            ({"SS": ["b", "a"]}, b'["a","b"]'),
            ({"NS": ["10", "9.50"]}, b"[9.5,10]"),
            ({"BS": ["aGk="]}, b'["aGk="]'),
            ({"L": [{"N": "1"}, {"L": []}]}, b"[1,[]]"),
            ({"M": {"S": {"S": "x"}, "a.b": {"M": {}}}}, b'{"S":"x","a.b":{}}'),
        ],
    )
    def test_each_tag(self, value, text):
        assert plain_value_json(value) == text
        assert plain_json({"a": value}) == b'{"a":' + text + b"}"

    @given(items)
    def test_is_json_with_all_digits(self, item):
        def expected(value):
            if isinstance(value, dict):
                return {name: expected(each) for name, each in value.items()}
            if isinstance(value, list):
                return [expected(each) for each in value]
            if isinstance(value, (str, bool, Decimal)) or value is None:
                return value
            return "lossy"

        def relaxed(found, wanted):
            if isinstance(wanted, dict):
                return found.keys() == wanted.keys() and all(
                    relaxed(found[name], wanted[name]) for name in wanted
                )
            if isinstance(wanted, list):
                return len(found) == len(wanted) and all(map(relaxed, found, wanted))
            return wanted == "lossy" or found == wanted

        parsed = json.loads(plain_json(item), parse_float=Decimal, parse_int=Decimal)
        assert relaxed(parsed, expected(decode_item(item)))


class TestCanonical:
    def test_golden(self):
        item = b'{"b" : {"NS":["3.0","10","3"]},'
        item += b'"a":{"M":{"z":{"SS":["y","x"]},"S":{"B":"aGk="}}}, "\\u00e9":{"N":"1E2"}}'
        assert canonical_json(item) == (
            '{"a":{"M":{"S":{"B":"aGk="},"z":{"SS":["x","y"]}}},"b":{"NS":["3","10"]},"é":{"N":"100"}}'.encode()
        )

    @given(items, st.randoms())
    def test_spelling_and_order_do_not_count(self, item, random):
        def respelled(value):
            ((tag, payload),) = value.items()
            if tag == "M":
                names = list(payload)
                random.shuffle(names)
                return {tag: {name: respelled(payload[name]) for name in names}}
            if tag == "L":
                return {tag: [respelled(each) for each in payload]}
            if tag in ("SS", "NS", "BS"):
                return {tag: random.sample(payload, len(payload))}
            if tag == "N":
                return {tag: f"{Decimal(payload):E}"}
            return value

        other = respelled({"M": item})["M"]
        assert canonical_json(other) == canonical_json(item)
        assert same_item(json.dumps(other), json.dumps(item, indent=1).encode())

    @given(wire_values, wire_values)
    def test_same_bytes_exactly_if_same_value(self, one, other):
        same = canonical_value_json(one) == canonical_value_json(other)
        assert same == (list(one) == list(other) and decode_value(one) == decode_value(other))
        assert same_item({"a": one}, {"a": other}) == same

    @given(items)
    def test_is_its_own_canonical_form(self, item):
        text = canonical_json(item)
        assert canonical_json(text) == text
        assert json.loads(text) == encode_item(decode_item(item))

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ({"a": {"S": "1"}}, {"a": {"N": "1"}}),
            ({"a": {"NULL": True}}, {}),
            ({"a": {"S": ""}}, {"a": {"B": ""}}),
            ({"a": {"SS": []}}, {"a": {"NS": []}}),
            ({"a": {"L": []}}, {"a": {"SS": []}}),
            ({"a": {"L": [{"N": "1"}, {"N": "2"}]}}, {"a": {"L": [{"N": "2"}, {"N": "1"}]}}),
            ({"a": {"N": "1"}}, {"a": {"BOOL": True}}),
            ({"a": {"S": "é"}}, {"a": {"S": "e\u0301"}}),
            ({"a": {"L": [{"N": "1"}]}}, {"a": {"L": [{"BOOL": True}]}}),
            ({}, None),
        ],
    )
    def test_types_count(self, one, other):
        assert not same_item(one, other)
        assert same_item(one, one)
        assert same_item(other, other)

    def test_what_is_no_item(self):
        for function in (plain_json, canonical_json):
            with pytest.raises(ValueDecodeError):
                function(b'{"a":{"N":"x"}}')
