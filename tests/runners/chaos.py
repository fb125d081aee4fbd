# SPDX-License-Identifier: Apache-2.0
"""Everything that may die, dies: a continuous run under steady work, and what is left of it."""

from __future__ import annotations

import dataclasses
import pathlib
import random
import sys
import time

from dynabeam.transforms.testing.faults import Faults
from tests.runners.continuous_world import ContinuousWorld
from tests.runners.flink import Flink
from tests.runners.flink_parts import FlinkParts
from tests.runners.processes import wait_until
from tests.runners.steady_work import SteadyWork

__all__ = ["ChaosSettings", "Outcome", "chaos"]

_CHECKPOINT_MS = 5000
_AT_REST = 180


@dataclasses.dataclass(frozen=True)
class ChaosSettings:
    """How hard it gets.

    Attributes:
        rate: Changes a second over all tables.
        tables: Number of tables.
        shards: Shards of each at the start.
        roll_every: Seconds between two rollovers of every table; the first two are splits.
        export_seconds: What an export takes, so that it ends between two failures.
        throttle_seconds: How long most reads are throttled.
    """

    rate: float = 600.0
    tables: int = 3
    shards: int = 2
    roll_every: float = 10.0
    export_seconds: float = 30.0
    throttle_seconds: float = 30.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What is left.

    Attributes:
        written: Changes that the work made while it lasted.
        seconds: How long it lasted.
        equal_after: Seconds from the end of the work until every mirror equalled its table.
        complete_after: Seconds from there until the changelog held every version of the streams.
        lost: Versions of the streams that no file of the changelog holds.
        repeats: Rows of the changelog beyond one a version.
        snapshot_rows: Rows of the changelog that come from exports.
        dead_letters: Records that could not be handled.
        restores: How often Flink restored the job, over both JobManagers.
        crashed: TaskManagers that ended by themselves.
        faults: What the simulated service did wrong: error → times.
    """

    written: int
    seconds: float
    equal_after: float
    complete_after: float
    lost: int
    repeats: int
    snapshot_rows: int
    dead_letters: int
    restores: int
    crashed: int
    faults: dict[str, int]

    def __str__(self) -> str:
        faults = ", ".join(f"{error} {times}" for error, times in sorted(self.faults.items()))
        return (
            f"{self.written} changes in {self.seconds:.0f} s, "
            f"{self.written / self.seconds:.0f} a second\n"
            f"mirror = table {self.equal_after:.1f} s after the last change; "
            f"changelog complete {self.complete_after:.1f} s later\n"
            f"lost {self.lost}, repeated {self.repeats}, snapshot rows {self.snapshot_rows}, "
            f"dead letters {self.dead_letters}\n"
            f"restored {self.restores} times, {self.crashed} TaskManagers crashed by themselves; "
            f"the service answered {faults}\n"
        )


def chaos(folder: pathlib.Path, parts: FlinkParts, settings: ChaosSettings) -> Outcome:
    """Runs it.

    Raises:
        TimeoutError: Mirror or changelog did not come to hold everything.
    """
    with (
        ContinuousWorld(
            folder,
            tables=settings.tables,
            shards=settings.shards,
            export_seconds=settings.export_seconds,
        ) as world,
        Flink(parts, folder / "flink", variables=world.variables) as flink,
    ):
        return _Chaos(world, flink, settings).run()


class _Chaos:
    def __init__(self, world: ContinuousWorld, flink: Flink, settings: ChaosSettings) -> None:
        self._world = world
        self._flink = flink
        self._settings = settings
        self._began = time.monotonic()
        self._random = random.Random("chaos")
        self._job = ""
        self._restores = 0
        self._work = SteadyWork(
            world.sim, world.tables, rate=settings.rate, roll_every=settings.roll_every, splits=2
        )

    def run(self) -> Outcome:
        with self._flink.cluster.supervised() as crashed:
            self._start()
            self._lose_all()
            return self._outcome(self._work, len(crashed))

    def _lose_all(self) -> None:
        world = self._world
        with self._work:
            self._tell("the work begins")
            self._settle()
            world.sim.faults = Faults(expired_iterator=0.03)
            self._lose_taskmanager()
            self._lose_workers()
            self._lose_postgres()
            self._throttle()
            self._lose_jobmanager()
            self._lose_taskmanager()
        self._tell("the work is over")

    # What happens.

    def _start(self, *options: str) -> None:
        how = ["--mode=continuous", "--detach", f"--checkpointing_interval={_CHECKPOINT_MS}"]
        words = [*how, *self._flink.connection_options(), *options]
        self._job = self._flink.start_command(self._world.command(*words))
        self._tell("the job runs")

    def _settle(self) -> None:
        """Until the job has got on: a checkpoint of now, and some work that is in none yet."""
        checkpoint = self._flink.rest.next_checkpoint(self._job, 120)
        self._tell(f"checkpoint {checkpoint.number}, {checkpoint.milliseconds} ms")
        share = self._random.uniform(0.2, 1.2)  # at times beyond the begin of the next one
        changes = self._settings.rate * _CHECKPOINT_MS / 1000 * share
        until = self._work.written + changes
        wait_until(lambda: self._work.written >= until, "work", 120)

    def _lose_taskmanager(self) -> None:
        before = self._flink.rest.restarts(self._job)
        self._flink.cluster.kill_taskmanager()
        self._tell("killed the TaskManager")
        self._flink.cluster.start_taskmanager()
        self._await_restart(before)

    def _lose_workers(self) -> None:
        before = self._flink.rest.restarts(self._job)
        killed = self._flink.workers.kill()
        assert killed
        self._tell(f"killed Python workers: {len(killed)}")
        self._await_restart(before)

    def _lose_postgres(self) -> None:
        self._world.postgres.restart("immediate")
        self._tell("restarted PostgreSQL at once")
        self._settle()

    def _throttle(self) -> None:
        """Most reads are throttled, and a TaskManager is lost in the middle of it."""
        sim, until = self._world.sim, time.monotonic() + self._settings.throttle_seconds
        sim.faults = Faults(
            actions=frozenset({"GetRecords", "DescribeStream"}), throttle=0.7, expired_iterator=0.03
        )
        self._tell("most reads are throttled")
        self._lose_taskmanager()
        wait_until(lambda: time.monotonic() >= until, "end of throttling", 120)
        sim.faults = Faults(expired_iterator=0.03)
        self._tell("no longer")

    def _lose_jobmanager(self) -> None:
        """Without high availability the job is gone; the retained checkpoint is not."""
        self._restores += self._flink.rest.restarts(self._job)
        self._flink.cluster.kill_jobmanager()
        self._tell("killed the JobManager")
        self._flink.cluster.start_jobmanager()
        retained = self._flink.cluster.retained_checkpoint(self._job)
        assert retained is not None
        self._start(f"--savepoint_path={retained}")
        self._settle()

    def _await_restart(self, before: int) -> None:
        rest = self._flink.rest
        wait_until(lambda: rest.restarts(self._job) > before, "restart", 120)
        rest.wait_running(self._job, 120)
        self._tell("the job runs again")
        self._settle()

    # What is left.

    def _outcome(self, work: SteadyWork, crashed: int) -> Outcome:
        world, ended = self._world, time.monotonic()
        world.wait_for_mirror(_AT_REST)
        equal = time.monotonic()
        self._tell("mirror = table")
        changelog = world.wait_for_changelog(_AT_REST)
        complete = time.monotonic()
        self._tell("the changelog is complete")
        assert not world.differences()
        errors = world.sim.stats()["errors"]
        return Outcome(
            written=work.written,
            seconds=work.seconds,
            equal_after=equal - ended,
            complete_after=complete - equal,
            lost=len(changelog.missing),
            repeats=changelog.repeats,
            snapshot_rows=changelog.snapshot_rows,
            dead_letters=len(world.dead_letters()),
            restores=self._restores + self._flink.rest.restarts(self._job),
            crashed=crashed,
            faults={str(error): int(times) for error, times in errors.items()},
        )

    def _tell(self, what: str) -> None:
        sys.stdout.write(f"{time.monotonic() - self._began:6.1f} s  {what}\n")
        sys.stdout.flush()
