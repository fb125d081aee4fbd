# SPDX-License-Identifier: Apache-2.0
"""What a catch-up round leaves for its driver beside the sinks: reports and dead letters.

| file of the attempt's folder | what |
|---|---|
| `reports.jsonl` | reports |
| `dead_letters.jsonl` | dead letters |
| `retried.json` | of a round of `dynabeam retry`: ids of the letters that it put back |

Each goes into one file of the attempt's folder, written whole by one grouped element. The driver
reads them only after the whole pipeline has succeeded, so what a failed try wrote is never used.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam

from transforms import storage
from transforms.dead_letters import DeadLetter
from transforms.errors import StateError
from transforms.letter_box import LetterBox
from transforms.reports import Report, ReportCoder

__all__ = [
    "DEAD_LETTERS",
    "REPORTS",
    "RETRIED",
    "Retried",
    "WriteDeadLetters",
    "WriteReports",
    "keep_outcome",
    "read_dead_letters",
    "read_reports",
]

REPORTS = "reports.jsonl"
DEAD_LETTERS = "dead_letters.jsonl"
RETRIED = "retried.json"

_FORMAT = 1


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
        document = {
            "format": _FORMAT,
            "letters": [[each.table, each.id] for each in self.letters],
            "max_retries": self.max_retries,
        }
        storage.write_atomic(path, json.dumps(document).encode(), StateError)


class WriteReports(beam.PTransform):
    """Writes all reports of a round into one file: `PCollection[Report]` → nothing of use.

    Args:
        path: The file; absent after a round without reports.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def expand(self, reports: Any) -> Any:
        """Groups all reports and writes them."""
        return reports | "Encode" >> beam.Map(_report_line) | "File" >> _WriteOneFile(self._path)


class WriteDeadLetters(beam.PTransform):
    """Writes all dead letters of a round into one file of JSON lines.

    Args:
        path: The file; absent after a round without dead letters.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def expand(self, letters: Any) -> Any:
        """Groups all dead letters and writes them."""
        return letters | "Encode" >> beam.Map(_letter_line) | "File" >> _WriteOneFile(self._path)


def read_reports(path: str) -> Iterator[Report]:
    """Reads what `WriteReports` wrote; nothing if there is no such file."""
    if not storage.exists(path):
        return
    for line in storage.read_bytes(path, StateError).splitlines():
        yield ReportCoder().decode(line)


def read_dead_letters(path: str) -> Iterator[DeadLetter]:
    """Reads what `WriteDeadLetters` wrote, a line at a time; nothing if there is no such file."""
    if not storage.exists(path):
        return
    with storage.open_for_reading(path, StateError) as file:
        for line in file:
            yield DeadLetter.from_line(line)


def keep_outcome(box: LetterBox, staged: Sequence[DeadLetter], retried: str) -> None:
    """Stores what a round could not handle, and sets aside what it put back; may be repeated.

    Args:
        box: Where letters stay.
        staged: The round's dead letters.
        retried: Path of what `Retried.write` wrote, which ordinary rounds do not have.
    """
    if not storage.exists(retried):
        box.keep(staged)
        return
    document = json.loads(storage.read_bytes(retried, StateError))
    box.keep(staged, max_retries=document["max_retries"])
    failed = {each.id for each in staged}
    box.done((table, name) for table, name in document["letters"] if name not in failed)


class _WriteOneFile(beam.PTransform):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def expand(self, lines: Any) -> Any:
        return (
            lines
            | "OneGroup" >> beam.Map(_in_one_group).with_output_types(tuple[str, bytes])
            | "Gather" >> beam.GroupByKey()
            | "Write" >> beam.Map(_write_lines, path=self._path)
        )


def _report_line(report: Report) -> bytes:
    return ReportCoder().encode(report) + b"\n"


def _letter_line(letter: DeadLetter) -> bytes:
    return letter.to_line()


def _in_one_group(line: bytes) -> tuple[str, bytes]:
    return "all", line


def _write_lines(group: tuple[str, Iterable[bytes]], path: str) -> None:
    storage.write_atomic(path, b"".join(sorted(group[1])), StateError)
