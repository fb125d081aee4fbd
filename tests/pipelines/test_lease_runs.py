# SPDX-License-Identifier: Apache-2.0
"""Real processes on one state directory in S3: killed, ended, stopped and woken."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from datetime import timedelta

import pytest

from dynabeam.transforms.testing.clock import SimClock
from dynabeam.transforms.testing.simulator import Simulator
from tests.pipelines.runs import orders

ROOT = pathlib.Path(__file__).parents[2]
STATE = "s3://bucket/state"
SHORT_LEASE = """
import functools
import dynabeam.pipelines.replicate
from dynabeam.pipelines.command_line import main
from dynabeam.transforms.state.state_directory import StateDirectory
dynabeam.pipelines.replicate.StateDirectory = functools.partial(StateDirectory, lease_seconds=2.0)
raise SystemExit(main())
"""


class Account:
    """A simulated account with a table, and runs of `dynabeam replicate` on it."""

    def __init__(self, sim, folder):
        self.sim = sim
        self.folder = folder
        self.runs = []

    def start(self, *options, code=None):
        """Starts a run."""
        command = [
            sys.executable,
            *(["-c", code] if code else ["-m", "dynabeam.pipelines.command_line"]),
        ]
        command += ["replicate", "--tables=orders", "--snapshot=never", f"--state_dir={STATE}"]
        command += ["--sink=s3://bucket/log", f"--endpoint_url={self.sim.endpoint_url}"]
        command += ["--region=eu-west-1", *options]
        log = open(self.folder / f"run-{len(self.runs)}.log", "w")  # noqa: SIM115 - the process's
        environment = os.environ | {
            "AWS_ACCESS_KEY_ID": "simulated",
            "AWS_SECRET_ACCESS_KEY": "simulated",
            "PYTHONPATH": str(ROOT),
        }
        run = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        run.log = pathlib.Path(log.name)
        log.close()
        self.runs.append(run)
        return run

    def document(self):
        """The position document."""
        return json.loads(self.sim.s3_get("bucket", "state/state.json"))

    def lease(self):
        """The lease's document."""
        return json.loads(self.sim.s3_get("bucket", "state/lock.json"))

    def wait_for_round(self, number, seconds=60):
        """Waits until a round is committed."""
        wait_until(
            lambda: (
                "state/state.json" in self.sim.objects.keys("bucket")
                and self.document()["round"] >= number
            ),
            seconds,
        )

    def published(self):
        """Lines of the changelog by their key, of committed files only."""
        found = []
        for key in self.sim.objects.keys("bucket", "log/orders/"):
            lines = self.sim.s3_get("bucket", key).splitlines()
            found += [json.loads(each)["keys"]["id"]["S"] for each in lines]
        return sorted(found)


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def account(tmp_path):
    clock = SimClock(offset=-timedelta(minutes=10))
    with Simulator(seed=3, clock=clock) as sim:
        sim.create_bucket("bucket")
        sim.create_table("orders", "id:S")
        sim.put_many("orders", orders(5))
        clock.advance(timedelta(minutes=10))
        found = Account(sim, tmp_path)
        yield found
        for each in found.runs:
            if each.poll() is None:
                each.kill()
                each.wait()


def test_kill_9_and_restart(account):
    """The one test with a lease of its real length."""
    first = account.start("--every=100ms")
    account.wait_for_round(2)
    first.kill()
    first.wait()
    began = time.monotonic()
    second = account.start()
    assert second.wait(90) == 0, second.log.read_text()
    assert 20 < time.monotonic() - began < 60
    holder = f"process {first.pid} on "
    assert f"Waiting for the lease of {holder}" in second.log.read_text()
    assert account.published() == [f"o{at}" for at in range(5)]
    assert account.lease()["released"]


def test_sigterm_and_restart(account):
    first = account.start("--every=100ms")
    account.wait_for_round(2)
    first.send_signal(signal.SIGTERM)
    assert first.wait(30) == 143, first.log.read_text()
    assert account.lease()["released"]
    second = account.start()
    assert second.wait(30) == 0, second.log.read_text()
    assert "Waiting" not in second.log.read_text()


def test_a_live_holder(account):
    first = account.start("--every=100ms")
    account.wait_for_round(1)
    second = account.start()
    assert second.wait(60) == 1
    (line,) = [
        each for each in second.log.read_text().splitlines() if each.startswith("dynabeam: ")
    ]
    assert line.startswith("dynabeam: StateInUseError: s3://bucket/state: another run is using")
    assert f"process {first.pid} on " in line
    assert first.poll() is None


def test_a_paused_run_that_wakes_behind_another_one(account):
    first = account.start("--every=20ms", code=SHORT_LEASE)
    account.wait_for_round(2)
    first.send_signal(signal.SIGSTOP)
    account.sim.put_many("orders", orders(3, start=5))
    account.sim.clock.advance(timedelta(minutes=2))
    second = account.start("--every=50ms", code=SHORT_LEASE)
    wait_until(lambda: account.lease()["holder"].startswith(f"process {second.pid} "))
    wait_until(lambda: account.document()["owner"] == account.lease()["id"])
    account.wait_for_round(account.document()["round"] + 2)
    first.send_signal(signal.SIGCONT)
    assert first.wait(30) == 1, first.log.read_text()
    said = first.log.read_text()
    assert "dynabeam: StateInUseError: " in said
    assert "this one stops without writing anything more" in said
    assert "Traceback" not in said
    # The other one goes on, alone.
    at = account.document()["round"]
    account.wait_for_round(at + 2)
    assert account.document()["owner"] == account.lease()["id"]
    second.send_signal(signal.SIGTERM)
    assert second.wait(30) == 143, second.log.read_text()
    assert account.published() == [f"o{at}" for at in range(8)]


@pytest.mark.parametrize("wait", [0.02, 0.1])
def test_paused_at_any_moment(account, wait):
    """Wherever it is stopped: each change is published once, by one of the two."""
    first = account.start("--every=10ms", code=SHORT_LEASE)
    account.wait_for_round(1)
    account.sim.put_many("orders", orders(40, start=5))
    account.sim.clock.advance(timedelta(minutes=2))
    time.sleep(wait)
    first.send_signal(signal.SIGSTOP)
    second = account.start(code=SHORT_LEASE)
    assert second.wait(60) == 0, second.log.read_text()
    before = account.document()
    first.send_signal(signal.SIGCONT)
    assert first.wait(30) == 1, first.log.read_text()
    assert account.document() == before
    assert account.published() == sorted(f"o{at}" for at in range(45))
