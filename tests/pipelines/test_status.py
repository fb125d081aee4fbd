# SPDX-License-Identifier: Apache-2.0
"""`dynabeam status`: from the state of rounds, of a continuous run, and from Flink."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from rich.console import Console

from dynabeam.pipelines.command_line import main
from dynabeam.pipelines.continuous.deployments import begin, current
from dynabeam.pipelines.rounds.run import Rounds
from dynabeam.pipelines.status.reading import read_status
from dynabeam.pipelines.status.reasons import for_people
from dynabeam.pipelines.status.text import as_table
from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.flink.job import read_job
from dynabeam.transforms.flink.rest import FlinkRestError
from dynabeam.transforms.model.gap import Gap, GapKind
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.state.gap_events import Repaired
from dynabeam.transforms.state.state_directory import StateDirectory
from dynabeam.transforms.state.table_state import SeenState
from tests.pipelines.runs import Place, World, orders

SECOND = 1_000_000
HOUR = 3600 * SECOND


class Silent:
    """Takes the place of capsys where a fixture outlives a test."""

    def readouterr(self):
        return "", ""


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """What a run in rounds has left: its folder and the records of its stream."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "simulated")
        world = World(tmp_path_factory.mktemp("left"), Silent())
        with world.sim:
            world.sim.put_many("orders", orders(5))
            world.age()
            world.catch_up()
            assert world.run("--tables=orders", "--snapshot=never").code == 0
            records = world.sim.records("orders")
    return world.state_dir, records


@pytest.fixture
def ran(left, tmp_path, capsys):
    """A copy of it, stored just now."""
    state_dir, _ = left
    copied = Place(tmp_path, capsys)
    shutil.copytree(state_dir, copied.state_dir)
    os.utime(copied.state_dir / "state.json")
    return copied


def status(world, capsys, *options):
    """Exit code and what is said."""
    capsys.readouterr()
    code = main(["status", f"--state_dir={world.state_dir}", *options])
    return code, capsys.readouterr().out


def as_document(world, capsys, *options):
    code, out = status(world, capsys, "--json", *options)
    return code, json.loads(out)


def change(world, **fields):
    """Changes the state of the table, as a run would."""
    directory = StateDirectory(str(world.state_dir))
    state = directory.load()
    table = state.tables["orders"]
    changed = {
        name: dataclasses.replace(getattr(table, name), **value) for name, value in fields.items()
    }
    state.tables["orders"] = dataclasses.replace(table, **changed)
    directory.commit(state)


def gap():
    return {
        "kind": "trimmed",
        "detail": "nobody looked",
        "stream_arn": "arn",
        "shard_id": "shardId-1",
        "last_sequence": "",
        "from_us": 0,
        "to_us": 1,
    }


def ended(world, **fields):
    """Says how the last run ended."""
    path = world.state_dir / "last_run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


