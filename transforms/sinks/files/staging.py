# SPDX-License-Identifier: Apache-2.0
"""Files that become visible once per committed round: staged first, moved when the round counts.

Layout below a changelog's root:

| path | meaning |
|---|---|
| `_dynabeam.json` | marker: the state directory of the files, the last round published |
| `_staging/<attempt>/<uuid>.<ext>` | written by workers; a retried bundle leaves one unlisted |
| `<table>/_schema.json` | columns of a Parquet changelog (`transforms.sinks.files.columns`) |
| `_staging/<attempt>/files.json` | the commit list: staged files that count, their final names |
| `<table>/dynabeam_round=<10 digits>/part-<5 digits>-<attempt>.<ext>` | published |
| `<table>/dynabeam_round=<10 digits>/part-swept-<digest>.<ext>` | deletes that a repair brought |
| `_staging/continuous/<uuid>.<ext>` | a file that a continuous run is writing |
| `_staging/set_aside-<time>/<table>/…` | was published in rounds that are run again, see below |
| `<table>/dynabeam_round=continuous-<day>/part-<digest>.<ext>` | written by a continuous run |

Readers that take folders for partitions (DuckDB, Spark, Athena, pyarrow) make a column of their
name, which takes the place of a column that the files have. So the name is one that no attribute's
column has (`PARTITIONS`), and all folders of a changelog have the same, because such readers refuse
others. Earlier releases wrote `round=`: a changelog that they began goes on so, and its marker is
of format 1.

The commit list is written once, after every staged file is closed, and fixes the final names. So
publishing is a list of moves that can be repeated from any point: a file that is no longer staged
and is at its final place has been moved already. The marker names a round before its first file is
published; so files of a round above the marker's cannot exist. No two attempts ever use one name,
so a run that lost its lease to another one, and still finishes a request, replaces nothing of the
other's; and what is removed was listed before the lease was looked at (`transforms.storage.fence`).
Files of a continuous run are of no round: nothing here moves or removes them (see
`transforms.sinks.files.continuous_files`).

A state directory that was restored from an older copy runs rounds again that are published already.
Their files are set aside, out of the readers' sight, so that nothing is there twice. They are not
deleted: what is in them is in no other place if the stream does not hold it any more.

The marker also says what the changelog lacks: rounds that were run without it.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.runtime.stored_format import (
    DocumentFormat,
    check_fields,
    check_format,
    check_name,
    damage_told,
    parse_object,
    typed_fields,
)
from dynabeam.transforms.sinks.base import Round
from dynabeam.transforms.sinks.membership import Lack
from dynabeam.transforms.storage import filesystem

__all__ = ["PARTITIONS", "Marker", "RoundFiles", "StagedFile", "table_folder"]

_CHANGED = "Somebody has changed the file. Restore it from a copy"
_UPGRADE = "Upgrade Dynabeam"
_COMMIT_LIST = DocumentFormat("the commit list", error=SinkError, hint=_CHANGED, upgrade=_UPGRADE)
_MARKER_FORMATS = {"round": 1, "dynabeam_round": 2}
"""Format of the marker by the name of the folders."""
_PARTITION_OF = {number: name for name, number in _MARKER_FORMATS.items()}
PARTITIONS = tuple(_MARKER_FORMATS)
"""Names of the folders, of which a reader may make a column: no attribute's column has them."""
_ROUND_FOLDERS = tuple(f"{each}=" for each in PARTITIONS)
_STAGING = "_staging"
_MARKER = "_dynabeam.json"
_LIST = "files.json"
_SET_ASIDE = "set_aside-"
_CONTINUOUS = "continuous"


