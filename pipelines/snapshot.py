# SPDX-License-Identifier: Apache-2.0
"""`dynabeam snapshot`: a new snapshot of tables that are replicated, while that goes on.

Takes the options of `replicate` that name the state directory and the tables. The order is a file
in the state directory: a run that is going on, continuous or in rounds, takes it up by itself, and
if there is none the next run does. The stream goes on meanwhile. The table's generation goes up by
one, and what the new snapshot does not have is removed from the mirrors once it is applied. With a
range of keys only these are loaded and removed; the export is of the whole table all the same.
"""

from __future__ import annotations

import argparse
import functools
import sys
import uuid
from collections.abc import Callable, Sequence

from apache_beam.io.filesystems import FileSystems

from dynabeam.pipelines.continuous.deployments import current
from dynabeam.pipelines.options.arguments import parse_known
from dynabeam.pipelines.options.replicate import ReplicateOptions, parse_replicate
from dynabeam.pipelines.rounds.run import beam_options
from dynabeam.transforms.continuous.generations import read_generation
from dynabeam.transforms.continuous.repairs import step_line
from dynabeam.transforms.errors import ConfigurationError, StateError
from dynabeam.transforms.model.key_range import KeyRange
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.state.snapshot_signals import SnapshotSignal, SnapshotSignals
from dynabeam.transforms.state.state_directory import State, StateDirectory
from dynabeam.transforms.state.table_repair import repair_lines
from dynabeam.transforms.values.key_schema import KeySchema

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code.

    Raises:
        ConfigurationError: The range of keys is none of the table's, or no table is named.
        StateError: A table is not replicated from this state directory.
    """
    parser = _parser()
    given, rest = parse_known(parser, arguments)
    if given.key_range and (given.cancel or given.status):
        raise ConfigurationError(
            "an order is of one table, whatever its keys",
            where="--key_range",
            found=given.key_range,
            hint="Leave it out with --cancel and --status",
        )
    options = parse_replicate(rest, complete=False, command=parser)
    FileSystems.set_options(beam_options(options))
    directory = StateDirectory(options.state_dir)
    state = directory.load()
    act: Callable[[str, StateDirectory, State], str] = functools.partial(
        _order, key_range=given.key_range
    )
    if given.cancel or given.status:
        act = _cancel if given.cancel else _status
    names = _known(options, directory, state)
    if given.key_range:
        for name in names:
            KeyRange.of(given.key_range, _keys_of(name, directory, state))
    lines = [act(name, directory, state) for name in names]
    sys.stdout.writelines(f"{each}\n" for each in lines)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dynabeam snapshot",
        description="Order a new snapshot of tables while they are replicated.",
        epilog="Beside these: --tables, and --state_dir or --name as given to replicate.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--cancel", action="store_true", help="withdraw an order that has not begun")
    add("--status", action="store_true", help="show the progress")
    add(
        "--key_range",
        default="",
        metavar="FROM..TO",
        help="only items with a partition key from FROM to TO, both included; either is optional",
    )
    return parser


def _known(options: ReplicateOptions, directory: StateDirectory, state: State) -> list[str]:
    known = set(state.tables)
    if state.deployment:
        known |= set(current(directory, state).read_positions())
    unknown = [each for each in options.tables if each not in known]
    if unknown:
        raise StateError(
            "a table is not replicated from this state directory",
            where=directory.path,
            expected=sorted(known),
            found=unknown,
            hint="Check --tables, and --state_dir or --name",
        )
    return list(options.tables)


def _keys_of(name: str, directory: StateDirectory, state: State) -> KeySchema:
    if name in state.tables:
        return state.tables[name].table.keys
    # A table that the deployment found.
    return current(directory, state).read_tables()[name].table.keys


def _order(name: str, directory: StateDirectory, state: State, *, key_range: str) -> str:
    order = SnapshotSignal(name, uuid.uuid4().hex, now_us(), key_range)
    SnapshotSignals(directory.path).give(order)
    who = "the running job" if state.deployment else "the next round"
    part = f" of the keys {key_range}" if key_range else ""
    return f"{name}: a new snapshot{part} is ordered; {who} takes it"


def _cancel(name: str, directory: StateDirectory, state: State) -> str:
    if SnapshotSignals(directory.path).cancel(name):
        return f"{name}: the order is cancelled"
    return f"{name}: nothing to cancel; {_how_far(name, directory, state)}"


def _status(name: str, directory: StateDirectory, state: State) -> str:
    if SnapshotSignals(directory.path).pending(name) is not None:
        return f"{name}: ordered, not begun yet"
    return f"{name}: {_how_far(name, directory, state)}"


def _how_far(name: str, directory: StateDirectory, state: State) -> str:
    if state.deployment:
        at = read_generation(current(directory, state), name)
        if at.step != "settled" or at.ended is not None:
            return step_line(at)
        return f"nothing is ordered; generation {max(1, at.generation)}"
    found = repair_lines({name: state.tables[name]})
    if found:
        return found[0].removeprefix(f"{name}: ")
    return f"nothing is ordered; generation {state.tables[name].generation}"


if __name__ == "__main__":
    from dynabeam.pipelines.command_line import main as command_line

    sys.exit(command_line(["snapshot", *sys.argv[1:]]))
