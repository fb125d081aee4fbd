# SPDX-License-Identifier: Apache-2.0
"""Ranges of partition keys: what is inside, for every type of key."""

import base64

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.model.key_range import LONGEST_BOUND, KeyRange
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema
from dynabeam.transforms.values.keys import encode_key

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-99, max_value=99)
BINARIES = st.binary(min_size=1, max_size=5)


def schema(kind, *, composite):
    return KeySchema(KeyAttribute("h", kind), KeyAttribute("r", "S") if composite else None)


def inside(text, keys, values):
    found = KeyRange.of(text, keys)
    items = [{"h": {keys.hash.type: each}, "r": {"S": "x"}} for each in values]
    encoded = pa.array([encode_key(each, keys) for each in items], pa.binary())
    return found.holds(encoded).to_pylist()


def quoted(text):
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    for code in range(32):
        escaped = escaped.replace(chr(code), f"\\u{code:04x}")
    return f'"{escaped}"'


@given(st.booleans(), TEXTS, TEXTS, st.lists(TEXTS, min_size=1))
def test_texts_are_in_order_of_their_bytes(composite, one, other, values):
    low, high = sorted((one, other), key=str.encode)
    # The ends too, and what only just is none of them any more.
    values = [*values, low, high, f"{high}\x00", f"{low}\x00", high[:-1] or "a"]
    expected = [low.encode() <= each.encode() <= high.encode() for each in values]
    text = f"{quoted(low)}..{quoted(high)}"
    assert inside(text, schema("S", composite=composite), values) == expected


@given(st.booleans(), BINARIES, BINARIES, st.lists(BINARIES, min_size=1))
def test_binaries_are_in_order_of_their_bytes(composite, one, other, values):
    low, high = sorted((one, other))
    values = [*values, low, high, high + b"\x00"]
    expected = [low <= each <= high for each in values]
    text, *given_values = (
        f"{base64.b64encode(low).decode()}..{base64.b64encode(high).decode()}",
        *(base64.b64encode(each).decode() for each in values),
    )
    assert inside(text, schema("B", composite=composite), given_values) == expected


@given(st.booleans(), NUMBERS, NUMBERS, st.lists(NUMBERS, min_size=1))
def test_numbers_are_in_order_of_their_value(composite, one, other, values):
    low, high = sorted((one, other))
    values = [*values, low, high]
    expected = [low <= each <= high for each in values]
    texts = [f"{each:f}" for each in values]
    assert inside(f"{low}..{high}", schema("N", composite=composite), texts) == expected


def test_numbers_are_exact():
    digits = "1234567890123456789012345678901234567"
    values = [f"{digits}{last}" for last in "789"]
    found = inside(f"{digits}8..", schema("N", composite=False), values)
    assert found == [False, True, True]


@pytest.mark.parametrize(
    ("text", "expected"), [("b..", [False, True, True]), ("..b", [True, True, False])]
)
@pytest.mark.parametrize("composite", [True, False])
def test_an_end_may_be_open(text, expected, composite):
    assert inside(text, schema("S", composite=composite), ["a", "b", "c"]) == expected
    numbers = text.replace("b", "2")
    assert inside(numbers, schema("N", composite=composite), ["-1", "2", "10"]) == expected


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("S", "..", "not a range"),
        ("S", "", "not a range"),
        ("S", "a", "not a range"),
        ("S", "b..a", "empty"),
        ("S", '"a..b', "not a range"),
        ("S", f"{'x' * LONGEST_BOUND}..", f"longer than {LONGEST_BOUND} bytes"),
        ("N", "2..x", "'x' is none"),
        ("N", "10..9", "empty"),
        ("B", "a..", "'a' is not base64"),
    ],
)
def test_what_is_no_range(kind, text, says):
    with pytest.raises(ConfigurationError, match=says) as caught:
        KeyRange.of(text, schema(kind, composite=False))
    assert "--key_range" in str(caught.value)
    assert "--key_range=alice..bob" in str(caught.value)
