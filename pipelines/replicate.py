# SPDX-License-Identifier: Apache-2.0
"""`dynabeam replicate`: tables into sinks, in rounds on a state directory."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from apache_beam.io.filesystems import FileSystems

from dynabeam.pipelines import stop_signals
from dynabeam.pipelines.continuous.deployments import take_over
from dynabeam.pipelines.continuous.run import replicate_continuously
from dynabeam.pipelines.discovery import RoundDiscovery
from dynabeam.pipelines.doctor.checks.quick import check_quickly
from dynabeam.pipelines.options.replicate import ReplicateOptions, parse_replicate
from dynabeam.pipelines.options.runners import check_rounds, round_runner
from dynabeam.pipelines.preflight import check_tables, loading_mirrors
from dynabeam.pipelines.rounds.last_run import read_last_run, recorded
from dynabeam.pipelines.rounds.progress import RoundLogger, RoundPrinter, print_summary
from dynabeam.pipelines.rounds.round_metrics import RoundMetrics
from dynabeam.pipelines.rounds.run import RoundOutcome, Rounds, beam_options, publish
from dynabeam.pipelines.table_findings import TableFindings
from dynabeam.transforms.aws.beam_s3 import hand_down
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.sinks.base import Sink
from dynabeam.transforms.sinks.registry import check_capabilities, check_place, open_sink
from dynabeam.transforms.state.sink_membership import (
    begin_loads,
    check_members,
    check_sinks,
    plan_members,
)
from dynabeam.transforms.state.state_directory import State, StateDirectory
from dynabeam.transforms.state.table_repair import repair_lines, sweep
from dynabeam.transforms.telemetry.endpoint import Endpoint
from dynabeam.transforms.telemetry.logs import set_up_logs, writes_json
from dynabeam.transforms.telemetry.process_metrics import process_metrics

__all__ = ["NOT_ALL", "main", "replicate"]

NOT_ALL = 3
"""The exit code of a run that ended, while something is the matter with some of its tables."""


def main(arguments: Sequence[str], *, from_template: bool = False) -> int:
    """Runs the command; returns its exit code.

    Args:
        arguments: The words after the command.
        from_template: A template's launcher runs it, and starts the job that is written down.
    """
    options = parse_replicate(arguments)
    set_up_logs(options.telemetry.log_format, options.telemetry.log_level)
    # Before the state directory is looked into, which may be in S3.
    hand_down(options.access, os.environ)
    FileSystems.set_options(beam_options(options))
    if options.mode == "continuous":
        return replicate_continuously(options, from_template=from_template)
    findings = TableFindings(StateDirectory(options.state_dir).path)
    state = replicate(options, findings)
    run = read_last_run(StateDirectory(options.state_dir))
    print_summary(state, options, sys.stdout, run.tables if run is not None else ())
    for line in findings.lines():
        sys.stdout.write(f"  NOT REPLICATED  {line}\n")
    return NOT_ALL if findings.lines() else 0


def replicate(options: ReplicateOptions, findings: TableFindings | None = None) -> State:
    """Replicates until caught up (or for ever) and returns the last committed state.

    Args:
        options: The options of the command.
        findings: Collects the problems of single tables, while the others continue.

    Raises:
        DynabeamError: Something stops the run; sinks and state stay at the last committed round.
    """
    hand_down(options.access, os.environ)
    FileSystems.set_options(beam_options(options))
    sinks = [open_sink(each) for each in options.sinks]
    facts = round_runner(options.beam_arguments)
    check_capabilities(sinks, facts)
    directory = StateDirectory(options.state_dir)
    check_place(directory.path, facts, "--state_dir")
    check_rounds(facts)
    check_quickly(options, sys.stderr)
    with directory.locked(stop_signals), recorded(directory) as run:
        state = directory.load()
        check_members(state, sinks, options.drop_sinks)
        take_over(directory, state, successor="catch-up rounds", forced=options.take_over)
        found = plan_members(state, sinks, options.drop_sinks)
        findings = findings or TableFindings(directory.path)
        names = run.tables = check_tables(options, state, findings=findings)
        # Before any sink binds itself to it: a crash in the first round must not change it.
        directory.keep_identity(state)
        # Sinks are examined before the state changes, and bound after it says that they join.
        for sink in sinks:
            sink.examine(_tables(state, names), state.committed, joins=sink.place in found.joins)
        begin_loads(found, state, names, loading_mirrors(options), sinks)
        if found.notes:
            directory.commit(state)
        check_sinks(sinks, found, _tables(state, names), state.committed)
        ended = publish_committed(directory, state, sinks)
        printer = RoundLogger() if writes_json() else RoundPrinter(sys.stderr)
        told = findings.keep(
            [name for name in names if not findings.holds(name)],
            left_out=[name for name in state.tables if options.selection.excludes(name)],
        )
        printer.say([*found.notes, *ended, *repair_lines(state.tables), *told])
        round_metrics = RoundMetrics(names, state, process_metrics())
        discovery = None
        if options.discovers:
            discovery = RoundDiscovery(options, directory, sinks, printer.say)

        def on_round(outcome: RoundOutcome) -> None:
            printer.on_round(outcome)
            round_metrics.on_round(outcome)

        with (
            Endpoint(options.telemetry.metrics_port, options.telemetry.metrics_host),
            contextlib.closing(printer),
        ):
            rounds = Rounds(options, directory, names, sinks, discovery, findings)
            return rounds.run(state, on_round)


def publish_committed(directory: StateDirectory, state: State, sinks: Sequence[Sink]) -> list[str]:
    """Repairs what an interrupted run left; returns lines for people."""
    for sink in sinks:
        directory.check_held()
        sink.recover(state.committed)
    publish(directory, state, [])
    return sweep(directory, state, sinks)


def _tables(state: State, names: Sequence[str]) -> list[Table]:
    return [state.tables[name].table for name in names]


if __name__ == "__main__":
    from dynabeam.pipelines.command_line import main as command_line

    sys.exit(command_line(["replicate", *sys.argv[1:]]))
