# SPDX-License-Identifier: Apache-2.0
"""Waiting for a job, with a line for each step: it runs, it has ended, or it failed and why."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from dynabeam.pipelines.launch.which_job import dataflow_options
from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.flink.job import OVER as FLINK_OVER
from dynabeam.transforms.flink.job import last_failure
from dynabeam.transforms.flink.operations import is_running, state_of
from dynabeam.transforms.flink.rest import FlinkRest
from dynabeam.transforms.printable import printable

if TYPE_CHECKING:
    from dynabeam.transforms.dataflow.jobs import DataflowJob
    from dynabeam.transforms.dataflow.service import DataflowService

__all__ = [
    "console_logs",
    "failure_hint",
    "say",
    "wait_until_flink_runs",
    "wait_until_over",
    "wait_until_running",
]

_SHORTEST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0
_MOST_ERRORS = 3
_INCOMPATIBLE = re.compile(r"not compatible|has changed|transform.?name.?mapping", re.IGNORECASE)


def say(line: str, stream: TextIO) -> None:
    """Shows a line at once."""
    stream.write(f"{printable(line)}\n")
    stream.flush()


def console_logs(staging: str, job_id: str) -> str:
    """Where the launcher writes what it does; it does not go to Cloud Logging."""
    place = staging.rstrip("/") or "<staging location>"
    return f"{place}/template_launches/{job_id}/console_logs"


def wait_until_running(
    service: DataflowService, job_id: str, staging: str, seconds: float, stream: TextIO
) -> None:
    """Waits until a job runs, and shows how far it is.

    Raises:
        ConfigurationError: It has ended instead, or takes longer; the error says what to look at.
    """
    from dynabeam.transforms.dataflow.jobs import OVER, read_errors  # noqa: PLC0415 - an extra

    job = _watch(
        service,
        job_id,
        seconds,
        stream,
        lambda found: found.state == "RUNNING" or found.state in OVER,
    )
    log = console_logs(staging or job.staging, job_id)
    if job.state in ("RUNNING", "DONE"):
        return
    if job.state in OVER:
        said = "; ".join(each.text for each in read_errors(service, job_id, _MOST_ERRORS))
        raise ConfigurationError(
            f"the job has ended: {said or 'Dataflow does not say why'}",
            where=f"--job_id={job_id}",
            found=job.state,
            hint=failure_hint(said, log),
        )
    raise ConfigurationError(
        f"the job does not run after {seconds:.0f} seconds",
        where="--wait",
        found=job.state,
        hint=f"It goes on. Look at {log} and 'dynabeam launch status "
        f"{dataflow_options(service, job_id)}': a launcher takes three to five minutes, and longer "
        "where an image is large or workers have no way to AWS",
    )


def wait_until_over(
    service: DataflowService, job_id: str, seconds: float, stream: TextIO
) -> DataflowJob:
    """Waits until a job has ended; returns it.

    Raises:
        ConfigurationError: It takes longer.
    """
    from dynabeam.transforms.dataflow.jobs import OVER  # noqa: PLC0415 - an extra

    job = _watch(service, job_id, seconds, stream, lambda found: found.state in OVER)
    if job.state in OVER:
        return job
    raise ConfigurationError(
        f"the job has not ended after {seconds:.0f} seconds",
        where="--wait",
        found=job.state,
        hint="It goes on ending. A drain lasts as long as its slowest step: 'dynabeam launch "
        f"cancel {dataflow_options(service, job_id)}' ends it at once, and a new job goes on from "
        "the stored positions",
    )


def failure_hint(said: str, log: str) -> str:
    """What to do about a job that failed with these words."""
    if _INCOMPATIBLE.search(said):
        return (
            "The job before it goes on as it is. If a step has another name now, give "
            "--transform_name_mapping; otherwise drain the job and launch again with the same "
            "--state_dir"
        )
    return f"The launcher's log, {log}, says more"


def _watch(
    service: DataflowService,
    job_id: str,
    seconds: float,
    stream: TextIO,
    enough: Callable[[DataflowJob], bool],
) -> DataflowJob:
    """Reads a job until it is enough or time is up; a line for each new state."""
    from dynabeam.transforms.dataflow.jobs import read_job  # noqa: PLC0415 - an extra

    began, shown, pause = time.monotonic(), "", _SHORTEST_PAUSE
    while True:
        job = read_job(service, job_id)
        waited = time.monotonic() - began
        if job.state != shown:
            shown = job.state
            say(f"  {waited:4.0f} s  {job.state}", stream)
        if enough(job) or waited >= seconds:
            return job
        time.sleep(min(pause, max(0.0, seconds - waited)))
        pause = min(_LONGEST_PAUSE, pause * 1.5)


def wait_until_flink_runs(rest: FlinkRest, job_id: str, seconds: float, stream: TextIO) -> None:
    """Waits until every task of a job of Flink's runs, and shows how far it is.

    Raises:
        ConfigurationError: It has ended instead, or takes longer; the error says what to look at.
    """
    began, shown = time.monotonic(), ""
    while True:
        state, waited = state_of(rest, job_id), time.monotonic() - began
        if state == "RUNNING" and not is_running(rest, job_id):
            state = "RUNNING, tasks are starting"
        if state != shown:
            shown = state
            say(f"  {waited:4.0f} s  {state}", stream)
        if state == "RUNNING":
            return
        if state in FLINK_OVER or waited >= seconds:
            break
        time.sleep(_SHORTEST_PAUSE)
    failure = last_failure(rest, job_id)
    page = f"{rest.url}/#/job/{'completed' if state in FLINK_OVER else 'running'}/{job_id}"
    if state in FLINK_OVER:
        raise ConfigurationError(
            f"the job has ended: {failure or 'Flink does not say why'}",
            where=f"--job_id={job_id}",
            found=state,
            hint=f"{page} says more",
        )
    raise ConfigurationError(
        f"the job does not run after {seconds:.0f} seconds"
        + (f"; it failed last with {failure}" if failure else ""),
        where="--wait",
        found=state,
        hint=f"It goes on trying. Look at {page}: are there free slots, and does the worker pool "
        "of --environment_config answer beside each TaskManager?",
    )
