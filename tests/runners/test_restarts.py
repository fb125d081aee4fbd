# SPDX-License-Identifier: Apache-2.0
"""The ways in which a deployment is stopped, moved, added to and gone on with lose nothing."""

from __future__ import annotations

import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dynabeam.transforms.telemetry.metric_names import METRICS
from tests.runners.continuous_world import ContinuousWorld
from tests.runners.flink import Flink
from tests.runners.flink_cluster import ClusterSettings
from tests.runners.flink_parts import FlinkParts
from tests.runners.prism import options as prism_options
from tests.runners.processes import Process, free_ports, wait_until
from tests.runners.steady_work import SteadyWork
from tests.telemetry.scraping import Scrape, scrape

_SECONDS = 120
_INTERRUPTED = 130
_OLD_ROWS = 300
_CONTINUOUS = ("--mode=continuous", "--checkpointing_interval=3000")
_FIRST = ("table0", "table1")
_ADDED = "table2"


@pytest.mark.flink
@pytest.mark.slow
@pytest.mark.runner
class TestFlink:
    """One deployment through all of it, because each part goes on from what the last one left."""

    @pytest.fixture
    def world(self, tmp_path: pathlib.Path) -> Iterator[ContinuousWorld]:
        with ContinuousWorld(tmp_path, tables=3, export_seconds=3) as world:
            yield world

    @pytest.fixture
    def cluster(
        self, flink: FlinkParts, world: ContinuousWorld, tmp_path: pathlib.Path
    ) -> Iterator[Flink]:
        settings = ClusterSettings(slots=3)
        with Flink(flink, tmp_path / "flink", settings, variables=world.variables) as cluster:
            yield cluster

    def test_a_deployment_goes_on(self, world: ContinuousWorld, cluster: Flink):
        rest = cluster.rest
        with SteadyWork(world.sim, world.tables, rate=150, roll_every=10, splits=1):
            # Rounds, and from their positions a job.
            world.run("--until=caught_up", names=_FIRST)
            job = self._start(world, cluster, "--parallelism=2")
            rest.next_checkpoint(job)

            # One more table, while it runs.
            began = time.monotonic()
            world.run(command="add", names=[_ADDED])
            world.wait_for_snapshots(_SECONDS, names=[_ADDED])
            sys.stdout.write(
                f"snapshot of an added table in PostgreSQL after {time.monotonic() - began:.1f} s\n"
            )

            # Behind a savepoint, with more subtasks, by a runner with a job server of its own.
            savepoint = rest.stop_with_savepoint(job, str(cluster.cluster.savepoints))
            more = ("--parallelism=3", f"--savepoint_path={savepoint}", *cluster.runner_options())
            client, job = self._follow(world, cluster, *more)
            rest.next_checkpoint(job)
            _check_status(world.status(f"--flink_rest={rest.url}"), job, world, subtasks=3)

            # The machine is lost, with all that runs on it but the work.
            _kill_everything(client, cluster)
            _start_everything(cluster)
            retained = cluster.cluster.retained_checkpoint(job)
            assert retained is not None
            more = ("--parallelism=3", f"--savepoint_path={retained}")
            client, job = self._follow(world, cluster, *more)
            rest.next_checkpoint(job)

            # Back to rounds.
            assert client.interrupt(_SECONDS) == _INTERRUPTED, client.tail()
            client.stop()
            # Beam's job server cannot cancel what runs on a cluster, and the command says so.
            assert "end it with `flink stop`" in client.tail()
            rest.cancel(job)
            over = world.status(f"--flink_rest={rest.url}", f"--flink_job={job}")
            assert [each for each in over["reasons"] if " is CANCELED since " in each]
        world.run("--until=caught_up", "--take_over")
        assert world.differences() == []
        # The job took with it what it had gathered for a file: rounds began before that.
        changelog = world.changelog()
        assert changelog.missing == []
        assert changelog.snapshot_rows >= 900
        assert world.dead_letters() == []
        sys.stdout.write(f"repeated in the changelog: {changelog.repeats}\n")

    def _start(self, world: ContinuousWorld, cluster: Flink, *options: str) -> str:
        words = [*_CONTINUOUS, "--detach", *cluster.connection_options(), *options]
        return cluster.start_command(world.command(*words, names=_FIRST))

    def _follow(self, world: ContinuousWorld, cluster: Flink, *options: str) -> tuple[Process, str]:
        words = [*_CONTINUOUS, *cluster.connection_options(), *options]
        return cluster.follow_command(world.command(*words))


