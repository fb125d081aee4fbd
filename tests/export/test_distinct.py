# SPDX-License-Identifier: Apache-2.0
"""Contract of distinct keys: what is there again is found, and what would be unique is told."""

import json
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.errors import ExportIntegrityError
from dynabeam.transforms.export import distinct
from dynabeam.transforms.export.distinct import (
    check_piece,
    count_repeated,
    digests_of,
    keys_option,
    read_digests,
    repeated_in,
    unique_names,
    write_digests,
)
from dynabeam.transforms.export.keys import parse_keys
from tests.export.builders import TABLE


@given(st.lists(st.binary(max_size=6), max_size=200))
def test_repeated_are_counted_exactly(keys):
    digests = digests_of(pa.array(keys, pa.binary()))
    assert repeated_in(digests) == len(keys) - len(set(keys))


def test_one_hash_alone_makes_no_key_a_repeat():
    digests = np.array([[1, 5], [1, 6], [1, 5], [2, 5]], np.uint64)
    assert repeated_in(digests) == 1


@pytest.mark.parametrize("at_once", [1000, 4_000_000])
@pytest.mark.parametrize("again", [0, 1, 37])
def test_over_files_and_ranges(tmp_path, monkeypatch, at_once, again):
    monkeypatch.setattr(distinct, "_MERGED_AT_ONCE", at_once)
    keys = [b"k%d" % n for n in range(10_000)] + [b"k%d" % n for n in range(again)]
    random.Random(1).shuffle(keys)
    paths = [
        write_digests(str(tmp_path), [digests_of(pa.array(keys[n::7], pa.binary()))])
        for n in range(7)
    ]
    paths.append(write_digests(str(tmp_path), []))
    assert count_repeated(paths) == (10_000 + again, again)
    assert len(read_digests(paths[0])) == len(keys[0::7])


def test_a_piece_names_file_key_and_what_would_be_unique():
    items = [
        {"id": {"S": f"c{n % 2}"}, "no": {"N": str(n)}, "day": {"S": "x"}, "ok": {"BOOL": True}}
        for n in range(6)
    ]
    images = pa.array([json.dumps(each).encode() for each in items], pa.binary())
    keys = pa.array([f"Sc{n % 2}".encode() for n in range(6)], pa.binary())
    with pytest.raises(ExportIntegrityError) as refused:
        check_piece(keys, images, TABLE, "/x/f.gz")
    text = str(refused.value)
    for part in ("/x/f.gz", "'id'", "6 lines and 2 keys", "id=c0", "--keys=orders:no", "damaged"):
        assert part in text


class TestUnique:
    def test_pairs_if_no_attribute_is_unique(self):
        items = [
            json.dumps({"a": {"S": str(n % 3)}, "b": {"N": str(n // 3)}, "c": {"S": "x"}}).encode()
            for n in range(9)
        ]
        assert unique_names(items) == [("a", "b")]

    def test_nothing_to_go_by(self):
        assert unique_names([]) == []
        assert unique_names([b"no json", b"[]"]) == []

    @given(
        st.lists(
            st.text(st.characters(codec="utf-8"), min_size=1, max_size=8),
            min_size=1,
            max_size=2,
            unique=True,
        )
    )
    def test_what_is_suggested_is_understood(self, names):
        assert parse_keys([f"orders:{keys_option(names)}"]) == {"orders": tuple(names)}
