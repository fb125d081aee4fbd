# SPDX-License-Identifier: Apache-2.0
"""The simulator as a process of its own, which outlives whatever reads it."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Sequence

from dynabeam.transforms.testing.remote import RemoteSimulator
from tests.runners.processes import Process, wait_until

__all__ = ["CREDENTIALS", "REGION", "SimulatorProcess"]

REGION = "eu-west-1"
# Not looked at, but boto3 wants some.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "simulated", "AWS_SECRET_ACCESS_KEY": "simulated"}
_START = 60


class SimulatorProcess:
    """A context manager that gives a `RemoteSimulator`.

    Args:
        log: For its output.
        seed: Decides ids, numbers and faults.
        shards: Shards of a new stream.
        options: More options of `python -m dynabeam.testing`.
    """

    def __init__(
        self, log: pathlib.Path, seed: int = 1, shards: int = 3, options: Sequence[str] = ()
    ) -> None:
        command = [sys.executable, "-m", "dynabeam.transforms.testing", f"--seed={seed}", *options]
        self._command = [*command, f"--region={REGION}", f"--initial_shards={shards}"]
        self._log = log
        self._process: Process | None = None

    def __enter__(self) -> RemoteSimulator:
        self._process = Process("simulator", self._command, self._log)
        try:
            url = wait_until(self._endpoint_url, "simulator", _START, [self._process])
        except BaseException:
            self._process.stop()
            raise
        return RemoteSimulator(url)

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.stop()

    def _endpoint_url(self) -> str | None:
        for line in self._log.read_text(errors="replace").splitlines(keepends=True):
            if line.startswith('{"endpoint_url"') and line.endswith("\n"):
                return str(json.loads(line)["endpoint_url"])
        return None
