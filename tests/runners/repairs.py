# SPDX-License-Identifier: Apache-2.0
"""Repairs of a run on Flink, under load: one table loses changes, of another a snapshot is ordered.

At the end a table appears that nobody has named: the run finds it.

The snapshots are from long ago, because a table is healed only if its snapshot is older than the
first window of the heal, which begins half an hour before the gap.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from datetime import timedelta

from dynabeam.pipelines.continuous.deployments import current
from dynabeam.transforms.continuous.generations import TableGeneration, read_generation
from dynabeam.transforms.state.state_directory import StateDirectory
from tests.runners.continuous_world import ContinuousWorld
from tests.runners.flink import Flink
from tests.runners.flink_cluster import ClusterSettings
from tests.runners.flink_parts import FlinkParts
from tests.runners.old_exports import OldExports
from tests.runners.processes import wait_until
from tests.runners.steady_work import SteadyWork, key_of

__all__ = ["RepairsSeen", "repairs"]

_HEALED = "table0"
_ORDERED = "table1"
_APPEARED = "table2"
_BEHIND = timedelta(hours=2)
_CONTINUOUS = ("--mode=continuous", "--detach", "--checkpointing_interval=5000")
_SECONDS = 180
_REPAIR_SECONDS = 1500


@dataclasses.dataclass(frozen=True)
class RepairsSeen:
    """What came of it.

    Attributes:
        healed: The file of the table that lost changes.
        snapshotted: The file of the other.
        repair_seconds: From the loss, or the order, to the end of the repair, per table.
        lost: Changes of the healed table that no changelog row has: the stream lost them.
        written: Changes that were written meanwhile.
        discovery_seconds: From a new table's creation to its items in the mirror.
    """

    healed: TableGeneration
    snapshotted: TableGeneration
    repair_seconds: dict[str, float]
    lost: int
    written: int
    discovery_seconds: float


def repairs(folder: pathlib.Path, parts: FlinkParts, rate: float = 100) -> RepairsSeen:
    """Runs it.

    Raises:
        AssertionError: A mirror is not its table, or a change that the stream kept is missing.
        TimeoutError: A repair did not end, or a change of the table that lost none is missing.
    """
    with OldExports(folder, tables=2, behind=_BEHIND) as world:
        settings = ClusterSettings(slots=2)
        with Flink(parts, folder / "flink", settings, variables=world.variables) as flink:
            words = [*_CONTINUOUS, f"--gaps={_HEALED}:heal", "--discover_every=20s"]
            words += world.export_options
            words += flink.connection_options()
            flink.start_command(world.command(*words, names=["table*"]))
            with SteadyWork(world.sim, world.tables, rate=rate, roll_every=30) as work:
                world.wait_for_snapshots(_SECONDS, names=list(world.tables))
                began = time.monotonic()
                _lose(world)
                world.run(command="snapshot", names=[_ORDERED])
                took = {}
                for name in (_HEALED, _ORDERED):
                    wait_until(lambda name=name: _ended(world, name), name, _REPAIR_SECONDS)
                    took[name] = time.monotonic() - began
                written = work.written
            began = time.monotonic()
            world.create(_APPEARED)
            world.wait_for_snapshots(_SECONDS, names=[_APPEARED])
            discovered = time.monotonic() - began
            world.wait_for_mirror(_SECONDS)
            # A changelog keeps rows for a while before a file is whole.
            wait_until(
                lambda: not world.missing_sequences()[_ORDERED], "whole changelog", 2 * _SECONDS
            )
            missing = world.missing_sequences()
            return RepairsSeen(
                healed=_file(world, _HEALED),
                snapshotted=_file(world, _ORDERED),
                repair_seconds=took,
                lost=len(missing[_HEALED]),
                written=written,
                discovery_seconds=discovered,
            )


def _lose(world: ContinuousWorld) -> None:
    """Writes that the stream loses before anybody can read them: puts, and deletes of old items."""
    schema = world.tables[_HEALED]
    for number in range(20):
        world.sim.put_many(_HEALED, [key_of(schema, 20_000 + number)])
        world.sim.delete_many(_HEALED, [key_of(schema, 10_000 + number)])
        world.sim.trim(_HEALED, before=world.sim.now())
        time.sleep(0.1)


def _file(world: ContinuousWorld, name: str) -> TableGeneration:
    directory = StateDirectory(str(world.folder / "state"))
    return read_generation(current(directory, directory.load()), name)


def _ended(world: ContinuousWorld, name: str) -> bool:
    return _file(world, name).ended is not None
