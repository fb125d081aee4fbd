# SPDX-License-Identifier: Apache-2.0
"""What a person sees while rounds run: bars or lines, and a summary at the end."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Iterable
from datetime import datetime, timezone
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from dynabeam.pipelines.options.replicate import ReplicateOptions
from dynabeam.pipelines.rounds.run import RoundOutcome
from dynabeam.transforms.printable import printable, printable_lines
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.state.gap_events import gap_events
from dynabeam.transforms.state.state_directory import State
from dynabeam.transforms.state.table_state import LoadState, TableState, Totals
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.telemetry.logs import writes_json

__all__ = ["RoundLogger", "RoundPrinter", "print_summary", "say", "table_line"]

_LOGGER = logging.getLogger(__name__)

_IDLE_SECONDS = 30.0


class RoundPrinter:
    """Shows each committed round.

    Args:
        stream: Where to write.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last_line = 0.0
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        if stream.isatty() and os.environ.get("TERM") != "dumb":
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %  {task.fields[line]}"),
                console=Console(file=stream),
            )

    def say(self, lines: Iterable[str]) -> None:
        """Shows lines that nobody may miss, such as losses and repairs."""
        when = datetime.now(timezone.utc).strftime("%H:%M:%S")
        for line in lines:
            self._stream.write(f"{when} {printable(line)}\n")
        self._stream.flush()

    def on_round(self, outcome: RoundOutcome) -> None:
        """Shows one round."""
        self.say(outcome.notes)
        if self._progress is not None:
            self._show_bars(self._progress, outcome)
            return
        quiet = not outcome.progressed and time.monotonic() - self._last_line < _IDLE_SECONDS
        if quiet and not outcome.caught_up:
            return
        if quiet and self._last_line:
            return
        self._last_line = time.monotonic()
        when = datetime.now(timezone.utc).strftime("%H:%M:%S")
        for name in outcome.names:
            line = table_line(outcome.state.tables[name])
            self._stream.write(f"{when} round {outcome.state.number}  {name}: {line}\n")
        self._stream.flush()

    def close(self) -> None:
        """Gives the terminal back: bars hide its cursor."""
        if self._progress is not None:
            self._progress.stop()

    def _show_bars(self, progress: Progress, outcome: RoundOutcome) -> None:
        if not self._tasks:
            progress.start()
        for name in outcome.names:
            state = outcome.state.tables[name]
            if name not in self._tasks:
                self._tasks[name] = progress.add_task(name, total=None, line="")
            total, done = _snapshot_share(state.snapshot)
            progress.update(self._tasks[name], total=total, completed=done, line=table_line(state))
        progress.refresh()
        if outcome.caught_up:
            progress.stop()
            self._tasks = {}


class RoundLogger:
    """Logs each committed round, a record for each table: a log in the place of a screen."""

    def say(self, lines: Iterable[str]) -> None:
        """Logs lines that nobody may miss."""
        for line in lines:
            _LOGGER.warning("%s", line)

    def on_round(self, outcome: RoundOutcome) -> None:
        """Logs one round; at level `debug` if it brought nothing."""
        level = logging.INFO if outcome.progressed else logging.DEBUG
        for name in outcome.names:
            state = outcome.state.tables[name]
            fields = {
                "round": outcome.state.number,
                "caught_up": outcome.caught_up,
                "snapshot": state.snapshot.status,
                **state.totals.to_json(),
            }
            extra = {"table": name, "fields": fields}
            _LOGGER.log(level, "round committed: %s", table_line(state), extra=extra)

    def close(self) -> None:
        """A log needs no end."""


def say(text: str, stream: TextIO) -> None:
    """Shows a text to a person: a line, or a record where the log is JSON."""
    if writes_json():
        _LOGGER.info("%s", text)
        return
    stream.write(f"{printable_lines(text)}\n")
    stream.flush()


