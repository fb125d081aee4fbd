# SPDX-License-Identifier: Apache-2.0
"""Contract of base64 columns: exactly padded standard base64, however many rows there are."""

import base64

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.values import base64_columns
from dynabeam.transforms.values.base64_columns import decode_base64

ODD = ["aGk", "aG k=", "_-==", "é", "====", "ab=c", "AA=A", "AAAA====", "aGk=aGk=", "aGk=\n"]


def decoded(texts):
    """Decoded both ways, which agree."""
    column = pa.array(texts, pa.string())
    found = decode_base64(column)
    rows = base64_columns._FEW_ROWS
    many = pa.concat_arrays([column, pa.nulls(rows + 1, pa.string())])
    assert found.type == pa.binary()
    assert decode_base64(many)[: len(found)].equals(found)
    return found.to_pylist()


def test_what_is_base64_and_what_is_not():
    assert decoded(["aGk=", "", None, *ODD]) == [b"hi", b"", *[None] * (1 + len(ODD))]
    # Bits that say nothing are passed over, as most decoders do.
    assert decoded(["aGl="]) == [b"hi"]
    assert decoded([]) == []


@given(st.lists(st.one_of(st.none(), st.text("AQab09+/=_ \né\x00", max_size=9))))
def test_both_ways_agree(texts):
    decoded(texts)


@given(st.lists(st.binary()))
def test_bytes_come_back(data):
    assert decoded([base64.b64encode(each).decode() for each in data]) == data
