# SPDX-License-Identifier: Apache-2.0
"""What a catch-up round leaves for its driver beside the sinks: reports and dead letters.

| file of the attempt's folder | what |
|---|---|
| `reports.jsonl` | reports |
| `dead_letters.jsonl` | which pieces of dead letters there are, in `dead_letters/` |
| `retried.json` | of a round of `dynabeam retry`: ids of the letters that it put back |

The first two are written whole by one grouped element, also if there is nothing to write, and end
with a line that says how many lines there are. Dead letters may be many and large: they are written
as they come, in pieces that no worker keeps in memory. The driver reads them
only after the whole pipeline has succeeded, so what a failed try wrote is never used. A file that
is not there, or not whole, was written to another disk or is lost: never does it mean "nothing".
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows

from dynabeam.transforms.dead_letters.limit import DeadLetterLimit
from dynabeam.transforms.dead_letters.store import DeadLetterStore
from dynabeam.transforms.errors import StateError
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.report import Report, ReportCoder
from dynabeam.transforms.runtime.stored_format import (
    DocumentFormat,
    check_name,
    damage_told,
    parse_object,
    typed_fields,
)
from dynabeam.transforms.storage import filesystem

__all__ = [
    "DEAD_LETTERS",
    "REPORTS",
    "RETRIED",
    "Retried",
    "WriteDeadLetters",
    "WriteReports",
    "keep_outcome",
    "read_dead_letters",
    "read_kept_dead_letters",
    "read_reports",
]

REPORTS = "reports.jsonl"
DEAD_LETTERS = "dead_letters.jsonl"
RETRIED = "retried.json"

_RESTORE = "Restore the state directory from a copy"
_RETRIED = DocumentFormat(
    "the list of the dead letters that were replayed",
    fields=("letters", "max_retries"),
    hint=_RESTORE,
)
_NO_LINE = b""
_PIECE = b'{"piece":'
_PIECE_BYTES = 8 << 20
_END = b'{"end":{"lines":'
"""How the last line begins; no report and no dead letter does."""


@dataclasses.dataclass(frozen=True)
class Retried:
    """What a round of `dynabeam retry` put back into the graph.

    Attributes:
        letters: The letters, as they were stored.
        max_retries: How often each is tried again before it is severe.
    """

    letters: Sequence[DeadLetter]
    max_retries: int

    def write(self, path: str) -> None:
        """Writes it.

        Raises:
            StateError: It cannot be written.
        """
        letters = [[each.table, each.id] for each in self.letters]
        document = _RETRIED.dump({"letters": letters, "max_retries": self.max_retries})
        filesystem.write_atomic(path, json.dumps(document).encode(), StateError)


class WriteReports(beam.PTransform):
    """Writes all reports of a round into one file: `PCollection[Report]` → nothing of use.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def expand(self, reports: Any) -> Any:
        """Groups all reports and writes them."""
        return reports | "Encode" >> beam.Map(_report_line) | "File" >> _WriteOneFile(self._path)


class WriteDeadLetters(beam.PTransform):
    """Writes all dead letters of a round, in pieces, and a file that names them.

    Args:
        path: The file.
        limit: Stops the round while it runs, once it has met too many; None for no limit.

    Raises:
        StateError: While running, if there are too many.
    """

    def __init__(self, path: str, limit: DeadLetterLimit | None = None) -> None:
        super().__init__()
        self._path = path
        self._limit = limit

    def expand(self, letters: Any) -> Any:
        """Writes the pieces, then what names them."""
        pieces = beam.ParDo(_PiecesFn(self._path, self._limit)).with_output_types(bytes)
        return letters | "Pieces" >> pieces | "File" >> _WriteOneFile(self._path)


class _PiecesFn(beam.DoFn):
    """Writes letters as they come; what a bundle that failed wrote is named by nobody."""

    def __init__(self, path: str, limit: DeadLetterLimit | None) -> None:
        self._folder = _piece_folder(path)
        self._limit = limit
        self._lines: list[bytes] = []
        self._size = 0

    def start_bundle(self) -> None:
        """Forgets what a bundle that failed has left."""
        self._lines, self._size = [], 0

    def process(self, element: DeadLetter) -> Iterator[bytes]:
        """Takes one letter; yields the name of a piece that is full.

        Raises:
            StateError: It is one too many.
        """
        if self._limit is not None:
            self._limit.count(element)
        line = element.to_line()
        self._lines.append(line)
        self._size += len(line)
        if self._size >= _PIECE_BYTES:
            yield self._write()

    def finish_bundle(self) -> Iterator[Any]:
        """Writes what is left."""
        if self._lines:
            yield GlobalWindows.windowed_value(self._write())

    def _write(self) -> bytes:
        name = f"{uuid.uuid4().hex}.jsonl"
        filesystem.write_atomic(
            filesystem.join(self._folder, name), b"".join(self._lines), StateError
        )
        said = {"piece": name, "letters": len(self._lines)}
        self._lines, self._size = [], 0
        return json.dumps(said).encode() + b"\n"


def read_reports(path: str) -> list[Report]:
    """Reads what `WriteReports` wrote.

    Raises:
        StateError: The file is not there, or not whole.
    """
    if not filesystem.exists(path):
        raise _lost("reports", path, None)
    return [ReportCoder().decode(line) for line in _whole(_lines_of(path), "reports", path)]


