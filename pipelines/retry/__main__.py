# SPDX-License-Identifier: Apache-2.0
"""`dynabeam retry`: replays dead letters through the graph.

Takes the sinks and the state directory of `replicate`; give all its sinks. Dead letters that may
succeed are replayed, with `--severe` also those that need another version of the software. What
succeeds goes to `dead_letters/done`; what fails again is counted, and is severe after
`--max_retries`.

On a resting state directory it is a round like any other: committed, then published, so that a
changelog has each change once, and a crash at any point repeats the round and loses nothing. If a
continuous run has the state directory, resting or running, it is a short run of its own beside that
one, in this process, which writes the sinks as a continuous run does: a mirror's guard drops what
is not newer, and a crash in between replays the same dead letters again, under the same versions.

Left alone are those that a mirror could take for news: of an older generation than the table's
(it was healed or snapshotted again since), or as old as the deletes that a mirror has forgotten.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import fnmatch
import sys
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from dynabeam.pipelines import stop_signals
from dynabeam.pipelines.options.arguments import is_given, parse_known
from dynabeam.pipelines.options.replicate import ReplicateOptions, parse_replicate
from dynabeam.pipelines.options.runners import check_rounds, round_runner
from dynabeam.pipelines.replicate import publish_committed
from dynabeam.pipelines.retry.graph import build_retry
from dynabeam.pipelines.rounds.run import beam_options, publish, run_to_its_end
from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.printable import printable
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.sinks.base import Round, Sink
from dynabeam.transforms.sinks.registry import check_capabilities, check_place, open_sink
from dynabeam.transforms.state.merge_reports import merge_reports
from dynabeam.transforms.state.round_outputs import (
    DEAD_LETTERS,
    REPORTS,
    RETRIED,
    Retried,
    keep_outcome,
    read_dead_letters,
    read_reports,
)
from dynabeam.transforms.state.sink_membership import (
    after_round,
    check_sinks,
    plan_members,
    refuse_joins,
    share_of,
)
from dynabeam.transforms.state.state_directory import State, StateDirectory

__all__ = ["RetryOptions", "main", "retry"]

_DAY_US = 86_400 * 1_000_000
_MOST_AT_ONCE = 5000
_MAX_RETRIES = 5


@dataclasses.dataclass(frozen=True)
class RetryOptions:
    """The options of `dynabeam retry`.

    Attributes:
        replicate: Sinks, state directory, and how AWS is reached.
        severe: Severe dead letters too.
        max_retries: A dead letter that failed so often again is severe.
    """

    replicate: ReplicateOptions
    severe: bool
    max_retries: int


@dataclasses.dataclass
class Outcome:
    """The results of a replay.

    Attributes:
        replayed: How many went through.
        failed: How many failed again, or became another dead letter at a sink.
        left: Reason → how many were left alone.
    """

    replayed: int = 0
    failed: int = 0
    left: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code: 1 if a dead letter failed again."""
    options = _parse(arguments)
    outcome = retry(options)
    sys.stdout.write(
        f"{outcome.replayed:,} dead letters replayed, {outcome.failed:,} failed again\n"
    )
    for reason, count in sorted(outcome.left.items()):
        sys.stdout.write(f"{count:,} left alone: {printable(reason)}\n")
    return 1 if outcome.failed else 0


