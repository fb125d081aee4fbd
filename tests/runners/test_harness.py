# SPDX-License-Identifier: Apache-2.0
"""The runners themselves: a stream is read on each, and on Flink nothing is lost by kills."""

from __future__ import annotations

import collections
import json
import pathlib
import signal
import sys

import pytest

from dynabeam.transforms.testing.remote import RemoteSimulator
from tests.runners.conftest import or_skip
from tests.runners.flink import Environment, Flink
from tests.runners.flink_parts import FlinkParts
from tests.runners.parts import AssemblyError, assembled, cache_folder, require, run
from tests.runners.prism import options as prism_options
from tests.runners.processes import Process, wait_until
from tests.runners.simulator_process import CREDENTIALS, REGION
from tests.runners.stream_to_files import versions

_PIPELINE = "tests.runners.stream_to_files:build"
_TABLE = "orders"
_SECONDS = 90


class _Stream:
    """A table whose stream is copied to files."""

    def __init__(self, simulator: RemoteSimulator, folder: pathlib.Path) -> None:
        self._simulator = simulator
        self._written = 0
        self._folder = folder
        simulator.create_table(_TABLE)
        self.write()
        self.arguments = {
            "endpoint_url": simulator.endpoint_url,
            "region": REGION,
            "table": _TABLE,
            "stream_arn": simulator.records(_TABLE)[0]["StreamArn"],
            "folder": str(folder),
        }

    def write(self, count: int = 500) -> None:
        numbers = range(self._written, self._written + count)
        items = [{"id": {"S": f"o{number % 50}"}, "n": {"N": str(number)}} for number in numbers]
        self._simulator.put_many(_TABLE, items)
        self._written += count

    def wait_complete(self, *needed: Process) -> collections.Counter[str]:
        """Waits until every record is in the files, and nothing else; returns the counts."""
        records = self._simulator.records(_TABLE)
        wanted = {record["dynamodb"]["SequenceNumber"].zfill(40) for record in records}
        assert len(wanted) == self._written

        def complete() -> bool:
            return wanted <= set(versions(self._folder))

        wait_until(complete, f"{len(wanted)} records in {self._folder}", _SECONDS, needed)
        arrived = versions(self._folder)
        assert set(arrived) == wanted
        return arrived


@pytest.fixture
def stream(simulator: RemoteSimulator, tmp_path: pathlib.Path) -> _Stream:
    return _Stream(simulator, tmp_path / "out")


def _flink(assembled: FlinkParts, tmp_path: pathlib.Path, environment: Environment) -> Flink:
    folder = tmp_path / "flink"
    return Flink(assembled, folder, environment=environment, variables=CREDENTIALS)


