# SPDX-License-Identifier: Apache-2.0
"""Rounds: one catch-up run after the other on one state directory.

A round builds a graph, runs it, and only after the whole pipeline has succeeded replaces the
position document; then the sinks publish. A crash at any point repeats work and loses none: before
the replacement the round is done again, after it the publishing is.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState

from pipelines import stop_signals
from pipelines.discovery import RoundDiscovery
from pipelines.options import ReplicateOptions
from pipelines.round_graph import RoundPlan, build_round
from pipelines.sink_membership import after_round, share_of
from pipelines.state_directory import State, StateDirectory
from pipelines.table_repair import begin_repairs, mark_sweeps, sweep, take_orders
from pipelines.table_state import is_caught_up, merge_reports
from transforms.aws.beam_s3 import s3_arguments
from transforms.aws.session import AwsAccess
from transforms.errors import StateError
from transforms.letter_limit import LetterLimit, too_many
from transforms.reports import Report
from transforms.round_files import DEAD_LETTERS, REPORTS, read_dead_letters, read_reports
from transforms.sinks.base import Round, Sink
from transforms.table_reading import open_loads, snapshot_requests, stream_sources
from transforms.wall_clock import now_us

__all__ = [
    "RoundOutcome",
    "Rounds",
    "beam_options",
    "publish",
    "run_to_its_end",
    "with_aws",
]

_WAIT_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class RoundOutcome:
    """What one round did.

    Attributes:
        state: The state that it committed.
        reports: Its reports.
        names: The tables that it read.
        caught_up: Nothing is known to be left unread.
        progressed: It read something.
        letters: How many new dead letters it left, by table and stage.
        notes: Lines for people: what was lost, and what was mended.
    """

    state: State
    reports: Sequence[Report]
    names: Sequence[str]
    caught_up: bool
    progressed: bool
    letters: Mapping[tuple[str, str], int]
    notes: Sequence[str] = ()


def beam_options(options: ReplicateOptions) -> PipelineOptions:
    """Beam's options for the rounds: in-process by default, S3 where AWS is."""
    arguments = list(options.beam_arguments)
    if not any(each.split("=")[0] == "--runner" for each in arguments):
        # Named outright: Beam's DirectRunner may pick runners that cannot run this graph.
        arguments.append("--runner=FnApiRunner")
    return PipelineOptions(with_aws(arguments, options.access))


def with_aws(arguments: Sequence[str], access: AwsAccess | None) -> list[str]:
    """Beam's arguments, with where its S3 filesystem finds S3."""
    return [*arguments, *s3_arguments(access)]