def retry(options: RetryOptions) -> Outcome:
    """Replays dead letters.

    Raises:
        DynabeamError: Something stops it; dead letters stay as they were.
    """
    asked = options.replicate
    FileSystems.set_options(beam_options(asked))
    sinks = [open_sink(each) for each in asked.sinks]
    facts = round_runner(asked.beam_arguments)
    check_capabilities(sinks, facts)
    directory = StateDirectory(asked.state_dir)
    check_place(directory.path, facts, "--state_dir")
    check_rounds(facts)
    outcome = Outcome()
    with directory.locked(stop_signals):
        state = directory.load()
        found = plan_members(state, sinks, asked.drop_sinks)
        refuse_joins(found, "retry")
        names = _tables(state, asked)
        tables = [state.tables[name].table for name in names]
        if asked.drop_sinks and state.deployment:
            raise ConfigurationError(
                "the continuous run of this state directory writes the sink",
                where="--drop_sink",
                found=list(asked.drop_sinks),
                hint="Stop it and begin it again without --savepoint_path, with --drop_sink",
            )
        check_sinks(sinks, found, tables, state.committed)
        state.sinks = found.sinks
        if found.notes:
            directory.commit(state)
            sys.stderr.writelines(f"{line}\n" for line in found.notes)
        if not state.deployment:
            publish_committed(directory, state, sinks)
        run = _Run(options, directory, sinks)
        for letters in run.batches(state, names, outcome):
            with stop_signals.finishing("these dead letters"):
                state = run.replay(state, letters, outcome)
    return outcome


class _Run:
    """Rounds, or short runs, that replay dead letters."""

    def __init__(
        self, options: RetryOptions, directory: StateDirectory, sinks: Sequence[Sink]
    ) -> None:
        self._options = options
        self._directory = directory
        self._sinks = sinks

    def batches(
        self, state: State, names: Sequence[str], outcome: Outcome
    ) -> Iterator[Sequence[DeadLetter]]:
        """The dead letters to replay, in parts that fit a round; those left alone are counted."""
        box = self._directory.letters
        box.convert_old(lambda letter: _with_context(letter, state))
        severities = ("retry", "severe") if self._options.severe else ("retry",)
        batch: list[DeadLetter] = []
        size = 0
        # Listed once: what fails again is not tried again.
        for table, name in box.names(*severities):
            letter = box.load(table, name) if table in names else None
            if letter is None:
                continue
            reason = _why_not(letter, state, self._sinks)
            if reason:
                outcome.left[reason] += 1
                continue
            batch.append(letter)
            size += len(letter.raw)
            if size >= self._options.replicate.round_bytes or len(batch) >= _MOST_AT_ONCE:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def replay(self, state: State, letters: Sequence[DeadLetter], outcome: Outcome) -> State:
        """Runs the graph over some dead letters, and files them by the result."""
        current = (
            Round(state.state_id, state.number, f"retry-{uuid.uuid4().hex[:16]}")
            if state.deployment
            else state.next_round()
        )
        staged_path = self._directory.attempt_file(current.attempt, DEAD_LETTERS)
        reports_path = self._directory.attempt_file(current.attempt, REPORTS)
        pipeline = beam.Pipeline(options=beam_options(self._options.replicate))
        build_retry(
            pipeline,
            letters,
            self._sinks,
            lambda sink: (
                sink.write_continuously(state.state_id) if state.deployment else sink.write(current)
            ),
            reports_path=reports_path,
            dead_letters_path=staged_path,
            shares={sink.place: share_of(state, sink, late=True) for sink in self._sinks},
        )
        run_to_its_end(pipeline)
        self._directory.check_held()
        staged = list({each.id: each for each in read_dead_letters(staged_path)}.values())
        retried = self._directory.attempt_file(current.attempt, RETRIED)
        Retried(letters, self._options.max_retries).write(retried)
        if state.deployment:
            keep_outcome(self._directory.letters, staged, retried)
            self._directory.clear_attempts()
        else:
            state = self._commit(state, current, letters, staged, reports_path)
        outcome.failed += len(staged)
        outcome.replayed += len({each.id for each in letters} - {each.id for each in staged})
        return state

    def _commit(
        self,
        state: State,
        current: Round,
        letters: Sequence[DeadLetter],
        staged: Sequence[DeadLetter],
        reports_path: str,
    ) -> State:
        tables = dict(state.tables)
        reports = list(read_reports(reports_path))
        for sink in self._sinks:
            sink.check_staged(current, reports)
        merge_reports(tables, reports, self._options.replicate.gaps)
        counts = collections.Counter(self._directory.letters.counts())
        failed, tried = {each.id: each for each in staged}, {each.id for each in letters}
        counts.subtract(each.table for each in letters if each.id not in failed)
        counts.update(each.table for each in staged if each.id not in tried)
        for name, table in tables.items():
            totals = dataclasses.replace(table.totals, dead_letters=counts[name])
            tables[name] = dataclasses.replace(table, totals=totals)
        sinks = after_round(state.sinks or {}, self._sinks, reports, current.number)
        state = State(state.state_id, current.number, current.attempt, tables, sinks=sinks)
        self._directory.commit(state)
        publish(self._directory, state, self._sinks)
        return state


