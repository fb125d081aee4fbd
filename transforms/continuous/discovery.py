# SPDX-License-Identifier: Apache-2.0
"""New tables, found while a run goes on: what a poll of the account means.

One poll lists the tables and describes those that belong to the selection and are not read yet.
What is ready is begun. What is not (no stream, wrong images, no recovery, still being created, no
permission) does not stop the others: it is a finding, reported once per reason, and polled again.
So is a table that is gone; its stream is read to its end. Nothing here writes: rounds and the graph
of a continuous run do with the outcome what is theirs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping
from typing import Literal

from botocore.exceptions import BotoCoreError, ClientError

from dynabeam.transforms.aws.dynamodb import TableDescription, describe_table
from dynabeam.transforms.aws.errors import AwsErrorKind, classify
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.errors import (
    AwsAccessError,
    CredentialsError,
    DynabeamError,
    StateError,
    TableError,
)
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.runtime.stored_format import DocumentFormat, typed_fields
from dynabeam.transforms.state.table_readiness import describe_ready
from dynabeam.transforms.state.table_selection import TableSelection
from dynabeam.transforms.storage import filesystem

__all__ = ["Discovery", "DiscoveryResult", "Finding", "Needs", "read_findings", "write_findings"]

_FORMAT = DocumentFormat(
    "what was found", fields=("findings",), hint="Delete the file: it is written again"
)
MOST_AT_ONCE = 20
"""New tables that one poll describes: each costs two or three calls, and the others wait."""

What = Literal["not_ready", "stream_off", "deleted", "recreated", "not_listed"]
_ENDS = ("deleted", "recreated")
_PASSING = (AwsErrorKind.THROTTLED, AwsErrorKind.UNREACHABLE)


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a new table has to have.

    Attributes:
        stream: Its stream is to be read.
        export: An export of it is to be requested.
    """

    stream: bool
    export: bool


@dataclasses.dataclass(frozen=True, order=True)
class Finding:
    """Something that keeps a table from being read, or its end.

    Attributes:
        table: The table; empty if the listing of all tables fails.
        what: `not_ready`, `stream_off` (it was switched off, and not on again), `deleted`,
            `recreated` (another table under a name that was deleted) or `not_listed`.
        detail: The reason, for people; one line.
    """

    table: str
    what: What
    detail: str

    def report(self) -> Report:
        """The finding as a report of kind `discovery`, with the fields `what` and `detail`."""
        return Report("discovery", self.table, {"what": self.what, "detail": self.detail})

    def __str__(self) -> str:
        """A line for people."""
        about = f"{self.table}: " if self.table else ""
        return f"{about}{self.what.replace('_', ' ')}: {self.detail}"


@dataclasses.dataclass(frozen=True)
class DiscoveryResult:
    """What a poll found.

    Attributes:
        ready: Tables to begin with.
        findings: All that is wrong at present, table → finding; also what this poll had no time
            for.
        news: Those that were not there after the previous poll, or for another reason.
        unfinished: More new tables are waiting than a poll describes.
    """

    ready: tuple[TableDescription, ...]
    findings: Mapping[str, Finding]
    news: tuple[Finding, ...]
    unfinished: bool