def _repeats(totals: Totals) -> str:
    return f", {totals.repeats:,} repeats dropped" if totals.repeats else ""


def print_summary(
    state: State, options: ReplicateOptions, stream: TextIO, names: Collection[str] = ()
) -> None:
    """Prints what a run ended with: rows, changes, stale rows, dead letters, gaps, lag.

    Args:
        state: The last committed state.
        options: The options of the command.
        stream: Where to.
        names: The tables that the run read; none for all.
    """
    stream.write(f"\nCaught up after round {state.number}.\n")
    for name, table in sorted(state.tables.items()):
        if names and name not in names:
            stream.write(f"  {name}: not read in this run\n")
            continue
        totals = table.totals
        stream.write(
            f"  {name}: {totals.snapshot_rows:,} snapshot rows, {totals.changes:,} changes, "
            f"{totals.stale:,} stale dropped, {totals.dead_letters:,} dead letters, "
            f"{_losses(table):,} gaps{_repeats(totals)}{_mended(table)}{_lag(table)}\n"
        )
        for place, count in sorted(table.unfit_numbers.items()):
            stream.write(
                f"  {name}: {count:,} numbers did not fit their decimal columns in {place} and "
                f"are kept in _other, exactly; a new mirror with numbers=text holds all\n"
            )
    letters = sum(each.totals.dead_letters for each in state.tables.values())
    if letters:
        place = f"{options.state_dir.rstrip('/')}/dead_letters"
        stream.write(
            f"  {letters:,} dead letters are in {place}; show them with "
            f"dynabeam dead_letters --state_dir={options.state_dir}\n"
        )
    for sink in map(open_sink, options.sinks):
        known = (state.sinks or {}).get(sink.place)
        more = f"; {known.describe()}" if known is not None and known.is_told else ""
        short = filesystem.is_local(sink.place) and sink.place not in sink.name
        place = f" ({sink.resolved})" if short else ""
        stream.write(f"  written to {sink.name}{place}{more}\n")
    for known in (state.sinks or {}).values():
        if known.state == "dropped":
            stream.write(f"  not written to {known.uri}: {known.describe()}\n")
    stream.write(f"  positions in {options.state_dir}\n")


def table_line(state: TableState) -> str:
    """How far a table is, for people."""
    snapshot, totals, windows = state.snapshot, state.totals, state.heal
    parts = []
    if snapshot.status != "none":
        parts.append(f"snapshot {snapshot.status}, {snapshot.rows:,} rows")
    if state.stream is not None:
        parts.append(f"{totals.changes:,} changes")
    if totals.gaps:
        parts.append(f"{_losses(state):,} GAPS")
    if windows:
        done = sum(each.status == "done" for each in windows)
        rows = sum(each.rows for each in windows)
        parts.append(f"healing: {done} of {len(windows)} windows, {rows:,} rows")
    if totals.dead_letters:
        parts.append(f"{totals.dead_letters:,} dead letters")
    return ", ".join(parts)


def _snapshot_share(snapshot: LoadState) -> tuple[int | None, int]:
    if not snapshot.is_open:
        return 1, 1
    if snapshot.manifest is None:
        return None, 0
    return max(1, sum(each.item_count for each in snapshot.manifest.files)), snapshot.rows


def _losses(table: TableState) -> int:
    """Losses that were found; one that several shards found together counts once."""
    # Documents of earlier versions count gaps that they do not hold.
    return len(gap_events(table.gaps)) + table.totals.gaps - len(table.gaps)


def _mended(table: TableState) -> str:
    if table.generation == 1:
        return ""
    return (
        f" (generation {table.generation}: {table.totals.healed_rows:,} rows healed, "
        f"{table.totals.swept:,} swept)"
    )


def _lag(table: TableState) -> str:
    if table.stream is None:
        return ""
    newest = table.totals.newest_us
    if not newest:
        return ", nothing in the stream yet"
    return f", newest change {max(0, now_us() - newest) // 1_000_000} s old"
