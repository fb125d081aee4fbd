# SPDX-License-Identifier: Apache-2.0
"""The demo on a real Flink, for a person to watch, until Ctrl-C: `./run_local.sh flink`.

Starts a simulated AWS with changing tables, a PostgreSQL server, a Flink cluster and the continuous
run, and prints every few seconds how far the mirror is behind the tables.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
import time

import psycopg

from tests.runners.continuous_world import ContinuousWorld
from tests.runners.flink import Flink
from tests.runners.flink_cluster import ClusterSettings
from tests.runners.flink_parts import FlinkParts, flink_parts
from tests.runners.parts import AssemblyError, MissingToolError
from tests.runners.probes import Probes, distribution
from tests.runners.steady_work import SteadyWork
from tests.sinks.postgres_server import PostgresMissingError

__all__ = ["main"]

_SHOW_EVERY = 5.0
_RECENT = 30.0


def main(arguments: list[str] | None = None) -> int:
    """Runs the demo until Ctrl-C or for `--seconds`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="./run_local.sh flink", description=__doc__)
    parser.add_argument("--rate", type=float, default=200, help="changes a second")
    parser.add_argument("--seconds", type=float, default=0, help="end by itself; 0: never")
    parser.add_argument("--folder", default="", help="for logs, checkpoints and files")
    options = parser.parse_args(arguments)
    folder = pathlib.Path(options.folder or tempfile.mkdtemp(prefix="dynabeam-flink-"))
    _say("Assembling Flink, once (a minute or two) ...")
    try:
        parts = flink_parts()
        return _show(parts, folder, options)
    except (MissingToolError, AssemblyError, PostgresMissingError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        _say("\nStopped.")
        return 0


def _show(parts: FlinkParts, folder: pathlib.Path, options: argparse.Namespace) -> int:
    _say("Starting a simulated AWS, PostgreSQL and Flink ...")
    with ContinuousWorld(folder, export_seconds=20.0) as world:
        settings = ClusterSettings(slots=2)
        with (
            Flink(parts, folder / "flink", settings, variables=world.variables) as flink,
            SteadyWork(world.sim, world.tables, rate=options.rate, roll_every=20) as work,
        ):
            flink.start_command(
                world.command("--mode=continuous", "--detach", *flink.connection_options())
            )
            _say(f"Flink's web page  {flink.rest.url}")
            _say(f"Mirror            psql {world.postgres.uri()}   (schema dynabeam)")
            _say(f"Changelog         {folder / 'out'}")
            _say("Ctrl-C ends it.\n")
            began = time.monotonic()
            with Probes(world) as probes:
                while not options.seconds or time.monotonic() - began < options.seconds:
                    time.sleep(_SHOW_EVERY)
                    _say(_line(world, work, probes))
    return 0


def _line(world: ContinuousWorld, work: SteadyWork, probes: Probes) -> str:
    counts = []
    for name in world.tables:
        try:
            with world.postgres.connect() as connection:
                query = f'SELECT count(*) FROM dynabeam."{name}"'
                counts.append(f"{name} {connection.execute(query).fetchall()[0][0]:,} rows")
        except psycopg.Error:
            counts.append(f"{name} not there yet")
    now = time.monotonic()
    recent = [latency for sent, latency in probes.latencies if now - sent < _RECENT]
    behind = distribution(recent) if len(recent) > 1 else "nothing visible yet"
    return f"{work.written:,} changes written; {', '.join(counts)}; write to row: {behind}"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
