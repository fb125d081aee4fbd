# SPDX-License-Identifier: Apache-2.0
"""`dynabeam replicate` as a process of its own, which can be ended or stopped at any moment."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from datetime import timedelta

from tests.chaos.scenario import TO_THE_END
from tests.chaos.workload import TABLES

ROOT = pathlib.Path(__file__).parents[2]
BUCKET, STATE_BUCKET = "exports", "state"
SINKS = {
    "mirror": "duckdb:///FOLDER/m.duckdb",
    "second": "duckdb:///FOLDER/second.duckdb?layout=packed",
    "changelog": "file:///FOLDER/out",
    "witness": "file:///FOLDER/witness",
}
_KEYS = {"AWS_ACCESS_KEY_ID": "simulated", "AWS_SECRET_ACCESS_KEY": "simulated"}  # not looked at
_LONGEST_STEP = 150
"""Seconds after which a step counts as hanging; a run to the end takes some five."""
_LONGEST_END = 40
"""Seconds that a run has for its round once it is asked to end; it takes less than one."""
_MOST_STARTS = 3
_NOT_RENEWED = "the lease of the state directory could not be renewed"
_POLL = 0.05
_PASSES = timedelta(seconds=10)
"""Passes with each quarter of a second where exports are awaited that are requested later."""


class _StarvedError(AssertionError):
    """A run that could not renew its lease, because the machine left it no time."""


class Replication:
    """One replication of all tables, run by run.

    Args:
        sim: The simulator to read.
        folder: Where everything goes, but for a state directory in S3.
        scenario: What the runs are like.
        clock: The clock of the simulator and of the runs.
    """

    def __init__(self, sim, folder, scenario, clock):
        self._sim = sim
        self.folder = folder
        self._scenario = scenario
        self._clock = clock
        self._begun = []
        self._stopped = None
        self._passed_at = time.monotonic()

    @property
    def state_dir(self):
        """Where the state directory is."""
        local = self._scenario.state == "local"
        return str(self.folder / "state") if local else f"s3://{STATE_BUCKET}/state"

    def let_pass(self, minutes):
        """Lets time pass at once, for the service and for the run."""
        self._clock.let_pass(timedelta(minutes=minutes))
        if minutes:
            self._show_all_shards()

    def _show_all_shards(self):
        """Seconds have passed: the simulator counts asks, but a listing lags by seconds alone."""
        with self._sim.lock:
            for stream in self._sim.all_streams():
                for shard in stream.shards.values():
                    shard.hidden_asks = 0

    def document(self):
        """The committed position document; None before the first commit."""
        return self._read("state.json")

    def run(self, leg, happening=()):
        """One run, up to its end as the scenario wants it.

        On a machine with too much to do a run may lose its short lease; it is started again then.

        Args:
            leg: The run.
            happening: For all that is to be done meanwhile, in order: after which part of its time,
                the table whose snapshot has to be loaded by then or nothing, what.

        Raises:
            AssertionError: It ended by itself or by another exit code, or it hangs.
        """
        self.let_pass(leg.minutes_before)
        # The next process takes seconds to start, and lists once what it knows to be complete.
        self._show_all_shards()
        happening = list(happening)
        for starts in range(1, _MOST_STARTS + 1):
            try:
                self._run(leg, happening)
            except _StarvedError as problem:
                # What it should do then is end at once and lose nothing, as if it had been killed.
                sys.stdout.write(f"  start {starts}: {problem}\n")
                if starts == _MOST_STARTS:
                    raise
            else:
                return

    def _run(self, leg, happening):
        before = self._round()
        run = self._start(leg)
        if self._stopped:
            self._wake_up(run)
        if leg.end == TO_THE_END:
            self._wait_until(run, lambda: run.poll() is not None, "caught up", ended=True)
            return
        self._wait_until(run, lambda: self._clock.has_begun(run.pid), "begun")
        if leg.committed:
            self._wait_until(run, lambda: self._round() > before, "past a round")
        began = time.monotonic()
        while happening:
            part, loaded, act = happening[0]
            self._wait_part(run, began, part * leg.seconds)
            if loaded:
                self._wait_until(run, lambda name=loaded: self._is_loaded(name), "with a snapshot")
            happening.pop(0)
            act()
        self._wait_part(run, began, leg.seconds)
        if leg.end == "STOP":
            self._wait_until(run, lambda: self._is_held_by(run), "in possession of the lease")
            run.send_signal(signal.SIGSTOP)
            self._stopped = run
        else:
            self._end(run, leg.end)

    def _wait_part(self, run, began, seconds):
        self._wait_until(run, lambda: time.monotonic() >= began + seconds, "at its work")

    def _end(self, run, how):
        """Ends a run by a signal."""
        if how == "KILL":
            run.kill()
            run.wait()
            return
        run.terminate()
        if how == "TERM twice":
            time.sleep(0.1)
            run.terminate()
        code = self._ended(run)
        # A second signal may come when Python has put its handlers away: a shell says 143 as well.
        codes = [128 + signal.SIGTERM] + ([-signal.SIGTERM] if how == "TERM twice" else [])
        assert code in codes, f"SIGTERM, ended with {code}:\n{run.log.read_text()}"

    def _wake_up(self, run):
        """Lets the run that is stopped go on, once this one has taken over from it."""
        stopped = self._stopped
        self._wait_until(run, lambda: self._is_held_by(run), "in possession of the lease")
        self._stopped = None
        stopped.send_signal(signal.SIGCONT)
        code, said = self._ended(stopped), stopped.log.read_text()
        assert code == 1, f"taken over from, ended with {code}:\n{said}"
        assert "StateInUseError" in said, f"taken over from, says:\n{said}"

    def _ended(self, run):
        try:
            return run.wait(_LONGEST_END)
        except subprocess.TimeoutExpired:
            raise self._hangs(run, "ended") from None

    def _wait_until(self, run, condition, what, *, ended=False):
        """Waits; if a run should have `ended` by itself then, it has to be without an error."""
        deadline = time.monotonic() + _LONGEST_STEP
        while not condition():
            if run.poll() is not None and not condition():
                raise self._ended_early(run, f"ended by itself before it was {what}")
            if time.monotonic() > deadline:
                raise self._hangs(run, what)
            self._let_time_fly()
            time.sleep(_POLL)
        if ended and run.returncode != 0:
            raise self._ended_early(run, "failed")

    def _ended_early(self, run, how):
        said = run.log.read_text()
        starved = run.returncode == 1 and _NOT_RENEWED in said
        kind = _StarvedError if starved else AssertionError
        return kind(f"{how}, with {run.returncode}:\n{said}")

    def _let_time_fly(self):
        if self._scenario.repairs and time.monotonic() > self._passed_at + 0.25:
            self._clock.let_pass(_PASSES)
            self._passed_at = time.monotonic()

    def _hangs(self, run, what):
        run.send_signal(signal.SIGABRT)  # with -X faulthandler: says where
        run.wait()
        return AssertionError(f"not {what} after a long time:\n{run.log.read_text()}")

    def close(self):
        """Leaves no process behind."""
        for each in self._begun:
            if each.poll() is None:
                each.kill()
                each.wait()

    def _is_held_by(self, run):
        lease = self._read("lock.json")
        held = lease is not None and not lease["released"]
        return held and lease["holder"].startswith(f"process {run.pid} ")

    def _is_loaded(self, name):
        table = self.document()["tables"][name]
        return table["snapshot"]["status"] == "done" and "repair" not in table

    def _round(self):
        document = self.document()
        return document["round"] if document else 0

    def _read(self, name):
        if self._scenario.state == "local":
            path = self.folder / "state" / name
            return json.loads(path.read_text()) if path.exists() else None
        key = f"state/{name}"
        if key not in self._sim.objects.keys(STATE_BUCKET, key):
            return None
        return json.loads(self._sim.s3_get(STATE_BUCKET, key))

    def dead_letters(self):
        """The text of all dead letters."""
        if self._scenario.state == "local":
            folder = self.folder / "state" / "dead_letters"
            return "".join(each.read_text() for each in folder.rglob("*") if each.is_file())
        keys = self._sim.objects.keys(STATE_BUCKET, "state/dead_letters/")
        return "".join(self._sim.s3_get(STATE_BUCKET, key).decode() for key in keys)

    def _start(self, leg):
        log = self.folder / f"run-{len(self._begun)}.log"
        scenario, uris = self._scenario, self._uris()
        policies = ",".join(f"{table}:{policy}" for table, policy in scenario.policies.items())
        command = [
            *[sys.executable, "-X", "faulthandler", "-m", "tests.chaos.shared_clock", "replicate"],
            f"--tables={','.join(TABLES)}",
            f"--region={self._sim.region}",
            f"--endpoint_url={self._sim.endpoint_url}",
            f"--s3_export_bucket={BUCKET}",
            *[f"--sink={uris[each]}" for each in leg.sinks],
            *[f"--drop_sink={uris[each]}" for each in leg.dropped],
            f"--state_dir={self.state_dir}",
            f"--readers={leg.readers}",
            "--buckets=2",
            "--every=50ms",
            *(["--verify_chain"] if scenario.verified else []),
            *([f"--gaps={policies}"] if policies else []),
            f"--until={'caught_up' if leg.end == TO_THE_END else 'forever'}",
        ]
        wrong = timedelta(minutes=leg.minutes_wrong)
        clock = self._clock.variables(wrong, scenario.lease_seconds)
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **_KEYS, **clock, "PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        process.log = log
        self._begun.append(process)
        return process

    def _uris(self):
        return {name: uri.replace("FOLDER", str(self.folder)) for name, uri in SINKS.items()}
