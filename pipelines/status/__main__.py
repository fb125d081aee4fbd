# SPDX-License-Identifier: Apache-2.0
"""`dynabeam status`: how a replication is, from its state directory and, if given, from Flink.

Exit code: 0 healthy, 1 something needs attention (a line says what), 1 too if nothing can be read.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.live import Live

from dynabeam.pipelines import stop_signals
from dynabeam.pipelines.options.arguments import beam_arguments, option_strings, parse_known
from dynabeam.pipelines.options.replicate import duration
from dynabeam.pipelines.options.state import add_state_options, named_state_directory
from dynabeam.pipelines.status.acknowledged import acknowledge
from dynabeam.pipelines.status.reading import Status, read_status
from dynabeam.pipelines.status.reasons import Limits, reasons
from dynabeam.pipelines.status.text import as_json, as_lines, as_table
from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.flink.job import FlinkJob, read_job
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.state.state_directory import StateDirectory

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = _parser()
    given, rest = parse_known(parser, arguments)
    directory = named_state_directory(given, beam_arguments(rest, option_strings(parser)))
    limits = Limits(
        duration("--max_lag", given.max_lag),
        duration("--max_quiet", given.max_quiet or _MAX_QUIET),
        asked_quiet=bool(given.max_quiet),
    )
    if given.acknowledge:
        _acknowledge(directory, sys.stdout)
    shown = _Shown(given, directory, limits)
    if not given.watch:
        return shown.once(sys.stdout)
    pause = duration("--watch", given.watch)
    if not pause:
        raise ConfigurationError("a pause is needed", where="--watch", hint="Write e.g. 2s")
    return shown.again_and_again(pause, sys.stdout)


_MAX_QUIET = "5m"


def _acknowledge(directory: StateDirectory, stream: TextIO) -> None:
    """Writes down that somebody knows of the losses that there are now."""
    tables = read_status(directory, now_us()).tables
    acknowledge(directory, {each.table: each.gaps_met for each in tables if each.gaps_met})
    lost = sum(each.gaps_lost for each in tables)
    stream.write(f"{lost:,} losses acknowledged: they are lost for good, and no cause for alarm\n")


class _Shown:
    """Reads and shows.

    Args:
        given: The options.
        directory: The state directory.
        limits: What is healthy.
    """

    def __init__(
        self, given: argparse.Namespace, directory: StateDirectory, limits: Limits
    ) -> None:
        self._given = given
        self._directory = directory
        self._limits = limits

    def once(self, stream: TextIO) -> int:
        """Shows it; returns the exit code."""
        status, job, why = self._read()
        if self._on_screen(stream):
            console = Console(file=stream)
            console.print(as_table(status, job, why, console.width))
        else:
            self._write(status, job, why, stream)
        return 1 if why else 0

    def again_and_again(self, pause: float, stream: TextIO) -> int:
        """Shows it until Ctrl-C; returns the exit code of the last one."""
        status, job, why = self._read()
        try:
            if not self._on_screen(stream):
                while True:
                    self._write(status, job, why, stream)
                    time.sleep(pause)
                    status, job, why = self._read()
            with Live(console=Console(file=stream), auto_refresh=False) as live:
                while True:
                    table = as_table(status, job, why, live.console.width)
                    live.update(table, refresh=True)
                    time.sleep(pause)
                    status, job, why = self._read()
        except (KeyboardInterrupt, stop_signals.Stopped):
            return 1 if why else 0

    def _read(self) -> tuple[Status, FlinkJob | None, list[str]]:
        given, at_us = self._given, now_us()
        status = read_status(self._directory, at_us)
        job = read_job(given.flink_rest, given.flink_job) if given.flink_rest else None
        return status, job, reasons(status, job, self._limits)

    def _on_screen(self, stream: TextIO) -> bool:
        return not self._given.json and stream.isatty() and os.environ.get("TERM") != "dumb"

    def _write(
        self, status: Status, job: FlinkJob | None, why: Sequence[str], stream: TextIO
    ) -> None:
        if self._given.json:
            stream.write(f"{as_json(status, job, why)}\n")
        else:
            stream.writelines(f"{line}\n" for line in as_lines(status, job, why))
        stream.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dynabeam status",
        description="Show the progress of a replication; exit code 1 if something needs attention.",
        allow_abbrev=False,
    )
    add_state_options(parser)
    add = parser.add_argument
    add("--flink_rest", default="", help="Flink's REST interface, e.g. http://jobmanager:8081")
    add("--flink_job", default="", help="id or name of the job, if Flink has several")
    add("--json", action="store_true", help="one line of JSON")
    add("--acknowledge", action="store_true", help="known losses: report only new ones from now on")
    add("--watch", default="", help="repeat, e.g. every 2s")
    add("--max_lag", default="5m", help="lag that is still healthy; 0 for any")
    add(
        "--max_quiet",
        default="",
        help=f"the same for the time since positions were stored: {_MAX_QUIET}, or any after a run "
        "that ended by itself",
    )
    return parser


if __name__ == "__main__":
    from dynabeam.pipelines.command_line import main as command_line

    sys.exit(command_line(["status", *sys.argv[1:]]))
