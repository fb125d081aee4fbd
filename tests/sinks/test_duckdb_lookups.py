# SPDX-License-Identifier: Apache-2.0
"""How a DuckDB mirror finds the rows of a round's keys: by a hash, and without it in old files."""

import json

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.sinks.duckdb import rows as duckdb_rows
from dynabeam.transforms.sinks.duckdb.rows import KEY_HASH
from dynabeam.transforms.values.buckets import bucket_numbers
from tests.sinks.changes import NO_ROUND, Change, blocks, newest, round_number, table
from tests.sinks.targets import Target, read_back, run_round

ORDERS = table()
GOLDEN = [0, 2176342158, 3115572992, 2956468325]
TARGET = Target("duckdb:///FOLDER/m.duckdb")


def item(key, **attributes):
    return {"id": {"S": key}, **attributes}


def changes_of(first, count, sequence):
    return [
        Change(sequence + at, item(f"k{at}", v={"N": str(sequence)}))
        for at in range(first, first + count)
    ]


@pytest.fixture
def sink(tmp_path):
    return TARGET.open(tmp_path)


def one_round(sink, changes, number):
    committed = NO_ROUND if number == 1 else round_number(number - 1)
    (report,) = run_round(sink, [ORDERS], blocks(ORDERS, changes), round_number(number), committed)
    return report.fields


def to_format_1(sink):
    """The file as a version before the hashes made it."""
    with duckdb.connect(sink.place) as connection:
        connection.execute(f"ALTER TABLE _dynabeam_rows.orders DROP COLUMN {KEY_HASH}")
        connection.execute("UPDATE _dynabeam.last_round SET format = 1")


def hashes(sink):
    with sink.connect() as connection:
        found = connection.sql(f"SELECT _key, {KEY_HASH} FROM _dynabeam_rows.orders")
        rows = found.to_arrow_table()
    return rows.column(0), rows.column(1).to_numpy()


def test_the_hash_is_that_of_the_key_for_good():
    """It is stored: another value for the same key would make a second row of it."""
    keys = pa.array([b"", b"Sa", b"Sorder-1", b"\xff" * 300])
    assert duckdb_rows._key_hashes(keys).to_pylist() == [
        int(each) for each in bucket_numbers(keys, 1 << 32)
    ]
    assert duckdb_rows._key_hashes(keys).to_pylist() == GOLDEN


class TestMerge:
    def test_every_stored_row_has_its_hash(self, sink):
        one_round(sink, [*changes_of(0, 50, 100), Change(1, None, keys=item("gone"))], 1)
        one_round(sink, changes_of(20, 60, 200), 2)
        keys, found = hashes(sink)
        assert len(keys) == 81
        assert np.array_equal(found, bucket_numbers(keys, 1 << 32))

    def test_keys_of_one_hash(self, sink, monkeypatch):
        """Whoever chooses keys can make hashes equal: the rows are right all the same."""

        def same(keys):
            return pa.array([7] * len(keys), pa.uint32())

        monkeypatch.setattr(duckdb_rows, "_key_hashes", same)
        first, second = changes_of(0, 40, 100), changes_of(20, 40, 200)
        one_round(sink, first, 1)
        stale = Change(1, item("k3", v={"N": "0"}))
        counts = one_round(sink, [*second, stale], 2)
        assert (counts["written"], counts["stale"]) == (40, 1)
        expected = newest(ORDERS, [*first, *second, stale])
        assert read_back(TARGET, sink, [ORDERS])["orders"] == expected

    def test_only_the_hashes_are_read_of_rows_that_no_change_is(self, sink):
        """The cost of a small round: no key and no version but those of its places is looked at."""
        one_round(sink, changes_of(0, 50, 100), 1)
        seen = []

        class Spy:
            def __init__(self, connection):
                self._connection = connection

            def __getattr__(self, name):
                return getattr(self._connection, name)

            def execute(self, sql, *parameters):
                if "_dynabeam_rows" in sql and "CREATE OR REPLACE TEMP" in sql:
                    seen.append(sql)
                return self._connection.execute(sql, *parameters)

        with duckdb.connect(sink.place) as connection:
            tables = sink._tables(Spy(connection))
            (given,) = blocks(ORDERS, changes_of(3, 1, 500))
            assert tables.open(ORDERS).merge(given.rows) == 1
            places, stored = seen
            assert KEY_HASH in places
            assert "_key," not in places
            assert "WHERE rowid IN" in stored
            assert connection.sql("SELECT count(*) FROM stored").fetchall() == [(1,)]


class TestFilesOfFormat1:
    def test_they_are_given_hashes_when_a_run_begins(self, sink):
        first = [*changes_of(0, 300, 100), Change(400, None, keys=item("k7"))]
        one_round(sink, first, 1)
        to_format_1(sink)
        second = changes_of(200, 200, 1000)
        assert one_round(sink, second, 2)["written"] == 200
        keys, found = hashes(sink)
        assert np.array_equal(found, bucket_numbers(keys, 1 << 32))
        expected = newest(ORDERS, [*first, *second])
        assert read_back(TARGET, sink, [ORDERS])["orders"] == expected
        with sink.connect() as connection:
            assert connection.sql("SELECT format FROM _dynabeam.last_round").fetchall() == [(2,)]

    def test_they_can_be_merged_into_without(self, sink):
        first, second = changes_of(0, 30, 100), changes_of(20, 30, 200)
        one_round(sink, first, 1)
        to_format_1(sink)
        (report,) = sink.apply(blocks(ORDERS, second), round_number(2))
        assert report.fields["written"] == 30
        expected = newest(ORDERS, [*first, *second])
        assert read_back(TARGET, sink, [ORDERS])["orders"] == expected
        # The next start finds the column missing, whatever the format says.
        one_round(sink, changes_of(0, 5, 900), 3)
        keys, found = hashes(sink)
        assert np.array_equal(found, bucket_numbers(keys, 1 << 32))

    def test_an_attribute_that_has_the_name(self, sink):
        one_round(sink, changes_of(0, 5, 100), 1)
        to_format_1(sink)
        with duckdb.connect(sink.place) as connection:
            connection.execute('ALTER TABLE _dynabeam_rows.orders ADD COLUMN "_KEY_hash" VARCHAR')
            connection.execute(
                "CREATE OR REPLACE VIEW main.orders AS SELECT * EXCLUDE _key "
                "FROM _dynabeam_rows.orders WHERE NOT _deleted"
            )
            connection.execute(
                "UPDATE _dynabeam.tables SET attributes = ?",
                [json.dumps([["id", "S"], ["v", "N"], ["_KEY_hash", "S"]])],
            )
        changes = [Change(500, item("k1", _KEY_hash={"S": "x"})), Change(501, item("new"))]
        assert one_round(sink, changes, 2)["written"] == 2
        found = read_back(TARGET, sink, [ORDERS])["orders"]
        assert found[b"Sk1"] == changes[0].new
        assert len(found) == 6

    def test_an_unknown_format(self, sink):
        sink.check([ORDERS], NO_ROUND)
        with duckdb.connect(sink.place) as connection:
            connection.execute("UPDATE _dynabeam.last_round SET format = 3")
        with pytest.raises(SinkError, match="Upgrade Dynabeam"):
            sink.check([ORDERS], NO_ROUND)
