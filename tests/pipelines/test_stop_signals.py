# SPDX-License-Identifier: Apache-2.0
"""Signals to real processes in every phase: exit code, no traceback, everything given back."""

import fcntl
import json
import os
import pathlib
import pty
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest

from dynabeam.transforms.testing.clock import SimClock
from dynabeam.transforms.testing.faults import STREAM_ACTIONS, Faults
from dynabeam.transforms.testing.simulator import Simulator
from tests.pipelines.runs import orders

ROOT = pathlib.Path(__file__).parents[2]
GOES_ON = "dynabeam: interrupted; run again to continue from the last round"
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
each_signal = pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)


class Run:
    """A command whose terminal, or pipe, is read as it writes."""

    def __init__(self, command, *, terminal=False, **environment):
        environment = os.environ | {
            "AWS_ACCESS_KEY_ID": "simulated",
            "AWS_SECRET_ACCESS_KEY": "simulated",
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm",
            **environment,
        }
        reader, writer = pty.openpty() if terminal else os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=environment, stdout=writer, stderr=writer
        )
        os.close(writer)
        self._said = []
        self._thread = threading.Thread(target=self._read, args=(reader,))
        self._thread.start()

    def _read(self, reader):
        while True:
            try:
                part = os.read(reader, 4096)
            except OSError:  # what a terminal says at its end
                part = b""
            if not part:
                os.close(reader)
                return
            self._said.append(part)

    @property
    def said(self):
        return b"".join(self._said).decode(errors="replace")

    def wait_for(self, text, seconds=60):
        deadline = time.monotonic() + seconds
        while text not in self.said:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.01)

    def send(self, sent):
        self.process.send_signal(sent)

    def ended(self, seconds=30):
        """The exit code; what it said is complete then."""
        code = self.process.wait(seconds)
        self._thread.join()
        return code


@pytest.fixture
def begin():
    """Starts runs, and ends what is left of them."""
    runs = []

    def start(command, **how):
        runs.append(Run(command, **how))
        return runs[-1]

    yield start
    for each in runs:
        if each.process.poll() is None:
            each.process.kill()
        each.ended()


@pytest.fixture
def sim():
    clock = SimClock(offset=-timedelta(minutes=10))
    with Simulator(seed=3, clock=clock) as simulator:
        simulator.create_bucket("exports")
        simulator.create_table("orders", "id:S")
        simulator.client("dynamodb").update_continuous_backups(
            TableName="orders",
            PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
        )
        simulator.put_many("orders", orders(20))
        clock.advance(timedelta(minutes=10))
        yield simulator


def replicate(sim, folder, *options):
    return [
        "-m",
        "dynabeam.pipelines.command_line",
        "replicate",
        "--tables=orders",
        f"--endpoint_url={sim.endpoint_url}",
        "--region=eu-west-1",
        f"--state_dir={folder / 'state'}",
        f"--sink=duckdb:///{folder / 'mirror.duckdb'}",
        f"--sink=file:///{folder / 'log'}",
        "--snapshot=never",
        *options,
    ]


def assert_ended_well(run, sent, folder):
    assert run.ended() == 128 + sent, run.said
    assert "Traceback" not in run.said
    assert GOES_ON in run.said
    lock = folder / "state" / "lock"
    if lock.exists():
        with open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert list(folder.rglob("*.tmp")) == []


@each_signal
@pytest.mark.parametrize("delay", [0.3, 0.6, 1.0, 1.6])
def test_while_it_starts(sim, begin, tmp_path, sent, delay):
    run = begin(replicate(sim, tmp_path, "--every=1s"))
    time.sleep(delay)
    run.send(sent)
    assert_ended_well(run, sent, tmp_path)


@pytest.mark.parametrize("module", ["replicate", "retry", "snapshot"])
def test_a_module_of_its_own_while_it_is_imported(begin, tmp_path, module):
    run = begin(["-m", f"dynabeam.pipelines.{module}", "--help"], PYTHONVERBOSE="1")
    run.wait_for("import 'apache_beam")
    run.send(signal.SIGTERM)
    assert run.ended() == 143


