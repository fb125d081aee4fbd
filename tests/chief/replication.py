# SPDX-License-Identifier: Apache-2.0
"""`dynabeam replicate` as a process of its own, which can be killed at any moment."""

import os
import pathlib
import signal
import subprocess
import sys

from tests.chief.workload import TABLES

ROOT = pathlib.Path(__file__).parents[2]
BUCKET = "exports"
_KEYS = {"AWS_ACCESS_KEY_ID": "simulated", "AWS_SECRET_ACCESS_KEY": "simulated"}  # not looked at


class Replication:
    """One replication of all tables: a state directory, a mirror and a changelog.

    Args:
        sim: The simulator to read.
        folder: Where everything goes.
        readers: Stream readers per table.
        options: Further options of all runs.
    """

    def __init__(self, sim, folder, readers, options=()):
        self._sim = sim
        self.folder = folder
        self._readers = readers
        self._options = options
        self._runs = 0

    def run_and_kill(self, seconds):
        """Replicates for ever, and dies without a word after so many seconds.

        Raises:
            AssertionError: It ended by itself.
        """
        process, log = self._start("--every=50ms")
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return
        raise AssertionError(f"ended by itself with {process.returncode}:\n{log.read_text()}")

    def run_to_the_end(self, seconds):
        """Replicates until caught up.

        Raises:
            AssertionError: It failed, or took longer than so many seconds.
        """
        process, log = self._start("--until=caught_up")
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # with -X faulthandler: says where it hangs
            process.wait()
            raise AssertionError(f"not caught up after {seconds} s:\n{log.read_text()}") from None
        assert process.returncode == 0, f"failed:\n{log.read_text()}"

    def _start(self, *options):
        self._runs += 1
        log = self.folder / f"run-{self._runs}.log"
        command = [
            *[sys.executable, "-X", "faulthandler", "-m", "pipelines.command_line", "replicate"],
            f"--tables={','.join(TABLES)}",
            f"--region={self._sim.region}",
            f"--endpoint_url={self._sim.endpoint_url}",
            f"--s3_export_bucket={BUCKET}",
            f"--sink=duckdb:///{self.folder}/m.duckdb",
            f"--sink=file:///{self.folder}/out",
            f"--state_dir={self.folder}/state",
            f"--readers={self._readers}",
            "--buckets=2",
            *self._options,
            *options,
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **_KEYS, "PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return process, log
