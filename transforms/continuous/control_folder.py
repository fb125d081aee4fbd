# SPDX-License-Identifier: Apache-2.0
"""The folder through which a continuous run is controlled, and reports its positions.

| path below it | written by | what |
|---|---|---|
| `assignments/<name>.json` | the command line | what to read: once there, never changed |
| `positions/<table>.jsonl` | the run | up to where sinks hold everything, see `positions` |
| `manifests/<SHA-256>.json` | the run | manifests of exports, which positions name |
| `discovery.json` | the command line | which further tables to look for, and how to read them |
| `tables/<table>.json` | the run | the first state of a table that it found by itself |
| `findings.json` | the run | what keeps tables from being read, see `discovery` |
| `generations/<table>.json` | first the command line, then the run | see `generations` |
| `ends/`, `followed/` | the run | streams that have ended, see `stream_ends` |
| `stops/<table>.json` | the run | why it cannot go on, see `stops` |
| `over` | the command line | the run has a successor: it must not go on |

An assignment is read by a watching source, so that tables can be added to a run, and snapshotted
again, without a new graph and without a restart.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote

from dynabeam.transforms.dead_letters.store import DeadLetterStore
from dynabeam.transforms.errors import StateError
from dynabeam.transforms.export.elements import SnapshotRequest
from dynabeam.transforms.model.report import Report, ReportCoder
from dynabeam.transforms.runtime.stored_format import (
    DocumentFormat,
    canonical,
    check_name,
    damage_told,
    parse_object,
    typed_fields,
)
from dynabeam.transforms.state.table_state import TableState
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.stream.reader_spec import ReaderSpec

__all__ = ["Assignment", "ControlFolder"]

_FORMAT = DocumentFormat(
    "an assignment", hint="Remove the file and give the command that wrote it again"
)
_NAME = re.compile(r"[0-9a-f]{64}")
_MOST_KEPT = 10_000
_kept: dict[tuple[str, Any, Any], str] = {}
"""Folder, export and location → the manifest's file, of those that this process has written."""


@dataclasses.dataclass(frozen=True)
class Assignment:
    """What a run is to read from now on.

    Attributes:
        sources: Stream readers.
        requests: Snapshots.
    """

    sources: Sequence[ReaderSpec]
    requests: Sequence[SnapshotRequest]

    def to_json(self) -> bytes:
        """The assignment as JSON."""
        fields = {
            "sources": [each.to_json() for each in self.sources],
            "requests": [each.to_json() for each in self.requests],
        }
        return canonical(_FORMAT.dump(fields))

    @classmethod
    def from_json(cls, path: str, content: bytes) -> Assignment:
        """Reads what `to_json` wrote.

        Raises:
            StateError: It is damaged, or of an unknown format.
        """
        with _FORMAT.load(content, where=path) as fields:
            sources = [ReaderSpec.from_json(each) for each in fields["sources"]]
            requests = [SnapshotRequest.from_json(each) for each in fields["requests"]]
            return typed_fields(cls, fields, sources=sources, requests=requests)