@each_signal
def test_between_rounds(sim, begin, tmp_path, sent):
    run = begin(replicate(sim, tmp_path, "--every=1h"))
    run.wait_for("round 1")
    time.sleep(0.3)
    began = time.monotonic()
    run.send(sent)
    assert_ended_well(run, sent, tmp_path)
    assert time.monotonic() - began < 20


@each_signal
def test_in_a_round(sim, begin, tmp_path, sent):
    """The round is finished: what it has read is committed and visible."""
    sim.faults = Faults(actions=STREAM_ACTIONS, slow=1.0, slow_seconds=1.0)
    run = begin(replicate(sim, tmp_path, "--every=10ms"))
    deadline = time.monotonic() + 60
    while not sim.stats.calls["GetRecords"] and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send(sent)
    run.wait_for("stopping after this round; a second signal stops at once")
    assert_ended_well(run, sent, tmp_path)
    assert json.loads((tmp_path / "state" / "state.json").read_text())["round"] == 1
    published = (tmp_path / "log").rglob("part-*")
    lines = [each for path in published for each in path.read_text().splitlines()]
    assert len(lines) == 20


@each_signal
def test_twice_in_a_round(sim, begin, tmp_path, sent):
    sim.faults = Faults(actions=STREAM_ACTIONS, slow=1.0, slow_seconds=15.0)
    run = begin(replicate(sim, tmp_path))
    deadline = time.monotonic() + 60
    while not sim.stats.calls["DescribeStream"] and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send(sent)
    run.wait_for("stopping after this round")
    time.sleep(0.5)
    run.send(sent)
    began = time.monotonic()
    assert_ended_well(run, sent, tmp_path)
    assert time.monotonic() - began < 10


@each_signal
def test_while_an_export_is_awaited(sim, begin, tmp_path, sent):
    sim.exports.export_seconds = 3600.0
    command = replicate(sim, tmp_path, "--s3_export_bucket=exports", "--snapshot=auto")
    run = begin(command)
    run.wait_for("snapshot pending")
    run.send(sent)
    assert_ended_well(run, sent, tmp_path)


@each_signal
def test_the_cursor_comes_back(sim, begin, tmp_path, sent):
    command = replicate(sim, tmp_path, "--every=20ms")
    run = begin(command, terminal=True)
    deadline = time.monotonic() + 60
    while HIDE not in run.said and time.monotonic() < deadline:
        time.sleep(0.005)
    run.send(sent)
    assert run.ended() == 128 + sent
    assert run.said.rfind(SHOW) > run.said.rfind(HIDE) >= 0


QUERY = """
import sys
from dynabeam.pipelines import command_line, replicate

def main(arguments):
    import duckdb
    print("a query begins", flush=True)
    duckdb.sql("SELECT count(*) FROM range(100000000000) WHERE hash(range) = 7").fetchall()

replicate.main = main
sys.exit(command_line.main())
"""
STUCK = """
import ctypes, sys
from dynabeam.pipelines import command_line, replicate

def main(arguments):
    print("stuck", flush=True)
    while True:
        ctypes.CDLL(None).sleep(60)

replicate.main = main
sys.exit(command_line.main())
"""
SWALLOWED = """
import sys, time
from dynabeam.pipelines import command_line, replicate

def main(arguments):
    print("deaf", flush=True)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

replicate.main = main
sys.exit(command_line.main())
"""


@each_signal
def test_inside_a_query(begin, sent):
    """DuckDB makes a RuntimeError of a signal."""
    run = begin(["-c", QUERY, "replicate"])
    run.wait_for("a query begins")
    time.sleep(0.5)
    run.send(sent)
    assert run.ended() == 128 + sent
    assert "Traceback" not in run.said
    assert GOES_ON in run.said


@pytest.mark.parametrize("code", [STUCK, SWALLOWED], ids=["in C", "swallowed"])
def test_a_process_that_does_not_listen_ends_all_the_same(begin, code):
    run = begin(["-c", code, "replicate"])
    run.wait_for("stuck" if code is STUCK else "deaf")
    run.send(signal.SIGTERM)
    assert run.ended() == 143
    assert "Traceback" not in run.said


