# SPDX-License-Identifier: Apache-2.0
"""Proof that the catalogue of rights is minimal: a whole run without each of its rights in turn.

    python -m tests.benchmarks.minimal_rights

Replicates a table of five items (stream, requested export, state directory and changelog in S3) in
the simulator, once with all rights and once without each single one, and prints how each run ended.
Exit code 1 if a run without a right works.
"""

import os
import sys
import tempfile
import time

from tests.pipelines.test_rights import KEY, LimitedWorld


class _NoCapture:
    """Stands in for pytest's `capsys`; what runs say goes to the terminal's error stream."""

    def readouterr(self):
        return "", ""


def main():
    os.environ.update(AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY="simulated")
    began, wrong = time.perf_counter(), 0
    first = LimitedWorld(tempfile.mkdtemp(), _NoCapture())
    with first.sim:
        needed = [None, *first.needed(first.in_s3)]
    for missing in needed:
        world = LimitedWorld(tempfile.mkdtemp(), _NoCapture())
        with world.sim:
            rights = [each for each in world.needed(world.in_s3) if each != missing]
            code = world.replicate(rights, world.in_s3)
        expected = 0 if missing is None else 1
        wrong += code != expected
        name = "nothing is missing" if missing is None else f"without {' on '.join(missing)}"
        mark = "ok" if code == expected else "WRONG"
        print(f"{mark:<6} exit code {code}  {name}", flush=True)
    print(f"{len(needed)} runs, {wrong} wrong, {time.perf_counter() - began:.0f} s")
    return min(1, wrong)


if __name__ == "__main__":
    sys.exit(main())