class TestLastRun:
    def test_a_run_that_ended_is_healthy_for_longer_than_one_that_goes_on(self, ran, capsys):
        os.utime(ran.state_dir / "state.json", (time.time() - 3600, time.time() - 3600))
        code, out = status(ran, capsys)
        assert (code, out.splitlines()[-1]) == (0, "healthy")
        assert "ended" in out.splitlines()[0]
        assert out.splitlines()[0].endswith("ago: caught up")
        code, found = as_document(ran, capsys, "--max_quiet=5m")
        assert code == 1
        assert found["reasons"] == [
            "orders: nothing has been stored for 1 h, more than --max_quiet=5 m"
        ]

    def test_a_run_that_failed(self, ran, capsys):
        ended(ran, outcome="failed", reason="changes are lost", ended_us=now_us() - 90 * SECOND)
        code, found = as_document(ran, capsys)
        assert (code, found["healthy"]) == (1, False)
        assert found["reasons"] == ["the last run failed 1 m 30 s ago: changes are lost"]
        assert found["run"]["outcome"] == "failed"

    def test_a_run_that_was_killed(self, ran, capsys):
        ended(ran, outcome="running", ended_us=0, began_us=now_us() - 60 * SECOND)
        code, found = as_document(ran, capsys)
        assert (code, found["run"]["outcome"]) == (1, "died")
        assert found["reasons"] == [
            "the run that began 1 m ago was killed: it has not ended, and no process runs it"
        ]
        with StateDirectory(str(ran.state_dir)).locked():
            code, found = as_document(ran, capsys)
            assert (code, found["run"]["outcome"]) == (0, "running")

    def test_a_table_that_the_last_run_did_not_read(self, ran, capsys):
        ended(ran, tables=["customers"])
        code, out = status(ran, capsys)
        assert code == 0
        assert "lag not read for " in out
        assert "caught up," not in out.splitlines()[1]
        assert as_document(ran, capsys)[1]["tables"][0]["in_last_run"] is False

    def test_what_a_run_leaves(self, world, capsys, monkeypatch):
        def lose(*_):
            raise Gap(table="orders", kind=GapKind.TRIMMED, **lost).error()

        lost = {name: value for name, value in gap().items() if name != "kind"}
        world.sim.put_many("orders", orders(2))
        world.age()
        world.catch_up()
        run = world.run("--tables=orders", "--snapshot=never")
        assert run.code == 0, run.err
        found = as_document(world, capsys)[1]["run"]
        assert (found["outcome"], found["reason"]) == ("caught_up", "")
        assert 0 < found["began_us"] < found["ended_us"] <= now_us()
        monkeypatch.setattr(Rounds, "run_one", lose)
        stopped = world.run("--tables=orders", "--snapshot=never")
        assert stopped.code == 1
        code, found = as_document(world, capsys)
        assert code == 1
        (first, *_) = found["reasons"]
        assert first.startswith("the last run failed ")
        assert "changes" in first
        assert "--gaps=heal" in first
        # A command line that cannot work begins nothing.
        refused = world.run("--tables=nothing*", "--snapshot=never")
        assert refused.code == 1
        assert as_document(world, capsys)[1]["run"]["outcome"] == "failed"


class TestRounds:
    def test_healthy(self, ran, left, capsys):
        code, found = as_document(ran, capsys)
        (table,) = found["tables"]
        assert code == 0, found["reasons"]
        assert (found["mode"], found["healthy"], found["reasons"]) == ("rounds", True, [])
        assert found["round"] == ran.committed()["round"]
        assert table["changes"] == len(left[1])
        assert table["caught_up"] is True
        assert table["lag_seconds"] == 0
        assert table["generation"] == 1
        # The last change is two minutes old, and the shard was seen idle since.
        assert 0 < table["unread_age_seconds"] < 600
        left = table["time_to_loss_seconds"] + table["unread_age_seconds"]
        assert left == pytest.approx(24 * 3600)
        assert len(table["oldest_shards"]) == table["shards"]
        assert abs(table["stored_us"] - now_us()) < 300 * SECOND

    def test_lines(self, ran, capsys):
        code, out = status(ran, capsys)
        _, line, *_, verdict = out.splitlines()
        assert code == 0
        assert line.startswith("orders: snapshot none, changes 5, lag caught up, time to loss 23 h")
        assert verdict == "healthy"

    def test_table(self, ran):
        found = read_status(StateDirectory(str(ran.state_dir)), now_us())
        console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        with console.file:
            console.print(as_table(found, None, ["orders: a reason"], console.width))
        text = console.export_text()
        assert "time to loss" in text
        assert "attention: orders: a reason" in text

    def test_the_lock_is_not_wanted(self, ran, capsys):
        directory = StateDirectory(str(ran.state_dir))
        before = {path: path.stat().st_mtime_ns for path in ran.state_dir.rglob("*")}
        with directory.locked():
            assert status(ran, capsys)[0] == 0
        after = {path: path.stat().st_mtime_ns for path in ran.state_dir.rglob("*")}
        assert after.keys() == before.keys()
        assert after[ran.state_dir / "state.json"] == before[ran.state_dir / "state.json"]

    def test_snapshot(self, place, export, capsys):
        ended = place.run(export.option)
        assert ended.code == 0, ended.err
        code, found = as_document(place, capsys)
        (table,) = found["tables"]
        assert code == 0, found["reasons"]
        assert table["snapshot"]["status"] == "done"
        assert table["snapshot"]["rows"] == table["snapshot"]["rows_total"] == 40
        assert table["snapshot"]["files"] == table["snapshot"]["files_total"] > 0
        assert table["lag_seconds"] is None

    def test_a_stray_word(self, capsys):
        assert main(["status", "orders"]) == 1
        assert "not an option; found 'orders'" in capsys.readouterr().err

    @pytest.mark.parametrize("width", [80, 120, 200])
    def test_losses_are_seen_on_any_screen(self, ran, width):
        change(ran, totals={"gaps": 1234, "dead_letters": 5678})
        found = read_status(StateDirectory(str(ran.state_dir)), now_us())
        out = io.StringIO()
        Console(file=out, width=width).print(as_table(found, None, [], width))
        lines = out.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        (row,) = [each for each in lines if each.startswith("│ orders")]
        assert "1,234" in row
        assert "5,678" in row
        assert "caught up" in row
        assert ("generation" in out.getvalue()) == (width > 80)

    def test_nothing_there(self, tmp_path, capsys):
        assert main(["status", f"--state_dir={tmp_path}/none"]) == 1
        assert "no replication has written here" in capsys.readouterr().err


