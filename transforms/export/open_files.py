# SPDX-License-Identifier: Apache-2.0
"""Data files that are read in several pieces, kept open between the pieces.

A file that is larger than a round is read by several rounds. Whoever reads its next piece in the
same process finds it as the last one left it: fetched, verified, and inflated up to there. So each
byte of it is downloaded once and inflated once. A process that has none (it was restarted, the
piece before failed, another worker read it) fetches the file again and passes over what is loaded.

What is kept is a temporary file without a name, which the system removes with the process, however
that ends. Kept are at most `MOST` files, the ones used last; a file that was read to its end, or
failed, is not. Memory for each: some three pieces of `transforms.export.inflate`. Disk: its
compressed bytes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TypeAlias

from dynabeam.transforms.export.fetch import FetchedFile, fetched
from dynabeam.transforms.export.inflate import LinesReader
from dynabeam.transforms.export.manifest import DataFile, Verify

__all__ = ["MOST", "OpenFile", "OpenFiles"]

MOST = 2
"""How many files are kept open: rounds cut one at a time, a second one may be left over."""

_Name: TypeAlias = "tuple[str, str, Verify]"
Check: TypeAlias = Callable[[FetchedFile], "list[str]"]


class OpenFile:
    """A data file between two pieces.

    Args:
        file: The file.
        verify: What a checksum or count that does not agree is.
        start_line: Lines to pass over.
        max_bytes: Limit of the first piece in uncompressed bytes; 0 for none.
        check: Looks at the fetched file before it is read, and leaves it at its start; returns
            warnings.

    Raises:
        ExportIntegrityError: It is missing, may not be read, or has another MD5.
    """

    def __init__(
        self,
        file: DataFile,
        verify: Verify,
        *,
        start_line: int,
        max_bytes: int,
        check: Check = lambda _: [],
    ) -> None:
        self.name: _Name = (file.path, file.md5, verify)
        with contextlib.ExitStack() as stack:
            content = stack.enter_context(fetched(file, verify=verify))
            self.warnings = [*content.warnings, *check(content)]
            """What did not agree, if that was allowed."""
            self.reader = LinesReader(
                content.content, file.path, start_line=start_line, max_bytes=max_bytes
            )
            stack.callback(self.reader.close)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Ends the reading and gives the disk back."""
        self._stack.close()


class OpenFiles:
    """The files of a process; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[_Name, OpenFile] = {}

    def take(
        self,
        file: DataFile,
        verify: Verify,
        *,
        start_line: int,
        max_bytes: int,
        check: Check = lambda _: [],
    ) -> OpenFile:
        """The file as it was kept at this line, or opened again; see `OpenFile`."""
        with self._lock:
            kept = self._kept.pop((file.path, file.md5, verify), None)
        if kept is not None and kept.reader.lines == start_line:
            kept.reader.go_on(max_bytes)
            return kept
        if kept is not None:
            kept.close()
        return OpenFile(file, verify, start_line=start_line, max_bytes=max_bytes, check=check)

    def keep(self, file: OpenFile) -> None:
        """Keeps a file whose piece was read, unless that was the last one."""
        if file.reader.at_end:
            file.close()
            return
        with self._lock:
            before = self._kept.pop(file.name, None)
            self._kept[file.name] = file
            oldest = next(iter(self._kept.values())) if len(self._kept) > MOST else None
            if oldest is not None:
                del self._kept[oldest.name]
        for each in (before, oldest):
            if each is not None:
                each.close()

    def close(self) -> None:
        """Closes all of them."""
        with self._lock:
            kept, self._kept = list(self._kept.values()), {}
        for each in kept:
            each.close()