@pytest.mark.flink
@pytest.mark.slow
@pytest.mark.runner
class TestFlink:
    def test_savepoint_loses_and_repeats_nothing(
        self, flink: FlinkParts, stream: _Stream, tmp_path: pathlib.Path
    ):
        with _flink(flink, tmp_path, "EXTERNAL") as cluster:
            job = cluster.start_pipeline(_PIPELINE, stream.arguments)
            stream.wait_complete()
            stream.write()
            savepoint = cluster.rest.stop_with_savepoint(job, str(cluster.cluster.savepoints))
            assert cluster.rest.state(job) == "FINISHED"
            stream.write()
            cluster.start_pipeline(_PIPELINE, stream.arguments, savepoint=savepoint)
            arrived = stream.wait_complete()
        assert max(arrived.values()) == 1

    def test_killed_worker_and_taskmanager_lose_nothing(
        self, flink: FlinkParts, stream: _Stream, tmp_path: pathlib.Path
    ):
        with _flink(flink, tmp_path, "PROCESS") as cluster:
            job = cluster.start_pipeline(_PIPELINE, stream.arguments)
            stream.wait_complete()
            cluster.rest.next_checkpoint(job)
            assert len(cluster.workers.kill()) == 1
            stream.write()
            stream.wait_complete()
            # Flink's page keeps its answer for three seconds.
            wait_until(lambda: cluster.rest.restarts(job) == 1, "the restart", _SECONDS)
            cluster.rest.next_checkpoint(job)
            stream.write()
            cluster.cluster.kill_taskmanager()
            stream.write()
            cluster.cluster.start_taskmanager()
            stream.wait_complete()
            wait_until(lambda: cluster.rest.restarts(job) == 2, "the second restart", _SECONDS)
            cluster.rest.cancel(job)
            wait_until(lambda: not cluster.workers.pids(), "end of the workers", _SECONDS)

    def test_killed_jobmanager_loses_nothing_with_a_retained_checkpoint(
        self, flink: FlinkParts, stream: _Stream, tmp_path: pathlib.Path
    ):
        with _flink(flink, tmp_path, "PROCESS") as cluster:
            job = cluster.start_pipeline(_PIPELINE, stream.arguments)
            stream.wait_complete()
            checkpoint = cluster.rest.next_checkpoint(job)
            cluster.cluster.kill_jobmanager()
            stream.write()
            cluster.cluster.start_jobmanager()
            assert cluster.rest.jobs() == {}
            retained = cluster.cluster.retained_checkpoint(job)
            assert retained is not None
            assert retained.name >= pathlib.Path(checkpoint.path).name
            again = cluster.start_pipeline(_PIPELINE, stream.arguments, savepoint=retained)
            stream.wait_complete()
            assert cluster.rest.restarts(again) == 1  # counts the beginning from a checkpoint


@pytest.mark.prism
@pytest.mark.slow
@pytest.mark.runner
def test_prism_streams(prism: pathlib.Path, stream: _Stream, tmp_path: pathlib.Path):
    submit = [sys.executable, "-m", "tests.runners.submit", "--stay"]
    words = [_PIPELINE, json.dumps(stream.arguments), "--streaming", *prism_options(prism)]
    process = Process("pipeline", [*submit, *words], tmp_path / "pipeline.log", CREDENTIALS)
    try:
        stream.wait_complete(process)
        stream.write()
        stream.wait_complete(process)
    finally:
        process.stop()


def _lack() -> None:
    require("dynabeam-no-such-program", "this test")


class TestMissingProgram:
    def test_is_a_failure_in_ci(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("CI", "true")
        with pytest.raises(pytest.fail.Exception, match="this test needs `dynabeam-no-such"):
            or_skip(_lack)

    def test_is_a_skip_elsewhere(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv("CI", raising=False)
        with pytest.raises(pytest.skip.Exception, match="this test needs `dynabeam-no-such"):
            or_skip(_lack)


class TestAssembled:
    @pytest.fixture(autouse=True)
    def cache(self, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def test_is_built_once(self):
        def build(folder: pathlib.Path) -> None:
            (folder / "part").write_text("whole")

        def refuse(folder: pathlib.Path) -> None:
            pytest.fail("built again")

        place = assembled("thing-1", build)
        assert assembled("thing-1", refuse) == place
        assert (place / "part").read_text() == "whole"

    def test_failure_leaves_nothing(self):
        def build(folder: pathlib.Path) -> None:
            (folder / "part").write_text("half")
            run(["sh", "-c", "echo out of luck; exit 3"], folder)

        with pytest.raises(AssemblyError, match="ended with 3:\nout of luck"):
            assembled("thing-1", build)
        assert [path.name for path in cache_folder().iterdir()] == ["thing-1.lock"]


def test_processes_end_with_the_one_that_started_them(tmp_path: pathlib.Path):
    code = (
        "import os, pathlib, signal\n"
        "from tests.runners.processes import Process\n"
        f"log = pathlib.Path({str(tmp_path / 'child.log')!r})\n"
        "child = Process('child', ['sleep', '600'], log)\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = Process("parent", [sys.executable, "-c", code], tmp_path / "parent.log")
    assert parent.wait(_SECONDS) == -signal.SIGKILL
    child = int(parent.log.read_text())
    wait_until(lambda: not pathlib.Path(f"/proc/{child}").exists(), "end of the child", _SECONDS)
    parent.stop()