def _check_status(
    found: dict[str, Any], job: str, world: ContinuousWorld, *, subtasks: int
) -> None:
    """Every table and the job go on well, as the state directory and Flink tell it."""
    assert (found["reasons"], found["mode"]) == ([], "continuous")
    tables = {each["table"]: each for each in found["tables"]}
    assert tables.keys() == world.tables.keys()
    for table in tables.values():
        assert (table["streams"], table["gaps"], table["dead_letters"]) == (True, 0, 0)
        assert table["stored_us"] is not None
    # Those that rounds began: the added one may not be stored yet.
    assert all(tables[name]["changes"] > 0 for name in _FIRST)
    assert all(tables[name]["snapshot"]["status"] == "done" for name in _FIRST)
    flink = found["flink"]
    assert (flink["job"], flink["state"], flink["restarts"]) == (job, "RUNNING", 0)
    assert flink["checkpoint"]["number"] > 0
    assert pathlib.Path(flink["checkpoint"]["path"].removeprefix("file:")).exists()
    assert max(each["parallelism"] for each in flink["vertices"]) == subtasks
    # What Flink measures of the chain that reads and reconciles, and not only its name.
    assert any(each["busy"] is not None for each in flink["vertices"])


def _kill_everything(client: Process, cluster: Flink) -> None:
    assert cluster.job_server.process is not None
    client.kill()
    cluster.job_server.process.kill()
    cluster.cluster.kill_jobmanager()
    cluster.cluster.kill_taskmanager()
    cluster.pool.kill()
    cluster.workers.kill()
    client.stop()
    cluster.job_server.stop()


def _start_everything(cluster: Flink) -> None:
    cluster.pool.start()
    cluster.job_server.start()
    cluster.cluster.start_jobmanager()
    cluster.cluster.start_taskmanager()
    cluster.job_server.wait_ready()
    cluster.pool.wait_ready()


@pytest.mark.prism
@pytest.mark.slow
@pytest.mark.runner
def test_prism_replicates(prism: pathlib.Path, tmp_path: pathlib.Path):
    (port,) = free_ports(1)
    # Prism's workers are threads of the command: one endpoint has the metrics of all.
    metrics = (f"--metrics_port={port}", "--metrics_host=127.0.0.1")
    with ContinuousWorld(tmp_path, tables=2, export_seconds=3) as world:
        words = world.command("--mode=continuous", *prism_options(prism), *metrics)
        process = Process("replicate", words, tmp_path / "replicate.log", world.variables)
        try:
            with SteadyWork(world.sim, world.tables, rate=100, roll_every=5, splits=1):
                world.wait_for_snapshots(_SECONDS, process, names=list(world.tables))
                before = scrape(port)
                _check_metrics(before, world)
            world.wait_for_mirror(_SECONDS, process)
            changelog = world.wait_for_changelog(_SECONDS, process)
            _check_final_metrics(before, port, world)
            assert process.interrupt(_SECONDS) == _INTERRUPTED, process.tail()
        finally:
            process.stop()
        assert changelog.repeats == 0
        assert changelog.snapshot_rows >= 600
        assert world.differences() == []
        assert world.dead_letters() == []


def _check_metrics(found: Scrape, world: ContinuousWorld) -> None:
    """Every metric is there as what it is, and each table's values are what a busy run has."""
    kinds = {each.prometheus_name.removesuffix("_total"): each.kind for each in METRICS}
    assert {name: found.families[name].type for name in kinds} == kinds
    for table in world.tables:
        assert found.get("changes", table=table) > 0
        assert found.get("stream_bytes", table=table) > 0
        assert found.get("snapshot_rows", table=table) >= _OLD_ROWS
        assert found.get("snapshot_files", table=table) > 0
        assert found.get("caught_up", table=table) in (0, 1)
        assert found.get("shards", table=table) >= 2
        assert 0 <= found.get("lag_seconds", table=table) < _SECONDS
        age = found.get("unread_age_seconds", table=table)
        assert 0 <= age < 600 + _SECONDS
        assert found.get("time_to_loss_seconds", table=table) == pytest.approx(86_400 - age, abs=1)
        assert 0 <= found.get("write_lag_seconds", table=table, sink=world.sinks[0]) < _SECONDS


def _check_final_metrics(before: Scrape, port: int, world: ContinuousWorld) -> None:
    """What is counted at the end is what there was."""
    # Rows are counted behind the write that shows them.
    wait_until(lambda: _all_arrived(scrape(port), world), "count of all rows", _SECONDS)
    found = scrape(port)
    for table in world.tables:
        read = found.get("changes", table=table)
        assert before.get("changes", table=table) < read == world.changes_of(table)
        assert found.get("snapshot_rows", table=table) == found.get(
            "snapshot_expected_rows", table=table
        )
        assert found.of_table("dead_letters", table) == found.of_table("gaps", table) == {}


def _all_arrived(found: Scrape, world: ContinuousWorld) -> bool:
    """Whether each sink has counted every change, and every snapshot row that was not stale."""
    for table in world.tables:
        stale = found.get("stale_dropped", table=table) or 0
        rows = found.get("snapshot_rows", table=table) + found.get("changes", table=table) - stale
        arrived = found.of_table("sink_rows", table)
        if arrived != {(("sink", each),): rows for each in world.sinks}:
            return False
    return True
