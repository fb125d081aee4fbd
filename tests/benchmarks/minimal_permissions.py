# SPDX-License-Identifier: Apache-2.0
"""Proof that the catalogue of permissions is minimal: a whole run without each in turn.

    python -m tests.benchmarks.minimal_permissions

Replicates a table of five items (stream, requested export, state directory and changelog in S3) in
the simulator, once with all permissions and once without each of them, and prints how each ended.
Exit code 1 if a run without a permission works, or ends with anything but an error that names it.
"""

import contextlib
import io
import os
import sys
import tempfile
import time

from tests.pipelines.test_permissions import KEY, LimitedWorld


class _NoCapture:
    """Stands in for pytest's `capsys`: what runs say is taken here."""

    def readouterr(self):
        return "", ""


def described(permission):
    """A permission of the catalogue in one line."""
    action, resource, conditions = permission
    where = "".join(f" ({key} {', '.join(values)})" for _, key, values in conditions)
    return f"{action} on {resource}{where}"


def verdict(code, said, missing):
    """What is wrong with the end of a run; empty for nothing."""
    if missing is None:
        return "" if code == 0 else f"it does not work: {said[-1:]}"
    errors = [each for each in said if each.startswith("dynabeam: ")]
    if code != 1 or len(errors) != 1:
        return f"exit code {code}, errors {errors}"
    if errors[0].startswith("dynabeam: failed") or missing[0] not in errors[0]:
        return f"the error does not name it: {errors[0]}"
    return ""


def main():
    os.environ.update(AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY="simulated")
    began, wrong = time.perf_counter(), 0
    first = LimitedWorld(tempfile.mkdtemp(), _NoCapture())
    with first.sim:
        # Runs go on without the permission to list streams, and say what they may not find.
        permissions = [each for each in first.needed(first.in_s3) if "ListStreams" not in each[0]]
        needed = [None, *permissions]
    for missing in needed:
        world = LimitedWorld(tempfile.mkdtemp(), _NoCapture())
        with world.sim:
            permissions = [each for each in world.needed(world.in_s3) if each != missing]
            with (
                contextlib.redirect_stderr(io.StringIO()) as said,
                contextlib.redirect_stdout(said),
            ):
                code = world.replicate(permissions, world.in_s3)
        problem = verdict(code, said.getvalue().splitlines(), missing)
        wrong += bool(problem)
        name = "nothing is missing" if missing is None else f"without {described(missing)}"
        print(f"{'WRONG' if problem else 'ok':<6} exit code {code}  {name}  {problem}", flush=True)
    print(f"{len(needed)} runs, {wrong} wrong, {time.perf_counter() - began:.0f} s")
    return min(1, wrong)


if __name__ == "__main__":
    sys.exit(main())
