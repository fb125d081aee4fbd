# SPDX-License-Identifier: Apache-2.0
"""What a round of a few changes costs in DuckDB mirrors of different sizes.

    python -m tests.benchmarks.duckdb_small_rounds                    # 100 k, 1 M and 10 M rows
    python -m tests.benchmarks.duckdb_small_rounds --rows 4000000 --format 1

Each mirror is filled by SQL, with keys in no order. Then rounds of updates and of new keys are
applied one by one; the best of each counts, file opened and closed included. `--format 1` shows a
file without key hashes as it is merged into before a run has given it any, and how long that takes.
"""

import argparse
import hashlib
import os
import tempfile
import time

import duckdb
import pyarrow as pa

from dynabeam.transforms.model.block import SCHEMA, Block, BlockHeader
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.model.version import encode_version
from dynabeam.transforms.sinks.base import Round
from dynabeam.transforms.sinks.duckdb.rows import KEY_HASH, _key_hashes
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema

TABLE = Table("t", KeySchema(KeyAttribute("id", "S")))


def name(number):
    return hashlib.md5(str(number).encode()).hexdigest()


def block(numbers, sequence):
    rows = [
        {
            "key": b"S" + name(each).encode(),
            "version": encode_version(1, sequence),
            "op": "u",
            "event_time": 1,
            "new": b'{"id":{"S":"%b"},"v":{"S":"x"}}' % name(each).encode(),
            "ttl": False,
        }
        for each in numbers
    ]
    header = BlockHeader(TABLE, 0, 1, 1, "stream")
    return Block(header, pa.RecordBatch.from_pylist(rows, schema=SCHEMA))


def fill(path, rows):
    with duckdb.connect(path) as connection:
        connection.create_function("key_hash", _key_hashes, ["BLOB"], "UINTEGER", type="arrow")
        connection.execute(
            f"INSERT INTO _dynabeam_rows.t BY NAME SELECT ('S' || md5(i::VARCHAR))::BLOB AS _key, "
            f"key_hash(('S' || md5(i::VARCHAR))::BLOB) AS {KEY_HASH}, md5(i::VARCHAR) AS id, "
            "'x' AS v, '00000001.' || lpad(i::VARCHAR, 40, '0') AS _version, 'r' AS _op, "
            f"now() AS _event_time, false AS _ttl, false AS _deleted FROM range({rows}) t(i)"
        )
        connection.remove_function("key_hash")


def best(sink, first, number, changes, of):
    """Milliseconds of the quickest of five rounds, and the next round's number."""
    found = []
    for _ in range(5):
        given = block([of(number, at) for at in range(changes)], first + number)
        begun = time.perf_counter()
        (report,) = sink.apply([given], Round("bench", number, f"a{number}"))
        found.append((time.perf_counter() - begun) * 1e3)
        assert report.fields["written"] == changes
        number += 1
    return min(found), number


def measure(rows, changes, file_format):
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/m.duckdb"
        sink = open_sink(f"duckdb:///{path}")
        sink.check([TABLE], Round("bench", 0, ""))
        sink.apply([block([-1], 10**20)], Round("bench", 1, "a1"))
        fill(path, rows)
        if file_format == 1:
            with duckdb.connect(path) as connection:
                connection.execute(f"ALTER TABLE _dynabeam_rows.t DROP COLUMN {KEY_HASH}")
                connection.execute("UPDATE _dynabeam.last_round SET format = 1")
        updates, number = best(
            sink, 10**20, 2, changes, lambda number, at: (number * 7919 + at * 104_729) % rows
        )
        inserts, number = best(
            sink, 10**20, number, changes, lambda number, at: rows + number * changes + at
        )
        print(
            f"{rows:>11,} rows, {os.path.getsize(path) / 1e6:,.0f} MB: a round of {changes} "
            f"updates {updates:,.0f} ms, of {changes} new keys {inserts:,.0f} ms",
            flush=True,
        )
        if file_format == 1:
            begun, before = time.perf_counter(), os.path.getsize(path)
            sink.check([TABLE], Round("bench", number - 1, f"a{number - 1}"))
            grown = (os.path.getsize(path) - before) / 1e6
            print(f"    hashes in {time.perf_counter() - begun:.1f} s, {grown:,.0f} MB", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--changes", type=int, default=10)
    parser.add_argument("--format", type=int, default=2, choices=[1, 2])
    arguments = parser.parse_args()
    for rows in arguments.rows:
        measure(rows, arguments.changes, arguments.format)


if __name__ == "__main__":
    main()