def read_dead_letters(path: str) -> Iterator[DeadLetter]:
    """Reads what `WriteDeadLetters` wrote, a line at a time.

    Raises:
        StateError: The file is not there, or not whole.
    """
    if not filesystem.exists(path):
        raise _lost("dead letters", path, None)
    for line in _whole(_lines_of(path), "dead letters", path):
        piece, count = _piece_of(path, line)
        if not filesystem.exists(piece):
            raise _lost("dead letters", piece, None)
        found = 0
        for letter in _lines_of(piece):
            found += 1
            yield DeadLetter.from_line(letter)
        if found != count:
            raise _lost("dead letters", piece, f"{found} lines, {count} were written")


def read_kept_dead_letters(path: str) -> Iterator[DeadLetter]:
    """Reads the dead letters of a round that is committed: `read_dead_letters` has seen them whole.

    They may have been kept and removed already; and an older version wrote them into the file
    itself, without an end.
    """
    if not filesystem.exists(path):
        return
    for line in _lines_of(path):
        if line.startswith(_END):
            continue
        if not line.startswith(_PIECE):
            yield DeadLetter.from_line(line)
            continue
        piece, _ = _piece_of(path, line)
        if filesystem.exists(piece):
            yield from map(DeadLetter.from_line, _lines_of(piece))


def keep_outcome(box: DeadLetterStore, staged: Iterable[DeadLetter], retried: str) -> None:
    """Stores what a round could not handle, and sets aside what it put back; may be repeated.

    Args:
        box: Where letters stay.
        staged: The round's dead letters.
        retried: Path of what `Retried.write` wrote, which ordinary rounds do not have.
    """
    if not filesystem.exists(retried):
        box.keep(staged)
        return
    with _RETRIED.load(filesystem.read_bytes(retried, StateError), where=retried) as document:
        if not isinstance(document["max_retries"], int):
            raise TypeError("max_retries is no number")
        for table, name in document["letters"]:
            if not isinstance(table, str):
                raise TypeError("the name of a table is no text")
            check_name(name, what="the id of a dead letter", where=retried)
    failed: set[str] = set()
    box.keep(_noted(staged, failed), max_retries=document["max_retries"])
    box.done((table, name) for table, name in document["letters"] if name not in failed)


def _noted(letters: Iterable[DeadLetter], ids: set[str]) -> Iterator[DeadLetter]:
    for each in letters:
        ids.add(each.id)
        yield each


class _WriteOneFile(beam.PTransform):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def expand(self, lines: Any) -> Any:
        # One more element, so that there is a group, and a file, also if there are no lines.
        create = beam.Create([_NO_LINE], reshuffle=False).with_output_types(bytes)
        last = lines.pipeline | "Last" >> create
        return (
            (lines, last)
            | "AndLast" >> beam.Flatten()
            | "OneGroup" >> beam.Map(_in_one_group).with_output_types(tuple[str, bytes])
            | "Gather" >> beam.GroupByKey()
            | "Write" >> beam.Map(_write_lines, path=self._path)
        )


def _report_line(report: Report) -> bytes:
    return ReportCoder().encode(report) + b"\n"


def _piece_folder(path: str) -> str:
    return path.removesuffix(".jsonl")


def _piece_of(path: str, line: bytes) -> tuple[str, int]:
    """Path of a piece, and how many letters it has."""
    with damage_told("the list of a round's dead letters", where=path, hint=_RESTORE):
        piece = typed_fields(_Piece, parse_object(line))
        name = check_name(piece.piece, what="the name of a piece of dead letters", where=path)
    return filesystem.join(_piece_folder(path), name), piece.letters


@dataclasses.dataclass(frozen=True)
class _Piece:
    """A line of that list: the name of a piece, and how many letters it has."""

    piece: str
    letters: int


def _in_one_group(line: bytes) -> tuple[str, bytes]:
    return "all", line


def _write_lines(group: tuple[str, Iterable[bytes]], path: str) -> None:
    lines = sorted(line for line in group[1] if line != _NO_LINE)
    end = _END + b"%d}}\n" % len(lines)
    filesystem.write_atomic(path, b"".join([*lines, end]), StateError)


def _lines_of(path: str) -> Iterator[bytes]:
    with filesystem.open_for_reading(path, StateError) as file:
        yield from file


def _whole(lines: Iterable[bytes], what: str, path: str) -> Iterator[bytes]:
    """The lines of a file but for its end.

    Raises:
        StateError: The file has no end, or has another number of lines than that says.
    """
    count, end = 0, None
    for line in lines:
        if end is not None:
            raise _lost(what, path, "something after the end")
        if not line.endswith(b"\n"):
            raise _lost(what, path, "half a line")
        if line.startswith(_END):
            end = line
        else:
            count += 1
            yield line
    if end != _END + b"%d}}\n" % count:
        raise _lost(what, path, f"{count} lines and {'no end' if end is None else repr(end)}")


def _lost(what: str, path: str, found: str | None) -> StateError:
    return StateError(
        f"the {what} of the round did not arrive whole: without them nothing may be committed",
        where=path,
        expected="a file whose last line says how many there are",
        found="none" if found is None else found,
        hint="Name a --state_dir that every worker sees, such as one in an object store, then run "
        "again: the round is repeated",
    )
