# SPDX-License-Identifier: Apache-2.0
"""The digests of an export's keys between rounds: that the key which people named is one.

Each round's are one file, `export_keys/<table and generation>/<round>.keys` in the state directory,
written before the round is committed and again if it is repeated. The round that loads an export to
its end merges them; nothing is left of them after its commit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from dynabeam.transforms.errors import StateError
from dynabeam.transforms.export.distinct import (
    count_repeated,
    read_digests,
    repeated_error,
    repeated_in,
    write_digests,
)
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.state.table_state import TableState
from dynabeam.transforms.storage import filesystem

__all__ = ["ExportKeys"]

_FOLDER = "export_keys"


class ExportKeys:
    """The digests that a state directory keeps.

    Args:
        path: The state directory.
    """

    def __init__(self, path: str) -> None:
        self._path = filesystem.join(path, _FOLDER)
        self._taken: set[str] = set()

    def take(
        self, tables: Mapping[str, TableState], reports: Iterable[Report], number: int
    ) -> None:
        """Takes those of a round that is to be committed, and looks for keys that are there again.

        Args:
            tables: The states after the round.
            reports: The round's; those of kind `file` name the digests.
            number: The round.

        Raises:
            ExportIntegrityError: An export holds a key more than once.
            StateError: The digests cannot be read or written.
        """
        left: dict[str, list[str]] = {}
        for report in reports:
            if report.kind == "file" and "digests" in report.fields:
                left.setdefault(report.table, []).append(report.fields["digests"])
        self._taken = set(left)
        for name, paths in left.items():
            state = tables[name]
            folder, table, manifest = self._folder(state), state.table, state.snapshot.manifest
            location = manifest.location if manifest else ""
            path = write_digests(folder, list(map(read_digests, paths)), f"{number:012}.keys")
            digests = read_digests(path)
            if again := repeated_in(digests):
                raise repeated_error(table, location, len(digests), len(digests) - again)
            if state.snapshot.status == "done":
                # Of this round and those before it: one that was not committed left none after it.
                every = [each for each in filesystem.list_files(folder) if each <= path]
                lines, again = count_repeated(every)
                if again:
                    raise repeated_error(table, location, lines, lines - again)

    def clear(self, tables: Mapping[str, TableState]) -> None:
        """Removes those of exports that this round has loaded to their end, after its commit."""
        for state in (tables[name] for name in self._taken):
            if state.snapshot.status == "done":
                filesystem.delete(filesystem.list_files(self._folder(state)), StateError)

    def _folder(self, state: TableState) -> str:
        name = f"{state.name}/{state.snapshot.generation}"
        return filesystem.join(self._path, hashlib.sha256(name.encode()).hexdigest()[:32])
