# SPDX-License-Identifier: Apache-2.0
"""Handing a graph to Flink: `dynabeam replicate --detach` in a process of its own.

Beam starts a job server for it, in Java, which only hands the job over and then follows it. That
ends with this command; the job stays on the cluster. If Flink takes no job, or the job ends before
it ran, the deployment that was begun for it is withdrawn, so that the next run finds the state
directory as it was.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

from dynabeam.pipelines.continuous import deployments
from dynabeam.pipelines.launch.waiting import say
from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.flink.rest import FlinkRest
from dynabeam.transforms.state.state_directory import StateDirectory

__all__ = ["deployment_of", "submit", "withdraw"]

_POLL = 0.3
_LISTED_AFTER = 60.0
"""How long Flink may take to list a job once Beam has handed it over."""
_LONGEST = 600.0
"""How long handing over may take: tables are looked at, and a job server may be fetched."""
_SHOWN_EVERY = 10.0
_CLEANS_UP = 30.0


def submit(words: Sequence[str], rest: FlinkRest, job_name: str, stream: TextIO) -> str:
    """Runs `replicate` with some words until Flink has the job.

    Args:
        words: The words behind `dynabeam replicate`.
        rest: The JobManager.
        job_name: The name that the words give the job.
        stream: For progress, and for what `replicate` says.

    Returns:
        The job's id; it may have ended already.

    Raises:
        ConfigurationError: Flink has no new job of the name.
    """
    before = {each["jid"] for each in _jobs(rest, job_name)}
    command = [sys.executable, "-m", "dynabeam.pipelines.command_line", "replicate", *words]
    stream.flush()
    process = subprocess.Popen(  # noqa: S603 - our own command
        command, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True
    )
    try:
        job = _await_job(process, rest, job_name, before, stream)
        # It has still to clean up behind itself, as with a jar that it has uploaded.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_CLEANS_UP)
        return job
    finally:
        _end(process)


def deployment_of(state_dir: str) -> str:
    """The deployment of a state directory; empty if there is none."""
    return StateDirectory(state_dir).load().deployment


def withdraw(state_dir: str, before: str, why: str) -> bool:
    """Ends the deployment that was begun for a job which never ran.

    Args:
        state_dir: The state directory.
        before: The deployment that it had before; that one stays.
        why: For whoever still runs in it.

    Returns:
        Whether there was one.
    """
    directory = StateDirectory(state_dir)
    with directory.locked():
        state = directory.load()
        if not state.deployment or state.deployment == before:
            return False
        deployments.withdraw(directory, state, why)
    return True


def _await_job(
    process: subprocess.Popen[bytes],
    rest: FlinkRest,
    job_name: str,
    before: set[str],
    stream: TextIO,
) -> str:
    began = shown = time.monotonic()
    ended: float | None = None
    while True:
        new = [each for each in _jobs(rest, job_name) if each["jid"] not in before]
        if new:
            return str(max(new, key=lambda each: int(each["start-time"]))["jid"])
        now, code = time.monotonic(), process.poll()
        if code:
            # It has said why.
            raise ConfigurationError(
                f"the job was not handed over: 'dynabeam replicate' ended with {code}",
                where=rest.where,
                hint="What it says stands above",
            )
        if code == 0 and ended is None:
            ended = now
        late = ended is not None and now - ended > _LISTED_AFTER
        if late or now - began > _LONGEST:
            raise ConfigurationError(
                "Flink does not list the job",
                where=f"{rest.where}, --job_name={job_name}",
                hint="Does --flink_rest name the cluster that --job_endpoint or --flink_master "
                "hands jobs to? The job server's log says more",
            )
        if now - shown >= _SHOWN_EVERY:
            shown = now
            say(f"  {now - began:4.0f} s  Beam hands the graph over", stream)
        time.sleep(_POLL)


def _jobs(rest: FlinkRest, name: str) -> list[dict[str, Any]]:
    return [each for each in rest.get("/jobs/overview")["jobs"] if each["name"] == name]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends what is left of the process and of the job server that Beam started in it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
