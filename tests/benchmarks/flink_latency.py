# SPDX-License-Identifier: Apache-2.0
"""Latency from a write to its row in PostgreSQL, on a Flink of its own processes.

    python -m tests.benchmarks.flink_latency --seconds 60 --rate 500 --tables 3 --shards 2

Prints the time to the first row, the distribution of latencies, that around rollovers, and what the
processes used. Options after `--` go to Beam, e.g. `-- --max_bundle_size=64`.
"""

from __future__ import annotations

import argparse
import pathlib
import resource
import sys
import tempfile
import time

from tests.runners.continuous_world import ContinuousWorld
from tests.runners.flink import Flink
from tests.runners.flink_parts import flink_parts
from tests.runners.probes import Probes, distribution
from tests.runners.steady_work import SteadyWork

_AFTER_ROLL = 3.0


def main() -> int:
    """Runs the benchmark; returns the exit code: 1 if mirror and tables differ at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--settle", type=float, default=110, help="a snapshot takes some 100 s")
    parser.add_argument("--tables", type=int, default=3)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--roll_every", type=float, default=15)
    parser.add_argument("--export_seconds", type=float, default=0)
    parser.add_argument("--changelog", action="store_true")
    parser.add_argument("--folder", default="")
    parser.add_argument("beam", nargs="*")
    given = parser.parse_args()
    folder = pathlib.Path(given.folder or tempfile.mkdtemp(prefix="dynabeam-latency-"))
    rolls: list[float] = []
    with ContinuousWorld(
        folder,
        tables=given.tables,
        shards=given.shards,
        export_seconds=given.export_seconds,
        changelog=given.changelog,
    ) as world:
        began = time.monotonic()
        with (
            Flink(flink_parts(), folder / "flink", variables=world.variables) as flink,
            SteadyWork(
                world.sim,
                world.tables,
                rate=given.rate,
                roll_every=given.roll_every,
                on_roll=lambda: rolls.append(time.monotonic()),
            ) as work,
        ):
            flink.start_command(
                world.command(
                    "--mode=continuous", "--detach", *flink.connection_options(), *given.beam
                )
            )
            with Probes(world) as probes:
                while not probes.latencies:
                    time.sleep(0.05)
                first = time.monotonic() - began
                time.sleep(given.settle)
                settled = time.monotonic()
                time.sleep(given.seconds)
            seen = [each for each in probes.latencies if each[0] >= settled]
            near = [
                latency
                for sent, latency in seen
                if any(0 <= sent - roll < _AFTER_ROLL for roll in rolls)
            ]
            sys.stdout.write(
                f"start to first row, cluster included: {first:.1f} s\n"
                f"latency: {distribution([each[1] for each in seen])}\n"
                f"sent within {_AFTER_ROLL:.0f} s after a rollover: {distribution(near)}\n"
                f"probes never seen: {probes.unseen}\n"
                f"written: {work.written / (time.monotonic() - began):.0f} changes/s\n"
            )
            sys.stdout.flush()
            used = resource.getrusage(resource.RUSAGE_SELF)
            sys.stdout.write(f"this process used {used.ru_utime + used.ru_stime:.0f} s of CPU\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
