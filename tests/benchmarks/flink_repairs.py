# SPDX-License-Identifier: Apache-2.0
"""A gap is healed, a table snapshotted again and a new one found, on Flink, under load.

`python -m tests.benchmarks.flink_repairs --rate 100` prints what each repair did and how long it
took, and fails unless both mirrors are their tables and no change that the stream kept is missing.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile

from tests.runners.flink_parts import flink_parts
from tests.runners.repairs import repairs


def main() -> int:
    """Runs it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=100, help="changes a second")
    parser.add_argument("--folder", default="")
    given = parser.parse_args()
    folder = pathlib.Path(given.folder or tempfile.mkdtemp(prefix="dynabeam-repairs-"))
    seen = repairs(folder, flink_parts(), given.rate)
    for name, seconds in seen.repair_seconds.items():
        sys.stdout.write(f"{name}: repaired after {seconds:.0f} s\n")
    sys.stdout.write(f"healed: {seen.healed.ended}\nsnapshotted: {seen.snapshotted.ended}\n")
    sys.stdout.write(
        f"{seen.written:,} changes written meanwhile; in no changelog: {seen.lost:,} of the table "
        "whose stream lost changes, none of the other\n"
    )
    sys.stdout.write(f"a new table was in PostgreSQL after {seen.discovery_seconds:.1f} s\n")
    assert seen.healed.ended is not None
    assert seen.healed.ended["kind"] == "heal"
    return 0


if __name__ == "__main__":
    sys.exit(main())
