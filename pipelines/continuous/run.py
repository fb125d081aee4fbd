# SPDX-License-Identifier: Apache-2.0
"""`dynabeam replicate --mode=continuous`: one job that never ends, on a runner that streams.

The command checks everything that rounds check, writes down what to read, hands the graph to the
runner, and stays to show how it goes. Positions and state live in the runner's checkpoints; a copy
of the positions is kept in the state directory (`transforms.continuous.store_positions`).
"""

from __future__ import annotations

import atexit
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime, timezone
from typing import Any, TextIO

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from dynabeam.pipelines import stop_signals
from dynabeam.pipelines.continuous.deployments import (
    absorb,
    adopt_tables,
    assign_tables,
    begin,
    current,
    take_over,
    tell_discovery,
    withdraw,
)
from dynabeam.pipelines.continuous.graph import build_continuous
from dynabeam.pipelines.continuous.job_end import cancel_text, end_of_job
from dynabeam.pipelines.doctor.checks.quick import check_quickly
from dynabeam.pipelines.options.arguments import option
from dynabeam.pipelines.options.replicate import ReplicateOptions
from dynabeam.pipelines.options.runners import ContinuousRunner, continuous_runner
from dynabeam.pipelines.preflight import check_tables, loading_mirrors
from dynabeam.pipelines.rounds.progress import say, table_line
from dynabeam.pipelines.rounds.run import with_aws
from dynabeam.pipelines.table_findings import TableFindings
from dynabeam.transforms.continuous.control_folder import ControlFolder
from dynabeam.transforms.continuous.discovery import read_findings
from dynabeam.transforms.continuous.fatal_errors import clear_fatal_errors, load_fatal_errors
from dynabeam.transforms.continuous.generations import read_generation
from dynabeam.transforms.continuous.repairs import RepairSettings, step_line
from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.printable import one_line
from dynabeam.transforms.sinks.base import Sink
from dynabeam.transforms.sinks.registry import check_capabilities, check_place, open_sink
from dynabeam.transforms.state.sink_membership import (
    Membership,
    begin_loads,
    check_members,
    check_same_graph,
    check_sinks,
    numbered,
    plan_members,
    refuse_joins,
)
from dynabeam.transforms.state.state_directory import State, StateDirectory

__all__ = ["add_graph", "prepare", "replicate_continuously"]

_SHOW_EVERY = 10.0
_POLL_EVERY = 0.2
_MISSING = {
    "region": "--dataflow_region",
    "project": "--project",
    "temp_location": "--temp_location",
    "staging_location": "--staging_location",
    "job_name": "--job_name",
}
"""Words of Beam's errors, and our options that mend them."""


def replicate_continuously(options: ReplicateOptions, *, from_template: bool = False) -> int:
    """Starts the job and stays with it; returns the exit code.

    With `--dry_run`, or with `--template_location` outside of a template's launcher, nothing is
    started and nothing of the state directory changes: the graph is built and checked.

    Args:
        options: What was asked for.
        from_template: A launcher runs this, which starts the job that is written down here.

    Raises:
        DynabeamError: Something stops the start; sinks and state stay as they were.
    """
    runner = continuous_runner(options.beam_arguments, options.name)
    sinks = [open_sink(each) for each in options.sinks]
    check_capabilities(sinks, runner.facts)
    directory = StateDirectory(options.state_dir)
    check_place(directory.path, runner.facts, "--state_dir")
    check_quickly(options, sys.stderr)
    pipeline = _new_pipeline(PipelineOptions(with_aws(runner.arguments, options.access)))
    _check_updatable(runner)
    if runner.dry_run or (runner.job_file and not from_template):
        return _rehearse(pipeline, options, directory, sinks, runner)
    with directory.locked(stop_signals):
        state, folder = prepare(options, directory, sinks, runner)
    _say_what_was_set(runner, sys.stderr)
    try:
        add_graph(pipeline, options, sinks, state.state_id, folder)
        result = _run(pipeline)
    except Exception:
        if not runner.resumes:
            with directory.locked(stop_signals):
                withdraw(directory, directory.load(), "nobody: its job could not be submitted")
        raise
    if runner.job_file:
        say(f"The job is written down in {runner.job_file}", sys.stderr)
        return 0
    if options.detach:
        sys.stdout.write(f"Started; positions will be stored in {folder.path}\n")
        return 0
    return _stay(result, runner, directory, folder, sys.stderr)


def _new_pipeline(beam_options: PipelineOptions) -> beam.Pipeline:
    """A pipeline whose options Beam has checked, before anything is written.

    Raises:
        ConfigurationError: Beam does not understand them, or its runner lacks one.
    """
    beam_options.get_all_options()
    try:
        return beam.Pipeline(options=beam_options)
    except ValueError as problem:
        what = one_line(str(problem).partition("errors:")[2] or str(problem))
        where = next((to for name, to in _MISSING.items() if name in what.lower()), "--runner")
        raise ConfigurationError(
            f"Beam cannot start the job: {what.strip()}", where=where, hint="Give it, or correct it"
        ) from problem