class TestAttention:
    def reasons(self, world, capsys, *options):
        code, found = as_document(world, capsys, *options)
        assert code == (1 if found["reasons"] else 0)
        return found["reasons"]

    def test_gap(self, ran, capsys):
        change(ran, totals={"gaps": 1})
        directory = StateDirectory(str(ran.state_dir))
        state = directory.load()
        gaps = (Gap.from_json("orders", gap()),)
        state.tables["orders"] = dataclasses.replace(state.tables["orders"], gaps=gaps)
        directory.commit(state)
        assert self.reasons(ran, capsys) == [
            "orders: the stream lost changes once, the last: trimmed: nobody looked"
        ]

    def lost(self, ran, *gaps, **fields):
        directory = StateDirectory(str(ran.state_dir))
        state = directory.load()
        table = state.tables["orders"]
        met = [Gap.from_json("orders", {**gap(), "generation": 1, **each}) for each in gaps]
        totals = dataclasses.replace(table.totals, gaps=len(gaps))
        state.tables["orders"] = dataclasses.replace(
            table, gaps=tuple(met), totals=totals, **fields
        )
        directory.commit(state)

    def test_one_loss_of_several_shards(self, ran, capsys):
        self.lost(ran, *({"shard_id": f"s{n}", "from_us": n, "to_us": 9} for n in range(4)))
        assert self.reasons(ran, capsys) == [
            "orders: the stream lost changes once, the last: trimmed: nobody looked"
        ]
        (table,) = as_document(ran, capsys)[1]["tables"]
        assert (table["gaps"], table["gaps_lost"], table["gaps_met"]) == (1, 1, 4)
        assert ", gaps 1 lost, " in status(ran, capsys)[1]

    def test_a_loss_that_was_repaired_is_no_cause_for_alarm(self, ran, capsys):
        self.lost(ran, {"from_us": 5}, generation=2, repaired=(Repaired(2, 5),))
        assert self.reasons(ran, capsys) == []
        assert ", gaps 1 repaired, " in status(ran, capsys)[1]
        self.lost(ran, {"from_us": 4}, generation=2, repaired=(Repaired(2, 5),))
        assert len(self.reasons(ran, capsys)) == 1

    def test_a_loss_that_is_acknowledged_and_a_new_one(self, ran, capsys):
        self.lost(ran, {})
        assert self.reasons(ran, capsys)
        code, out = status(ran, capsys, "--acknowledge")
        assert code == 0
        assert out.startswith("1 losses acknowledged")
        assert ", gaps 1 known, " in out
        self.lost(ran, {}, {"from_us": 100, "to_us": 200})
        assert self.reasons(ran, capsys) == [
            "orders: the stream lost changes once, the last: trimmed: nobody looked"
        ]

    def test_dead_letters(self, ran, capsys):
        change(ran, totals={"dead_letters": 3})
        (reason,) = self.reasons(ran, capsys)
        assert reason.startswith("orders: 3 dead letters")

    def test_lag(self, ran, capsys):
        stream = json.loads((ran.state_dir / "state.json").read_text())["tables"]["orders"][
            "stream"
        ]
        (seen,) = stream["seen"].values()
        newest = seen["at_us"] - 90 * SECOND
        seen.update(caught_up=False, behind=1, newest_event_us=newest)
        change(ran, stream={"seen": {0: SeenState.from_json(seen)}})
        assert self.reasons(ran, capsys) == []
        (reason,) = self.reasons(ran, capsys, "--max_lag=1m")
        assert reason == "orders: the lag is 1 m 30 s, more than --max_lag=1 m"

    def test_data_loss_is_near(self, ran, capsys):
        directory = StateDirectory(str(ran.state_dir))
        state = directory.load()
        table = state.tables["orders"]
        (frontier,) = table.frontiers
        made_ms = (now_us() - 30 * HOUR) // 1000
        shards = tuple(
            dataclasses.replace(
                shard, shard_id=f"shardId-{made_ms:020d}-{at:08d}", low_us=now_us() - 22 * HOUR
            )
            for at, shard in enumerate(frontier.shards)
        )
        old = dataclasses.replace(frontier, shards=shards)
        stream = dataclasses.replace(table.stream, frontiers=(old,))
        state.tables["orders"] = dataclasses.replace(table, stream=stream)
        directory.commit(state)
        (reason,) = self.reasons(ran, capsys)
        assert "changes may be lost in 1 h 59 m" in reason
        assert "22 h old" in reason

    def test_nothing_stored(self, ran, capsys):
        time.sleep(0.02)
        (reason,) = self.reasons(ran, capsys, "--max_quiet=10ms")
        assert "nothing has been stored for" in reason
        assert self.reasons(ran, capsys, "--max_quiet=0") == []


