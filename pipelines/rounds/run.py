# SPDX-License-Identifier: Apache-2.0
"""Rounds: one catch-up run after the other on one state directory.

A round builds a graph, runs it, and only after the whole pipeline has succeeded replaces the
position document; then the sinks publish. A crash at any point repeats work and loses none: before
the replacement the round is done again, after it the publishing is.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState

from dynabeam.pipelines import stop_signals
from dynabeam.pipelines.discovery import RoundDiscovery
from dynabeam.pipelines.options.replicate import ReplicateOptions
from dynabeam.pipelines.rounds.export_keys import ExportKeys
from dynabeam.pipelines.rounds.exports import RoundExports
from dynabeam.pipelines.rounds.graph import RoundPlan, build_round
from dynabeam.pipelines.table_findings import TableFindings
from dynabeam.pipelines.table_sequels import TableSequels
from dynabeam.transforms.aws.beam_s3 import s3_arguments
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.dead_letters.limit import DeadLetterLimit, too_many
from dynabeam.transforms.errors import DynabeamError, ExportError, GapError, StateError
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.runtime.beam_introspection import RememberingOptions, remember_signatures
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.secrets import masked
from dynabeam.transforms.sinks.base import Round, Sink
from dynabeam.transforms.state.merge_reports import is_caught_up, merge_reports
from dynabeam.transforms.state.round_outputs import (
    DEAD_LETTERS,
    REPORTS,
    read_dead_letters,
    read_reports,
)
from dynabeam.transforms.state.sink_membership import after_round, share_of
from dynabeam.transforms.state.state_directory import State, StateDirectory
from dynabeam.transforms.state.table_reading import list_for_readers, stream_sources
from dynabeam.transforms.state.table_repair import begin_repairs, mark_sweep, sweep, take_signals
from dynabeam.transforms.state.table_state import TableState

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
        notes: Lines for people: what was lost, and what was repaired.
        missing: Table → why its export cannot be had; set aside, while the others go on.
        stop: What stops the run after this round; None for nothing.
    """

    state: State
    reports: Sequence[Report]
    names: Sequence[str]
    caught_up: bool
    progressed: bool
    letters: Mapping[tuple[str, str], int]
    notes: Sequence[str] = ()
    missing: Mapping[str, DynabeamError] = dataclasses.field(default_factory=dict)
    stop: GapError | None = None

    @property
    def only_missing_left(self) -> bool:
        """True if all is read but for exports that cannot be had."""
        return bool(self.missing) and all(
            is_caught_up(
                self.state.tables[name], self.reports, without_exports=name in self.missing
            )
            for name in self.names
        )


def beam_options(options: ReplicateOptions) -> PipelineOptions:
    """Beam's options for the rounds: in-process by default, S3 where AWS is."""
    arguments = list(options.beam_arguments)
    if not any(each.split("=")[0] == "--runner" for each in arguments):
        # Named outright: Beam's DirectRunner may pick runners that cannot run this graph.
        arguments.append("--runner=FnApiRunner")
    remember_signatures()
    return RememberingOptions(with_aws(arguments, options.access))


def with_aws(arguments: Sequence[str], access: AwsAccess | None) -> list[str]:
    """Beam's arguments, with where its S3 filesystem finds S3."""
    return [*arguments, *s3_arguments(access)]