def _check_updatable(runner: ContinuousRunner) -> None:
    """Looks for the job that is to be updated, before anything is written.

    Raises:
        ConfigurationError: There is none that runs, or Dataflow refuses to say.
    """
    if not runner.updates:
        return
    from dynabeam.transforms.dataflow.jobs import job_to_update  # noqa: PLC0415 - an extra
    from dynabeam.transforms.dataflow.service import DataflowService  # noqa: PLC0415 - an extra

    given = runner.arguments
    service = DataflowService(
        project=option(given, "project"),
        region=option(given, "region"),
        endpoint=option(given, "dataflow_endpoint"),
        no_auth="--no_auth" in given,
    )
    job_to_update(service, option(given, "job_name"))


def _rehearse(
    pipeline: beam.Pipeline,
    options: ReplicateOptions,
    directory: StateDirectory,
    sinks: Sequence[Sink],
    runner: ContinuousRunner,
) -> int:
    """Checks tables and sinks and builds the graph; writes nothing to state and sinks."""
    state = directory.load()
    check_members(state, sinks, options.drop_sinks)
    found = plan_members(state, sinks, options.drop_sinks)
    names = check_tables(options, state, findings=TableFindings())
    tables = [state.tables[name].table for name in names]
    for sink in sinks:
        sink.examine(tables, state.committed, joins=sink.place in found.joins)
    folder = current(directory, state) if runner.resumes else begin(directory, state)
    add_graph(pipeline, options, sinks, state.state_id, folder)
    if runner.is_dataflow:
        # Beam's runner goes on as far as it can without a job: it stages, and writes the file.
        _run(pipeline)
    say(
        f"{len(names)} tables and {len(sinks)} sinks are checked, and the graph is built",
        sys.stderr,
    )
    if runner.job_file:
        say(f"The job is written down in {runner.job_file}, to be looked at", sys.stderr)
    say("Nothing was started: the state directory is as it was", sys.stderr)
    return 0


def add_graph(
    pipeline: beam.Pipeline,
    options: ReplicateOptions,
    sinks: Sequence[Sink],
    state_id: str,
    folder: ControlFolder,
) -> None:
    """Adds the graph that the options ask for to a pipeline.

    Args:
        pipeline: The pipeline.
        options: The options of the command.
        sinks: The sinks that the options name.
        state_id: Identity of the state directory.
        folder: The deployment's folder.
    """
    assert options.access is not None
    build_continuous(
        pipeline,
        folder=folder.path,
        state_id=state_id,
        sinks=sinks,
        access=options.access,
        verify=options.verify,
        max_dead_letters=options.max_dead_letters,
        telemetry=options.telemetry,
        chain_policy=options.chain_policy,
        repairs=RepairSettings(
            access=options.access,
            policies=options.gaps,
            bucket=options.bucket,
            prefix=options.prefix,
            bucket_owner=options.bucket_owner,
            state_id=state_id,
            state_dir=StateDirectory(options.state_dir).path,
            sinks=sinks,
        ),
    )


def prepare(
    options: ReplicateOptions,
    directory: StateDirectory,
    sinks: Sequence[Sink],
    runner: ContinuousRunner,
) -> tuple[State, ControlFolder]:
    """Checks tables and sinks, and writes down what the job is to read.

    A job that is resumed from a savepoint, or updated, goes on with its own deployment, and reads
    in addition the tables that are new to the state; any other job begins a deployment at the
    stored positions.

    Args:
        options: The options of the command.
        directory: The locked state directory.
        sinks: Sinks that fit the runner.
        runner: The runner.

    Returns:
        The committed state and the deployment's folder.
    """
    state = directory.load()
    if runner.resumes:
        check_same_graph(state, sinks, options.drop_sinks)
    check_members(state, sinks, options.drop_sinks)
    if not runner.resumes:
        successor = f"a run of mode {options.mode} on {runner.facts.runner}"
        take_over(directory, state, successor=successor, forced=options.take_over)
    else:
        adopt_tables(current(directory, state), state)
    found = plan_members(state, sinks, options.drop_sinks)
    if runner.resumes:
        option = "--savepoint_path" if runner.savepoint else "--update"
        refuse_joins(found, f"replicate with {option}")
    known = set(state.tables)
    findings = TableFindings()
    names = check_tables(options, state, findings=findings)
    directory.keep_identity(state)
    _prepare_sinks(options, directory, state, found=found, sinks=sinks, names=names)
    if runner.resumes:
        folder = current(directory, state)
        clear_fatal_errors(folder)
        names = [each for each in names if each not in known]
    else:
        folder = begin(directory, state)
    if names:
        assign_tables(folder, state, names, options)
    tell_discovery(folder, state, options)
    findings.keep_in(folder.findings, names)
    directory.commit(state)
    return state, folder


