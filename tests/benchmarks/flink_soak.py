# SPDX-License-Identifier: Apache-2.0
"""An hour of steady work on Flink: does memory or state grow?

    python -m tests.benchmarks.flink_soak --minutes 60 --rate 200

Flink keeps its state in memory here, because a checkpoint of RocksDB also holds what waits for a
compaction. Prints a line a minute: resident memory of Flink's TaskManager and of the Python worker,
the size of the last checkpoint, the age of the stored positions (of the table that has the oldest),
restarts. At the end the mirror and the changelog are compared with the tables, and the second half
of the time after the first ten minutes with the first. The exit code is 1 if something was lost, or
grew by more than a tenth, or if positions were older than three minutes.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence

from tests.runners.continuous_world import ContinuousWorld
from tests.runners.flink import Flink
from tests.runners.flink_cluster import ClusterSettings
from tests.runners.flink_parts import flink_parts
from tests.runners.steady_work import SteadyWork

_WARM_UP_MINUTES = 10
_GROWTH = 1.1
_NAMES = ("TaskManager MiB", "worker MiB", "checkpoint kB")
_END_SECONDS = 300
_STORED_WITHIN = 180


def main() -> int:
    """Runs the soak; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--tables", type=int, default=3)
    parser.add_argument("--roll_every", type=float, default=60)
    parser.add_argument("--folder", default="")
    given = parser.parse_args()
    folder = pathlib.Path(given.folder or tempfile.mkdtemp(prefix="dynabeam-soak-"))
    samples: list[tuple[float, ...]] = []
    ages: list[float] = []
    settings = ClusterSettings(state_backend="hashmap")
    with (
        ContinuousWorld(folder, tables=given.tables, export_seconds=20) as world,
        Flink(flink_parts(), folder / "flink", settings, variables=world.variables) as flink,
    ):
        options = ("--mode=continuous", "--detach", *flink.connection_options())
        job = flink.start_command(world.command(*options))
        with SteadyWork(
            world.sim, world.tables, rate=given.rate, roll_every=given.roll_every
        ) as work:
            _say("minute", *_NAMES, "stored s ago", "restarts", "written")
            for minute in range(1, given.minutes + 1):
                time.sleep(60)
                checkpoint = flink.rest.next_checkpoint(job, 300)
                (manager,) = flink.cluster.taskmanagers
                sample = (
                    _resident_mib([manager.pid]),
                    _resident_mib(flink.workers.pids()),
                    checkpoint.state_bytes / 1000,
                )
                samples.append(sample)
                ages.append(_stored_seconds_ago(folder))
                shown = [f"{each:.0f}" for each in (*sample, ages[-1])]
                _say(minute, *shown, flink.rest.restarts(job), work.written)
        world.wait_for_mirror(_END_SECONDS)
        changelog = world.wait_for_changelog(_END_SECONDS)
        differences = world.differences()
    _say(f"differences {len(differences)}, missing in the changelog {len(changelog.missing)}")
    oldest = max(ages[_WARM_UP_MINUTES:], default=0.0)
    _say(f"stored positions were at most {oldest:.0f} s old after the warm-up")
    lost = bool(differences or changelog.missing)
    return _judge(samples) or int(lost or oldest > _STORED_WITHIN)


def _stored_seconds_ago(folder: pathlib.Path) -> float:
    stored = folder.glob("state/continuous/*/positions/*.jsonl")
    return time.time() - min((each.stat().st_mtime for each in stored), default=time.time())


def _judge(samples: Sequence[tuple[float, ...]]) -> int:
    """Compares the halves of what came after the warm-up; 1 if something grew."""
    settled = samples[_WARM_UP_MINUTES:]
    if len(settled) < 4:
        _say("too short to say whether anything grows")
        return 0
    middle = len(settled) // 2
    grew = 0
    for name, values in zip(_NAMES, zip(*settled, strict=True), strict=True):
        before, after = statistics.median(values[:middle]), statistics.median(values[middle:])
        ratio = after / before
        grew |= ratio > _GROWTH
        _say(f"{name}: median {before:.0f}, then {after:.0f}: {ratio:.2f} x")
    return int(grew)


def _resident_mib(pids: Sequence[int]) -> float:
    total = 0
    for pid in pids:
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
    return total / 1024


def _say(*words: object) -> None:
    sys.stdout.write("  ".join(str(each) for each in words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
