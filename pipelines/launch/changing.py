# SPDX-License-Identifier: Apache-2.0
"""`dynabeam launch drain`, `cancel`, `savepoint` and `scale`: what a launched job is told to do."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence

from dynabeam.pipelines.launch import flink
from dynabeam.pipelines.launch.record import LaunchRecord, write_record
from dynabeam.pipelines.launch.waiting import say, wait_until_over
from dynabeam.pipelines.launch.which_job import (
    DataflowTarget,
    FlinkTarget,
    add_job_options,
    state_directory,
    target,
)
from dynabeam.pipelines.options.arguments import parse_all
from dynabeam.pipelines.options.replicate import duration
from dynabeam.transforms.errors import ConfigurationError, DynabeamError
from dynabeam.transforms.flink import operations
from dynabeam.transforms.flink.job import read_job

__all__ = ["cancel", "drain", "savepoint", "scale"]

_FLINK_SECONDS = 120.0


def drain(arguments: Sequence[str]) -> int:
    """`dynabeam launch drain`; returns the exit code."""
    parser = _parser("drain", "End a job without losing what it has read; on Flink, stop it.")
    _add_savepoint_folder(parser)
    given = parse_all(parser, arguments)
    found = target(given)
    if isinstance(found, FlinkTarget):
        return _stop(found, given)
    from dynabeam.transforms.dataflow.jobs import drain as drain_job  # noqa: PLC0415 - an extra

    _refuse_ended(found)
    drain_job(found.service, found.job_id)
    sys.stdout.write(f"Draining {found.job_name}: job {found.job_id}\n")
    return _end_of(found, given, "DRAINED")


def cancel(arguments: Sequence[str]) -> int:
    """`dynabeam launch cancel`; returns the exit code."""
    given = parse_all(_parser("cancel", "End a job at once; positions stay."), arguments)
    found = target(given)
    if isinstance(found, FlinkTarget):
        job = read_job(found.rest.url, found.job_id)
        state = operations.cancel(found.rest, found.job_id, _seconds(given))
        sys.stdout.write(f"{job.name} is {state}\n")
        if job.checkpoint is not None:
            sys.stdout.write(
                f"Its last checkpoint was {job.checkpoint.path}\n"
                "Next: 'dynabeam launch flink' with it as --savepoint_path, or with --take_over "
                "to begin at the stored positions\n"
            )
        return 0
    from dynabeam.transforms.dataflow.jobs import cancel as cancel_job  # noqa: PLC0415 - an extra

    _refuse_ended(found)
    cancel_job(found.service, found.job_id)
    sys.stdout.write(f"Cancelling {found.job_name}: job {found.job_id}\n")
    return _end_of(found, given, "CANCELLED")


def savepoint(arguments: Sequence[str]) -> int:
    """`dynabeam launch savepoint`; returns the exit code."""
    parser = _parser("savepoint", "Take a savepoint of a job on Flink, and perhaps stop it.")
    _add_savepoint_folder(parser)
    parser.add_argument("--stop", action="store_true", help="stop the job behind it")
    given = parse_all(parser, arguments)
    found = _on_flink(target(given), "savepoint")
    if given.stop:
        return _stop(found, given)
    say("Asking Flink for a savepoint", sys.stderr)
    path = operations.take_savepoint(
        found.rest, found.job_id, folder=given.savepoint_dir, stop=False, seconds=_seconds(given)
    )
    sys.stdout.write(f"Savepoint {path}; the job goes on\n")
    _keep(found, given, path)
    return 0


def scale(arguments: Sequence[str]) -> int:
    """`dynabeam launch scale`; returns the exit code."""
    parser = _parser("scale", "Give a job more or fewer workers.")
    _add_savepoint_folder(parser)
    parser.add_argument("--parallelism", type=int, default=0, help="Flink: subtasks of each step")
    parser.add_argument("--min_num_workers", type=int, default=0, help="Dataflow: at least")
    parser.add_argument("--max_num_workers", type=int, default=0, help="Dataflow: at most")
    given = parse_all(parser, arguments)
    found = target(given)
    if isinstance(found, FlinkTarget):
        return _scale_flink(found, given)
    return _scale_dataflow(found, given)


def _scale_dataflow(found: DataflowTarget, given: argparse.Namespace) -> int:
    from dynabeam.transforms.dataflow import jobs  # noqa: PLC0415 - an extra

    fewest, most = given.min_num_workers, given.max_num_workers
    if given.parallelism or fewest < 0 or most < 0 or not (fewest or most):
        raise ConfigurationError(
            "a job of Dataflow is told how many workers it may have",
            where="--min_num_workers, --max_num_workers",
            hint="Give one of them or both, each at least 1",
        )
    if fewest and most and fewest > most:
        raise ConfigurationError(
            "at least more workers than at most",
            where="--min_num_workers, --max_num_workers",
            found=f"{fewest} > {most}",
        )
    state = jobs.read_job(found.service, found.job_id).state
    if state != "RUNNING":
        raise ConfigurationError(
            "only a running job can be scaled", where=f"--job_id={found.job_id}", found=state
        )
    jobs.scale(found.service, found.job_id, fewest=fewest, most=most)
    told = [f"at least {fewest}"] * bool(fewest) + [f"at most {most}"] * bool(most)
    sys.stdout.write(f"{found.job_name} may have {' and '.join(told)} workers\n")
    return 0


def _scale_flink(found: FlinkTarget, given: argparse.Namespace) -> int:
    """Stops a job behind a savepoint, and starts it again from there.

    All that can be looked at is looked at before it is stopped.
    """
    if given.parallelism < 1 or given.min_num_workers or given.max_num_workers:
        raise ConfigurationError(
            "a job on Flink is told how many subtasks each step has",
            where="--parallelism",
            hint="Give a number of at least 1",
        )
    record = found.record
    if record is None or not record.arguments:
        raise ConfigurationError(
            "it is not known how the job was launched",
            where=f"--job_id={found.job_id}",
            hint="'dynabeam launch savepoint --stop', then 'dynabeam launch flink' with its "
            "options, --savepoint_path and the new --parallelism",
        )
    arguments = flink.replaced(record.arguments, [f"--parallelism={given.parallelism}"])
    before = read_job(found.rest.url, found.job_id)
    now = max((each.parallelism for each in before.vertices), default=0)
    if now == given.parallelism:
        sys.stdout.write(f"{before.name} has {now} subtasks of each step already\n")
        return 0
    planned = _planned(arguments, record, savepoint="")
    cluster = operations.read_cluster(found.rest)
    flink.check_parallelism(cluster, flink.beam_arguments(planned), freed=now)
    path = _stopped(found, given)
    kept = dataclasses.replace(record, savepoint=path, arguments=tuple(arguments))
    write_record(planned.state_dir, kept)
    say(f"Stopped behind the savepoint {path}", sys.stderr)
    try:
        flink.start(_planned(arguments, record, savepoint=path), sys.stdout, sys.stderr)
    except DynabeamError:
        where = shlex.quote(planned.state_dir)
        say(
            "The job is stopped; nothing is lost. Go on with: dynabeam launch flink --resume "
            f"--state_dir={where}",
            sys.stderr,
        )
        raise
    return 0


def _planned(arguments: Sequence[str], record: LaunchRecord, savepoint: str) -> flink.FlinkLaunch:
    return flink.plan(
        arguments,
        rest=record.rest,
        job_name=record.job_name,
        savepoint=savepoint,
        seconds=_FLINK_SECONDS,
    )


def _stop(found: FlinkTarget, given: argparse.Namespace) -> int:
    path = _stopped(found, given)
    sys.stdout.write(f"Stopped behind the savepoint {path}\n")
    _keep(found, given, path)
    more = f" --state_dir={shlex.quote(state_directory(given))}" if found.record else ""
    resume = "--resume" if found.record else f"--savepoint_path={path} OPTIONS"
    sys.stdout.write(f"Next:\n  dynabeam launch flink {resume}{more}\n")
    return 0


def _stopped(found: FlinkTarget, given: argparse.Namespace) -> str:
    say("Asking Flink to stop the job behind a savepoint", sys.stderr)
    return operations.take_savepoint(
        found.rest, found.job_id, folder=given.savepoint_dir, stop=True, seconds=_seconds(given)
    )


def _keep(found: FlinkTarget, given: argparse.Namespace, path: str) -> None:
    if found.record is not None:
        write_record(state_directory(given), dataclasses.replace(found.record, savepoint=path))


def _on_flink(found: DataflowTarget | FlinkTarget, command: str) -> FlinkTarget:
    if isinstance(found, FlinkTarget):
        return found
    raise ConfigurationError(
        "Dataflow has no savepoints",
        where=f"dynabeam launch {command}",
        found=f"job {found.job_id}",
        hint="Launch with --update to change a running job. Or drain it: a new job with the same "
        "--state_dir goes on from the stored positions",
    )


def _refuse_ended(found: DataflowTarget) -> None:
    from dynabeam.transforms.dataflow.jobs import OVER, read_job  # noqa: PLC0415 - an extra

    state = read_job(found.service, found.job_id).state
    if state in OVER:
        raise ConfigurationError(
            "the job has ended already", where=f"--job_id={found.job_id}", found=state
        )


def _end_of(found: DataflowTarget, given: argparse.Namespace, wanted: str) -> int:
    """Waits for the end, if that was asked for; returns the exit code."""
    if not given.wait:
        sys.stdout.write(f"Next:\n  dynabeam launch status {found.options}\n")
        return 0
    job = wait_until_over(found.service, found.job_id, _seconds(given), sys.stderr)
    sys.stdout.write(f"{found.job_name} is {job.state}\n")
    return 0 if job.state == wanted else 1


def _parser(command: str, what: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"dynabeam launch {command}", description=what, allow_abbrev=False
    )
    add_job_options(parser)
    parser.add_argument(
        "--wait", nargs="?", const="15m", default="", help="until it is done, at most so long: 15m"
    )
    return parser


def _add_savepoint_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--savepoint_dir", default="", help="Flink: folder of savepoints; by default its own"
    )


def _seconds(given: argparse.Namespace) -> float:
    """How long to wait; what Flink is asked for is always waited for."""
    return duration("--wait", given.wait) if given.wait else _FLINK_SECONDS
