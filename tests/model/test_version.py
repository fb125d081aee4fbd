# SPDX-License-Identifier: Apache-2.0
"""Versions: fixed width, byte order is the order, bad input refused by name."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.model.version import (
    VERSION_BYTES,
    constant_versions,
    decode_version,
    encode_version,
    encode_versions,
)

_VERSIONS = st.tuples(st.integers(0, 10**8 - 1), st.integers(0, 10**40 - 1))


@given(_VERSIONS)
def test_round_trip(version):
    encoded = encode_version(*version)
    assert len(encoded) == VERSION_BYTES
    assert decode_version(encoded) == version


@given(_VERSIONS, _VERSIONS)
def test_byte_order_is_the_order(one, other):
    assert (encode_version(*one) < encode_version(*other)) == (one < other)


@given(st.integers(1, 99), st.lists(st.integers(0, 10**40 - 1).map(str), max_size=5))
def test_many_at_once_are_the_same_as_one_by_one(generation, sequences):
    # A few are encoded one by one, many by Arrow.
    for more in ([], ["7"] * 100):
        many = encode_versions(generation, pa.array(sequences + more, pa.string()))
        assert many.type == pa.binary()
        assert many.to_pylist() == [encode_version(generation, each) for each in sequences + more]


def test_the_text_form_is_the_documented_one():
    assert encode_version(3, "1405400000000002063282832") == (
        b"00000003.0000000000000001405400000000002063282832"
    )


def test_numbers_of_different_length_sort_as_numbers():
    # As unpadded text the second would come first.
    parent, child = "20500000000000000910398", "820400000000000001192334"
    assert encode_version(1, parent) < encode_version(1, child)


def test_constant_versions():
    assert constant_versions(2, 3).to_pylist() == [encode_version(2, 0)] * 3


@pytest.mark.parametrize("bad", ["", "-1", "1.0", " 1", "1e3", "٣", "1" * 41])
def test_a_bad_sequence_number_is_refused(bad):
    with pytest.raises(ValueDecodeError, match="sequence number"):
        encode_version(1, bad)
    for good in (1, 100):
        with pytest.raises(ValueDecodeError, match="sequence number"):
            encode_versions(1, pa.array(["1"] * good + [bad]))


def test_a_missing_sequence_number_is_refused():
    with pytest.raises(ValueDecodeError, match="sequence number"):
        encode_versions(1, pa.array(["1", None]))


@pytest.mark.parametrize("bad", [-1, 10**8])
def test_a_bad_generation_is_refused(bad):
    with pytest.raises(ValueDecodeError, match="generation"):
        encode_version(bad, 1)


@pytest.mark.parametrize("bad", [b"", b"1.2", encode_version(1, 1)[:-1] + b"x"])
def test_bytes_that_are_no_version_are_refused(bad):
    with pytest.raises(ValueDecodeError, match="not an encoded version"):
        decode_version(bad)
