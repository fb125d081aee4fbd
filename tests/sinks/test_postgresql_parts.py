# SPDX-License-Identifier: Apache-2.0
"""The parts of the PostgreSQL mirror that need no server: URIs, names, values."""

import csv
import io
import json
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.sinks.postgresql.names import (
    MAX_BYTES,
    column_name,
    relation_name,
    rows_name,
)
from dynabeam.transforms.sinks.postgresql.values import (
    KEY_BYTES,
    copy_text,
    index_keys,
    json_rows,
    set_aside,
)
from dynabeam.transforms.sinks.registry import RunnerFacts, check_capabilities, open_sink
from tests.values.strategies import items, names, texts


def parameters(uri):
    return dict(open_sink(uri)._settings.parameters)


class TestUris:
    @pytest.mark.parametrize(
        ("uri", "expected"),
        [
            ("postgresql://u@h:1/d", {"user": "u", "host": "h", "port": "1", "dbname": "d"}),
            ("postgres://h/d", {"host": "h", "port": "5432", "dbname": "d"}),
            ("postgresql:///d?host=/run/pg", {"host": "/run/pg", "dbname": "d"}),
            ("postgresql://a,b:7/d", {"host": "a,b", "port": "5432,7"}),
            ("postgresql://[::1]:5/d", {"host": "::1", "port": "5"}),
            ("postgresql://u%40x:${env:A}@h/d", {"user": "u@x", "password": "${env:A}"}),
            ("postgresql://u:${file:%2Frun%2Fs}@h/d", {"password": "${file:/run/s}"}),
            ("postgresql://h/d?sslmode=verify-full", {"sslmode": "verify-full"}),
            ("postgresql://h/d?connect_timeout=3", {"connect_timeout": "3"}),
        ],
    )
    def test_become_parameters_of_libpq(self, uri, expected):
        found = parameters(uri)
        assert {name: found.get(name) for name in expected} == expected

    @pytest.mark.parametrize(
        ("uri", "said"),
        [
            ("postgresql://h/d?layuot=packed", "layuot"),
            ("postgresql://h/d?numbers=float", "numeric | decimal"),
            ("postgresql://h/d?schema=a-b", "letters"),
            ("postgresql://h/d?schema=pg_mine", "pg_"),
            ("postgresql://h/d?tombstone_days=0", "tombstone_days"),
            ("postgresql://h/d?retry_seconds=soon", "retry_seconds"),
            ("postgresql://h:port/d", "host and port"),
        ],
    )
    def test_wrong_options_are_refused(self, uri, said):
        with pytest.raises(ConfigurationError) as caught:
            open_sink(uri)
        assert said in str(caught.value)
        assert uri in str(caught.value)

    def test_two_names_of_one_place(self):
        facts = RunnerFacts("any", continuous=True, shares_disk=False)
        two = [open_sink("postgres://u@h/d"), open_sink("postgresql://v@h:5432/d?layout=packed")]
        with pytest.raises(ConfigurationError, match="one place"):
            check_capabilities(two, facts)
        check_capabilities([two[0], open_sink("postgres://h/d?schema=other")], facts)


class TestNames:
    @given(st.lists(st.text(min_size=1, max_size=100), unique=True))
    def test_are_short_and_different(self, given_names):
        for short in (column_name, relation_name):
            found = [short(name) for name in given_names]
            assert len(set(found)) == len(found)
            assert all(len(each.encode()) <= MAX_BYTES for each in found)

    @given(st.text(min_size=64, max_size=90))
    def test_a_shortened_name_is_nobody_elses(self, name):
        short = column_name(name)
        assert short.startswith(name[:7])
        if len(name.encode()) > MAX_BYTES:
            assert column_name(short) not in (short, name)

    def test_of_dynamodb_stay(self):
        assert relation_name("Orders.v2-x_1") == "Orders.v2-x_1"
        assert len(rows_name(relation_name("t" * 255))) == MAX_BYTES
        assert "$" not in relation_name("orders$rows")


