# SPDX-License-Identifier: Apache-2.0
"""The simulator as a process: `python -m transforms.testing --port 0 --seed 1`.

Prints one line of JSON, `{"endpoint_url": ...}`, once it listens, and serves until SIGTERM or
SIGINT. `RemoteSimulator(endpoint_url)` controls it.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from datetime import timedelta

from dynabeam.transforms.testing.clock import SimClock
from dynabeam.transforms.testing.faults import Faults
from dynabeam.transforms.testing.simulator import Simulator


def main(arguments: list[str] | None = None) -> int:
    """Serve until it is stopped; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dynabeam.testing", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0: any free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: all")
    parser.add_argument("--seed", type=int, default=0, help="decides ids, numbers and faults")
    parser.add_argument("--region", default="eu-west-1", help="Region in ARNs and records")
    parser.add_argument("--initial_shards", type=int, default=1, help="shards of a new stream")
    parser.add_argument("--scale", type=float, default=1.0, help="simulated seconds per second")
    parser.add_argument("--behind", type=float, default=0.0, help="begin so many seconds ago")
    parser.add_argument("--export_seconds", type=float, default=0.0, help="what an export takes")
    parser.add_argument(
        "--faults", type=json.loads, default={}, help='JSON object, such as {"throttle": 0.1}'
    )
    options = parser.parse_args(arguments)
    stops = {signal.SIGTERM, signal.SIGINT}
    # Blocked before any thread starts, so that only `sigwait` below takes them.
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    with Simulator(
        seed=options.seed,
        region=options.region,
        faults=Faults.from_json(options.faults),
        clock=SimClock(scale=options.scale, offset=timedelta(seconds=-options.behind)),
        initial_shards=options.initial_shards,
        port=options.port,
        host=options.host,
    ) as simulator:
        simulator.exports.export_seconds = options.export_seconds
        sys.stdout.write(json.dumps({"endpoint_url": simulator.endpoint_url}) + "\n")
        sys.stdout.flush()
        signal.sigwait(stops)
    return 0


if __name__ == "__main__":
    sys.exit(main())
