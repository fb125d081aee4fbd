# SPDX-License-Identifier: Apache-2.0
"""Where the Python code of a pipeline on Flink runs: in workers apart from the submitting process.

EXTERNAL: a pool process, which Flink asks for workers. PROCESS: each TaskManager starts its own.
Either way a worker is `tests.runners.boot`, outlives neither its job nor its TaskManager, and comes
back after a kill when Flink restarts the job.

A savepoint or checkpoint is bound to the kind: Beam names operators by their input and the URN of
the environment. EXTERNAL and LOOPBACK share one; PROCESS and DOCKER have others.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping

from tests.runners.boot import FOLDER
from tests.runners.processes import ROOT, Process, free_ports, is_listening
from tests.runners.server import Server

__all__ = ["WorkerPool", "Workers"]

_POOL = "apache_beam.runners.worker.worker_pool_main"


class Workers:
    """The Python workers of a cluster, however they are started.

    Args:
        folder: For their logs.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.boot = folder / "boot"
        self.boot.write_text(
            f"#!/bin/sh\n{FOLDER}={shlex.quote(str(folder))} PYTHONPATH={shlex.quote(str(ROOT))} "
            f'exec {shlex.quote(sys.executable)} -X faulthandler -m tests.runners.boot "$@"\n'
        )
        self.boot.chmod(0o755)

    def process_options(self) -> list[str]:
        """Beam options for workers that TaskManagers start."""
        config = json.dumps({"command": str(self.boot)})
        return ["--environment_type=PROCESS", f"--environment_config={config}"]

    def pids(self) -> list[int]:
        """Workers that run."""
        found = (int(path.name) for path in self.folder.iterdir() if path.name.isdigit())
        return sorted(pid for pid in found if _is_running(pid))

    def kill(self) -> list[int]:
        """SIGKILL to every worker; returns their ids."""
        killed = self.pids()
        for pid in killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            (self.folder / str(pid)).unlink(missing_ok=True)
        return killed


class WorkerPool(Server):
    """The EXTERNAL environment: a pool of workers.

    Args:
        workers: What it starts.
        log: For its output.
        variables: Environment variables of the pool and its workers.
        port: 0 for a free one.
    """

    name = "worker pool"

    def __init__(
        self,
        workers: Workers,
        log: pathlib.Path,
        variables: Mapping[str, str] | None = None,
        port: int = 0,
    ) -> None:
        self._workers = workers
        self._log = log
        self._variables = variables
        self._port = port or free_ports(1)[0]

    @property
    def options(self) -> list[str]:
        """Beam options for workers of this pool."""
        return ["--environment_type=EXTERNAL", f"--environment_config=127.0.0.1:{self._port}"]

    def launch(self) -> Process:
        command = [sys.executable, "-m", _POOL, f"--service_port={self._port}"]
        command.append(f"--container_executable={self._workers.boot}")
        return Process(self.name, command, self._log, self._variables)

    def is_up(self) -> bool:
        return is_listening(self._port)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that is dead, but that nobody has asked for its status, still takes signals.
    asked = ["ps", "-o", "stat=", "-p", str(pid)]
    state = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")
