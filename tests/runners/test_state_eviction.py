# SPDX-License-Identifier: Apache-2.0
"""State is as large as a snapshot makes it while it is pending, and small afterwards."""

from __future__ import annotations

import pathlib
import random
import sys
import uuid

import pytest

from tests.runners.continuous_world import ContinuousWorld
from tests.runners.flink import Flink
from tests.runners.flink_cluster import ClusterSettings
from tests.runners.flink_parts import FlinkParts
from tests.runners.flink_rest import Checkpoint
from tests.runners.processes import wait_until
from tests.runners.steady_work import SteadyWork

_TABLE = "table0"
_KEYS = 30_000
_LEAST_BYTES = 30
"""Of state for each key: its 16 random bytes, as text, and a version, compressed."""
_EXPORT_SECONDS = 40
_SECONDS = 180


@pytest.mark.flink
@pytest.mark.slow
@pytest.mark.runner
def test_keys_are_forgotten_once_the_snapshot_is_over(flink: FlinkParts, tmp_path: pathlib.Path):
    # Checkpoints of this backend hold what there is; rocksdb's also what waits for a compaction.
    settings = ClusterSettings(state_backend="hashmap")
    with (
        ContinuousWorld(
            tmp_path, tables=1, shards=1, export_seconds=_EXPORT_SECONDS, changelog=False
        ) as world,
        Flink(flink, tmp_path / "flink", settings, variables=world.variables) as cluster,
    ):
        how = ["--mode=continuous", "--detach", "--checkpointing_interval=2000"]
        job = cluster.start_command(world.command(*how, *cluster.connection_options()))
        empty = cluster.rest.next_checkpoint(job)
        _write_keys(world)
        wait_until(
            lambda: world.rows_with(_TABLE, "probe") == _KEYS, "keys in the mirror", _SECONDS
        )
        pending = cluster.rest.next_checkpoint(job)
        assert world.rows_with(_TABLE, "old") == 0, "the export was to be pending still"

        def forgotten() -> Checkpoint | None:
            checkpoint = cluster.rest.next_checkpoint(job)
            grown = checkpoint.state_bytes - empty.state_bytes
            return checkpoint if grown < (pending.state_bytes - empty.state_bytes) / 10 else None

        # With some work the watermark is that of now; without, it is half a minute behind.
        with SteadyWork(world.sim, world.tables, rate=20):
            world.wait_for_snapshots(_SECONDS, names=[_TABLE])
            over = wait_until(forgotten, "small checkpoint", _SECONDS)
    sys.stdout.write(
        f"checkpoint: {empty.state_bytes} bytes before {_KEYS} keys changed, "
        f"{pending.state_bytes} while their snapshot was pending, {over.state_bytes} after it\n"
    )
    assert pending.state_bytes - empty.state_bytes > _KEYS * _LEAST_BYTES


def _write_keys(world: ContinuousWorld) -> None:
    rng = random.Random("keys")
    items = [
        {"id": {"S": str(uuid.UUID(int=rng.getrandbits(128)))}, "probe": {"BOOL": True}}
        for _ in range(_KEYS)
    ]
    for start in range(0, _KEYS, 1000):
        world.sim.put_many(_TABLE, items[start : start + 1000])
