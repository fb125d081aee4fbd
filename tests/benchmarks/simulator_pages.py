# SPDX-License-Identifier: Apache-2.0
"""How fast the simulator serves stream pages: `python -m tests.benchmarks.simulator_pages`.

A client in a process of its own reads every page of a stream, again and again, over one keep-alive
connection per thread and without boto3, so that the server's time is what is measured. Printed are
MB of records a second of the server's CPU time and of wall time, and how fast the stream was made.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from dynabeam.transforms.testing.simulator import Simulator

TARGET = "DynamoDBStreams_20120810."


class Reader:
    """One keep-alive connection."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc)

    def ask(self, action: str, **body: Any) -> bytes:
        """One call."""
        headers = {"X-Amz-Target": TARGET + action, "Content-Type": "application/x-amz-json-1.0"}
        self._connection.request("POST", "/", json.dumps(body), headers)
        return self._connection.getresponse().read()

    def read(self, arn: str, shard_id: str) -> int:
        """Read a closed shard; returns the bytes of its pages."""
        asked = {"StreamArn": arn, "ShardId": shard_id, "ShardIteratorType": "TRIM_HORIZON"}
        at = json.loads(self.ask("GetShardIterator", **asked))["ShardIterator"]
        size = 0
        while at:
            page = self.ask("GetRecords", ShardIterator=at)
            size += len(page)
            # The iterator comes last; parsing the page would cost more than serving it.
            _, _, tail = page[-2500:].rpartition(b'"NextShardIterator":"')
            at = tail[:-2].decode() if page.endswith(b'"}') else ""
        return size


def read_all(url: str, threads: int, rounds: int) -> None:
    """The client process: prints bytes and seconds as JSON."""
    first = Reader(url)
    arn = json.loads(first.ask("ListStreams"))["Streams"][0]["StreamArn"]
    listed = json.loads(first.ask("DescribeStream", StreamArn=arn))["StreamDescription"]["Shards"]
    closed = [s["ShardId"] for s in listed if "EndingSequenceNumber" in s["SequenceNumberRange"]]
    sizes: list[int] = []

    def work() -> None:
        reader = Reader(url)
        sizes.extend(reader.read(arn, s) for _ in range(rounds) for s in closed)

    started = time.perf_counter()
    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    result = {"bytes": sum(sizes), "seconds": time.perf_counter() - started}
    sys.stdout.write(json.dumps(result) + "\n")


def items(count: int, size: int) -> list[dict[str, Any]]:
    """Items of about so many bytes."""
    text = "x" * (size // 4)
    return [
        {
            "id": {"S": f"key-{i:08d}"},
            "n": {"N": str(i)},
            "l": {"L": [{"S": text}, {"BOOL": True}]},
            "m": {"M": {"a": {"S": text}, "b": {"S": text}}},
            "s": {"S": text},
        }
        for i in range(count)
    ]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--bytes", type=int, default=500, help="of an item")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--client", help="for the benchmark's own use: read from this address")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.client:
        read_all(options.client, options.threads, options.rounds)
        return
    with Simulator(seed=1) as simulator:
        simulator.create_table("table", "id:S")
        rows = items(options.records, options.bytes)
        started = time.perf_counter()
        simulator.put_many("table", rows)
        made = time.perf_counter() - started
        simulator.roll("table")
        sys.stdout.write(f"put_many: {options.records / made:,.0f} items a second\n")
        sys.stdout.write(f"{'threads':>8} {'MB/s of CPU':>12} {'MB/s of wall':>13}\n")
        for threads in (1, 4):
            command = [sys.executable, "-m", "tests.benchmarks.simulator_pages"]
            command += ["--client", simulator.endpoint_url]
            command += ["--threads", str(threads), "--rounds", str(options.rounds)]
            before, records = time.process_time(), simulator.stats.records
            output = subprocess.run(command, check=True, capture_output=True).stdout
            spent = time.process_time() - before
            served = simulator.stats.records - records
            if served != options.records * options.rounds * threads:
                raise SystemExit(f"records lost: {served} served")
            result = json.loads(output)
            megabytes = result["bytes"] / 1e6
            wall = megabytes / result["seconds"]
            sys.stdout.write(f"{threads:>8} {megabytes / spent:>12,.0f} {wall:>13,.0f}\n")


if __name__ == "__main__":
    main()
