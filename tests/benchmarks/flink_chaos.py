# SPDX-License-Identifier: Apache-2.0
"""Everything that may die, dies: `python -m tests.benchmarks.flink_chaos --rate 500`.

Prints what happens when, and at the end what was lost (nothing, or it fails), what was repeated,
and how long after the last change mirror and tables were equal.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile

from tests.runners.chaos import ChaosSettings, chaos
from tests.runners.flink_parts import flink_parts


def main() -> int:
    """Runs it; returns the exit code."""
    chosen = ChaosSettings()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=chosen.rate)
    parser.add_argument("--tables", type=int, default=chosen.tables)
    parser.add_argument("--shards", type=int, default=chosen.shards)
    parser.add_argument("--roll_every", type=float, default=chosen.roll_every)
    parser.add_argument("--export_seconds", type=float, default=chosen.export_seconds)
    parser.add_argument("--throttle_seconds", type=float, default=chosen.throttle_seconds)
    parser.add_argument("--folder", default="")
    given = vars(parser.parse_args())
    folder = pathlib.Path(given.pop("folder") or tempfile.mkdtemp(prefix="dynabeam-chaos-"))
    sys.stdout.write(f"{chaos(folder, flink_parts(), ChaosSettings(**given))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
