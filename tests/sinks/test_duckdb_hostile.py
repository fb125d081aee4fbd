# SPDX-License-Identifier: Apache-2.0
"""A DuckDB mirror of items that somebody chose to be hard to store: exact, in bounded memory."""

import json
import subprocess
import sys
import unicodedata

import duckdb
import pytest

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.sinks.duckdb import rows as duckdb_rows
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.values.column_bounds import MAX_COLUMNS, MAX_NAME_BYTES, MAX_NAMES_BYTES
from tests.sinks.changes import NO_ROUND, Change, blocks, newest, only_block, round_number, table
from tests.sinks.hostile_writer import CASES
from tests.sinks.targets import Target, read_back, run_round

ORDERS = table()
TARGET = Target("duckdb:///FOLDER/m.duckdb")
PEAK_MIB = 1200
# The key's and the others that have a column.
COLUMNS = {
    "names-255": 1 + (MAX_NAMES_BYTES - len("id")) // 255,
    "names-10000": 1,
    "names-65000": 1,
    "many-attributes": MAX_COLUMNS,
    "ever-new-names": MAX_COLUMNS,
    "null-names": 1,
}


@pytest.mark.parametrize("case", CASES)
def test_exact_in_bounded_memory(case, tmp_path):
    """With the sink's defaults, in a process that may have 4 GiB of addresses."""
    command = [sys.executable, "-m", "tests.sinks.hostile_writer", case, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    rows = sum(1 for _ in CASES[case]())
    assert (found["rows"], found["exact"]) == (rows, rows)
    assert found["columns"] == COLUMNS.get(case, 2)
    assert found["peak"] < PEAK_MIB


@pytest.fixture
def sink(tmp_path):
    return TARGET.open(tmp_path)


def columns_of(sink):
    with sink.connect() as connection:
        return [name for name, *_ in connection.sql("DESCRIBE orders").fetchall()]


def item(key, **attributes):
    return {"id": {"S": key}, **attributes}


CASE_PAIRS = [
    *[("Name", "nAME"), ("é", "É"), ("e\u0301", "E\u0301"), ("ß", "SS"), ("ß", "ẞ")],
    *[
        ("İ", "i"),
        ("I", "\u0131"),
        ("\u212a", "k"),
        ("\u017f", "s"),
        ("Σ", "ς"),
        ("ǅ", "ǆ"),
        ("ﬀ", "FF"),
    ],
    *[("é", "e\u0301"), ("\u00c5", "\u212b"), ("\uff4b", "k"), ("a", "a\u200b"), ("a", "a ")],
]
NAMES = [
    *["", " ", "\0", "a\0b", "\n", "a\nb", "\r\n", "\t", '"', '""', "'", "`", ";--", "a.b", "[0]"],
    *[
        "*",
        "?",
        "$1",
        "%s",
        "{}",
        "\\",
        "\\u0041",
        "\ufeff",
        "\u202e",
        "\u2028",
        "😀",
        "\U0010ffff",
    ],
    *["_version", "_VERSION", "_key", "_key_hash", "_Key_Hash", "_op", "_other", "_deleted"],
    *["rowid", "ROWID", "id", "ID", "orders", "piece", "b", "i", "stored", "place", "incoming"],
    *["select", "from", "excluded", "main", "x" * 255, "x" * 256, "é" * 127 + "x", "é" * 128],
]


class TestNames:
    @pytest.mark.parametrize("pair", CASE_PAIRS, ids=ascii)
    def test_names_that_may_be_taken_for_one(self, sink, tmp_path, pair):
        changes = [
            Change(1, item("a", **{pair[0]: {"S": "1"}})),
            Change(2, item("b", **{pair[1]: {"S": "2"}})),
            Change(3, item("c", **{pair[0]: {"S": "3"}, pair[1]: {"S": "4"}})),
        ]
        run_round(sink, [ORDERS], blocks(ORDERS, changes), round_number(1), NO_ROUND)
        assert read_back(TARGET, sink, [ORDERS])["orders"] == newest(ORDERS, changes)
        assert pair[0] in columns_of(sink)

    @pytest.mark.parametrize("many", [False, True], ids=["few", "many"])
    def test_any_name(self, sink, many, no_rows_are_few):
        if many:
            no_rows_are_few()
        names = [name for name in NAMES if name != "id"]
        changes = [
            Change(at + 1, item(f"k{at}", **{name: {"S": name}})) for at, name in enumerate(names)
        ]
        changes.append(Change(999, item("all", **{name: {"N": "1"} for name in names})))
        run_round(sink, [ORDERS], blocks(ORDERS, changes), round_number(1), NO_ROUND)
        assert read_back(TARGET, sink, [ORDERS])["orders"] == newest(ORDERS, changes)

    def test_the_longest_name_of_a_column(self, sink):
        fit, too_long = "é" * 127 + "x", "é" * 128
        assert (len(fit.encode()), len(too_long.encode())) == (MAX_NAME_BYTES, MAX_NAME_BYTES + 1)
        changes = [Change(1, item("a", **{fit: {"S": "1"}, too_long: {"S": "2"}}))]
        run_round(sink, [ORDERS], blocks(ORDERS, changes), round_number(1), NO_ROUND)
        with sink.connect() as connection:
            (row,) = connection.sql(f'SELECT "{fit}", _other FROM orders').fetchall()
        assert row == ("1", f'{{"{too_long}":{{"S":"2"}}}}')

    def test_no_two_letters_are_one_to_duckdb_that_are_two_here(self):
        """`RowLayout` compares names by `str.lower`; DuckDB must not find more of them equal."""
        letters = [chr(code) for code in range(0x20, 0x30000) if not 0xD800 <= code < 0xE000]
        folded = list(dict.fromkeys(each.lower() for each in letters))
        composed = [each for each in folded if unicodedata.normalize("NFD", each) != each] + [
            unicodedata.normalize("NFD", each) for each in folded
        ]
        names = list(dict.fromkeys([*composed, *(each for each in folded if each.islower())]))
        with duckdb.connect() as connection:
            for start in range(0, len(names), 5000):
                some = names[start : start + 5000]
                columns = ", ".join('"' + each.replace('"', '""') + '" INT' for each in some)
                connection.execute(f"CREATE OR REPLACE TABLE t ({columns})")
                assert len(connection.sql("DESCRIBE t").fetchall()) == len(some)


class TestBounds:
    def test_who_has_a_column_keeps_it(self, sink):
        first = {f"a{at}": {"S": "1"} for at in range(MAX_COLUMNS + 50)}
        run_round(
            sink,
            [ORDERS],
            blocks(ORDERS, [Change(1, item("a", **first))]),
            round_number(1),
            NO_ROUND,
        )
        before = columns_of(sink)
        late = {"late": {"S": "2"}, f"a{MAX_COLUMNS + 9}": {"S": "2"}, "a7": {"S": "2"}}
        run_round(
            sink,
            [ORDERS],
            blocks(ORDERS, [Change(2, item("b", **late))]),
            round_number(2),
            round_number(1),
        )
        assert columns_of(sink) == before
        with sink.connect() as connection:
            (row,) = connection.sql("SELECT a7, _other FROM orders WHERE id = 'b'").fetchall()
        assert row[0] == "2"
        assert json.loads(row[1]) == {name: late[name] for name in late if name != "a7"}

    def test_what_is_null_takes_no_column_from_what_has_values(self, sink):
        nulls = {f"null{at}": {"NULL": True} for at in range(MAX_COLUMNS + 10)}
        changes = [Change(1, item("a", **nulls)), Change(2, item("b", late={"N": "1"}))]
        run_round(sink, [ORDERS], blocks(ORDERS, changes), round_number(1), NO_ROUND)
        assert "late" in columns_of(sink)
        assert read_back(TARGET, sink, [ORDERS])["orders"] == newest(ORDERS, changes)


class TestMemory:
    def test_more_memory_when_a_round_of_large_items_needs_it(self, tmp_path, caplog):
        """180 MB of set members in 1,000 rows, which a commit holds at once: more than 128 MB."""
        sink = TARGET.open(tmp_path)
        sink.check([ORDERS], NO_ROUND)
        members = [f"{at:040d}" for at in range(4000)]

        def given():
            for start in range(0, 1000, 50):
                some = [
                    Change(at + 1, item(f"k{at}", v={"SS": [str(at), *members]}))
                    for at in range(start, start + 50)
                ]
                yield only_block(ORDERS, some)

        (report,) = sink.apply_what_fits(given, round_number(1))
        assert report.fields["written"] == 1000
        assert "memory_limit=128MB is too little for this round" in caplog.text
        with sink.connect() as connection:
            (found,) = connection.sql(
                "SELECT count(*), sum(len(v)), count_if(v[1] = id[2:]) FROM orders"
            ).fetchall()
        assert found == (1000, 4_001_000, 1000)

    def test_too_little_memory_says_so(self, tmp_path):
        sink = open_sink(f"duckdb:///{tmp_path}/m.duckdb?memory_limit=8MB&threads=1")
        sink.check([ORDERS], NO_ROUND)
        members = [f"{at:040d}" for at in range(8000)]
        changes = [Change(at + 1, item(f"k{at}", v={"SS": members})) for at in range(60)]
        given = [only_block(ORDERS, changes)]
        with pytest.raises(SinkError) as caught:
            sink.apply_what_fits(lambda: given, round_number(1))
        assert "memory_limit=8MB is too little" in str(caught.value)
        assert "memory_limit=2GB" in str(caught.value)
        assert "aborted" not in str(caught.value)

    def test_the_cause_of_a_failure_is_told(self, sink, monkeypatch):
        """What fails inside a transaction aborts it; whatever follows must not hide the cause."""
        sink.check([ORDERS], NO_ROUND)
        real = duckdb_rows.MirrorTable._as_columns

        def with_a_cell_that_cannot_be(self, rows):
            typed = real(self, rows)
            at = typed.column_names.index("_version")
            return typed.set_column(at, "_event_time", typed.column(at))

        monkeypatch.setattr(duckdb_rows.MirrorTable, "_as_columns", with_a_cell_that_cannot_be)
        with pytest.raises(SinkError) as caught:
            sink.apply(blocks(ORDERS, [Change(1, item("a"))]), round_number(1))
        assert "_event_time" in str(caught.value)
        assert "aborted" not in str(caught.value)
