# SPDX-License-Identifier: Apache-2.0
"""What Flink's REST interface says of a job: state, checkpoints, how busy its parts are.

Paths and fields are those of Flink's documentation, "REST API", of Flink 1.20.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.flink.rest import FlinkRest, innermost_cause

__all__ = [
    "OVER",
    "CheckpointStatus",
    "FlinkJob",
    "VertexStatus",
    "find_job",
    "jobs_named",
    "last_failure",
    "read_job",
]

OVER = ("FINISHED", "CANCELED", "FAILED", "SUSPENDED")
"""States in which a job has ended."""

_BUSY = ("busyTimeMsPerSecond", "backPressuredTimeMsPerSecond")


@dataclasses.dataclass(frozen=True)
class CheckpointStatus:
    """The last completed checkpoint.

    Attributes:
        number: Its number within the job.
        completed_us: When it was complete, microseconds since 1970.
        state_bytes: Size of all state.
        seconds: How long it took.
        path: Where it lies, for `--savepoint_path`.
    """

    number: int
    completed_us: int
    state_bytes: int
    seconds: float
    path: str


@dataclasses.dataclass(frozen=True)
class VertexStatus:
    """One chain of operators.

    Attributes:
        name: Its name.
        parallelism: Its subtasks.
        busy: Share of its time that its busiest subtask works, 0 to 1; None if not known.
        backpressured: The same for waiting until what follows has room.
    """

    name: str
    parallelism: int
    busy: float | None
    backpressured: float | None


@dataclasses.dataclass(frozen=True)
class FlinkJob:
    """One job.

    Attributes:
        job: Its id.
        name: Its name.
        state: Flink's word, such as `RUNNING`.
        uptime_seconds: How long it has been in this state.
        restarts: How often Flink has restarted it.
        checkpoint: The last one, None before the first.
        failed_checkpoints: How many failed since the job began.
        vertices: Its parts.
    """

    job: str
    name: str
    state: str
    uptime_seconds: float
    restarts: int
    checkpoint: CheckpointStatus | None
    failed_checkpoints: int
    vertices: tuple[VertexStatus, ...]


def read_job(url: str, wanted: str = "") -> FlinkJob:
    """Asks a JobManager about a job.

    Args:
        url: Of its REST interface, such as `http://jobmanager:8081`.
        wanted: Id or name of the job; empty for the only one that has not ended, or the last one.

    Raises:
        ConfigurationError: There is no such job, or several to choose from.
        FlinkRestError: The JobManager does not answer as it should.
    """
    rest = FlinkRest(url)
    job = find_job(rest, wanted)
    details = rest.get(f"/jobs/{job}")
    checkpoints = rest.get(f"/jobs/{job}/checkpoints")
    state = str(details["state"])
    since = details["timestamps"].get(state, details["start-time"])
    return FlinkJob(
        job=job,
        name=details["name"],
        state=state,
        uptime_seconds=max(0, details["now"] - since) / 1000,
        restarts=_restarts(rest, job),
        checkpoint=_checkpoint(checkpoints["latest"]["completed"]),
        failed_checkpoints=int(checkpoints["counts"]["failed"]),
        vertices=tuple(_vertex(rest, job, each) for each in details["vertices"]),
    )


def find_job(rest: FlinkRest, wanted: str = "") -> str:
    """The id of a job; arguments and errors are those of `read_job`."""
    jobs = rest.get("/jobs/overview")["jobs"]
    found = [each for each in jobs if not wanted or wanted in (each["jid"], each["name"])]
    alive = [each for each in found if each["state"] not in OVER]
    names = ", ".join(f"{each['name']} ({each['jid']}, {each['state']})" for each in jobs)
    if not found:
        raise ConfigurationError(
            "Flink has no such job" if wanted else "Flink has no job",
            where=rest.where,
            expected=wanted or "a job",
            found=names or "none",
        )
    if len(alive) > 1:
        raise ConfigurationError(
            "Flink has several jobs",
            where=rest.where,
            found=names,
            hint="Give one's id or name as --flink_job",
        )
    return str(max(alive or found, key=lambda each: int(each["start-time"]))["jid"])


def jobs_named(rest: FlinkRest, name: str) -> dict[str, str]:
    """The jobs of a name that have not ended: id → state."""
    return {
        str(each["jid"]): str(each["state"])
        for each in rest.get("/jobs/overview")["jobs"]
        if each["name"] == name and each["state"] not in OVER
    }


def last_failure(rest: FlinkRest, job: str) -> str:
    """What failed last in a job, as one line; empty if nothing has."""
    history = rest.get(f"/jobs/{job}/exceptions")["exceptionHistory"]["entries"]
    return innermost_cause(str(history[0]["stacktrace"])) if history else ""


def _restarts(rest: FlinkRest, job: str) -> int:
    answer = rest.get(f"/jobs/{job}/metrics?get=numRestarts")
    return int(answer[0]["value"]) if answer else 0


def _checkpoint(found: dict[str, Any] | None) -> CheckpointStatus | None:
    if not found:
        return None
    return CheckpointStatus(
        number=int(found["id"]),
        completed_us=int(found["latest_ack_timestamp"]) * 1000,
        state_bytes=int(found["state_size"]),
        seconds=int(found["end_to_end_duration"]) / 1000,
        path=str(found["external_path"]),
    )


def _vertex(rest: FlinkRest, job: str, vertex: dict[str, Any]) -> VertexStatus:
    path = f"/jobs/{job}/vertices/{vertex['id']}/subtasks/metrics?get={','.join(_BUSY)}&agg=max"
    found = {each["id"]: _share(each["max"]) for each in rest.get(path)}
    return VertexStatus(vertex["name"], vertex["parallelism"], *(found.get(each) for each in _BUSY))


def _share(milliseconds: Any) -> float | None:
    # A subtask that does not know reports NaN.
    value = float(milliseconds)
    return None if math.isnan(value) else min(1.0, value / 1000)
