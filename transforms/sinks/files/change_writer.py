# SPDX-License-Identifier: Apache-2.0
"""Writers of change files: what one worker stages within one bundle.

A writer takes blocks of any tables, keeps a bounded number of files open, closes a file when it is
large enough, and hands over the list of closed files at the end. A file counts only once it is in
that list, so a bundle that fails half-way leaves nothing behind that anybody reads.

A row that no reader of the files could read is not written but becomes a dead letter, see
`transforms.sinks.unfit_images`; all others of its block are written.
"""

from __future__ import annotations

import abc
import collections
import io
import os
import uuid
from collections import Counter
from typing import Any, BinaryIO

import pyarrow as pa

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.sinks.files.change_lines import change_lines
from dynabeam.transforms.sinks.files.staging import StagedFile
from dynabeam.transforms.sinks.unfit_images import fitting, split_unfit
from dynabeam.transforms.storage import filesystem

__all__ = ["MAX_OPEN_FILES", "ChangeWriter", "LineWriter", "StagedOutput"]

MAX_OPEN_FILES = 16
"""Files that one writer keeps open; each costs a buffer, several MB in an object store."""


class StagedOutput:
    """One file being staged. Closing makes it durable on a local disk.

    Raises:
        SinkError: From any method, if the file cannot be written.
    """

    def __init__(self, folder: str, table: str, extension: str, prefix: str = "") -> None:
        self.table = table
        self.rows = 0
        self.path = filesystem.join(folder, f"{prefix}{uuid.uuid4().hex}.{extension}")
        self.file: BinaryIO = filesystem.open_for_writing(self.path, SinkError)

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self.file.tell()

    def close(self) -> StagedFile:
        """Closes the file and says what is in it."""
        size = self.size
        try:
            if filesystem.is_local(self.path):
                self.file.flush()
                os.fsync(self.file.fileno())
            self.file.close()
        except OSError as error:
            raise write_failed(self.path, error) from error
        return StagedFile(self.table, self.path, self.rows, size)


class ChangeWriter(abc.ABC):
    """Stages the changes of one bundle.

    Args:
        folder: Staging folder of the attempt.
        max_file_bytes: A file of at least this size is closed.
        place: The sink's place, which dead letters name.

    Attributes:
        refused: A report of kind `refused` for each row that was not written; whole once `finish`
            has returned.
        unfit_numbers: Table → numbers that stand in `_other` because the type of their column is
            too narrow; whole once `finish` has returned.
    """

    def __init__(self, folder: str, max_file_bytes: int, place: str = "") -> None:
        self.folder = folder
        self.max_file_bytes = max_file_bytes
        self.place = place
        self.refused: list[Report] = []
        self.unfit_numbers: Counter[str] = Counter()

    def add(self, block: Block) -> None:
        """Takes one block, but for the rows that cannot be written."""
        for fit in fitting([block], split_unfit, self.place, self.refused):
            self.add_fit(fit)

    @abc.abstractmethod
    def add_fit(self, block: Block) -> None:
        """Takes one block that has rows, all of them fit."""

    @abc.abstractmethod
    def finish(self) -> list[StagedFile]:
        """Closes every file and lists all that were written."""


class LineWriter(ChangeWriter):
    """Stages JSON lines, see `transforms.sinks.files.change_lines`.

    Args:
        folder: Staging folder of the attempt.
        max_file_bytes: A file of at least this size is closed.
        gzip: Compress the files.
        place: The sink's place, which dead letters name.
    """

    def __init__(self, folder: str, max_file_bytes: int, *, gzip: bool, place: str = "") -> None:
        super().__init__(folder, max_file_bytes, place)
        self._gzip = gzip
        self._open: collections.OrderedDict[str, _LineFile] = collections.OrderedDict()
        self._closed: list[StagedFile] = []

    def add_fit(self, block: Block) -> None:
        """Appends the lines of a block to the open file of its table."""
        table = block.header.table.name
        if table not in self._open and len(self._open) >= MAX_OPEN_FILES:
            self._close(next(iter(self._open)))
        file = self._open.get(table)
        if file is None:
            file = self._open[table] = _LineFile(self.folder, table, gzip=self._gzip)
        self._open.move_to_end(table)
        file.write(change_lines(block), block.rows.num_rows)
        if file.output.size >= self.max_file_bytes:
            self._close(table)

    def finish(self) -> list[StagedFile]:
        """Closes every file and lists all that were written."""
        while self._open:
            self._close(next(iter(self._open)))
        return self._closed

    def _close(self, table: str) -> None:
        self._closed.append(self._open.pop(table).close())


class _LineFile:
    def __init__(self, folder: str, table: str, *, gzip: bool) -> None:
        self.output = StagedOutput(folder, table, "jsonl.gz" if gzip else "jsonl")
        self._lines: Any = self.output.file
        if gzip:
            # Closing the compressor closes what it writes to; the file has to be synced first.
            self._lines = pa.CompressedOutputStream(
                pa.PythonFile(_KeptOpen(self.output.file)), "gzip"
            )

    def write(self, lines: memoryview, rows: int) -> None:
        try:
            self._lines.write(lines)
        except OSError as error:
            raise write_failed(self.output.path, error) from error
        self.output.rows += rows

    def close(self) -> StagedFile:
        if self._lines is not self.output.file:
            try:
                self._lines.close()
            except OSError as error:
                raise write_failed(self.output.path, error) from error
        return self.output.close()


class _KeptOpen(io.RawIOBase):
    """Passes writes on, but not the close."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()


def write_failed(path: str, error: OSError) -> SinkError:
    """The error of a write that the disk or the store refused."""
    return SinkError(f"the file cannot be written: {error.strerror or error}", where=path)