@dataclasses.dataclass(frozen=True)
class Rounds:
    """Catch-up rounds on one state directory.

    Attributes:
        options: What was asked for.
        directory: The locked state directory.
        names: The tables of this run; all are in the state. Discovery adds to them.
        sinks: Checked and recovered sinks.
        discovery: Looks for new tables between rounds; None if nobody does.
    """

    options: ReplicateOptions
    directory: StateDirectory
    names: list[str]
    sinks: Sequence[Sink]
    discovery: RoundDiscovery | None = None

    def run(self, state: State, on_round: Callable[[RoundOutcome], None]) -> State:
        """Runs rounds until caught up, or for ever.

        Args:
            state: The committed state.
            on_round: Told of every committed round.

        Returns:
            The state after the last round.
        """
        options = self.options
        while True:
            if self.discovery is not None:
                self.names.extend(self.discovery.look(state))
            with stop_signals.finishing("this round"):
                outcome = self.run_one(state)
                state = outcome.state
                on_round(outcome)
            if outcome.caught_up and options.until == "caught_up":
                return state
            if outcome.caught_up:
                time.sleep(options.every)
            elif not outcome.progressed:
                # What is awaited (an export) is not there yet: asking at once brings nothing.
                time.sleep(min(options.every, _WAIT_SECONDS))

    def run_one(self, state: State) -> RoundOutcome:
        """Runs one round, commits and publishes it, and ends the repairs that are loaded."""
        ordered = take_orders(self.directory, state, self.names, self.options)
        current = state.next_round()
        plan = self._plan(state, current)
        pipeline = beam.Pipeline(options=beam_options(self.options))
        build_round(pipeline, plan)
        run_to_its_end(pipeline)
        self.directory.check_held()
        reports = list(read_reports(plan.reports_path))
        _check_complete(plan, reports)
        tables = copy.deepcopy(state.tables)
        gaps = {name: len(each.get("gaps", ())) for name, each in tables.items()}
        merge_reports(tables, reports, self.options.gaps)
        # Only now: every reader of the old generation has ended.
        notes = ordered + begin_repairs(tables, gaps, self.options.gaps, self.options.access)
        mark_sweeps(tables.values())
        letters = self._count_dead_letters(tables, plan.dead_letters_path)
        for sink in self.sinks:
            sink.check_staged(current, reports)
        sinks = after_round(state.sinks or {}, self.sinks, reports, current.number)
        state = State(state.state_id, current.number, current.attempt, tables, sinks=sinks)
        self.directory.commit(state)
        publish(self.directory, state, self.sinks)
        notes += sweep(self.directory, state, self.sinks)
        caught_up = all(is_caught_up(tables[name], reports) for name in self.names)
        progressed = any(
            each.fields.get("changes") or each.fields.get("rows")
            for each in reports
            if each.kind in ("stream", "file")
        )
        return RoundOutcome(
            state, reports, tuple(self.names), caught_up, progressed, letters, notes
        )

    def _count_dead_letters(
        self, tables: dict[str, dict[str, Any]], path: str
    ) -> Mapping[tuple[str, str], int]:
        """Counts the round's letters that are new, and stops before there are too many.

        Returns:
            How many are new, by table and stage.

        Raises:
            StateError: There are more than `--max_dead_letters`. The round is not committed, so it
                is repeated when the cause is mended, and counts nothing twice.
        """
        box = self.directory.letters
        known: set[str] | None = None
        new: collections.Counter[tuple[str, str]] = collections.Counter()
        # The letters themselves are counted: a stream's reports do not tell how many there were.
        for letter in read_dead_letters(path):
            known = set(box.open_ids()) if known is None else known
            if letter.id not in known:
                known.add(letter.id)
                tables[letter.table]["totals"]["dead_letters"] += 1
                new[letter.table, letter.stage] += 1
        limit = self.options.max_dead_letters
        found = sum(tables[name]["totals"]["dead_letters"] for name in self.names)
        if limit is not None and known is not None and found > limit:
            shown = box.stop(read_dead_letters(path))
            raise too_many(found, limit, shown, read_dead_letters(path))
        return new

    def _limit(self, attempt: str) -> LetterLimit | None:
        limit = self.options.max_dead_letters
        return None if limit is None else LetterLimit(self.directory.letters, limit, attempt)

    def _plan(self, state: State, current: Round) -> RoundPlan:
        options, directory, started = self.options, self.directory, now_us()
        tables = [state.tables[name] for name in self.names]
        loads = sum(len(open_loads(each)) for each in tables)
        streaming = [each for each in tables if each["stream"] is not None]
        # Both branches fill the same memory: each table has its share of the round's bytes.
        share = max(1, options.round_bytes // max(1, loads + len(streaming)))
        return RoundPlan(
            current=current,
            sources=[
                source
                for each in streaming
                for source in stream_sources(each, options, share, started)
            ],
            requests=[
                request
                for each in tables
                for request in snapshot_requests(each, options, state.state_id, share)
            ],
            sinks=self.sinks,
            access=options.access,
            verify=options.verify,
            chain_policy=options.chain_policy,
            reports_path=directory.attempt_file(current.attempt, REPORTS),
            dead_letters_path=directory.attempt_file(current.attempt, DEAD_LETTERS),
            letter_limit=self._limit(current.attempt),
            shares={sink.place: share_of(state, sink) for sink in self.sinks},
        )


def _check_complete(plan: RoundPlan, reports: Sequence[Report]) -> None:
    """Each reader and each request of a round reports at least once, whatever it has met.

    Raises:
        StateError: One did not: what it read would be read again in the next round.
    """
    streams = {(each.table, each.fields["reader"]) for each in reports if each.kind == "stream"}
    exports = {(each.table, each.fields["from_us"]) for each in reports if each.kind == "export"}
    silent = [
        f"reader {each.reader} of table {each.table.name}"
        for each in plan.sources
        if (each.table.name, each.reader) not in streams
    ]
    silent += [
        f"the export of table {each.table.name}"
        for each in plan.requests
        if (each.table.name, each.from_us) not in exports
    ]
    if silent:
        raise StateError(
            "a part of the round did not report what it has read: nothing is committed",
            where=plan.reports_path,
            found=silent,
            mend="Run again: the round is repeated. If it happens again, report it as a bug",
        )


def run_to_its_end(pipeline: beam.Pipeline) -> None:
    """Runs a round's graph.

    Raises:
        StateError: It ended, but is not done: a service's job can be cancelled or drained.
        Exception: What the runner says of a failure.
    """
    result = pipeline.run()
    result.wait_until_finish()
    if result.state != PipelineState.DONE:
        raise StateError(
            "the round's job ended before it was done; nothing is committed",
            expected=PipelineState.DONE,
            found=result.state,
            mend="Run again: the round is repeated",
        )


def publish(directory: StateDirectory, state: State, sinks: Sequence[Sink]) -> None:
    """Makes a committed round visible; may be repeated."""
    for sink in sinks:
        directory.check_held()
        sink.publish(state.committed)
    directory.keep_dead_letters(state.committed)
    directory.clear_attempts()
