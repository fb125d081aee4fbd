# SPDX-License-Identifier: Apache-2.0
"""`dynabeam add`: more tables for a continuous run, while it runs.

Takes the options of `replicate`. The tables are checked as at a start; the job finds them within
seconds, reads their streams from the beginning, and takes a snapshot of each.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from apache_beam.io.filesystems import FileSystems

from dynabeam.pipelines import stop_signals
from dynabeam.pipelines.continuous.deployments import adopt_tables, assign_each, current
from dynabeam.pipelines.options.replicate import ReplicateOptions, parse_replicate
from dynabeam.pipelines.preflight import check_tables
from dynabeam.pipelines.rounds.run import beam_options
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.state.sink_membership import plan_members, refuse_joins
from dynabeam.transforms.state.state_directory import StateDirectory

__all__ = ["add", "main"]


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    # What is added is what exists now; new tables are the business of the job's own options.
    options = parse_replicate(["--mode=continuous", *arguments, "--discover_every=0"])
    added = add(options)
    for name in added:
        sys.stdout.write(f"{name}: added; the running job reads it within seconds\n")
    if not added:
        sys.stdout.write("Nothing to add: the job reads all of these tables already\n")
    return 0


def add(options: ReplicateOptions) -> list[str]:
    """Adds tables to the deployment of a state directory and returns their names.

    Raises:
        StateError: The state directory has no deployment.
        DynabeamError: A table cannot be replicated; nothing is added then.
    """
    FileSystems.set_options(beam_options(options))
    directory = StateDirectory(options.state_dir)
    with directory.locked(stop_signals):
        state = directory.load()
        sinks = [open_sink(each) for each in options.sinks]
        folder = current(directory, state)
        refuse_joins(plan_members(state, sinks, options.drop_sinks), "add")
        adopt_tables(folder, state)
        known = set(state.tables)
        names = [each for each in check_tables(options, state, new=True) if each not in known]
        tables = [state.tables[name].table for name in names]
        for sink in sinks:
            sink.check(tables, state.committed)
        if names:
            # Assigned first: a crash in between leaves a table that is read, and when it is added
            # again, the assignment is there already. The same holds if the run finds it by itself.
            assign_each(folder, state, names, options)
            directory.commit(state)
    return names


if __name__ == "__main__":
    from dynabeam.pipelines.command_line import main as command_line

    sys.exit(command_line(["add", *sys.argv[1:]]))
