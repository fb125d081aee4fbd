# SPDX-License-Identifier: Apache-2.0
"""Contract of written Ion: the guide's spellings, one line, exact, and read back the same."""

import json
from decimal import Decimal

import pytest
from hypothesis import given

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.testing.ion_text import (
    ion_number,
    ion_string,
    ion_struct,
    ion_symbol,
    ion_value,
)
from dynabeam.transforms.values.ion_text import ion_line_to_json
from tests.testing.export_files import without_order
from tests.values.strategies import items, number_texts, texts


class TestSpellings:
    @pytest.mark.parametrize(
        ("number", "ion"),
        [
            ("103", "103."),
            ("600", "6d2"),
            ("2000", "2d3"),
            ("0", "0."),
            ("-0", "0."),
            ("0.00", "0."),
            ("-1.5", "-1.5"),
            ("1.10", "1.1"),
            ("0.001", "0.001"),
            ("0.000001", "0.000001"),
            ("0.0000001", "1d-7"),
            ("12.345", "12.345"),
            ("1" + "0" * 125, "1d125"),
            ("12345678901234567890123456789012345678", "12345678901234567890123456789012345678."),
        ],
    )
    def test_numbers(self, number, ion):
        assert ion_number(number) == ion

    @pytest.mark.parametrize(
        ("name", "ion"),
        [
            ("plain_1", "plain_1"),
            ("with space", "'with space'"),
            ("1st", "'1st'"),
            ("null", "'null'"),
            ("true", "'true'"),
            ("nan", "'nan'"),
            ("$10", "'$10'"),
            ("it's", "'it\\'s'"),
            ("a.b", "'a.b'"),
            ("é", "'é'"),
            ("a\n", "'a\\n'"),
        ],
    )
    def test_names(self, name, ion):
        assert ion_symbol(name) == ion

    def test_strings(self):
        assert ion_string('a"b\\c\nd\x00e\x7f') == r'"a\"b\\c\nd\x00e\x7f"'
        assert ion_string("ünï ☃ 😀 it's") == '"ünï ☃ 😀 it\'s"'

    @pytest.mark.parametrize(
        ("value", "ion"),
        [
            ({"BOOL": True}, "true"),
            ({"BOOL": False}, "false"),
            ({"NULL": True}, "null"),
            ({"B": "aGVsbG8="}, "{{aGVsbG8=}}"),
            ({"B": ""}, "{{}}"),
            ({"SS": ["a", "b"]}, '$dynamodb_SS::["a","b"]'),
            ({"NS": ["3", "20"]}, "$dynamodb_NS::[3.,2d1]"),
            ({"BS": ["aGk="]}, "$dynamodb_BS::[{{aGk=}}]"),
            ({"L": [{"N": "1"}, {"L": []}]}, "[1.,[]]"),
            ({"M": {"S": {"S": "x"}, "m": {"M": {}}}}, '{S:"x",m:{}}'),
        ],
    )
    def test_values(self, value, ion):
        assert ion_value(value) == ion


class TestRefusals:
    @pytest.mark.parametrize("number", ["", "x", "NaN", "Infinity", "1 2"])
    def test_what_is_no_number(self, number):
        with pytest.raises(ValueDecodeError, match="number"):
            ion_number(number)

    @pytest.mark.parametrize("value", [{}, {"S": "a", "N": "1"}, {"X": "1"}])
    def test_what_is_no_value(self, value):
        with pytest.raises(ValueDecodeError, match="type tag"):
            ion_value(value)


class TestReadBack:
    @given(items)
    def test_an_item_is_read_as_it_was(self, item):
        line = "$ion_1_0 {Item:" + ion_struct(item) + "}"
        assert "\n" not in line
        read = json.loads(ion_line_to_json(line.encode()))["Item"]
        assert _canonical(read) == _canonical(item)

    @given(number_texts())
    def test_a_number_keeps_its_value(self, number):
        # Ion's `d` is Python's `e`; building a Decimal from text never rounds.
        assert Decimal(ion_number(number).replace("d", "e")) == Decimal(number)

    @given(texts)
    def test_a_string_stays_on_its_line(self, text):
        assert not {"\n", "\r", "\0"} & set(ion_string(text))


def _canonical(value):
    """Numbers by value and sets sorted, so that only meaning is compared."""
    if isinstance(value, list):
        return [_canonical(member) for member in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((tag, content),) = value.items()
        if tag == "N" and isinstance(content, str):
            return {"N": ion_number(content)}
        if tag == "NS" and isinstance(content, list):
            return {"NS": sorted(map(ion_number, content))}
    return without_order({name: _canonical(content) for name, content in value.items()})
