# SPDX-License-Identifier: Apache-2.0
"""How a job ended: a sentence for people, and the exit code of the command that stayed with it."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from apache_beam.runners.runner import PipelineState

from dynabeam.pipelines.failures import meant_for_people
from dynabeam.pipelines.options.runners import ContinuousRunner
from dynabeam.transforms.printable import one_line

__all__ = ["cancel_text", "end_of_job"]

_STILL_ON_FLINK = (
    "On a Flink cluster the job keeps running: end it with `flink stop` (after a savepoint) or "
    "`flink cancel`"
)
_GO_ON = "start again with the same --state_dir to continue from the stored positions"

_ENDS = {
    PipelineState.DONE: ("", 0),
    PipelineState.DRAINED: (
        f"what was read is written, and nothing new is read; {_GO_ON}",
        0,
    ),
    PipelineState.CANCELLED: (_GO_ON, 0),
    PipelineState.UPDATED: ("an updated job of the same name continues in its place", 0),
    PipelineState.FAILED: (f"nothing is lost; fix the cause, and {_GO_ON}", 1),
}


def end_of_job(ended: Future[Any]) -> tuple[str, int]:
    """What became of a job.

    Args:
        ended: What waited for the job, done. Dataflow's raises for every end but DONE.

    Returns:
        A sentence, and an exit code: 0 unless the job failed.

    Raises:
        BaseException: The job did not end, but waiting for it failed: as that has raised it.
    """
    problem = ended.exception()
    state = ended.result() if problem is None else _state_behind(problem)
    if state is None:
        assert problem is not None
        raise problem
    what, code = _ENDS.get(state, ("", 1))
    text = f"The job ended: {state}"
    if code and problem is not None:
        text += f", {one_line(str(meant_for_people(problem) or problem))}"
    return f"{text}. {what[:1].upper()}{what[1:]}" if what else text, code


def _state_behind(problem: BaseException) -> str | None:
    """The state of the job that an error of Dataflow's is about; None for any other error."""
    result = getattr(problem, "result", None)
    state = getattr(result, "state", None)
    return state if isinstance(state, str) and PipelineState.is_terminal(state) else None


def cancel_text(runner: ContinuousRunner) -> list[str]:
    """What to say when a job is cancelled: what of it stays."""
    if runner.is_flink:
        # Beam's job server only stops to follow a job that runs on a cluster.
        return ["Cancelling the job; its checkpoints stay", _STILL_ON_FLINK]
    return [f"Cancelling the job; {_GO_ON}"]
