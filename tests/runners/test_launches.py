# SPDX-License-Identifier: Apache-2.0
"""`dynabeam launch` on a real Flink: every command, as a person types them one after the other."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from dynabeam.pipelines.launch.record import read_record
from dynabeam.transforms.state.state_directory import StateDirectory
from tests.runners.continuous_world import ContinuousWorld
from tests.runners.flink import Flink
from tests.runners.flink_cluster import ClusterSettings
from tests.runners.flink_parts import FlinkParts, job_server_jar, uber_jar
from tests.runners.processes import ROOT, Process
from tests.runners.steady_work import SteadyWork

_SECONDS = 120
_WAIT = "--wait=4m"


@dataclasses.dataclass(frozen=True)
class _Said:
    code: int
    text: str
    seconds: float


@pytest.mark.flink
@pytest.mark.slow
@pytest.mark.runner
class TestFlink:
    """One deployment through all of it, because each part goes on from what the last one left."""

    @pytest.fixture
    def world(self, tmp_path: pathlib.Path) -> Iterator[ContinuousWorld]:
        with ContinuousWorld(tmp_path, tables=1, export_seconds=3) as world:
            yield world

    @pytest.fixture
    def cluster(
        self, flink: FlinkParts, world: ContinuousWorld, tmp_path: pathlib.Path
    ) -> Iterator[Flink]:
        settings = ClusterSettings(slots=3)
        with Flink(flink, tmp_path / "flink", settings, variables=world.variables) as cluster:
            yield cluster

    @pytest.fixture(autouse=True)
    def _remember(self, world: ContinuousWorld, cluster: Flink, flink: FlinkParts) -> None:
        self.world, self.cluster = world, cluster
        self.state_dir = str(world.folder / "state")
        self.parts = flink
        self.jar = job_server_jar(flink, world.folder)

    def test_a_job_is_launched_watched_changed_and_ended(self):
        rest = self.cluster.rest
        self._refused_before_anything_is_written()
        self._withdrawn_if_nobody_runs_it()
        with SteadyWork(self.world.sim, self.world.tables, rate=50, roll_every=20, splits=1):
            job = self._launched(self._launch())
            assert self._job_servers() == []
            self._refuses_a_second(job)
            self.world.wait_for_snapshots(_SECONDS, names=list(self.world.tables))
            rest.next_checkpoint(job)
            self._tells_how_it_is(job)
            job = self._more_subtasks(job)
            job = self._stopped_and_resumed(job)
            self._cancelled(job)
        self.world.run("--until=caught_up", "--take_over")
        assert self.world.differences() == []
        assert self.world.changelog().missing == []

    # In the order of the test.

    def _refused_before_anything_is_written(self):
        for option, words in {
            "--flink_rest=http://127.0.0.1:1": ("does not answer",),
            "--parallelism=9": ("fewer free slots", "at most 3", "found 9"),
            "--environment_type=LOOPBACK": ("which ends", "--environment_config"),
            f"--savepoint_path={self.world.folder}/gone": ("there is no savepoint", "/gone"),
            "--job_name=Big": ("not a name for a job", "--job_name", "'Big'"),
        }.items():
            said = self._launch(option)
            assert said.code == 1, said.text
            assert all(each in said.text for each in words), said.text
            assert said.text.count("dynabeam: ConfigurationError") == 1
        assert not (self.world.folder / "state").exists()
        said = self._say("launch", "status", f"--state_dir={self.state_dir}")
        assert said.code == 1
        assert "nothing was launched for this state directory" in said.text

    def _withdrawn_if_nobody_runs_it(self):
        """A job server that cannot start: tables are prepared by then."""
        said = self._launch("--flink_job_server_jar=/no/such.jar")
        assert said.code == 1, said.text
        assert "the job was not handed over" in said.text
        assert StateDirectory(self.state_dir).load().deployment == ""
        assert read_record(self.state_dir) is None
        assert self.cluster.rest.jobs() == {}

    def _launched(self, said: _Said) -> str:
        assert said.code == 0, said.text
        (job,) = re.findall(r"^Launched dynabeam: job (\w{32})$", said.text, re.MULTILINE)
        assert said.text.rstrip().endswith("dynabeam runs")
        assert self.cluster.rest.tasks_running(job)
        record = read_record(self.state_dir)
        assert record is not None
        assert (record.job_id, record.rest) == (job, self.cluster.rest.url)
        sys.stdout.write(f"launched in {said.seconds:.0f} s:\n{said.text}\n")
        return job

    def _refuses_a_second(self, job: str):
        before = StateDirectory(self.state_dir).load().deployment
        said = self._launch()
        assert said.code == 1
        assert f"a job of this name has not ended; found '{job}, RUNNING'" in said.text
        assert StateDirectory(self.state_dir).load().deployment == before != ""

    def _tells_how_it_is(self, job: str):
        said = self._say("launch", "status", f"--state_dir={self.state_dir}", "--json")
        assert said.code == 0, said.text
        found = json.loads(said.text)
        assert (found["job_id"], found["state"], found["restarts"]) == (job, "RUNNING", 0)
        assert (found["parallelism"], found["errors"]) == (2, [])
        assert found["checkpoint"]["number"] > 0
        said = self._say("launch", "status", f"--flink_rest={self.cluster.rest.url}")
        assert said.text.startswith("Flink: dynabeam is RUNNING since ")
        said = self._say("launch", "savepoint", f"--state_dir={self.state_dir}", *self._folder())
        assert said.code == 0, said.text
        assert "the job goes on" in said.text
        assert self.cluster.rest.state(job) == "RUNNING"
        said = self._say(
            "launch", "savepoint", f"--state_dir={self.state_dir}", "--savepoint_dir=/proc/nowhere"
        )
        assert said.code == 1
        assert "Flink cannot take the savepoint" in said.text
        assert "--savepoint_dir=/proc/nowhere" in said.text
        assert self.cluster.rest.state(job) == "RUNNING"

    def _more_subtasks(self, job: str) -> str:
        where = f"--state_dir={self.state_dir}"
        said = self._say("launch", "scale", where, "--parallelism=4", *self._folder())
        assert said.code == 1
        assert "fewer free slots" in said.text
        assert self.cluster.rest.state(job) == "RUNNING"
        deployment = StateDirectory(self.state_dir).load().deployment
        said = self._say("launch", "scale", where, "--parallelism=3", *self._folder())
        new = self._launched(said)
        assert new != job
        assert self.cluster.rest.state(job) == "FINISHED"
        assert StateDirectory(self.state_dir).load().deployment == deployment
        told = json.loads(self._say("launch", "status", where, "--json").text)
        assert told["parallelism"] == 3
        return new

    def _stopped_and_resumed(self, job: str) -> str:
        where = f"--state_dir={self.state_dir}"
        said = self._say("launch", "drain", where, *self._folder())
        assert said.code == 0, said.text
        assert f"dynabeam launch flink --resume {where}" in said.text
        (savepoint,) = re.findall(r"^Stopped behind the savepoint (.*)$", said.text, re.MULTILINE)
        assert self.cluster.rest.state(job) == "FINISHED"
        said = self._say("launch", "drain", where, *self._folder())
        assert said.code == 1
        assert "has ended already" in said.text
        self._savepoint_that_is_damaged()
        # By a machine without Java, so to speak: the graph goes to Flink in a jar.
        jar = uber_jar(self.parts, self.world.folder)
        in_jar = ("--flink_submit_uber_jar", f"--flink_job_server_jar={jar}")
        deployment = StateDirectory(self.state_dir).load().deployment
        job = self._launched(self._say("launch", "flink", "--resume", where, _WAIT, *in_jar))
        assert StateDirectory(self.state_dir).load().deployment == deployment
        restored = self.cluster.rest.get(f"/jobs/{job}/checkpoints")["latest"]["restored"]
        assert (restored["is_savepoint"], restored["external_path"]) == (True, savepoint)
        assert self.cluster.rest.get("/jars")["files"] == []
        return job

    def _savepoint_that_is_damaged(self):
        """Flink takes the job, which ends at once: the deployment, begun before, stays."""
        before = StateDirectory(self.state_dir).load().deployment
        record = read_record(self.state_dir)
        damaged = self.world.folder / "damaged"
        damaged.mkdir()
        (damaged / "_metadata").write_bytes(b"no savepoint")
        said = self._launch(f"--savepoint_path={damaged}", "--parallelism=3")
        assert said.code == 1, said.text
        assert StateDirectory(self.state_dir).load().deployment == before
        sys.stdout.write(f"damaged savepoint:\n{said.text}\n")
        after = read_record(self.state_dir)
        assert after is not None
        assert after == record

    def _cancelled(self, job: str):
        said = self._say("launch", "cancel", f"--state_dir={self.state_dir}")
        assert said.code == 0, said.text
        assert "dynabeam is CANCELED" in said.text
        assert self.cluster.rest.state(job) == "CANCELED"
        said = self._say("launch", "status", f"--state_dir={self.state_dir}")
        assert said.code == 1
        assert "is CANCELED" in said.text

    # How it is said.

    def _launch(self, *options: str) -> _Said:
        words = [
            *(f"--flink_rest={self.cluster.rest.url}", f"--flink_job_server_jar={self.jar}"),
            *("--checkpointing_interval=3000", _WAIT, *self.cluster.pool.options),
            *self.world.options(),
        ]
        given = {each.partition("=")[0] for each in options}
        return self._say(
            "launch",
            "flink",
            *(each for each in words if each.partition("=")[0] not in given),
            *options,
        )

    def _say(self, *words: str) -> _Said:
        began = time.monotonic()
        log = self.world.folder / "launch.log"
        log.write_text("")
        process = Process("launch", [*self.world.program, *words], log, self.world.variables)
        try:
            code = process.wait(2 * _SECONDS)
        finally:
            process.stop()
        return _Said(code, log.read_text(), time.monotonic() - began)

    def _folder(self) -> list[str]:
        return [f"--savepoint_dir={self.cluster.cluster.savepoints}"]

    def _job_servers(self) -> list[str]:
        """Job servers that a launch has left running."""
        found = subprocess.run(
            ["ps", "-eo", "args"], capture_output=True, text=True, check=True, cwd=ROOT
        )
        return [each for each in found.stdout.splitlines() if f"-jar {self.jar}" in each]
