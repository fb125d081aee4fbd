# SPDX-License-Identifier: Apache-2.0
"""What `--verify_chain` costs: one catch-up round of a long stream, with it and without.

python -m tests.benchmarks.verify_chain [changes]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from datetime import datetime, timedelta, timezone

from dynabeam.pipelines.options.replicate import parse_replicate
from dynabeam.pipelines.replicate import replicate
from dynabeam.transforms.testing.clock import SimClock
from dynabeam.transforms.testing.simulator import Simulator

_KEYS = 5_000


def main() -> None:
    """Measures both, in turn, three times."""
    changes = int(sys.argv[1]) if len(sys.argv) > 1 else 60_000
    os.environ.update(AWS_ACCESS_KEY_ID="simulated", AWS_SECRET_ACCESS_KEY="simulated")
    clock = SimClock(offset=-timedelta(minutes=10))
    with Simulator(seed=1, clock=clock, initial_shards=2) as sim:
        sim.create_table("orders")
        for start in range(0, changes, _KEYS):
            sim.put_many("orders", [_item(number, start) for number in range(_KEYS)])
        clock.set(datetime.now(timezone.utc))
        plain, verified = [], []
        for _ in range(3):
            plain.append(_round(sim))
            verified.append(_round(sim, "--verify_chain"))
    best, checked = min(plain), min(verified)
    sys.stdout.write(
        f"{changes:,} changes of {_KEYS:,} keys into Parquet, CPU seconds: {best:.2f} without, "
        f"{checked:.2f} with --verify_chain: {checked / best:.2f} x, "
        f"{(checked - best) / changes * 1e6:.0f} us a change\n"
    )


def _item(number: int, start: int) -> dict[str, dict[str, str]]:
    attributes = {f"a{place}": {"S": f"text {start} {place}"} for place in range(8)}
    return {"id": {"S": f"o{number}"}, "total": {"N": str(start)}, **attributes}


def _round(sim: Simulator, *options: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        parsed = parse_replicate(
            [
                "--tables=orders",
                "--snapshot=never",
                f"--region={sim.region}",
                f"--endpoint_url={sim.endpoint_url}",
                f"--sink=file:///{folder}/out?format=parquet",
                f"--state_dir={folder}/state",
                *options,
            ]
        )
        began = time.process_time()
        replicate(parsed)
        return time.process_time() - began


if __name__ == "__main__":
    main()
