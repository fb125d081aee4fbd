# SPDX-License-Identifier: Apache-2.0
"""How quickly rows go into a PostgreSQL mirror: small bundles, a large load, replays.

Small bundles are measured both ways, in turns: as they go, and as they would go if they were not
few (`SMALL_BATCH_ROWS`: vectorised decoding, COPY and then a merge).

    python -m tests.benchmarks.postgresql_merge [--rows=100000]

The server is a local one without fsync, so the numbers are those of our work and PostgreSQL's, not
of a disk or a network. Items have 10 attributes (text, numbers, a list, a map), about 400 bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from unittest import mock

import pyarrow as pa

from dynabeam.transforms.model.block import SCHEMA, Block, BlockHeader
from dynabeam.transforms.model.version import constant_versions
from dynabeam.transforms.sinks.files import change_lines
from dynabeam.transforms.sinks.postgresql import merge as postgresql_merge
from dynabeam.transforms.sinks.postgresql.writer import PostgreSQLRows
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.values import columns
from dynabeam.transforms.values.keys import encode_keys
from tests.sinks.changes import NO_ROUND, Change, image, round_number, table
from tests.sinks.postgres_server import PostgresServer

ORDERS = table()


def make_block(first: int, count: int, generation: int = 1) -> Block:
    """A block of `count` items with keys from `first` on."""
    keys = pa.array([f"customer-{at:012d}" for at in range(first, first + count)])
    images = [
        image(
            {
                "id": {"S": keys[at].as_py()},
                "name": {"S": f"some name of item {at}"},
                "city": {"S": "Reykjavík"},
                "price": {"N": f"{at}.25"},
                "count": {"N": str(at)},
                "open": {"BOOL": at % 2 == 0},
                "tags": {"SS": ["one", "two"]},
                "lines": {"L": [{"M": {"sku": {"S": f"sku-{at}"}, "n": {"N": "3"}}}]},
                "address": {"M": {"street": {"S": "Long Street"}, "no": {"N": "12"}}},
                "note": {"S": "x" * 60},
            }
        )
        for at in range(count)
    ]
    time_of_all = Change(generation, None, keys={"id": {"S": ""}}).row(ORDERS)["event_time"]
    rows = pa.RecordBatch.from_arrays(
        [
            encode_keys([keys], ORDERS.keys),
            constant_versions(generation, count),
            pa.array(["r"] * count),
            pa.array([time_of_all] * count, SCHEMA.field("event_time").type),
            pa.nulls(count, pa.binary()),
            pa.array(images, pa.binary()),
            pa.array([False] * count),
            pa.nulls(count, pa.binary()),
        ],
        schema=SCHEMA,
    )
    return Block(BlockHeader(ORDERS, 0, 1, generation, "export"), rows)


@contextlib.contextmanager
def no_rows_are_few():
    """Lets all rows take the way of many."""
    with contextlib.ExitStack() as stack:
        for module in (columns, change_lines, postgresql_merge):
            stack.enter_context(mock.patch.object(module, "SMALL_BATCH_ROWS", -1))
        yield


def small_bundles(writer, sink, count, times=60):
    """Times in ms of bundles of `count` rows, half new, half updates: as they go, and as many."""
    taken = {"few": [], "many": []}
    for each in range(2 * times):
        block = make_block(each * count // 2, count, generation=2 + each)
        way = "many" if each % 2 else "few"
        with no_rows_are_few() if way == "many" else contextlib.nullcontext():
            begin = time.perf_counter()
            gathered = PostgreSQLRows(writer, sink.name)
            gathered.add(block)
            list(gathered.finish())
            taken[way].append(1000 * (time.perf_counter() - begin))
    return taken["few"][5:], taken["many"][5:]


def report_bundles(layout, size, few, many):
    """Prints a line: what a bundle takes, and what it would as many."""
    ratio = statistics.median(many) / statistics.median(few)
    p90 = sorted(few)[int(0.9 * len(few))]
    print(
        f"{layout}: bundle of {size} rows: median {statistics.median(few):.1f} ms, p90 {p90:.1f} "
        f"ms; as many rows: median {statistics.median(many):.1f} ms, {ratio:.1f} times that"
    )


def load(writer, sink, blocks):
    begin = time.perf_counter()
    gathered = PostgreSQLRows(writer, sink.name)
    for block in blocks:
        gathered.add(block)
    list(gathered.finish())
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    count = parser.parse_args().rows
    with PostgresServer() as server:
        for layout in ("unpacked", "packed"):
            sink = open_sink(f"{server.uri()}?layout={layout}&schema={layout}")
            sink.check([ORDERS], NO_ROUND)
            writer = sink.writer(round_number(1).state_id)
            for size in (1, 10, 30, 100, 250, 1000):
                report_bundles(layout, size, *small_bundles(writer, sink, size))
            step = 5000
            for word, generation in (("new", 500), ("updated", 501), ("replayed", 501)):
                blocks = [make_block(10**9 + at, step, generation) for at in range(0, count, step)]
                taken = load(writer, sink, blocks)
                print(f"{layout}: {count} rows {word}: {taken:.1f} s, {count / taken:,.0f} rows/s")
            writer.close()


if __name__ == "__main__":
    main()