@dataclasses.dataclass(frozen=True)
class Discovery:
    """How to poll.

    Attributes:
        access: Where and as whom AWS is called.
        selection: Which tables belong to the run.
        needs: What a new table has to have.
        check: Raises a `DynabeamError` if a table that is ready cannot be replicated all the same.
    """

    access: AwsAccess
    selection: TableSelection
    needs: Needs
    check: Callable[[Table], None]

    def poll(self, known: Collection[str], before: Mapping[str, Finding]) -> DiscoveryResult:
        """Polls once.

        Args:
            known: Tables that are read already.
            before: The findings after the previous poll.

        Raises:
            ClientError: AWS answered what is not understood.
        """
        try:
            found = self.selection.find(self.access)
        except (AwsAccessError, CredentialsError, BotoCoreError, ClientError) as problem:
            finding = Finding("", "not_listed", _reason(problem))
            return _outcome((), {**before, "": finding}, before, unfinished=False)
        listed = set(found.listed or ())
        # What is the matter with a table that is read was found by whoever reads it.
        findings = {name: each for name, each in before.items() if name in known}
        ended = {name for name, each in findings.items() if each.what in _ENDS}
        findings |= self._ends([each for each in known if each not in listed | ended])
        for name in listed & ended:
            if findings[name].what == "deleted":
                findings[name] = Finding(name, "recreated", _recreated(name))
        candidates = [each for each in found.selected if each not in known]
        # Those of which nothing is known come first, then those that wait longest.
        order = {name: place for place, name in enumerate(before)}
        candidates.sort(key=lambda name: order.get(name, -1))
        now, later = candidates[:MOST_AT_ONCE], candidates[MOST_AT_ONCE:]
        ready = []
        for name in now:
            try:
                ready.append(self._describe(name))
            except (DynabeamError, BotoCoreError, ClientError) as problem:
                findings[name] = Finding(name, "not_ready", _reason(problem))
        waiting = {name: before[name] for name in later if name in before}
        unfinished = any(name not in before for name in later)
        return _outcome(tuple(ready), {**waiting, **findings}, before, unfinished=unfinished)

    def _describe(self, name: str) -> TableDescription:
        needs = self.needs
        found = describe_ready(self.access, name, stream=needs.stream, export=needs.export)
        self.check(found.table)
        return found

    def _ends(self, missing: Collection[str]) -> dict[str, Finding]:
        """Which of the tables that the listing lacks are really gone: listings lag behind."""
        found = {}
        for name in missing:
            try:
                describe_table(self.access, name)
            except TableError:
                found[name] = Finding(name, "deleted", _deleted(name))
            except (AwsAccessError, CredentialsError, BotoCoreError, ClientError) as problem:
                # Passing trouble: the next poll asks again. Anything else is raised.
                _reason(problem)
        return found


def write_findings(path: str, findings: Mapping[str, Finding]) -> None:
    """Replaces the file of findings: `format`, and `findings` with `table`, `what` and `detail`.

    Raises:
        StateError: It cannot be written.
    """
    document = _FORMAT.dump({"findings": list(map(dataclasses.asdict, findings.values()))})
    filesystem.write_atomic(path, json.dumps(document, indent=1).encode(), StateError)


def read_findings(path: str) -> dict[str, Finding]:
    """The findings of a file, none if it is not there.

    Raises:
        StateError: It is damaged, or of an unknown format.
    """
    if not filesystem.exists(path):
        return {}
    with _FORMAT.load(filesystem.read_bytes(path, StateError), where=path) as fields:
        findings = [typed_fields(Finding, each) for each in fields["findings"]]
    return {each.table: each for each in findings}


def _deleted(name: str) -> str:
    return (
        "its stream is read to its end, within the 24 hours that it is kept, and its rows stay in "
        f"the sinks as they are. Leave it out with --exclude_tables={name}"
    )


def _recreated(name: str) -> str:
    return (
        "the table was deleted, and there is another one of its name, which is not read. Take it "
        f"in the old one's place with --gaps={name}:resnapshot, replicate it with a --state_dir "
        f"and sinks of its own, or leave it out with --exclude_tables={name}"
    )


def _reason(problem: Exception) -> str:
    """Why a call did not succeed.

    Raises:
        ClientError: Nobody knows what it means.
    """
    if isinstance(problem, DynabeamError):
        return str(problem).replace("\n", " ")
    if classify(problem) in _PASSING:
        # Without the details of the answer, which differ each time: reported once.
        return "AWS is not reachable, or throttles requests; will be retried"
    raise problem


def _outcome(
    ready: tuple[TableDescription, ...],
    findings: Mapping[str, Finding],
    before: Mapping[str, Finding],
    *,
    unfinished: bool,
) -> DiscoveryResult:
    news = [each for name, each in findings.items() if before.get(name) != each]
    return DiscoveryResult(ready, findings, tuple(news), unfinished)
