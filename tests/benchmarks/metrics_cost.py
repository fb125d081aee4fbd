# SPDX-License-Identifier: Apache-2.0
"""What metrics cost the reading of a stream, against the parsing of one page in the same run.

    python -m tests.benchmarks.metrics_cost [--rounds=200]

A slice of a reader lasts a quarter of a second at the tip. Metrics add what the reader leaves at
its end, and a scrape, which looks into the frontiers, every 15 seconds or so. Reports are counted
every few seconds only.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from dynabeam.transforms.model.gap import GapPolicy
from dynabeam.transforms.runtime.clock import Clock
from dynabeam.transforms.stream.frontier import Frontier, ShardPosition
from dynabeam.transforms.stream.pacing import Pacing
from dynabeam.transforms.stream.page_parser import PageParser
from dynabeam.transforms.stream.reader import SliceReader
from dynabeam.transforms.stream.reader_spec import ReaderSpec
from dynabeam.transforms.stream.scheduler import ShardScheduler
from dynabeam.transforms.stream.shard_requests import RequestPool
from dynabeam.transforms.stream.tracker import FrontierTracker
from dynabeam.transforms.telemetry.process_metrics import ProcessMetrics
from tests.benchmarks.parse_stream_pages import page
from tests.stream.scripted import ARN, TABLE


def cpu_seconds(work: Callable[[], object], rounds: int) -> float:
    """CPU seconds of one call."""
    began = time.process_time()
    for _ in range(rounds):
        work()
    return (time.process_time() - began) / rounds


def leave(reader: SliceReader, metrics: ProcessMetrics) -> None:
    """What a reader does at the end of each slice."""
    metrics.see(reader.seen())


def reader_of(shards: int, pool: ThreadPoolExecutor) -> SliceReader:
    """A reader of so many shards that has sent nothing."""
    now_ms = time.time_ns() // 1_000_000
    found = tuple(ShardPosition(f"shardId-{now_ms:020d}-{n:08d}") for n in range(shards))
    frontier = Frontier(shards=found, swept_us=now_ms * 1000)
    source = ReaderSpec(
        table=TABLE,
        stream_arn=ARN,
        reader=0,
        readers=1,
        generation=1,
        buckets=16,
        start="trim_horizon",
        frontier=frontier,
        gap_policy=GapPolicy.FAIL,
        snapshot_until_us=0,
        max_bytes=0,
        started_us=now_ms * 1000,
    )
    clock = Clock()
    requests = RequestPool(ARN, None, PageParser(TABLE, 1, ARN), clock, pool)
    scheduler = ShardScheduler(requests, 0)
    tracker = FrontierTracker(frontier, bounded=False)
    return SliceReader(source, tracker, scheduler, Pacing(), clock, bounded=False)


def main(arguments: list[str]) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    given = parser.parse_args(arguments)
    pages = PageParser(TABLE, 1, ARN)
    body = page(1000)
    a_page = cpu_seconds(lambda: pages.parse(body, "shardId-1"), max(1, given.rounds // 10))
    print(f"a page of 1,000 records, {len(body):,} bytes: {a_page * 1e3:.2f} ms of CPU")
    with ThreadPoolExecutor(1) as pool:
        for shards in (1, 100, 1000):
            reader, metrics = reader_of(shards, pool), ProcessMetrics()
            slice_end = cpu_seconds(functools.partial(leave, reader, metrics), given.rounds)
            scrape = cpu_seconds(metrics.samples, max(1, given.rounds // 10))
            print(
                f"{shards:5,} shards: end of a slice {slice_end * 1e6:7.1f} us = "
                f"{slice_end / a_page:.4f} of the page; a scrape {scrape * 1e3:6.2f} ms"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