def _why_not(letter: DeadLetter, state: State, sinks: Sequence[Sink]) -> str:
    """Why a dead letter may not be replayed; empty if it may."""
    places = {each.place for each in sinks}
    if letter.stage == "sink" and letter.origin["sink"] not in places:
        return f"refused by {letter.origin['sink']}, which is not among the sinks given"
    table = state.tables[letter.table]
    # Of a snapshot that only some mirrors got, the others know nothing: `share_of` sees to it.
    generation = table.whole_generation or table.generation
    if letter.context.get("generation", generation) < generation:
        return (
            f"table {letter.table} was healed or snapshotted again since, which loaded the newest "
            "state of the item"
        )
    days = min((each.tombstone_days for each in sinks if each.tombstone_days), default=0)
    # A day's margin: a dead letter may be replayed a while after a delete of its key was written.
    if days and letter.first_us and now_us() - letter.first_us > (days - 1) * _DAY_US:
        return (
            f"older than {days - 1} days: a mirror may have forgotten that the item was deleted "
            "since (tombstone_days); snapshot the table again instead"
        )
    return ""


def _with_context(letter: DeadLetter, state: State) -> DeadLetter:
    """A dead letter of format 0, with what its place and its table's state say."""
    table = state.tables.get(letter.table)
    if letter.context or table is None:
        return letter
    origin: dict[str, str] = {}
    context: dict[str, Any] = {"table": table.table.to_json(), "generation": table.generation}
    manifest = table.snapshot.manifest
    if letter.stage == "stream":
        stream, _, rest = letter.place.removeprefix("stream ").partition(", shard ")
        shard, _, sequence = rest.partition(", sequence ")
        origin = {"stream_arn": stream, "shard_id": shard, "sequence": sequence}
    elif manifest is not None:
        file, _, line = letter.place.rpartition(":")
        origin = {"export_arn": manifest.export_arn, "file": file, "line": line}
        names = ("export_time_us", "export_format", "export_type", "view")
        context |= {name: getattr(manifest, name) for name in names}
    return dataclasses.replace(letter, origin=origin, context=context)


def _tables(state: State, asked: ReplicateOptions) -> list[str]:
    names = [
        name
        for name in sorted(state.tables)
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in asked.tables)
    ]
    if not names:
        raise ConfigurationError(
            "the state directory knows none of these tables",
            where="--tables",
            expected=sorted(state.tables),
            found=", ".join(asked.tables),
        )
    return names


def _parse(arguments: Sequence[str]) -> RetryOptions:
    parser = argparse.ArgumentParser(
        prog="dynabeam retry",
        description="Replay dead letters through the graph.",
        epilog="Beside these: --sink, --state_dir, --tables and others of dynabeam replicate.",
        allow_abbrev=False,
    )
    parser.add_argument("--severe", action="store_true", help="severe dead letters too")
    parser.add_argument("--max_retries", type=int, default=_MAX_RETRIES, help="then it is severe")
    given, rest = parse_known(parser, arguments)
    if given.max_retries < 1:
        raise ConfigurationError(
            "not a number of retries",
            where="--max_retries",
            expected="1 or more",
            found=given.max_retries,
        )
    if not is_given(rest, "--tables", "--table_list", "--tables_file"):
        rest.append("--tables=*")
    return RetryOptions(
        parse_replicate([*rest, "--snapshot=never"], command=parser),
        given.severe,
        given.max_retries,
    )


if __name__ == "__main__":
    from dynabeam.pipelines.command_line import main as command_line

    sys.exit(command_line(["retry", *sys.argv[1:]]))
