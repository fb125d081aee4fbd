# SPDX-License-Identifier: Apache-2.0
"""Seconds from the start of `dynabeam replicate`, in process, to the first row in PostgreSQL.

    python -m tests.benchmarks.first_row --tables 3

A start with a new state directory and a table with a stream; the simulator and PostgreSQL run
already. `tests.benchmarks.flink_latency` prints the same for Flink.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
import time

import psycopg

from tests.runners.continuous_world import ContinuousWorld
from tests.runners.processes import Process, wait_until
from tests.runners.steady_work import SteadyWork


def main() -> int:
    """Runs it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=3)
    parser.add_argument("--rate", type=float, default=100)
    parser.add_argument("--folder", default="")
    given = parser.parse_args()
    folder = pathlib.Path(given.folder or tempfile.mkdtemp(prefix="dynabeam-first-row-"))
    with (
        ContinuousWorld(folder, tables=given.tables, changelog=False) as world,
        SteadyWork(world.sim, world.tables, rate=given.rate),
    ):
        began = time.monotonic()
        log = folder / "replicate.log"
        process = Process("replicate", world.command("--every=2s"), log, world.variables)
        try:
            wait_until(lambda: _has_a_row(world), "first row", 120, [process])
            sys.stdout.write(f"start to first row: {time.monotonic() - began:.1f} s\n")
            names = list(world.tables)
            world.wait_for_snapshots(120, process, names=names)
            sys.stdout.write(
                f"start to all snapshots, exports of 20 s: {time.monotonic() - began:.1f} s\n"
            )
        finally:
            process.stop()
    return 0


def _has_a_row(world: ContinuousWorld) -> bool:
    try:
        with world.postgres.connect() as connection:
            found = connection.execute('SELECT 1 FROM dynabeam."table0" LIMIT 1').fetchone()
    except psycopg.errors.UndefinedTable:
        return False
    return found is not None


if __name__ == "__main__":
    sys.exit(main())