class TestContinuous:
    def test_positions_and_dead_letters_of_the_deployment(self, ran, capsys):
        directory = StateDirectory(str(ran.state_dir))
        state = directory.load()
        stream = state.tables["orders"].stream.to_json()
        (seen,), (frontier,) = stream["seen"].values(), stream["frontiers"]
        begin(directory, state)
        directory.commit(state)
        folder = current(directory, state)
        counts = dict.fromkeys(("bytes", "pages", "empty_polls", "throttles", "children"), 0)
        fields = {"reader": 0, "readers": 1, "stream_arn": stream["arn"], "frontier": frontier}
        newer = {**seen, "at_us": seen["at_us"] + SECOND, "caught_up": False, "behind": 1}
        newer["newest_event_us"] = seen["at_us"]
        report = {**fields, **counts, **newer, "changes": 7, "shards": 1}
        folder.write_positions(
            "orders", [Report("stream", "orders", report), Report("gap", "orders", gap())]
        )
        code, found = as_document(ran, capsys)
        (table,) = found["tables"]
        assert code == 1
        assert (found["mode"], found["deployment"]) == ("continuous", state.deployment)
        assert table["changes"] == 5 + 7
        assert table["seen_us"] == newer["at_us"]
        assert table["shards_behind"] == 1
        assert [each.partition(" once")[0] for each in found["reasons"]] == [
            "orders: the stream lost changes"
        ]
        # What was read is not written back.
        assert directory.load().tables["orders"].totals.changes == 5

    def test_nothing_stored_yet(self, ran, capsys):
        directory = StateDirectory(str(ran.state_dir))
        state = directory.load()
        begin(directory, state)
        directory.commit(state)
        code, found = as_document(ran, capsys)
        assert (code, found["mode"]) == (0, "continuous")


