# SPDX-License-Identifier: Apache-2.0
"""A run on Flink is kept away, for longer and longer, while its streams lose changes.

It is stopped behind a savepoint. A day and more pass for AWS and for the run alike, with writes,
and it is resumed. Tables are 34 days old.
"""

from __future__ import annotations

import dataclasses
import pathlib
import random
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from dynabeam.pipelines.continuous.deployments import current
from dynabeam.transforms.continuous.generations import read_generation
from dynabeam.transforms.state.state_directory import StateDirectory
from tests.runners.ahead import Ahead
from tests.runners.flink import Flink
from tests.runners.flink_cluster import ClusterSettings
from tests.runners.flink_parts import FlinkParts
from tests.runners.old_exports import OldExports
from tests.runners.processes import wait_until
from tests.runners.steady_work import SteadyWork, key_of

__all__ = ["GapSeen", "GapsSeen", "gaps"]

HEALED = "table0"
RESNAPSHOTTED = "table1"
_POLICIES = f"--gaps={HEALED}:heal,{RESNAPSHOTTED}:resnapshot"
_HISTORY = timedelta(days=34)
_RETENTION = timedelta(hours=24)
_CONTINUOUS = ("--mode=continuous", "--checkpointing_interval=3000")
_SECONDS = 180
_REPAIR_SECONDS = 900


@dataclasses.dataclass(frozen=True)
class GapSeen:
    """What came of one gap.

    Attributes:
        span: What the streams lost.
        ended: Table → what its generation's file says of the repair.
        seconds: From the resumption to equal mirrors.
    """

    span: timedelta
    ended: dict[str, dict[str, Any]]
    seconds: float


@dataclasses.dataclass(frozen=True)
class GapsSeen:
    """What came of them all.

    Attributes:
        refused_code: Exit code of the command that resumed under `--gaps=fail`.
        refused_log: What it said.
        reasons: What `dynabeam status` said of that.
        gaps: The repairs, in order.
    """

    refused_code: int
    refused_log: str
    reasons: list[str]
    gaps: list[GapSeen]


class _KeptAway(OldExports):
    """A world in which time passes at will, while no run goes on."""

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__(folder, tables=2, behind=_HISTORY, changelog=False)
        self._ahead = Ahead(folder / "ahead")
        self._random = random.Random(5)

    @property
    def variables(self) -> dict[str, str]:
        """With the clock that is ahead."""
        return {**super().variables, **self._ahead.variables}

    @property
    def program(self) -> list[str]:
        """`dynabeam`, by that clock."""
        return [sys.executable, "-m", "tests.runners.ahead"]

    def lose(self, span: timedelta) -> None:
        """Writes while nobody reads, of which the streams then lose those of the first `span`.

        Among them are items that are there only in the gap, and deletes of what only an export has.
        """
        for name in self.tables:
            self.sim.put_many(name, self._keys(name, range(20_000, 20_020)))
            self.sim.delete_many(
                name, self._keys(name, self._random.sample(range(10_000, 10_300), 20))
            )
        steps = 8
        for step in range(steps):
            self._let_pass((_RETENTION + span) / steps)
            for name in self.tables:
                numbers = [30_000 + self._random.randrange(60) for _ in range(12)]
                items = self._keys(name, numbers[:8])
                self.sim.put_many(name, [{**each, "step": {"N": str(step)}} for each in items])
                self.sim.delete_many(name, self._keys(name, numbers[8:]))
                if step % 3 == 1:
                    self.sim.roll(name)
        for name in self.tables:
            self.sim.delete_many(name, self._keys(name, range(20_000, 20_020)))

    def _let_pass(self, span: timedelta) -> None:
        self._ahead.let_pass(span)
        self.sim.advance(span)

    def _keys(self, name: str, numbers: Sequence[int]) -> list[dict[str, Any]]:
        return [key_of(self.tables[name], number) for number in numbers]

    def ended(self, name: str, above: int) -> dict[str, Any] | None:
        """What is known of a repair to a generation above the given one, once it has ended."""
        directory = StateDirectory(str(self.folder / "state"))
        found = read_generation(current(directory, directory.load()), name)
        if found.step != "settled" or found.ended is None or found.generation <= above:
            return None
        return dict(found.ended)


def gaps(folder: pathlib.Path, parts: FlinkParts, spans: Sequence[timedelta]) -> GapsSeen:
    """Runs it.

    Raises:
        TimeoutError: A repair did not end, or a mirror is not its table.
    """
    with _KeptAway(folder) as world:
        settings = ClusterSettings(slots=2)
        with Flink(parts, folder / "flink", settings, variables=world.variables) as flink:
            job = _start(world, flink, "--gaps=fail", *world.export_options)
            with SteadyWork(world.sim, world.tables, rate=20, roll_every=10):
                world.wait_for_snapshots(_SECONDS, names=list(world.tables))
            world.wait_for_mirror(_SECONDS)
            code, log, reasons = 0, "", []
            seen: list[GapSeen] = []
            at = dict.fromkeys(world.tables, 1)
            for number, span in enumerate(spans):
                savepoint = flink.rest.stop_with_savepoint(job, str(flink.cluster.savepoints))
                world.lose(span)
                resume = f"--savepoint_path={savepoint}"
                if number == 0:
                    code, log, reasons = _refused(world, flink, resume)
                began = time.monotonic()
                job = _start(world, flink, _POLICIES, resume)
                with SteadyWork(world.sim, world.tables, rate=20, roll_every=10):
                    ended = {name: _repaired(world, name, at[name]) for name in world.tables}
                world.wait_for_mirror(_SECONDS)
                at = {name: each["generation"] for name, each in ended.items()}
                seen.append(GapSeen(span, ended, time.monotonic() - began))
            return GapsSeen(code, log, reasons, seen)


def _start(world: _KeptAway, flink: Flink, *options: str) -> str:
    words = [*_CONTINUOUS, "--detach", *options, *flink.connection_options()]
    return flink.start_command(world.command(*words))


def _refused(world: _KeptAway, flink: Flink, resume: str) -> tuple[int, str, list[str]]:
    """Resumes under `fail`; the job, which Flink restarts for ever, is cancelled."""
    words = [*_CONTINUOUS, "--gaps=fail", resume, *flink.connection_options()]
    submission, name = flink.submit(world.command(*words))
    try:
        code = submission.wait(_SECONDS)
        reasons = world.status()["reasons"]
    finally:
        submission.stop()
    job = flink.rest.job_named(name)
    assert job is not None
    flink.rest.cancel(job)
    return code, submission.log.read_text(), reasons


def _repaired(world: _KeptAway, name: str, above: int) -> dict[str, Any]:
    return wait_until(lambda: world.ended(name, above), f"repair of {name}", _REPAIR_SECONDS)
