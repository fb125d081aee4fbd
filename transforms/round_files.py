# SPDX-License-Identifier: Apache-2.0
"""What a catch-up round leaves for its driver beside the sinks: reports and dead letters.

Each goes into one file of the attempt's folder, written whole by one grouped element. The driver
reads them only after the whole pipeline has succeeded, so what a failed try wrote is never used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam

from transforms import storage
from transforms.dead_letters import DeadLetter
from transforms.errors import StateError
from transforms.reports import Report, ReportCoder

__all__ = ["WriteDeadLetters", "WriteReports", "read_dead_letters", "read_reports"]


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