@dataclasses.dataclass(frozen=True, order=True)
class StagedFile:
    """A closed file in the staging folder of an attempt.

    Attributes:
        table: Name of the table.
        path: Where it is staged.
        rows: Number of changes.
        bytes: Size.
    """

    table: str
    path: str
    rows: int
    bytes: int

    def to_json(self) -> str:
        """The file as JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> StagedFile:
        """Reads what `to_json` wrote, in the same run."""
        return typed_fields(cls, parse_object(text))


_LISTED = frozenset({"table", "staged", "final", "rows", "bytes"})


@dataclasses.dataclass(frozen=True)
class Marker:
    """What the marker file says.

    Attributes:
        state_id: Owner of the folder.
        round: The last round that has files in it.
        lacks: What was run without this changelog, oldest first.
        whole_from: From this round on it has every change.
        whole_from_us: When that round began, microseconds since 1970; 0 for the beginning.
        partition: The name of the folders of rounds, before the `=`; one of `PARTITIONS`.
    """

    state_id: str
    round: int
    lacks: tuple[Lack, ...] = ()
    whole_from: int = 1
    whole_from_us: int = 0
    partition: str = PARTITIONS[-1]

    def to_json(self) -> dict[str, Any]:
        """As a JSON-able dict; what it lacks stands there for people too."""
        document: dict[str, Any] = {
            "format": _MARKER_FORMATS[self.partition],
            "state_id": self.state_id,
            "round": self.round,
        }
        if self.lacks:
            document |= {
                "lacks": [{**each.to_json(), "text": str(each)} for each in self.lacks],
                "whole_from": self.whole_from,
                "whole_from_us": self.whole_from_us,
            }
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Marker:
        """Reads what `to_json` wrote, also of a version that knew of nothing that is lacking."""
        names = ("state_id", "round", "whole_from", "whole_from_us")
        return typed_fields(
            cls,
            {name: document[name] for name in names if name in document},
            lacks=tuple(Lack.from_json(each) for each in document.get("lacks", ())),
            partition=_PARTITION_OF[document["format"]],
        )


def table_folder(table: str) -> str:
    """A table's name as a folder's: readers skip names that begin with `_` or a dot."""
    encoded = quote(table, safe="")
    if encoded[0] in "._":
        encoded = f"%{ord(encoded[0]):02X}{encoded[1:]}"
    return encoded


class RoundFiles:
    """The files of one changelog folder.

    Args:
        root: Local path or object store URL.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._partition = ""

    def staging_folder(self, attempt: str) -> str:
        """Where an attempt stages its files.

        Raises:
            SinkError: The attempt's name leads elsewhere.
        """
        check_name(attempt, what="the attempt", where=self.root, error=SinkError)
        return filesystem.join(self.root, _STAGING, attempt)

    def continuous_staging_folder(self) -> str:
        """Where a continuous run writes a file before it gets its name."""
        return filesystem.join(self.root, _STAGING, _CONTINUOUS)

    def table_path(self, table: str) -> str:
        """The folder of a table."""
        return filesystem.join(self.root, table_folder(table))

    def continuous_path(self, table: str, day: datetime.date, name: str) -> str:
        """The final path of a file of a continuous run."""
        folder = f"{self.partition}={_CONTINUOUS}-{day.isoformat()}"
        return filesystem.join(self.root, table_folder(table), folder, name)

    @property
    def partition(self) -> str:
        """The name of the folders of rounds, which stays for the life of the changelog."""
        if not self._partition:
            marker = self.read_marker()
            if marker is None:
                return PARTITIONS[-1]
            self._partition = marker.partition
        return self._partition

    def swept_path(self, table: str, current: Round, name: str) -> str:
        """The final path of a file that a repair adds to a published round."""
        folder = f"{self.partition}={current.number:010d}"
        return filesystem.join(self.root, table_folder(table), folder, name)

    def read_marker(self) -> Marker | None:
        """The marker, None if there is none.

        Raises:
            SinkError: If it cannot be read or is not a marker.
        """
        path = filesystem.join(self.root, _MARKER)
        if not filesystem.exists(path):
            return None
        content, what = filesystem.read_bytes(path, SinkError), "the marker"
        with damage_told(what, where=path, hint=_CHANGED, error=SinkError):
            document = parse_object(content)
            check_format(
                document, _PARTITION_OF, what=what, where=path, error=SinkError, hint=_UPGRADE
            )
            return Marker.from_json(document)

    def write_marker(self, marker: Marker) -> None:
        """Replaces the marker."""
        _write_json(filesystem.join(self.root, _MARKER), marker.to_json())

    def occupied(self, tables: Sequence[str]) -> str | None:
        """A file that lies in the folder of one of these tables, None if there is none."""
        for table in tables:
            found = filesystem.list_files(filesystem.join(self.root, table_folder(table)))
            if found:
                return found[0]
        return None

    def write_list(self, current: Round, files: Sequence[StagedFile]) -> None:
        """Writes the commit list of an attempt; nothing is visible yet."""
        moves = [
            {
                "table": file.table,
                "staged": os.path.basename(file.path),
                # Numbered across tables: on a disk that ignores case two tables may share a folder.
                "final": self._final_name(file, current, number),
                "rows": file.rows,
                "bytes": file.bytes,
            }
            for number, file in enumerate(sorted(files))
        ]
        content = _COMMIT_LIST.dump({**dataclasses.asdict(current), "files": moves})
        _write_json(self._list_path(current.attempt), content)

    def publish(self, current: Round) -> None:
        """Moves what the commit list names to its final place, then clears the attempt's staging.

        Raises:
            SinkError: If a listed file is neither staged nor published, or cannot be moved.
        """
        listed = self._listed(current)
        if listed is not None:
            self.claim_round(current)
            for each in listed:
                self._move(current, each["staged"], each["final"])
            # The list goes last but for orphans: as long as it is there, publishing is repeated.
            filesystem.delete([self._list_path(current.attempt)], SinkError)
        self._clear(self.staging_folder(current.attempt))

    def listed_rows(self, current: Round) -> int | None:
        """How many rows the commit list of an attempt names; None if there is no list.

        Raises:
            SinkError: If it cannot be read, or is not a list.
        """
        listed = self._listed(current)
        return None if listed is None else sum(int(each["rows"]) for each in listed)

    def claim_round(self, current: Round) -> None:
        """Has the marker name a round, before there is any file of it."""
        marker = self.read_marker()
        if marker is None:
            self.write_marker(Marker(current.state_id, current.number))
        elif marker.round < current.number:
            self.write_marker(dataclasses.replace(marker, round=current.number))

    def clear_attempt(self, attempt: str) -> None:
        """Removes what an attempt has staged."""
        self._clear(self.staging_folder(attempt))

    def discard_other_attempts(self, attempt: str) -> None:
        """Removes what other attempts have staged; with an empty name, what any has."""
        kept = filesystem.join(self.staging_folder(attempt), "") if attempt else None
        staged = filesystem.list_files(filesystem.join(self.root, _STAGING))
        aside = filesystem.join(self.root, _STAGING, _SET_ASIDE)
        doomed = [
            path
            for path in staged
            if not path.startswith(aside) and (kept is None or not path.startswith(kept))
        ]
        filesystem.delete(doomed, SinkError)
        self._prune()

    def is_staged(self, current: Round) -> bool:
        """True if an attempt's commit list is there: its files are not all published."""
        return filesystem.exists(self._list_path(current.attempt))

    def remove_rounds_after(self, number: int) -> None:
        """Removes published files of rounds above `number`: those rounds will be run again."""
        marker = self.read_marker()
        if marker is None or marker.round <= number:
            return
        prefix = len(filesystem.join(self.root, ""))
        late = [
            path
            for path in filesystem.list_files(self.root)
            if _round_of(path[prefix:].replace(os.sep, "/")) > number
        ]
        filesystem.delete(late, SinkError)
        self.write_marker(dataclasses.replace(marker, round=number))

    def set_aside_rounds_after(self, number: int) -> str:
        """Sets published files of rounds above `number` aside: those rounds will be run again.

        Returns:
            The folder that they are in now; empty if there are none.
        """
        marker = self.read_marker()
        if marker is None or marker.round <= number:
            return ""
        when = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
        folder = filesystem.join(self.root, _STAGING, f"{_SET_ASIDE}{when}")
        prefix = len(filesystem.join(self.root, ""))
        for path in filesystem.list_files(self.root):
            name = path[prefix:].replace(os.sep, "/")
            if _round_of(name) > number:
                filesystem.move(path, filesystem.join(folder, *name.split("/")), SinkError)
        self._prune_rounds()
        # Last: a crash before it repeats the rest.
        self.write_marker(dataclasses.replace(marker, round=number))
        return folder

    def _list_path(self, attempt: str) -> str:
        return filesystem.join(self.staging_folder(attempt), _LIST)

    def _final_name(self, file: StagedFile, current: Round, number: int) -> str:
        extension = os.path.basename(file.path).partition(".")[2]
        folder = f"{table_folder(file.table)}/{self.partition}={current.number:010d}"
        return f"{folder}/part-{number:05d}-{current.attempt}.{extension}"

    def _listed(self, current: Round) -> Sequence[Mapping[str, Any]] | None:
        """The entries of an attempt's commit list; None if there is none.

        Raises:
            SinkError: They are not of this round and within this folder: somebody else has written
                the list.
        """
        path = self._list_path(current.attempt)
        if not filesystem.exists(path):
            return None
        with _COMMIT_LIST.load(filesystem.read_bytes(path, SinkError), where=path) as document:
            owner = (document["state_id"], document["number"], document["attempt"])
            if owner != (current.state_id, current.number, current.attempt):
                raise SinkError(
                    "the commit list is that of another round",
                    where=path,
                    expected=dataclasses.astuple(current),
                    found=owner,
                )
            for each in document["files"]:
                check_fields(each, _LISTED, what="the commit list", where=path, error=SinkError)
                check_name(each["staged"], what="a staged file", where=path, error=SinkError)
                folder, _, name = each["final"].rpartition("/")
                table = table_folder(each["table"])
                known = [f"{table}/{part}={current.number:010d}" for part in PARTITIONS]
                if folder not in known or not name.startswith("part-"):
                    raise SinkError(
                        "the commit list names a file that is none of this round's",
                        where=path,
                        expected=f"<table>/{PARTITIONS[-1]}={current.number:010d}/part-…",
                        found=each["final"],
                        hint=_CHANGED,
                    )
                check_name(name, what="a published file", where=path, error=SinkError)
            files: Sequence[Mapping[str, Any]] = document["files"]
            return files

    def _move(self, current: Round, staged: str, final: str) -> None:
        source = filesystem.join(self.staging_folder(current.attempt), staged)
        target = filesystem.join(self.root, *final.split("/"))
        if filesystem.exists(source):
            try:
                filesystem.move(source, target, SinkError)
            except SinkError:
                # A run that has lost its lease may be finishing the same move.
                if filesystem.exists(source) or not filesystem.exists(target):
                    raise
        elif not filesystem.exists(target):
            raise SinkError(
                f"a file of the committed round {current.number} is neither staged nor published",
                where=source,
                expected=target,
                hint="Restore the file, or replicate into a new folder with a new state directory",
            )

    def _clear(self, folder: str) -> None:
        filesystem.delete(filesystem.list_files(folder), SinkError)
        self._prune()

    def _prune_rounds(self) -> None:
        """Removes the empty folders of rounds that were set aside; object stores have none."""
        if not filesystem.is_local(self.root):
            return
        for table in os.scandir(self.root):
            if table.is_dir() and not table.name.startswith("_"):
                for each in os.scandir(table.path):
                    if (
                        each.name.startswith(_ROUND_FOLDERS)
                        and each.is_dir()
                        and not os.listdir(each.path)
                    ):
                        os.rmdir(each.path)

    def _prune(self) -> None:
        """Removes empty folders of the staging area; object stores have none."""
        if not filesystem.is_local(self.root):
            return
        for folder, _, _ in os.walk(filesystem.join(self.root, _STAGING), topdown=False):
            if not os.listdir(folder):
                os.rmdir(folder)


def _round_of(path: str) -> int:
    """The round of a published file's path below the root; -1 for any other file."""
    parts = path.split("/")
    if len(parts) != 3 or not parts[2].startswith("part-"):
        return -1
    name, _, digits = parts[1].partition("=")
    if name not in PARTITIONS:
        return -1
    return int(digits) if digits.isdecimal() else -1


def _write_json(path: str, content: dict[str, Any]) -> None:
    filesystem.write_atomic(path, json.dumps(content, indent=1, sort_keys=True).encode(), SinkError)
