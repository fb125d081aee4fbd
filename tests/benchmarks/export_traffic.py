# SPDX-License-Identifier: Apache-2.0
"""What rounds download of exports: one table and many, files smaller and larger than a round.

`python -m tests.benchmarks.export_traffic [--mib 32] [--round_bytes 4MiB]` makes exports of so many
MiB of JSON in all in a simulated S3, replicates them in rounds into DuckDB, and prints the bytes
that S3 gave out against the bytes of the exports. The goal is a ratio of at most 1.1 in every row.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

from apache_beam.io.aws.clients.s3 import boto3_client
from apache_beam.io.filesystems import FileSystems

from dynabeam.pipelines.options.replicate import parse_replicate
from dynabeam.pipelines.replicate import replicate
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.testing.export_writer import write_full_export
from dynabeam.transforms.testing.simulator import Simulator

BUCKET = "exports"
LINE_BYTES = 400
SHAPES = ((1, 4), (1, 1), (10, 4), (100, 2), (100, 1))


class Traffic:
    """Bytes that S3 gives out in this process."""

    def __init__(self) -> None:
        self.bytes = 0
        self.requests = 0
        read, read_range = boto3_client.Client.get_range, filesystem._read_s3_range

        def counted(client: Any, request: Any, start: int, end: int) -> Any:
            data = read(client, request, start, end)
            if request.object.endswith(".gz"):
                self.bytes += len(data)
                self.requests += 1
            return data

        def counted_range(path: str, *rest: Any) -> tuple[int, bytes]:
            size, data = read_range(path, *rest)
            if path.endswith(".gz"):
                self.bytes += len(data)
                self.requests += 1
            return size, data

        boto3_client.Client.get_range = counted
        filesystem._read_s3_range = counted_range


def items(count: int) -> Iterator[dict[str, Any]]:
    """Items of some 400 bytes that pack as JSON does."""
    for number in range(count):
        text = hashlib.sha256(b"%d" % number).hexdigest()
        yield {
            "id": {"S": f"{number:012}"},
            "text": {"S": text + "o" * 200},
            "amount": {"N": str(number)},
        }


def measure(tables: int, files: int, mib: int, round_bytes: str, traffic: Traffic) -> str:
    """One row: runs in a process of its own."""
    count = max(files, mib * (1 << 20) // LINE_BYTES // tables)
    arguments = [f"--round_bytes={round_bytes}"]
    with Simulator(seed=1) as sim, tempfile.TemporaryDirectory() as folder:
        sim.create_bucket(BUCKET)
        size = 0

        def put(key: str, body: bytes) -> None:
            nonlocal size
            size += len(body) if key.endswith(".gz") else 0
            sim.s3_put(BUCKET, key, body)

        for number in range(tables):
            name = f"t{number:03}"
            arn = f"arn:aws:dynamodb:{sim.region}:{sim.account_id}:table/{name}"
            write_full_export(
                put,
                table_arn=arn,
                table_id="",
                export_time=datetime(2026, 1, 2, tzinfo=timezone.utc),
                bucket=BUCKET,
                prefix=name,
                items=items(count),
                files=files,
                empty_files=0,
                hash_key="id",
            )
            arguments += [f"--export=s3://{BUCKET}/{name}", f"--keys={name}:id"]
            # Keys are given: the table itself is not there.
        arguments += [f"--endpoint_url={sim.endpoint_url}", f"--region={sim.region}"]
        arguments += ["--snapshot=only", f"--state_dir={folder}/state"]
        arguments += [f"--sink=duckdb:///{folder}/mirror.duckdb"]
        state = replicate(parse_replicate(arguments))
        rows = sum(each.totals.snapshot_rows for each in state.tables.values())
    assert rows == count * tables, (rows, count, tables)
    FileSystems.set_options(None)
    return (
        f"{tables:6} {files:14} {rows:10,} {size / 1e6:11.2f} {traffic.bytes / 1e6:13.2f} "
        f"{traffic.bytes / size:6.2f} {state.number:7,}"
    )


def main(arguments: Sequence[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=32)
    parser.add_argument("--round_bytes", default="4MiB")
    parser.add_argument("--shape", default="")
    given = parser.parse_args(arguments)
    if given.shape:
        tables, files = map(int, given.shape.split("x"))
        print(measure(tables, files, given.mib, given.round_bytes, Traffic()), flush=True)
        return
    print("tables files of each       rows  exports, MB  fetched, MB  ratio  rounds")
    for tables, files in SHAPES:
        command = [sys.executable, "-m", "tests.benchmarks.export_traffic", f"--mib={given.mib}"]
        command += [f"--round_bytes={given.round_bytes}", f"--shape={tables}x{files}"]
        environment = os.environ | {"AWS_ACCESS_KEY_ID": "sim", "AWS_SECRET_ACCESS_KEY": "sim"}
        subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main(sys.argv[1:])
