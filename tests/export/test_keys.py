# SPDX-License-Identifier: Apache-2.0
"""Contract of key schemas: from `--keys` and the first items, or an error that lists candidates."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.errors import ConfigurationError, ExportError, ExportIntegrityError
from dynabeam.transforms.export.keys import find_keys, parse_keys
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema
from tests.export.builders import (
    SAMPLE,
    manifest_of,
    write_full,
    write_incremental,
)


class TestOption:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("S3ExportTest:id", ("id",)),
            ("orders:customer,order_no", ("customer", "order_no")),
            ("orders:customer, order_no", ("customer", "order_no")),
            ('orders:"name, first","a\\"b"', ("name, first", 'a"b')),
            ('orders:a,"b,c"', ("a", "b,c")),
            ("orders:a:b", ("a:b",)),
            ('orders:"\\u00e4"', ("ä",)),
        ],
    )
    def test_forms(self, value, expected):
        assert list(parse_keys([value]).values()) == [expected]

    def test_several_tables(self):
        assert parse_keys(["a:x", "b:y,z"]) == {"a": ("x",), "b": ("y", "z")}

    @pytest.mark.parametrize(
        "value",
        ["", "orders", "orders:", ":id", "o:a,b,c", "o:a,", "o:,a", 'o:"a', 'o:"a"b', 'o:""'],
    )
    def test_what_is_none(self, value):
        with pytest.raises(ConfigurationError, match=r"--keys: .*Write --keys=table:hash"):
            parse_keys([value])

    def test_a_table_twice(self):
        with pytest.raises(ConfigurationError, match="given twice"):
            parse_keys(["a:x", "a:y"])

    @given(st.text(min_size=1), st.text(min_size=1))
    def test_any_names_as_json_strings(self, first, second):
        value = f"t:{json.dumps(first)},{json.dumps(second)}"
        assert parse_keys([value]) == {"t": (first, second)}


class TestFinding:
    def test_types_from_the_first_items(self, tmp_path):
        item = {"h": {"B": "aGk="}, "r": {"N": "1"}, "x": {"S": "a"}, "m": {"M": {}}}
        write_full(tmp_path, items=[item])
        manifest = manifest_of(tmp_path)
        assert find_keys(manifest, given={"orders": ("h", "r")}) == KeySchema(
            KeyAttribute("h", "B"), KeyAttribute("r", "N")
        )

    def test_the_real_sample(self):
        manifest = manifest_of(SAMPLE)
        given = parse_keys(["S3ExportTest:id"])
        assert find_keys(manifest, given=given) == KeySchema(KeyAttribute("id", "S"))

    def test_without_any_hint_the_candidates_are_listed(self, tmp_path):
        rows = [
            {"id": {"S": "a"}, "n": {"N": "1"}, "mixed": {"S": "1"}, "l": {"L": []}},
            {"id": {"S": "b"}, "n": {"N": "2"}, "mixed": {"N": "1"}, "l": {"L": []}},
            {"id": {"S": "c"}, "n": {"N": "2"}, "rare": {"S": "x"}, "l": {"L": []}},
        ]
        write_full(tmp_path, items=rows, files=1)
        with pytest.raises(
            ConfigurationError,
            match=r"\(3\).*could be it: id \(S\), n \(N\)\. Give --keys=orders:hash",
        ):
            find_keys(manifest_of(tmp_path))
        with pytest.raises(ConfigurationError, match="could be it: id"):
            find_keys(manifest_of(tmp_path), given={"customers": ("id",)})

    def test_a_name_that_cannot_be_the_key(self, tmp_path):
        write_full(tmp_path)
        with pytest.raises(ConfigurationError, match=r"--keys=orders:idd: .*'idd'.*id \(S\)"):
            find_keys(manifest_of(tmp_path), given={"orders": ("idd",)})

    def test_ion(self, tmp_path):
        write_full(tmp_path, export_format="ION")
        found = find_keys(manifest_of(tmp_path), given={"orders": ("id", "n")})
        assert found == KeySchema(KeyAttribute("id", "S"), KeyAttribute("n", "N"))

    @pytest.mark.parametrize("wrapped", [False, True])
    def test_an_incremental_export_names_the_key_attributes(self, tmp_path, wrapped):
        write_incremental(tmp_path, export_format="ION", ion_record_wrapper=wrapped)
        with pytest.raises(ConfigurationError, match=r"could be it: id \(S\)\."):
            find_keys(manifest_of(tmp_path))

    def test_no_items(self, tmp_path):
        write_full(tmp_path, 0)
        with pytest.raises(ExportError, match="no items, so the types"):
            find_keys(manifest_of(tmp_path), given={"orders": ("id",)})

    @pytest.mark.parametrize("line", [b"no json\n", b"[]\n", b'{"Other":{}}\n', b'{"Item":1}\n'])
    def test_files_that_hold_something_else(self, tmp_path, line):
        written = write_full(tmp_path, lines=[line], empty_files=0)
        with pytest.raises(ExportIntegrityError, match=Path(written.data_keys[0]).name):
            find_keys(manifest_of(tmp_path))
