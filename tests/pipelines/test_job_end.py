# SPDX-License-Identifier: Apache-2.0
"""How the end of a job is said."""

from concurrent.futures import Future

import pytest
from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException
from apache_beam.runners.runner import PipelineResult

from dynabeam.pipelines.continuous.job_end import cancel_text, end_of_job
from dynabeam.pipelines.options.runners import continuous_runner

IMAGE = "--sdk_container_image=registry.example/dynabeam:1"


def ended(outcome):
    future = Future()
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
    return future


def of_dataflow(state, message=None):
    """What Beam 2.77 raises for every end of a job on Dataflow but DONE."""
    text = f"Dataflow pipeline failed. State: {state}, Error:\n{message}"
    return DataflowRuntimeException(text, PipelineResult(state))


@pytest.mark.parametrize(
    ("state", "code", "words"),
    [
        ("DRAINED", 0, "start again with the same --state_dir"),
        ("CANCELLED", 0, "Start again with the same --state_dir"),
        ("UPDATED", 0, "an updated job of the same name".capitalize()),
        ("FAILED", 1, "nothing is lost".capitalize()),
    ],
)
def test_ends_on_dataflow(state, code, words):
    text, found = end_of_job(ended(of_dataflow(state)))
    assert found == code
    assert text.startswith(f"The job ended: {state}")
    assert words in text
    assert "Traceback" not in text
    assert "\n" not in text


def test_why_it_failed():
    text, code = end_of_job(ended(of_dataflow("FAILED", "Workflow failed: quota\nexceeded")))
    assert code == 1
    assert "Workflow failed: quota exceeded" in " ".join(text.split())


def test_our_own_error_is_taken_out():
    message = "worker: dynabeam.transforms.errors.SinkError: no room [while running 'x']"
    text, _ = end_of_job(ended(of_dataflow("FAILED", message)))
    assert "no room" in text
    assert "while running" not in text


@pytest.mark.parametrize(("state", "code"), [("DONE", 0), ("CANCELLED", 0), ("UNKNOWN", 1)])
def test_ends_elsewhere(state, code):
    text, found = end_of_job(ended(state))
    assert (text.split(".")[0], found) == (f"The job ended: {state}", code)


@pytest.mark.parametrize("problem", [RuntimeError("broken"), of_dataflow("RUNNING")])
def test_another_error_stays_one(problem):
    with pytest.raises(type(problem)):
        end_of_job(ended(problem))


def test_what_stays_of_a_cancelled_job():
    flink = cancel_text(continuous_runner(["--runner=FlinkRunner"]))
    assert "its checkpoints stay" in flink[0]
    assert "flink stop" in flink[1]
    for runner in (["--runner=DataflowRunner", IMAGE], ["--runner=PrismRunner"]):
        (line,) = cancel_text(continuous_runner(runner))
        assert "checkpoint" not in line
        assert "the same --state_dir" in line