class TestValues:
    @given(st.lists(items, max_size=4), st.booleans())
    def test_what_is_set_aside_and_what_is_not_are_the_item(self, images, whole):
        column = pa.array([json.dumps(each).encode() for each in images] + [None], pa.binary())
        kept, aside = set_aside(column, whole=whole)
        assert kept[-1].as_py() is None is aside[-1].as_py()
        rows = zip(images, kept.to_pylist(), aside.to_pylist(), strict=False)
        for image, stays, goes in rows:
            parts = json.loads(stays or b"{}"), json.loads(goes or b"{}")
            assert not parts[0].keys() & parts[1].keys()
            assert parts[0] | parts[1] == image
            has_nul = {
                name: "\\u0000" in json.dumps([name, value]).replace("\\\\", "")
                for name, value in image.items()
            }
            if whole:
                assert (stays is None) == any(has_nul.values())
            else:
                assert parts[1].keys() == {name for name, nul in has_nul.items() if nul}

    @given(st.lists(st.one_of(st.none(), texts), min_size=1), st.lists(st.binary(), min_size=1))
    def test_copy_text_is_csv(self, words, data):
        count = min(len(words), len(data))
        table = pa.table({"t": words[:count], "b": pa.array(data[:count], pa.binary())})
        text = copy_text(table.cast(pa.schema([("t", pa.string()), ("b", pa.binary())]))).decode()
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
        assert rows == [
            [word or "", "\\x" + each.hex()]
            for word, each in zip(words[:count], data[:count], strict=True)
        ]
        # An empty text is quoted, a null is not.
        assert copy_text(pa.table({"t": pa.array(["", None])})) == b'""\n\n'

    @given(st.lists(st.lists(names), min_size=1))
    def test_lists_are_array_texts(self, lists):
        column = pa.array([*lists, None, []], pa.list_(pa.string()))
        text = copy_text(pa.table({"a": column, "x": pa.array([True] * len(column))})).decode()
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
        assert [row[0] for row in rows[-2:]] == ["", "{}"]
        for members, (cell, _) in zip(lists, rows, strict=False):
            escaped = [each.replace("\\", "\\\\").replace('"', '\\"') for each in members]
            assert cell == "{" + ",".join(f'"{each}"' for each in escaped) + "}"

    def test_json_rows_are_objects_by_place(self):
        table = pa.table(
            {
                "t": ['\x1f\\"é', None],
                "b": pa.array([b"\x00\xff", None]),
                "bs": pa.array([[b"", b"a"], None]),
                "n": pa.array([Decimal("0.000000001"), Decimal("-1")], pa.decimal128(38, 9)),
                "ns": pa.array([[Decimal("1.50")], []], pa.list_(pa.decimal128(5, 2))),
                "when": pa.array([7, 0], pa.timestamp("us", "UTC")),
                "flag": [True, False],
            }
        )
        assert json.loads(json_rows(table)) == [
            {
                "c0": '\x1f\\"é',
                "c1": "\\x00ff",
                "c2": ["\\x", "\\x61"],
                "c3": "1E-9",
                "c4": ["1.50"],
                "c5": "1970-01-01T00:00:00.000007Z",
                "c6": True,
            },
            {
                **dict.fromkeys(["c0", "c1", "c2"]),
                "c3": "-1.000000000",
                "c4": [],
                "c5": "1970-01-01T00:00:00Z",
                "c6": False,
            },
        ]

    def test_long_keys_are_cut_to_different_ones(self):
        begin = b"S" + b"x" * KEY_BYTES
        keys = [begin[:KEY_BYTES], begin, begin + b"a", begin + b"b", b"S"]
        found = index_keys(pa.array(keys, pa.binary())).to_pylist()
        assert found[0] == keys[0]
        assert found[-1] == b"S"
        assert len(set(found)) == len(keys)
        assert {len(each) for each in found[1:-1]} == {KEY_BYTES + 32}
