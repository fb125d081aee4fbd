# SPDX-License-Identifier: Apache-2.0
"""What Flink's REST interface says of a job: state, checkpoints, how busy its parts are.

Paths and fields are those of Flink's documentation, "REST API", of Flink 1.20.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import math
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from dynabeam.transforms.errors import ConfigurationError

__all__ = ["CheckpointStatus", "FlinkJob", "FlinkRestError", "VertexStatus", "read_job"]

_SECONDS = 10
_OVER = ("FINISHED", "CANCELED", "FAILED", "SUSPENDED")
_BUSY = ("busyTimeMsPerSecond", "backPressuredTimeMsPerSecond")


class FlinkRestError(ConfigurationError):
    """The JobManager does not answer, or not as it should."""


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
    base = url.rstrip("/")
    job = _choose(_ask(base, "/jobs/overview")["jobs"], wanted, base)
    details = _ask(base, f"/jobs/{job}")
    checkpoints = _ask(base, f"/jobs/{job}/checkpoints")
    state = str(details["state"])
    since = details["timestamps"].get(state, details["start-time"])
    return FlinkJob(
        job=job,
        name=details["name"],
        state=state,
        uptime_seconds=max(0, details["now"] - since) / 1000,
        restarts=_restarts(base, job),
        checkpoint=_checkpoint(checkpoints["latest"]["completed"]),
        failed_checkpoints=int(checkpoints["counts"]["failed"]),
        vertices=tuple(_vertex(base, job, each) for each in details["vertices"]),
    )


def _choose(jobs: list[dict[str, Any]], wanted: str, url: str) -> str:
    found = [each for each in jobs if not wanted or wanted in (each["jid"], each["name"])]
    alive = [each for each in found if each["state"] not in _OVER]
    names = ", ".join(f"{each['name']} ({each['jid']}, {each['state']})" for each in jobs)
    if not found:
        raise ConfigurationError(
            "Flink has no such job" if wanted else "Flink has no job",
            where=f"--flink_rest={url}",
            expected=wanted or "a job",
            found=names or "none",
        )
    if len(alive) > 1:
        raise ConfigurationError(
            "Flink has several jobs",
            where=f"--flink_rest={url}",
            found=names,
            hint="Give one's id or name as --flink_job",
        )
    return str(max(alive or found, key=lambda each: int(each["start-time"]))["jid"])


def _restarts(base: str, job: str) -> int:
    answer = _ask(base, f"/jobs/{job}/metrics?get=numRestarts")
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


def _vertex(base: str, job: str, vertex: dict[str, Any]) -> VertexStatus:
    path = f"/jobs/{job}/vertices/{vertex['id']}/subtasks/metrics?get={','.join(_BUSY)}&agg=max"
    found = {each["id"]: _share(each["max"]) for each in _ask(base, path)}
    return VertexStatus(vertex["name"], vertex["parallelism"], *(found.get(each) for each in _BUSY))


def _share(milliseconds: Any) -> float | None:
    # A subtask that does not know reports NaN.
    value = float(milliseconds)
    return None if math.isnan(value) else min(1.0, value / 1000)


def _ask(base: str, path: str) -> Any:
    if urllib.parse.urlsplit(base).scheme not in ("http", "https"):
        raise ConfigurationError(
            "not the address of a REST interface",
            where="--flink_rest",
            found=base,
            hint="Write e.g. http://jobmanager:8081",
        )
    try:
        # The scheme was looked at above.
        with urllib.request.urlopen(base + path, timeout=_SECONDS) as answer:  # noqa: S310
            return json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError) as problem:
        if isinstance(problem, urllib.error.HTTPError):
            problem.close()
        raise FlinkRestError(
            f"Flink's REST interface does not answer: {problem}",
            where=f"--flink_rest={base}",
            hint="Check the address: it is that of Flink's web page, by default port 8081",
        ) from problem
