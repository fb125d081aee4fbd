# SPDX-License-Identifier: Apache-2.0
"""Flink's REST interface: what tests ask a JobManager, and what they tell it."""

from __future__ import annotations

import dataclasses
import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from tests.runners.processes import wait_until

__all__ = ["Checkpoint", "FlinkError", "FlinkRest"]

_ENDED = frozenset({"FAILED", "CANCELED", "FINISHED", "SUSPENDED"})
_SECONDS = 10


class FlinkError(Exception):
    """Flink refused, or a job came to a state that was not waited for."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A completed checkpoint or savepoint.

    Attributes:
        number: Its id within the job.
        path: Where it lies, for `--savepoint_path`.
        state_bytes: Size of all state.
        new_bytes: What this one alone wrote: less with incremental checkpoints.
        milliseconds: How long it took, from trigger to completion.
    """

    number: int
    path: str
    state_bytes: int
    new_bytes: int
    milliseconds: int


class FlinkRest:
    """One JobManager.

    Args:
        url: Such as `http://127.0.0.1:8081`.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> Any:
        """The answer to a GET.

        Raises:
            FlinkError: Flink refused.
            OSError: There is no JobManager.
        """
        return self._ask("GET", path)

    def is_up(self) -> bool:
        """Whether the JobManager answers."""
        try:
            self.get("/overview")
        except (OSError, FlinkError, http.client.HTTPException):
            return False
        return True

    def free_slots(self) -> int:
        """Slots that no task uses now."""
        return int(self.get("/overview")["slots-available"])

    def taskmanagers(self) -> set[str]:
        """Names of the TaskManagers that are registered."""
        return {str(each["id"]) for each in self.get("/taskmanagers")["taskmanagers"]}

    def jobs(self) -> dict[str, str]:
        """Every job that the JobManager remembers: id → state."""
        return {job["jid"]: job["state"] for job in self.get("/jobs/overview")["jobs"]}

    def job_named(self, name: str) -> str | None:
        """The id of the newest job of that name."""
        jobs = [job for job in self.get("/jobs/overview")["jobs"] if job["name"] == name]
        return max(jobs, key=lambda job: job["start-time"])["jid"] if jobs else None

    def state(self, job: str) -> str:
        """A job's state, such as `RUNNING` or `RESTARTING`."""
        return str(self.get(f"/jobs/{job}")["state"])

    def restarts(self, job: str) -> int:
        """How often the job was restored since it was submitted."""
        return int(self.get(f"/jobs/{job}/checkpoints")["counts"]["restored"])

    def exceptions(self, job: str) -> str:
        """The job's newest failure, as text."""
        history = self.get(f"/jobs/{job}/exceptions")["exceptionHistory"]["entries"]
        return str(history[0]["stacktrace"]) if history else ""

    def tasks_running(self, job: str) -> bool:
        """Whether every subtask runs: a job is `RUNNING` before its tasks are."""
        answer = self.get(f"/jobs/{job}")
        return answer["state"] == "RUNNING" and all(
            vertex["tasks"]["RUNNING"] == vertex["parallelism"] for vertex in answer["vertices"]
        )

    def wait_running(self, job: str, seconds: float = 60) -> None:
        """Waits until every subtask runs.

        Raises:
            FlinkError: The job ended.
            TimeoutError: It takes too long.
        """

        def running() -> bool:
            state = self.state(job)
            if state in _ENDED:
                raise FlinkError(f"job {job} is {state}: {self.exceptions(job)}")
            return self.tasks_running(job)

        wait_until(running, f"running job {job}", seconds)

    def wait_ended(self, job: str, seconds: float = 60) -> str:
        """Waits until a job has ended; returns its last state."""

        def ended() -> str | None:
            state = self.state(job)
            return state if state in _ENDED else None

        return wait_until(ended, f"end of job {job}", seconds)

    def vertices(self, job: str) -> dict[str, str]:
        """The job's chains of operators: id → name."""
        return {vertex["id"]: vertex["name"] for vertex in self.get(f"/jobs/{job}")["vertices"]}

    def metrics(self, job: str, vertex: str, *names: str) -> dict[str, float]:
        """Metrics of all subtasks of a vertex, summed; without names, those that there are (as 0).

        Beam's own metrics are among them, under names that hold the step and the metric.
        """
        path = f"/jobs/{job}/vertices/{vertex}/subtasks/metrics"
        if not names:
            return {each["id"]: 0.0 for each in self.get(path)}
        answer = self.get(f"{path}?get={','.join(names)}&agg=sum")
        return {each["id"]: float(each["sum"]) for each in answer}

    def accumulators(self, job: str) -> list[dict[str, Any]]:
        """The job's user accumulators; Beam keeps its metrics in one of them."""
        return list(self.get(f"/jobs/{job}/accumulators")["user-task-accumulators"])

    def latest_checkpoint(self, job: str) -> Checkpoint | None:
        """The newest completed checkpoint, savepoints left out."""
        found = self.get(f"/jobs/{job}/checkpoints")["latest"]["completed"]
        if not found:
            return None
        return Checkpoint(
            int(found["id"]),
            found["external_path"],
            int(found["state_size"]),
            int(found["checkpointed_size"]),
            int(found["end_to_end_duration"]),
        )

    def wait_checkpoint(self, job: str, after: int = 0, seconds: float = 60) -> Checkpoint:
        """Waits for a completed checkpoint with a number above `after`."""

        def newer() -> Checkpoint | None:
            found = self.latest_checkpoint(job)
            return found if found and found.number > after else None

        return wait_until(newer, f"checkpoint of {job} after number {after}", seconds)

    def next_checkpoint(self, job: str, seconds: float = 60) -> Checkpoint:
        """Waits for a checkpoint that was triggered after this call."""
        history = self.get(f"/jobs/{job}/checkpoints")["history"]
        begun = max((int(each["id"]) for each in history), default=0)
        return self.wait_checkpoint(job, begun, seconds)

    def stop_with_savepoint(self, job: str, folder: str, seconds: float = 120) -> str:
        """Stops a job behind a savepoint; returns the savepoint's path.

        Raises:
            FlinkError: The savepoint failed.
            TimeoutError: It takes too long.
        """
        request = self._ask("POST", f"/jobs/{job}/stop", targetDirectory=folder, drain=False)
        path = f"/jobs/{job}/savepoints/{request['request-id']}"

        def finished() -> Any:
            answer = self.get(path)
            return answer["operation"] if answer["status"]["id"] == "COMPLETED" else None

        operation = wait_until(finished, f"savepoint of {job}", seconds)
        if "failure-cause" in operation:
            raise FlinkError(f"savepoint of {job}: {operation['failure-cause']['stack-trace']}")
        self.wait_ended(job, seconds)
        return str(operation["location"])

    def cancel(self, job: str, seconds: float = 60) -> None:
        """Cancels a job and waits for its end."""
        self._ask("PATCH", f"/jobs/{job}?mode=cancel")
        self.wait_ended(job, seconds)

    def cancel_all(self) -> None:
        """Cancels what has not ended."""
        for job, state in self.jobs().items():
            if state not in _ENDED:
                self.cancel(job)

    def _ask(self, method: str, path: str, **body: Any) -> Any:
        request = urllib.request.Request(self.url + path, method=method)
        if body:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode(errors="replace")
            raise FlinkError(f"{method} {path}: {error.code} {text}") from error