def test_what_is_ignored_stays_ignored(sim, begin, tmp_path):
    """As under nohup."""
    code = "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    code += "from pipelines.command_line import main; sys.exit(main())"
    command = ["-c", code, *replicate(sim, tmp_path, "--every=1h")[2:]]
    run = begin(command)
    run.wait_for("round 1")
    run.send(signal.SIGHUP)
    time.sleep(0.5)
    assert run.process.poll() is None
    run.send(signal.SIGTERM)
    assert run.ended() == 143


def test_handlers_are_put_back_after_a_call():
    """Whoever calls a command as a function keeps Ctrl-C."""
    code = """
import signal, sys
from dynabeam.pipelines.command_line import main
before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
sys.argv = ["x", "--help"]
assert main() == 0
assert main(["--help"]) == 0
assert before == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


@each_signal
def test_while_the_lease_of_a_dead_run_is_awaited(sim, begin, tmp_path, sent):
    held = {"format": 2, "id": "dead", "renewal": 1, "seconds": 30.0, "released": False}
    held |= {"handed_on": False, "holder": "process 7 on elsewhere", "at": int(time.time())}
    sim.s3_put("exports", "state/lock.json", json.dumps(held).encode())
    command = [*replicate(sim, tmp_path, "--every=1s"), "--state_dir=s3://exports/state"]
    run = begin(command)
    run.wait_for("Waiting for the lease of process 7 on elsewhere")
    run.send(sent)
    assert_ended_well(run, sent, tmp_path)
    assert json.loads(sim.s3_get("exports", "state/lock.json")) == held


def test_twice_in_a_round_gives_the_lease_back(sim, begin, tmp_path):
    sim.faults = Faults(actions=STREAM_ACTIONS, slow=1.0, slow_seconds=15.0)
    run = begin([*replicate(sim, tmp_path), "--state_dir=s3://exports/state"])
    deadline = time.monotonic() + 60
    while not sim.stats.calls["DescribeStream"] and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send(signal.SIGTERM)
    run.wait_for("stopping after this round")
    time.sleep(0.5)
    run.send(signal.SIGTERM)
    assert run.ended() == 143
    lease = json.loads(sim.s3_get("exports", "state/lock.json"))
    assert (lease["released"], lease["handed_on"]) == (True, True)
    assert "round 1" not in run.said


JOB = """
import sys, threading
from apache_beam.runners.runner import PipelineState
from dynabeam.pipelines import command_line, replicate
from dynabeam.pipelines.continuous import run as continuous
from dynabeam.pipelines.continuous.deployments import begin
from dynabeam.pipelines.options.runners import continuous_runner
from dynabeam.transforms.state.state_directory import StateDirectory

class Job:
    def __init__(self):
        self.over = threading.Event()
    def wait_until_finish(self):
        self.over.wait()
        return PipelineState.CANCELLED
    def cancel(self):
        print("cancelled", flush=True)
        if sys.argv[3] == "obedient":
            self.over.set()

def main(arguments):
    directory = StateDirectory(sys.argv[2])
    state = directory.load()
    folder = begin(directory, state)
    directory.commit(state)
    print("a job runs", flush=True)
    runner = continuous_runner(["--runner=PrismRunner"])
    return continuous._stay(Job(), runner, directory, folder, sys.stderr)

replicate.main = main
sys.exit(command_line.main())
"""


@each_signal
def test_a_continuous_job_is_cancelled(begin, tmp_path, sent):
    run = begin(["-c", JOB, "replicate", str(tmp_path), "obedient"])
    run.wait_for("a job runs")
    time.sleep(0.5)
    run.send(sent)
    assert run.ended() == 128 + sent, run.said
    assert "Cancelling the job; start again with the same --state_dir" in run.said
    assert "cancelled" in run.said
    assert "Traceback" not in run.said


def test_a_second_signal_does_not_wait_for_the_job(begin, tmp_path):
    run = begin(["-c", JOB, "replicate", str(tmp_path), "deaf"])
    run.wait_for("a job runs")
    time.sleep(0.5)
    run.send(signal.SIGINT)
    run.wait_for("cancelled")
    time.sleep(0.5)
    run.send(signal.SIGINT)
    assert run.ended() == 130
    assert "Traceback" not in run.said
