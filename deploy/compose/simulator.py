# SPDX-License-Identifier: Apache-2.0
"""A simulated AWS whose tables change for ever, for the compose file: `python simulator.py`.

It makes the tables of `dynabeam demo`, listens where `--host` and `--port` say, and changes the
tables from then on, with shards that are closed and followed by others. All is kept in memory, so
it is for looking, not for staying.
"""

from __future__ import annotations

import argparse
import itertools
import random
import signal
import sys
import threading
import time

from dynabeam.pipelines.demo.workload import AGE, ChangingTable, make_tables
from dynabeam.testing import SimClock, Simulator

LAKE = "lake"
"""The bucket of changelog, state directory and whatever else is written."""
_PAUSE = 0.5
_ROLL_SECONDS = 60.0


def main() -> int:
    """Serves until SIGTERM or SIGINT; returns the exit status."""
    parser = argparse.ArgumentParser(prog="simulator.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    parser.add_argument("--port", type=int, default=4566, help="port to listen on")
    parser.add_argument(
        "--seconds", type=float, default=0, help="how long tables change; 0: always"
    )
    options = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    clock = SimClock(offset=-AGE)
    with Simulator(
        seed=7, clock=clock, initial_shards=2, port=options.port, host=options.host
    ) as sim:
        tables = make_tables(sim, random.Random(7))  # noqa: S311 - repeatable on purpose
        sim.create_bucket(LAKE)
        sim.exports.export_seconds = 5
        _say(f"A simulated AWS listens on port {options.port}, with {', '.join(tables)}")
        _change(list(tables.values()), stop, options.seconds)
        if not stop.is_set():
            _say("The tables stand still now")
            stop.wait()
    return 0


def _change(tables: list[ChangingTable], stop: threading.Event, seconds: float) -> None:
    began = rolled = time.monotonic()
    for table in itertools.cycle(tables):
        now = time.monotonic()
        if stop.wait(_PAUSE) or (seconds and now - began >= seconds):
            return
        table.change()
        if now - rolled >= _ROLL_SECONDS:
            rolled = now
            for each in tables:
                each.roll()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
