# SPDX-License-Identifier: Apache-2.0
"""Contract of the JSON engine: sees only its input, one connection per thread, order kept."""

from concurrent.futures import ThreadPoolExecutor

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given

from dynabeam.transforms.values.json_sql import query, quoted_name, quoted_text
from dynabeam.transforms.values.value_texts import extract_values, json_pointer

from .strategies import texts


def test_threads_do_not_meet():
    def work(number):
        images = pa.array([f'{{"a":{{"N":"{number}"}},"b":{at}}}' for at in range(500)])
        (found,) = extract_values(images, ["a"])
        return found.unique().to_pylist() == [f'{{"N":"{number}"}}']

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(100)))


def test_order_is_kept():
    numbers = pa.table({"n": list(range(300_000))})
    assert query("SELECT n FROM input", numbers).column("n").equals(numbers.column("n"))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "COPY (SELECT 1) TO 'leak.csv'",
        "ATTACH 'other.duckdb'",
        "SELECT * FROM secret",
    ],
)
def test_nothing_but_the_input_is_seen(sql):
    secret = pa.table({"a": [1]})
    with pytest.raises(duckdb.Error):
        query(sql, secret)
    assert query("SELECT a FROM input", secret).num_rows == 1


@given(texts)
def test_quoting(text):
    found = query(f"SELECT {quoted_text(text)} AS found FROM input", pa.table({"a": [1]}))
    assert found.column("found").to_pylist() == [text]


@given(texts.filter(lambda text: text and "\x00" not in text))
def test_quoted_names(text):
    found = query(f"SELECT a AS {quoted_name(text)} FROM input", pa.table({"a": [1]}))
    assert found.column_names == [text]


def test_pointers():
    assert json_pointer("a/b~c") == "/a~1b~0c"
