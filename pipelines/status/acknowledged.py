# SPDX-License-Identifier: Apache-2.0
"""The losses that somebody has acknowledged: `acknowledged.json` of a state directory.

Changes that are lost under `--gaps=continue` are lost for good, and status says so until a person
says that they know (`dynabeam status --acknowledge`). The file says how many of a table's gaps that
were; those that are found later are reported. No run reads it, so it may be written beside one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from dynabeam.transforms.errors import StateError
from dynabeam.transforms.runtime.stored_format import DocumentFormat
from dynabeam.transforms.state.state_directory import StateDirectory
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.storage.versioned_file import VersionedFile

__all__ = ["acknowledge", "read_acknowledged"]


@dataclasses.dataclass(frozen=True)
class _Acknowledged:
    """The document: table → how many of its gaps are acknowledged."""

    tables: dict[str, int]


_FILE = VersionedFile(
    _Acknowledged,
    DocumentFormat(
        "the list of acknowledged losses", hint="Delete the file and acknowledge them again"
    ),
)


def read_acknowledged(directory: StateDirectory) -> dict[str, int]:
    """Table → how many of its gaps are acknowledged.

    Raises:
        StateError: The file is damaged, or of a newer version.
    """
    found = _FILE.find(_path(directory))
    return found.tables if found else {}


def acknowledge(directory: StateDirectory, gaps: Mapping[str, int]) -> None:
    """Writes down that somebody knows of the gaps that there are.

    Args:
        directory: The state directory.
        gaps: Table → how many gaps it has.

    Raises:
        StateError: The file cannot be written.
    """
    known = read_acknowledged(directory)
    tables = {name: max(count, known.get(name, 0)) for name, count in gaps.items()}
    text = json.dumps(_FILE.format.dump({"tables": {**known, **tables}}), sort_keys=True)
    filesystem.write_atomic(_path(directory), text.encode(), StateError)


def _path(directory: StateDirectory) -> str:
    return filesystem.join(directory.path, "acknowledged.json")