class ControlFolder:
    """The folder of one deployment.

    Args:
        path: Local path or object store URL.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._over = filesystem.join(path, "over")

    def assign(self, name: str, assignment: Assignment) -> str:
        """Writes an assignment; a running deployment finds it within seconds.

        Args:
            name: Unique in the folder; sorted names are the order in which they are found.
            assignment: What to read.

        Returns:
            The path of the file.
        """
        path = self._assignment(name)
        filesystem.write_atomic(path, assignment.to_json(), StateError)
        return path

    def assign_once(self, name: str, assignment: Assignment) -> str:
        """Writes an assignment unless there is one of this name; returns its path."""
        path = self._assignment(name)
        return path if filesystem.exists(path) else self.assign(name, assignment)

    def _assignment(self, name: str) -> str:
        check_name(name, what="an assignment", where=self.path)
        return filesystem.join(self.path, "assignments", f"{name}.json")

    def assignments(self) -> list[str]:
        """Paths of all assignments, sorted."""
        found = filesystem.list_files(filesystem.join(self.path, "assignments"))
        return sorted(each for each in found if each.endswith(".json"))

    def read_assignment(self, path: str) -> Assignment:
        """Reads one assignment."""
        return Assignment.from_json(path, filesystem.read_bytes(path, StateError))

    def write_positions(self, table: str, reports: Sequence[Report]) -> None:
        """Replaces the stored positions of a table."""
        coder = ReportCoder()
        content = b"".join(coder.encode(self._without_manifest(each)) + b"\n" for each in reports)
        filesystem.write_atomic(self.positions_path(table), content, StateError)

    def read_positions(self) -> dict[str, list[Report]]:
        """The stored positions: table → reports."""
        coder, found = ReportCoder(), {}
        for path in filesystem.list_files(filesystem.join(self.path, "positions")):
            name = os.path.basename(path)
            if name.endswith(".jsonl"):
                lines = filesystem.read_bytes(path, StateError).splitlines()
                with damage_told("the stored positions of a table", where=path, hint=_RESTORE):
                    found[unquote(name.removesuffix(".jsonl"))] = [
                        self._with_manifest(coder.decode(each)) for each in lines
                    ]
        return found

    def _without_manifest(self, report: Report) -> Report:
        """The report with the name of its manifest's file: the list of files may have some 30 MB.

        Positions are written every 20 seconds, a manifest once.
        """
        manifest = report.fields.get("manifest") if report.kind == "export" else None
        if not manifest or "kept" in manifest:
            return report
        # What an export's manifest says never changes: it is not hashed again and again.
        subject = self.path, manifest.get("export_arn"), manifest.get("location")
        name = _kept.get(subject) if subject[1] else None
        if name is None:
            content = canonical(manifest)
            name = hashlib.sha256(content).hexdigest()
            filesystem.write_atomic(self._manifest(name), content, StateError)
            if len(_kept) >= _MOST_KEPT:
                _kept.clear()
            _kept[subject] = name
        return Report(report.kind, report.table, {**report.fields, "manifest": {"kept": name}})

    def _with_manifest(self, report: Report) -> Report:
        manifest = report.fields.get("manifest") if report.kind == "export" else None
        if not manifest or "kept" not in manifest:
            return report
        name = manifest["kept"]
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise StateError(
                "the stored positions name a manifest that cannot be",
                where=self.path,
                found=name,
                hint=_RESTORE,
            )
        path = self._manifest(name)
        content = filesystem.read_bytes(path, StateError)
        with damage_told("the manifest of an export", where=path, hint=_RESTORE):
            document = parse_object(content)
            if hashlib.sha256(content).hexdigest() != name:
                raise ValueError("it is not the one that was written under its name")
        return Report(report.kind, report.table, {**report.fields, "manifest": document})

    def _manifest(self, name: str) -> str:
        return filesystem.join(self.path, "manifests", f"{name}.json")

    @property
    def stops(self) -> str:
        """The folder of why the run cannot go on."""
        return filesystem.join(self.path, "stops")

    def generation_file(self, table: str) -> str:
        """The path of the file that says which generation a table has."""
        return filesystem.join(self.path, "generations", f"{quote(table, safe='')}.json")

    @property
    def letters(self) -> DeadLetterStore:
        """The dead letters, which all deployments and rounds of a state directory share."""
        # The folder is `<state_dir>/continuous/<id>`.
        return DeadLetterStore(self.path.rstrip("/").rsplit("/", 2)[0])

    def write_table(self, state: TableState) -> None:
        """Keeps the first state of a table that the run found, for the position document."""
        filesystem.write_atomic(self._table(state.name), canonical(state.to_json()), StateError)

    def read_tables(self) -> dict[str, TableState]:
        """The tables that the run found: table → first state."""
        files = filesystem.list_files(filesystem.join(self.path, "tables"))
        states = [_read_table(path) for path in files if path.endswith(".json")]
        return {each.name: each for each in states}

    def read_table(self, table: str) -> TableState | None:
        """The first state of one table that the run found; None if it did not find it."""
        path = self._table(table)
        if not filesystem.exists(path):
            return None
        return _read_table(path)

    @property
    def discovery(self) -> str:
        """The path of what further tables to look for."""
        return filesystem.join(self.path, "discovery.json")

    @property
    def findings(self) -> str:
        """The path of what keeps tables from being read."""
        return filesystem.join(self.path, "findings.json")

    def end(self, successor: str) -> None:
        """Says that the deployment has a successor."""
        filesystem.write_atomic(self._over, successor.encode(), StateError)

    def check_current(self) -> None:
        """Fails a run that was superseded.

        Raises:
            StateError: The deployment has a successor, which reads on from its positions.
        """
        if filesystem.exists(self._over):
            successor = filesystem.read_bytes(self._over, StateError).decode(errors="replace")
            raise StateError(
                f"another run has taken over: {successor}",
                where=self.path,
                hint="Cancel this job; the other one continues from its stored positions",
            )

    def _table(self, table: str) -> str:
        return filesystem.join(self.path, "tables", f"{quote(table, safe='')}.json")

    def positions_path(self, table: str) -> str:
        """The path of a table's stored positions."""
        return filesystem.join(self.path, "positions", f"{quote(table, safe='')}.jsonl")


_RESTORE = "Restore the state directory from a copy, or start with a new one"


def _read_table(path: str) -> TableState:
    content = filesystem.read_bytes(path, StateError)
    with damage_told("the first state of a table", where=path, hint=_RESTORE):
        return TableState.from_json(parse_object(content))
