# SPDX-License-Identifier: Apache-2.0
"""Catch-up rounds: what follows when the stream of a table has ended.

A stream that was switched off is read to its end first, whatever the table's policy is. Only the
round that has committed that asks what comes next:

* Another stream of the table: the time between the two is a gap. The policy decides, and the next
  round reads on from the beginning of the other stream, at a higher generation.
* No stream, or no table any more: told, and the table's rows stay as they are.
* Another table of its name: told. Under `resnapshot` it takes the place of the old one from
  scratch: a new generation, after which the old table's rows are swept.

The other tables of the run go on. All that is changed is part of the round's commit, so a crash
before it repeats the round, and the question.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from botocore.exceptions import BotoCoreError, ClientError

from dynabeam.pipelines.options.replicate import ReplicateOptions
from dynabeam.pipelines.table_findings import TableFindings, finding_of
from dynabeam.transforms.aws.dynamodb import TableDescription, continuous_backups
from dynabeam.transforms.aws.errors import AwsErrorKind, classify
from dynabeam.transforms.continuous.discovery import What
from dynabeam.transforms.errors import (
    AwsAccessError,
    ConfigurationError,
    DynabeamError,
    GapError,
    StateError,
    TableError,
)
from dynabeam.transforms.model.gap import GapPolicy
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.state.merge_reports import read_until_us
from dynabeam.transforms.state.stream_successor import (
    Sequel,
    find_sequel,
    other_key_problem,
    switch_gap,
)
from dynabeam.transforms.state.table_readiness import recovery_problem, stream_problem
from dynabeam.transforms.state.table_repair import begin_repair, new_stream, switch_stream
from dynabeam.transforms.state.table_state import TableState

__all__ = ["TableSequels", "ended_error"]

_AGAIN_US = 10 * 1_000_000
_PASSING = (AwsErrorKind.THROTTLED, AwsErrorKind.UNREACHABLE)


class TableSequels:
    """Asks, and does what follows.

    Args:
        options: What was asked for.
        findings: Where it is told what is the matter with a table.
        clock: Gives the time in microseconds since 1970.
    """

    def __init__(
        self,
        options: ReplicateOptions,
        findings: TableFindings,
        clock: Callable[[], int] = now_us,
    ) -> None:
        self._options = options
        self._findings = findings
        self._clock = clock
        self._again_us: dict[str, int] = {}

    def follow(
        self,
        tables: dict[str, TableState],
        names: Sequence[str],
        reports: Sequence[Report],
    ) -> tuple[list[str], list[GapError]]:
        """Follows every table whose stream, or whose export, has come to an end.

        Args:
            tables: The states after the round, replaced in place.
            names: The tables of the run.
            reports: The round's reports.

        Returns:
            Lines for people, and what stops the run once the round is committed.

        Raises:
            CredentialsError: There are no usable credentials.
            ClientError: AWS answered what is not understood.
        """
        lines: list[str] = []
        stops: list[GapError] = []
        no_export = {each.table for each in reports if _is_end(each)}
        for name in names:
            state = tables[name]
            if not (state.is_over or name in no_export) or not self._is_due(name):
                continue
            sequel = self._ask(state)
            if sequel is not None:
                tables[name] = self._follow_one(state, sequel, lines, stops)
        return lines, stops

    def _is_due(self, name: str) -> bool:
        now = self._clock()
        if now < self._again_us.get(name, 0):
            return False
        self._again_us[name] = now + _AGAIN_US
        return True

    def _ask(self, state: TableState) -> Sequel | None:
        access, name = self._options.access, state.name
        if access is None:
            return None
        try:
            arn = state.stream.arn if state.stream else ""
            return find_sequel(access, name, state.table_id, arn)
        except AwsAccessError as problem:
            self._findings.add(finding_of(name, "not_ready", problem), problem)
        except (BotoCoreError, ClientError) as problem:
            # Asked again soon, and by the next run at the latest.
            if classify(problem) not in _PASSING:
                raise
        return None

    def _follow_one(
        self, state: TableState, sequel: Sequel, lines: list[str], stops: list[GapError]
    ) -> TableState:
        options, name, stream = self._options, state.name, state.stream
        if sequel.end:
            state = dataclasses.replace(state, end=sequel.end)
        if sequel.kind == "next" and stream is not None and stream.is_over:
            assert sequel.next_stream is not None
            gap = switch_gap(
                name,
                stream.arn,
                sequel.next_stream,
                read_us=read_until_us(state),
                now_us=self._clock(),
                generation=state.generation + 1,
            )
            policy = options.gaps.of(name)
            self._findings.clear(name)
            if policy is GapPolicy.FAIL:
                stops.append(gap.error())
                return state
            self._again_us.pop(name, None)
            state, told = switch_stream(state, sequel.next_stream, gap, policy, options.access)
            lines.extend(told)
        elif sequel.kind == "off":
            self._tell(name, "stream_off", _stream_off(name, sequel))
        elif sequel.kind == "deleted":
            self._tell(name, "deleted", ended_error(state, sequel, options.state_dir))
        elif sequel.kind == "recreated" and (stream is None or stream.is_over):
            state = self._take_anew(state, sequel, lines)
        return state

    def _tell(self, name: str, what: What, error: DynabeamError) -> None:
        self._findings.add(finding_of(name, what, error), error)

    def _take_anew(self, state: TableState, sequel: Sequel, lines: list[str]) -> TableState:
        """Reads another table of the old one's name, if the policy says so."""
        options, description, name = self._options, sequel.description, state.name
        assert description is not None
        problem: DynabeamError | None = ended_error(state, sequel, options.state_dir)
        if options.gaps.of(name) is GapPolicy.RESNAPSHOT:
            problem = self._why_not_anew(state, description)
        if problem is not None:
            self._tell(name, "recreated", problem)
            return state
        stream = state.stream
        if stream is not None:
            readers = len(stream.frontiers)
            stream = new_stream(description.stream_arn, description.created_us, readers)
        state = dataclasses.replace(
            state,
            table=description.table,
            table_id=description.table_id,
            stream=stream,
            end="",
            repair=None,
            heal=(),
            unrepaired=None,
        )
        state = begin_repair(state, [], GapPolicy.RESNAPSHOT, options.access)
        self._findings.clear(name)
        self._again_us.pop(name, None)
        assert state.repair is not None
        lines.append(
            f"{name}: the table was deleted and created again; {state.repair.plan}, and nothing of "
            f"the old table stays; generation {state.generation}"
        )
        return state

    def _why_not_anew(
        self, state: TableState, description: TableDescription
    ) -> DynabeamError | None:
        options, name = self._options, state.name
        assert options.access is not None
        if description.status != "ACTIVE" and not description.table_id:
            return ended_error(state, Sequel("recreated", description), options.state_dir)
        problem = other_key_problem(state.table, description)
        if problem is not None:
            return problem
        if not options.bucket:
            return ConfigurationError(
                "the table was deleted and created again, and there is no bucket for its export",
                where=f"table {name}",
                hint="Give --s3_export_bucket",
            )
        problem = stream_problem(name, description) if state.stream is not None else None
        return problem or recovery_problem(name, continuous_backups(options.access, name))


def _is_end(report: Report) -> bool:
    return report.kind == "export" and report.fields["status"] == "table_ended"


def _stream_off(name: str, sequel: Sequel) -> TableError:
    assert sequel.description is not None
    problem = stream_problem(name, sequel.description)
    assert problem is not None
    return problem


def ended_error(state: TableState, sequel: Sequel, state_dir: str) -> DynabeamError:
    """What a run of a table alone ends with that was deleted, or made again."""
    name = state.name
    if sequel.kind == "deleted" or sequel.description is None:
        return TableError(
            "the table was deleted; its rows stay in the sinks as they are",
            where=f"table {name}",
            hint=f"Leave it out: --exclude_tables={name}",
        )
    return StateError(
        "the state directory is that of another table of this name: its table id differs",
        where=f"{state_dir}, table {name}",
        expected=state.table_id,
        found=sequel.description.table_id,
        hint=(
            f"Take the new table in its place with --gaps={name}:resnapshot (rows "
            f"of the old one are removed), give another --state_dir and other sinks, or leave it "
            f"out: --exclude_tables={name}"
        ),
    )