JOB = "0123456789abcdef0123456789abcdef"
ANSWERS = {
    "/jobs/overview": {
        "jobs": [
            {"jid": "f" * 32, "name": "old", "state": "CANCELED", "start-time": 9_000},
            {"jid": JOB, "name": "dynabeam", "state": "RUNNING", "start-time": 1_000},
        ]
    },
    f"/jobs/{JOB}": {
        "jid": JOB,
        "name": "dynabeam",
        "state": "RUNNING",
        "start-time": 1_000,
        "now": 100_000,
        "timestamps": {"CREATED": 1_000, "RUNNING": 40_000, "RESTARTING": 30_000},
        "vertices": [{"id": "v1", "name": "Source", "parallelism": 2}],
    },
    f"/jobs/{JOB}/checkpoints": {
        "counts": {"restored": 1, "total": 9, "in_progress": 0, "completed": 7, "failed": 2},
        "latest": {
            "completed": {
                "id": 7,
                "latest_ack_timestamp": 99_000,
                "state_size": 3 << 20,
                "end_to_end_duration": 1_500,
                "external_path": "file:/c/chk-7",
            }
        },
    },
    f"/jobs/{JOB}/metrics?get=numRestarts": [{"id": "numRestarts", "value": "3"}],
    f"/jobs/{JOB}/vertices/v1/subtasks/metrics?get=busyTimeMsPerSecond,"
    "backPressuredTimeMsPerSecond&agg=max": [
        {"id": "busyTimeMsPerSecond", "max": 250.0},
        {"id": "backPressuredTimeMsPerSecond", "max": "NaN"},
    ],
}


@pytest.fixture
def answers():
    """What the JobManager answers."""
    return json.loads(json.dumps(ANSWERS))


@pytest.fixture
def jobmanager(answers):
    """A server that answers as Flink's documentation says."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found = answers.get(self.path)
            body = json.dumps(found).encode()
            self.send_response(200 if found is not None else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class TestFlink:
    def test_job(self, jobmanager):
        job = read_job(jobmanager)
        assert dataclasses.asdict(job) == {
            "job": JOB,
            "name": "dynabeam",
            "state": "RUNNING",
            "uptime_seconds": 60,
            "restarts": 3,
            "checkpoint": {
                "number": 7,
                "completed_us": 99_000_000,
                "state_bytes": 3 << 20,
                "seconds": 1.5,
                "path": "file:/c/chk-7",
            },
            "failed_checkpoints": 2,
            "vertices": (
                {"name": "Source", "parallelism": 2, "busy": 0.25, "backpressured": None},
            ),
        }

    def test_in_the_status(self, ran, capsys, jobmanager):
        code, out = status(ran, capsys, f"--flink_rest={jobmanager}")
        assert code == 1, "its checkpoint is of 1970"
        assert "Flink: dynabeam is RUNNING since 1 m, 3 restarts, checkpoint 7" in out
        assert "3.0 MiB, 2 failed" in out
        assert "busy  25 %, backpressured   ? %, 2 subtasks: Source" in out
        assert "attention: Flink: the last checkpoint is" in out

    def test_a_job_that_fails(self, ran, capsys, jobmanager, answers):
        answers[f"/jobs/{JOB}"]["state"] = "RESTARTING"
        code, found = as_document(ran, capsys, f"--flink_rest={jobmanager}")
        assert code == 1
        assert found["reasons"] == ["Flink: the job dynabeam is RESTARTING since 1 m 10 s"]

    def test_several_jobs(self, jobmanager, answers):
        answers["/jobs/overview"]["jobs"][0]["state"] = "RUNNING"
        with pytest.raises(ConfigurationError, match="several jobs"):
            read_job(jobmanager)
        assert read_job(jobmanager, "dynabeam").job == JOB

    def test_nobody_there(self, jobmanager):
        with pytest.raises(FlinkRestError, match="does not answer"):
            read_job(jobmanager + "/other")
        with pytest.raises(ConfigurationError, match="--flink_rest"):
            read_job("jobmanager:8081")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "250 ms"),
        (12.9, "12 s"),
        (60, "1 m"),
        (200, "3 m 20 s"),
        (86_280, "23 h 58 m"),
        (2 * 86_400 + 3600, "2 d 1 h"),
    ],
)
def test_durations(seconds, text):
    assert for_people(seconds) == text