@dataclasses.dataclass(frozen=True)
class Rounds:
    """Catch-up rounds on one state directory.

    Attributes:
        options: The options of the command.
        directory: The locked state directory.
        names: The tables of this run; all are in the state. Discovery adds to them.
        sinks: Checked and recovered sinks.
        discovery: Looks for new tables between rounds; None if nobody does.
        findings: What is the matter with single tables.
    """

    options: ReplicateOptions
    directory: StateDirectory
    names: list[str]
    sinks: Sequence[Sink]
    discovery: RoundDiscovery | None = None
    findings: TableFindings = dataclasses.field(default_factory=TableFindings)

    @functools.cached_property
    def _sequels(self) -> TableSequels:
        return TableSequels(self.options, self.findings)

    @functools.cached_property
    def exports(self) -> RoundExports:
        """The exports of this run."""
        return RoundExports(self.options)

    def run(self, state: State, on_round: Callable[[RoundOutcome], None]) -> State:
        """Runs rounds until caught up, or for ever.

        Args:
            state: The committed state.
            on_round: Called with every committed round.

        Returns:
            The state after the last round.

        Raises:
            DynabeamError: A round failed, changes are lost that are not to be, or no table is left
                that could go on; or all that is left to read are exports that cannot be had, and
                the run is to end.
        """
        options = self.options
        while True:
            if self.discovery is not None:
                found = self.discovery.look(state)
                self.names.extend(found)
                for name in found:
                    self.findings.clear(name)
            with stop_signals.finishing("this round"):
                outcome = self.run_one(state)
                state = outcome.state
                on_round(outcome)
            if outcome.stop is not None:
                raise outcome.stop
            if outcome.caught_up:
                self._check_left(state)
            if outcome.caught_up and options.until == "caught_up":
                return state
            if outcome.only_missing_left and options.until == "caught_up":
                raise _missing_error(outcome.missing)
            if outcome.caught_up:
                time.sleep(options.every)
            elif not outcome.progressed:
                # What is awaited (an export) is not there yet: asking at once brings nothing.
                time.sleep(min(options.every, _WAIT_SECONDS))

    def _check_left(self, state: State) -> None:
        """Stops a run that has read all and has no table that could bring anything more.

        Raises:
            DynabeamError: What is the matter with the first of its tables.
        """
        problems = self.findings.of(self.names)
        waits = self.options.until != "caught_up"
        ends = all(state.tables[name].end for name in self.names)
        if len(problems) == len(self.names) and self.discovery is None and (ends or not waits):
            raise next(iter(problems.values()))

    def run_one(self, state: State) -> RoundOutcome:
        """Runs one round, commits and publishes it, and ends the repairs that are loaded."""
        ordered = take_signals(
            self.directory, state, self.names, self.options.bucket, self.options.access
        )
        current = state.next_round()
        tables = dict(state.tables)
        known_missing = self.exports.errors_of([tables[name] for name in self.names])
        polled = self.exports.poll([tables[name] for name in self.names], state.state_id)
        merge_reports(tables, polled, self.options.gaps)
        plan = self._plan(state, tables, current)
        pipeline = beam.Pipeline(options=beam_options(self.options))
        build_round(pipeline, plan)
        run_to_its_end(pipeline)
        self.directory.check_held()
        read = list(read_reports(plan.reports_path))
        _check_complete(plan, read)
        merge_reports(tables, read, self.options.gaps)
        reports = polled + read
        keys = ExportKeys(self.directory.path)
        keys.take(tables, read, current.number)
        # Only now: every reader of the old generation has ended.
        notes = ordered + begin_repairs(
            tables, state.tables, self.options.gaps, self.options.access
        )
        followed, stops = self._sequels.follow(tables, self.names, reports)
        notes += followed
        for name, table in tables.items():
            tables[name] = mark_sweep(table)
        letters = self._count_dead_letters(tables, plan.dead_letters_path)
        for sink in self.sinks:
            sink.check_staged(current, reports)
        sinks = after_round(state.sinks or {}, self.sinks, reports, current.number)
        state = State(state.state_id, current.number, current.attempt, tables, sinks=sinks)
        self.directory.commit(state)
        keys.clear(tables)
        publish(self.directory, state, self.sinks)
        notes += sweep(self.directory, state, self.sinks)
        notes += self.findings.keep(name for name in self.names if not self.findings.holds(name))
        caught_up = all(is_caught_up(tables[name], reports) for name in self.names)
        progressed = any(
            each.fields.get("changes") or each.fields.get("rows")
            for each in reports
            if each.kind in ("stream", "file")
        )
        missing = self.exports.errors_of([tables[name] for name in self.names])
        notes += [
            f"{name}: {masked(str(error))}"
            for name, error in missing.items()
            if name not in known_missing
        ]
        return RoundOutcome(
            state=state,
            reports=reports,
            names=tuple(self.names),
            caught_up=caught_up,
            progressed=progressed,
            letters=letters,
            notes=notes,
            missing=missing,
            stop=stops[0] if stops else None,
        )

    def _count_dead_letters(
        self, tables: dict[str, TableState], path: str
    ) -> Mapping[tuple[str, str], int]:
        """Counts the round's letters that are new, and stops before there are too many.

        Returns:
            How many are new, by table and stage.

        Raises:
            StateError: There are more than `--max_dead_letters`. The round is not committed, so it
                is repeated when the cause is fixed, and counts nothing twice.
        """
        box = self.directory.letters
        known: set[str] | None = None
        new: collections.Counter[tuple[str, str]] = collections.Counter()
        # The letters themselves are counted: a stream's reports do not say how many there were.
        for letter in read_dead_letters(path):
            known = set(box.open_ids()) if known is None else known
            if letter.id not in known:
                known.add(letter.id)
                table = tables[letter.table]
                totals = table.totals.plus(dead_letters=1)
                tables[letter.table] = dataclasses.replace(table, totals=totals)
                new[letter.table, letter.stage] += 1
        limit = self.options.max_dead_letters
        found = sum(tables[name].totals.dead_letters for name in self.names)
        if limit is not None and known is not None and found > limit:
            shown = box.stop(read_dead_letters(path))
            raise too_many(found, limit, shown, read_dead_letters(path))
        return new

    def _limit(self, attempt: str) -> DeadLetterLimit | None:
        limit = self.options.max_dead_letters
        return None if limit is None else DeadLetterLimit(self.directory.letters, limit, attempt)

    def _plan(self, state: State, states: dict[str, TableState], current: Round) -> RoundPlan:
        options, directory, started = self.options, self.directory, now_us()
        if options.access is not None:
            for name in self.names:
                if not states[name].is_over:
                    states[name] = list_for_readers(states[name], options, options.access, started)
        tables = [states[name] for name in self.names]
        # Of a stream that is read to its end nothing more comes.
        streaming = [each for each in tables if each.stream is not None and not each.is_over]
        # Both branches fill the same memory. Streams share their part evenly, as all have to be
        # read within 24 h; exports are read one after the other.
        for_exports = 0
        if self.exports.is_ready(tables):
            for_exports = max(1, options.round_bytes // (2 if streaming else 1))
        share = max(1, (options.round_bytes - for_exports) // max(1, len(streaming)))
        return RoundPlan(
            current=current,
            sources=[
                source
                for each in streaming
                for source in stream_sources(each, options, share, started)
            ],
            slices=self.exports.plan(
                tables, for_exports, directory.attempt_file(current.attempt, "keys")
            ),
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
    """Each reader and each file of a round reports at least once, whatever happens.

    Raises:
        StateError: One did not: what it read would be read again in the next round.
    """
    streams = {(each.table, each.fields["reader"]) for each in reports if each.kind == "stream"}
    files = {(each.table, each.fields["file"]) for each in reports if each.kind == "file"}
    silent = [
        f"reader {each.reader} of table {each.table.name}"
        for each in plan.sources
        if (each.table.name, each.reader) not in streams
    ]
    silent += [
        f"the file {each.file.path} of table {each.table.name}"
        for each in plan.slices
        if (each.table.name, each.file.path) not in files
    ]
    if silent:
        raise StateError(
            "a part of the round did not report what it has read: nothing is committed",
            where=plan.reports_path,
            found=silent,
            hint="Run again: the round is repeated. If it happens again, report it as a bug",
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
            hint="Run again: the round is repeated",
        )


def _missing_error(missing: Mapping[str, DynabeamError]) -> DynabeamError:
    """The error that a run ends with which could not have the exports of some tables."""
    (name, first), *others = missing.items()
    if not others:
        return first
    more = "; ".join(f"{table}: {error.what}" for table, error in others)
    return ExportError(
        f"the exports of {len(missing)} tables cannot be had; all other tables are read. "
        f"{name}: {first.what}; {more}",
        where=first.where,
        hint=first.hint,
    )


def publish(directory: StateDirectory, state: State, sinks: Sequence[Sink]) -> None:
    """Makes a committed round visible; may be repeated."""
    for sink in sinks:
        directory.check_held()
        sink.publish(state.committed)
    directory.keep_dead_letters(state.committed)
    directory.clear_attempts()
