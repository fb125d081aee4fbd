# SPDX-License-Identifier: Apache-2.0
"""How fast exports are read, against inflating alone and against hand-written DuckDB SQL.

    python -m tests.benchmarks.read_export [--items N] [--export FOLDER]

Reads one synthetic export (or one given) in several ways in one run: `read_slice` in a plain loop
(fetch, MD5, inflate, keys, blocks), the same inside a pipeline on the in-process runner, inflate
alone with ISA-L and with zlib, and SQL that reads the same files with `read_json`, on one and on
two threads. Best of some rounds, since machines are noisy. Needs a writable temporary folder.
"""

from __future__ import annotations

import argparse
import gzip
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import apache_beam as beam
import duckdb
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from isal import igzip

from dynabeam.transforms.export.acquire import Acquisition, open_export
from dynabeam.transforms.export.keys import find_keys, parse_keys
from dynabeam.transforms.export.read_files import ReadExportFiles, read_slice
from dynabeam.transforms.export.slices import plan_round
from dynabeam.transforms.model.table import Table

PIECE = 8 << 20
SQL = """
    SELECT count(*), count(DISTINCT hash(key)) FROM (
        SELECT concat(Item.customer.S, chr(0), Item.order_no.N) AS key, Item::JSON AS image
        FROM read_json({files}, format = 'newline_delimited', columns = {{Item: 'STRUCT(
            customer STRUCT(S VARCHAR), order_no STRUCT(N VARCHAR), amount STRUCT(N VARCHAR),
            paid STRUCT(BOOL BOOLEAN), status STRUCT(S VARCHAR), tags STRUCT(SS VARCHAR[]),
            address STRUCT(M JSON), note STRUCT(S VARCHAR))'}}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=500_000)
    parser.add_argument("--export", help="folder of an export with the keys customer and order_no")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if not options.export:
            command = [sys.executable, "-m", "dynabeam.transforms.testing.export_writer"]
            subprocess.run([*command, "--items", str(options.items), "--out", folder], check=True)
        measure(options.export or folder, options.rounds)


def measure(location: str, rounds: int) -> None:
    manifest = open_export(location, Acquisition())
    given = parse_keys([f"{manifest.table_name}:customer,order_no"])
    table = Table(manifest.table_name, find_keys(manifest, given=given), manifest.table_arn)
    slices = plan_round(
        manifest, table, generation=1, buckets=32, loaded={}, size_of=os.path.getsize
    )
    paths = [each.file.path for each in slices]
    raw_bytes = sum(inflate(path, igzip.open) for path in paths)

    def read() -> None:
        for part in slices:
            for _ in read_slice(part):
                pass

    def pipeline() -> None:
        with beam.Pipeline(runner=FnApiRunner()) as p:
            _ = p | beam.Create(slices) | ReadExportFiles()

    def sql(threads: int) -> Callable[[], object]:
        connection = duckdb.connect(config={"threads": str(threads)})
        text = SQL.format(files=[path for path in paths if os.path.getsize(path) > 20])
        return lambda: connection.execute(text).fetchall()

    works: dict[str, Callable[[], object]] = {
        "read_slice in a loop": read,
        "ReadExportFiles on FnApiRunner": pipeline,
        "inflate alone, isal": lambda: [inflate(path, igzip.open) for path in paths],
        "inflate alone, zlib": lambda: [inflate(path, gzip.open) for path in paths],
        "DuckDB read_json, 1 thread": sql(1),
        "DuckDB read_json, 2 threads": sql(2),
    }
    lines = [
        f"{manifest.item_count:,} items, {raw_bytes:,} bytes uncompressed, {os.cpu_count()} cores",
        f"{'work':34} {'s':>7} {'MB/s':>7} {'items/s':>11} {'of isal':>8}",
    ]
    best = {name: min(timed(work) for _ in range(rounds)) for name, work in works.items()}
    alone = best["inflate alone, isal"]
    lines += [
        f"{name:34} {seconds:7.2f} {raw_bytes / seconds / 1e6:7.0f} "
        f"{manifest.item_count / seconds:11,.0f} {alone / seconds:8.0%}"
        for name, seconds in best.items()
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def inflate(path: str, opener: Callable[..., object]) -> int:
    size = 0
    with opener(path, "rb") as file:
        while piece := file.read(PIECE):
            size += len(piece)
    return size


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
