# SPDX-License-Identifier: Apache-2.0
"""Contract of byte columns: slices, nulls with hidden bytes, large columns."""

import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.values.byte_columns import offsets_and_bytes, trimmed, without_first_byte

rows = st.lists(st.one_of(st.none(), st.binary(min_size=3, max_size=6)))


@given(rows, st.integers(0, 3), st.sampled_from([(1, 1), (2, 1), (0, 3), (1, 2)]))
def test_trimmed(values, skip, ends):
    front, back = ends
    array = pa.array(values, pa.binary())[skip:]
    cut = trimmed(array, front, back)
    cut.validate(full=True)
    expected = [None if each is None else each[front : len(each) - back] for each in values[skip:]]
    assert cut.to_pylist() == expected


@given(st.lists(st.one_of(st.none(), st.binary(max_size=4))), st.integers(0, 3))
def test_without_first_byte(values, skip):
    array = pa.array(values, pa.binary())[skip:]
    first, rest = without_first_byte(array)
    rest.validate(full=True)
    assert bytes(first) == b"".join(each[:1] for each in values[skip:] if each)
    assert rest.to_pylist() == [None if each is None else each[1:] for each in values[skip:]]


@given(rows, st.integers(0, 3))
def test_offsets_and_bytes(values, skip):
    array = pa.array(values, pa.binary())[skip:]
    offsets, data = offsets_and_bytes(array)
    assert len(offsets) == len(array) + 1
    for at, each in enumerate(values[skip:]):
        assert bytes(data[offsets[at] : offsets[at + 1]]) == (each or b"")


def test_nulls_may_hide_bytes():
    texts = pa.array(['{"a"}', "x", "", '{""}'] * 100)
    masked = pc.if_else(pc.starts_with(texts, pattern="{"), texts, None)
    assert trimmed(masked, 2, 2).to_pylist()[:4] == [b"a", None, None, b""]
    assert without_first_byte(masked)[1].to_pylist()[:4] == [b'"a"}', None, None, b'""}']


def test_large_columns():
    array = pa.array([str(at).encode() for at in range(1_000_000, 2_000_000)])
    assert trimmed(array, 1, 1)[-1].as_py() == b"99999"
    assert without_first_byte(array)[1][-1].as_py() == b"999999"
