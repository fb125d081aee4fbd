# SPDX-License-Identifier: Apache-2.0
"""Loads a DuckDB mirror round by round and prints rows per second and peak memory.

    python -m tests.benchmarks.duckdb_merge                     # 300 k and 3 M rows
    python -m tests.benchmarks.duckdb_merge --rows 1000000 --round_rows 200000

Each size runs in a process of its own. After the load, one round replays rows that are stored (all
stale), one updates 1 % of the keys, and one brings a single change, so that the cost of the guard
over the full table shows.
"""

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dynabeam.transforms.model.block import SCHEMA, Block, BlockHeader
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.model.version import encode_version
from dynabeam.transforms.sinks.base import Round
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema

TABLE = Table("orders", KeySchema(KeyAttribute("id", "S")))
BLOCK_ROWS = 10_000


def block(ids, sequence):
    """Rows of about 300 bytes: a text key, two numbers, a flag, a nested map and a text."""
    at = pa.array(ids)
    key = pc.binary_join_element_wise("customer-", pc.utf8_lpad(at.cast(pa.string()), 12, "0"), "")
    amount = pc.cast(pc.multiply(at, 7919), pa.string())
    image = pc.binary_join_element_wise(
        '{"id":{"S":"',
        key,
        '"},"amount":{"N":"',
        amount,
        '.25"},"count":{"N":"',
        amount,
        '"},"open":{"BOOL":true},"address":{"M":{"street":{"S":"Street ',
        amount,
        '"},"city":{"S":"Springfield"}}},"note":{"S":"',
        "x" * 120,
        '"}}',
        "",
    )
    rows = len(ids)
    columns = [
        pc.binary_join_element_wise("S", key, "").cast(pa.binary()),
        pa.repeat(pa.scalar(encode_version(1, sequence), pa.binary()), rows),
        pa.repeat("u", rows),
        pa.repeat(pa.scalar(1_700_000_000_000_000, pa.timestamp("us", "UTC")), rows),
        pa.nulls(rows, pa.binary()),
        image.cast(pa.binary()),
        pa.repeat(False, rows),
        pa.nulls(rows, pa.binary()),
    ]
    header = BlockHeader(TABLE, 0, 1, 1, "stream")
    return Block(header, pa.RecordBatch.from_arrays(columns, schema=SCHEMA))


def blocks(ids, sequence):
    for start in range(0, len(ids), BLOCK_ROWS):
        yield block(ids[start : start + BLOCK_ROWS], sequence)


class PeakMemory(threading.Thread):
    """The highest resident size seen since `reset`, in MB."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak = 0.0
        self._page = resource.getpagesize()

    def reset(self):
        self.peak = 0.0

    def run(self):
        while True:
            with open("/proc/self/statm") as file:
                self.peak = max(self.peak, int(file.read().split()[1]) * self._page / 1e6)
            time.sleep(0.01)


def load(rows, round_rows, options):
    memory = PeakMemory()
    memory.start()
    with tempfile.TemporaryDirectory() as folder:
        sink = open_sink(f"duckdb:///{folder}/mirror.duckdb?{options}")
        sink.check([TABLE], Round("bench", 0, ""))
        ids = np.random.default_rng(7).permutation(rows)
        number = 0

        def run(what, chosen, sequence):
            nonlocal number
            number += 1
            memory.reset()
            start = time.perf_counter()
            (report,) = sink.apply(blocks(chosen, sequence), Round("bench", number, f"a{number}"))
            seconds = time.perf_counter() - start
            written = report.fields["written"]
            print(
                f"{rows:>9,} rows  {what:<24} {len(chosen):>8,} arrive {written:>8,} written "
                f"{len(chosen) / seconds:>10,.0f} rows/s {seconds:6.2f} s  "
                f"peak {memory.peak:5.0f} MB",
                flush=True,
            )

        for at, start in enumerate(range(0, rows, round_rows)):
            run(f"load, round {at + 1}", ids[start : start + round_rows], 0)
        run("replay", ids[:round_rows], 0)
        run("update 1 %", ids[::100], 5)
        run("one change", ids[:1], 6)
        size = os.path.getsize(f"{folder}/mirror.duckdb") / 1e6
        with sink.connect() as connection:
            count, versions = connection.sql(
                "SELECT count(*), count(DISTINCT _version) FROM orders"
            ).fetchall()[0]
        print(json.dumps({"rows": count, "versions": versions, "file_MB": round(size)}), flush=True)
        assert count == rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[300_000, 3_000_000])
    parser.add_argument("--round_rows", type=int, default=300_000, help="about 90 MB of images")
    parser.add_argument("--options", default="", help="of the sink's URI, e.g. layout=packed")
    arguments = parser.parse_args()
    for rows in arguments.rows:
        process = multiprocessing.get_context("spawn").Process(
            target=load, args=(rows, arguments.round_rows, arguments.options)
        )
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(process.exitcode)


if __name__ == "__main__":
    main()