def _prepare_sinks(
    options: ReplicateOptions,
    directory: StateDirectory,
    state: State,
    *,
    found: Membership,
    sinks: Sequence[Sink],
    names: Sequence[str],
) -> None:
    tables = [state.tables[name].table for name in names]
    for sink in sinks:
        sink.examine(tables, state.committed, joins=sink.place in found.joins)
    begin_loads(found, state, names, loading_mirrors(options), sinks, shared=True)
    if found.notes:
        # Before a sink is bound to a state directory that does not know of it.
        directory.commit(state)
    check_sinks(sinks, found, tables, state.committed)
    for sink in sinks:
        sink.recover(state.committed)
    for line in found.notes:
        say(line, sys.stderr)
    state.sinks = numbered(state.sinks or {}, sinks)


def _say_what_was_set(runner: ContinuousRunner, stream: TextIO) -> None:
    say(f"{runner.facts.runner}, with (each can be overridden):", stream)
    for each in runner.pinned:
        say(f"  {each}", stream)


def _run(pipeline: beam.Pipeline) -> Any:
    """Starts the job; Ctrl-C stays ours.

    A job server that Beam has started itself (Prism's, Flink's) takes the signal to end at once,
    and then nothing is left to cancel the job with.
    """
    if threading.current_thread() is not threading.main_thread():
        return pipeline.run()
    handler = signal.getsignal(signal.SIGINT)
    try:
        return pipeline.run()
    finally:
        signal.signal(signal.SIGINT, handler)


def _stay(
    result: Any,
    runner: ContinuousRunner,
    directory: StateDirectory,
    folder: ControlFolder,
    stream: TextIO,
) -> int:
    """Shows how the job goes until it ends, or can never go on, or is interrupted.

    In the last two cases it is cancelled, if its runner can do that.
    """
    shown: dict[str, str] = {}
    # Beam's result can be waited for only once, so a thread of its own does it.
    with ThreadPoolExecutor(1, "dynabeam-job") as pool:
        ended = pool.submit(result.wait_until_finish)
        with (
            stop_signals.deferred("the job is cancelled"),
            # Beam ends the servers that it has started (Prism's, Flink's) when the process exits.
            stop_signals.before_the_end(atexit._run_exitfuncs),
        ):
            try:
                while not _wait(ended):
                    _show(directory, folder, shown, stream)
                    if _cannot_go_on(folder, stream):
                        # Flink would restart it for ever.
                        _cancel(result, ended, runner, stream)
                        return 1
            except KeyboardInterrupt:
                _cancel(result, ended, runner, stream)
                return 128 + (stop_signals.requested() or signal.SIGINT)
    _show(directory, folder, shown, stream)
    if _cannot_go_on(folder, stream):
        return 1
    text, code = end_of_job(ended)
    say(text, stream)
    return code


def _wait(ended: Future[Any]) -> bool:
    """Waits until it is time to show something; true if the job has ended.

    Raises:
        KeyboardInterrupt: A signal asks to end it.
    """
    until = time.monotonic() + _SHOW_EVERY
    while (left := until - time.monotonic()) > 0:
        if stop_signals.requested():
            raise KeyboardInterrupt
        if wait([ended], min(left, _POLL_EVERY)).done:
            return True
    return False


def _cannot_go_on(folder: ControlFolder, stream: TextIO) -> bool:
    """True if the run has said that it cannot; shows why."""
    stops = load_fatal_errors(folder)
    for table, error in sorted(stops.items()):
        say(f"dynabeam: the run cannot continue because of {table}: {error}", stream)
    return bool(stops)


def _cancel(result: Any, ended: Future[Any], runner: ContinuousRunner, stream: TextIO) -> None:
    for line in cancel_text(runner):
        say(line, stream)
    result.cancel()
    wait([ended])


def _show(
    directory: StateDirectory, folder: ControlFolder, shown: dict[str, str], stream: TextIO
) -> None:
    """A line for each table whose stored positions have moved on."""
    state = directory.load()
    absorb(folder, state)
    when = datetime.now(timezone.utc).strftime("%H:%M:%S")
    lines = {name: f"{name}: {table_line(each)}" for name, each in sorted(state.tables.items())}
    for name, finding in read_findings(folder.findings).items():
        lines[f"{name}, found"] = str(finding)
    for name in state.tables:
        at = read_generation(folder, name)
        if at.step != "settled" or at.ended is not None:
            lines[f"{name}, repair"] = f"{name}: {step_line(at)}"
    for name, line in lines.items():
        if shown.get(name) != line:
            shown[name] = line
            say(f"{when}  {line}", stream)
