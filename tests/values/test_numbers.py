# SPDX-License-Identifier: Apache-2.0
"""Contract of canonical numbers: one spelling per number, exact, within the service's limits."""

import decimal
import re

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.values import numbers
from dynabeam.transforms.values.numbers import normalise_number, normalise_numbers

from .strategies import number_texts


def normalised(texts, **options):
    """A column normalised both ways, the one for few rows and the one for many, which agree."""
    column = pa.array(texts, pa.string())
    many = pa.concat_arrays([column, pa.nulls(numbers._FEW + 1, pa.string())])
    found = normalise_numbers(many, **options)[: len(column)]
    assert normalise_numbers(column, **options).equals(found)
    return found.to_pylist()


# What the service answers was observed by others' tests against AWS: design facts on values.
CASES = [
    ("007", "7"),
    ("+3", "3"),
    ("1.10", "1.1"),
    ("100.000", "100"),
    (".5", "0.5"),
    ("1e3", "1000"),
    ("1.0e-1", "0.1"),
    ("-0", "0"),
    ("0e5", "0"),
    ("0.0e126", "0"),
    ("1e20", "1" + "0" * 20),
    ("1E+125", "1" + "0" * 125),
    ("1e-20", "0.00000000000000000001"),
    ("1e-130", "0." + "0" * 129 + "1"),
    ("-00.50", "-0.5"),
    ("5.", "5"),
    ("9" * 38, "9" * 38),
    ("-" + "9" * 38 + "e88", "-" + "9" * 38 + "0" * 88),
    ("0." + "1" * 38, "0." + "1" * 38),
    ("1" + "0" * 60, "1" + "0" * 60),
    ("0.000", "0"),
    ("1000.0", "1000"),
    ("001000", "1000"),
    ("+1000", "1000"),
    ("0e99999999999999", "0"),
]

REFUSED = [
    "",
    " ",
    " 1",
    "1 ",
    "1\n",
    "NaN",
    "Infinity",
    "-inf",
    "1,5",
    "0x10",
    "1e",
    "e5",
    ".",
    "-",
    "+",
    "--1",
    "1_000",
    "\u0661",
    "1" * 39,
    "1." + "1" * 38,
    "1e126",
    "1e-131",
    "-1e126",
    "1e99999999999999",
    "1e" + "9" * 5000,
    "1.2.3",
    "1e1.5",
]


@pytest.mark.parametrize(("text", "canonical"), CASES)
def test_canonical_form(text, canonical):
    assert normalise_number(text) == canonical
    assert normalise_number(canonical) == canonical
    assert normalised([text]) == [canonical]


@pytest.mark.parametrize("text", REFUSED)
def test_impossible_numbers_are_refused(text):
    with pytest.raises(ValueDecodeError):
        normalise_number(text)
    for nulls in (1, numbers._FEW):
        with pytest.raises(ValueDecodeError):
            normalise_numbers(pa.array(["1", *[None] * nulls, text]))
    assert normalised(["01", None, text], invalid="null") == ["1", None, None]


@pytest.mark.parametrize("value", [None, 1, 1.5, b"1", decimal.Decimal(1)])
def test_only_text_is_a_number(value):
    with pytest.raises(ValueDecodeError):
        normalise_number(value)


@given(number_texts())
@example("1" + "0" * 125)
def test_value_is_kept_exactly_and_form_is_plain(text):
    canonical = normalise_number(text)
    context = decimal.Context(prec=400, traps=[decimal.Inexact, decimal.Rounded])
    assert context.compare(decimal.Decimal(text), decimal.Decimal(canonical)) == 0
    assert re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]*[1-9])?", canonical)
    assert canonical != "-0"


@given(st.lists(st.one_of(st.none(), number_texts())), st.integers(0, 3))
def test_a_column_is_its_rows(texts, skip):
    column = pa.array(texts, pa.string())[skip:]
    expected = [None if text is None else normalise_number(text) for text in texts[skip:]]
    assert normalise_numbers(column).to_pylist() == expected
    assert normalised(texts[skip:]) == expected
    assert normalise_numbers(pa.chunked_array([column, column])).to_pylist() == expected * 2


def test_a_canonical_column_passes_untouched():
    for times in (1, numbers._FEW):
        column = pa.array(["0", "-1", "12.5", None, "-0.001"] * times)
        assert normalise_numbers(column) is column


def test_error_names_the_number():
    with pytest.raises(ValueDecodeError, match="1e126"):
        normalise_number("1e126")
