# SPDX-License-Identifier: Apache-2.0
"""What a JobManager is told to do with a job: savepoint, stop, cancel; and what it has room for."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.flink.job import OVER, last_failure
from dynabeam.transforms.flink.rest import FlinkRefusedError, FlinkRest, innermost_cause

__all__ = [
    "FlinkCluster",
    "cancel",
    "is_running",
    "read_cluster",
    "state_of",
    "take_savepoint",
    "wait_until_over",
]

_POLL = 0.5
_NOT_FOUND = 404
_ASKS_FOR_MORE = ("kubernetes.cluster-id", "yarn.application.name")
"""Settings of clusters that get another TaskManager when a job needs one."""


@dataclasses.dataclass(frozen=True)
class FlinkCluster:
    """What a cluster is like.

    Attributes:
        version: Flink's, such as `1.20`.
        slots: Subtasks of one step that fit in all, whether or not they are taken now.
        free_slots: Those that are not taken.
        grows: It gets more TaskManagers by itself.
        savepoints: Where savepoints go if nothing else is said; empty if that is not set.
    """

    version: str
    slots: int
    free_slots: int
    grows: bool
    savepoints: str


def read_cluster(rest: FlinkRest) -> FlinkCluster:
    """Asks a JobManager what it is."""
    overview = rest.get("/overview")
    settings = {each["key"]: each["value"] for each in rest.get("/jobmanager/config")}
    return FlinkCluster(
        version=".".join(str(overview["flink-version"]).split(".")[:2]),
        slots=int(overview["slots-total"]),
        free_slots=int(overview["slots-available"]),
        grows=any(name in settings for name in _ASKS_FOR_MORE),
        savepoints=str(
            settings.get("execution.checkpointing.savepoint-dir")
            or settings.get("state.savepoints.dir")
            or ""
        ),
    )


def state_of(rest: FlinkRest, job: str) -> str:
    """A job's state, such as `RUNNING`.

    Raises:
        ConfigurationError: There is no such job, or the JobManager does not answer.
    """
    try:
        return str(rest.get(f"/jobs/{job}")["state"])
    except FlinkRefusedError as problem:
        if problem.status != _NOT_FOUND:
            raise
        raise ConfigurationError(
            "Flink has no such job",
            where=f"--job_id={job}",
            found=rest.url,
            hint="A JobManager that was started anew has forgotten its jobs: 'dynabeam launch "
            "flink' with a savepoint or a retained checkpoint starts it again",
        ) from problem


def is_running(rest: FlinkRest, job: str) -> bool:
    """Whether every subtask runs: a job is `RUNNING` before its tasks are."""
    answer = rest.get(f"/jobs/{job}")
    return answer["state"] == "RUNNING" and all(
        each["tasks"]["RUNNING"] == each["parallelism"] for each in answer["vertices"]
    )


def take_savepoint(rest: FlinkRest, job: str, *, folder: str, stop: bool, seconds: float) -> str:
    """Takes a savepoint of a job; a job that is stopped ends behind it.

    Args:
        rest: The JobManager.
        job: The job's id.
        folder: Where the savepoint goes, as the JobManager sees it; empty for its own setting.
        stop: Stop the job, without ending its streams: it can be resumed.
        seconds: How long to wait for it.

    Returns:
        The savepoint's path.

    Raises:
        ConfigurationError: The job does not run, the savepoint failed or took too long. The job
            then goes on.
    """
    _refuse_ended(rest, job)
    # The two requests spell it differently.
    if stop:
        target = {"targetDirectory": folder} if folder else {}
        asked = rest.post(f"/jobs/{job}/stop", {"drain": False, **target})
    else:
        target = {"target-directory": folder} if folder else {}
        asked = rest.post(f"/jobs/{job}/savepoints", {"cancel-job": False, **target})
    path = f"/jobs/{job}/savepoints/{asked['request-id']}"

    def done() -> Any:
        answer = rest.get(path)
        return answer["operation"] if answer["status"]["id"] == "COMPLETED" else None

    operation = _wait(
        done,
        seconds,
        f"the savepoint of {job}",
        f"Flink goes on with it. Look at its web page, {rest.url}/#/job/running/{job}/checkpoints",
    )
    if "failure-cause" in operation:
        raise ConfigurationError(
            f"Flink cannot take the savepoint: "
            f"{innermost_cause(str(operation['failure-cause']['stack-trace']))}",
            where=f"--savepoint_dir={folder}" if folder else rest.where,
            hint="The job goes on. The folder has to be one that JobManager and TaskManagers can "
            "write, such as s3://BUCKET/savepoints",
        )
    if stop:
        wait_until_over(rest, job, seconds)
    return str(operation["location"])


def cancel(rest: FlinkRest, job: str, seconds: float) -> str:
    """Cancels a job and waits until it has ended; returns its last state."""
    _refuse_ended(rest, job)
    rest.patch(f"/jobs/{job}?mode=cancel")
    return wait_until_over(rest, job, seconds)


def wait_until_over(rest: FlinkRest, job: str, seconds: float) -> str:
    """Waits until a job has ended; returns its last state.

    Raises:
        ConfigurationError: It takes longer than so many seconds.
    """

    def ended() -> str | None:
        state = state_of(rest, job)
        return state if state in OVER else None

    hint = f"Look at Flink's web page, {rest.url}, and its log"
    return _wait(ended, seconds, f"the end of {job}", hint)


def _refuse_ended(rest: FlinkRest, job: str) -> None:
    state = state_of(rest, job)
    if state in OVER:
        failure = last_failure(rest, job)
        raise ConfigurationError(
            "the job has ended already" + (f", last it failed with {failure}" if failure else ""),
            where=f"--job_id={job}",
            found=state,
            hint="'dynabeam launch flink --resume' starts it again from its last savepoint",
        )


def _wait(found: Callable[[], Any], seconds: float, what: str, hint: str) -> Any:
    until = time.monotonic() + seconds
    while True:
        answer = found()
        if answer:
            return answer
        if time.monotonic() >= until:
            raise ConfigurationError(
                f"{what} takes longer than {seconds:.0f} seconds", where="--wait", hint=hint
            )
        time.sleep(_POLL)
