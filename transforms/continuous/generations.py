# SPDX-License-Identifier: Apache-2.0
"""The generations of the tables of a run that never ends, one small file a table.

The command line writes the first one. Then only the step behind the sinks does
(`transforms.continuous.repairs`), one writer a table; readers look at it at the start of a slice.
A generation in a file never goes down.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Mapping
from typing import Any, Literal

from dynabeam.transforms.continuous.control_folder import ControlFolder
from dynabeam.transforms.runtime.stored_format import DocumentFormat
from dynabeam.transforms.storage.versioned_file import VersionedFile
from dynabeam.transforms.stream.reader_spec import LatestGeneration

__all__ = ["CACHED_SECONDS", "FolderGenerations", "TableGeneration", "read_generation"]

CACHED_SECONDS = 3.0
"""How long readers of one process believe what one of them has read."""


@dataclasses.dataclass(frozen=True)
class TableGeneration:
    """Where a table is with its generations.

    Attributes:
        generation: The generation that readers give; 0 for the one that they were assigned.
        snapshot_until_us: Up to when rows of a pending export may arrive, event time.
        step: `settled`, or the step of a repair: `switching` (readers adopt the generation),
            `loading` (exports are requested and loaded), `sweeping` (mirrors are swept).
        policy: `heal` or `resnapshot`: what is done in a step of a repair; empty while settled.
        since_us: While a repair is under way: since when changes are lost, 0 if not known.
        lost_in: The lowest generation whose gaps the repair closes.
        plan: `transforms.state.repair_plan.Repair` as JSON once it is made, else None.
        snapshot_us: The moment that the snapshot shows which was loaded before the run, 0 for none.
        asked: The last order of a new snapshot that was begun; empty for none.
        key_range: Until there is a plan: the range of keys that it is of, empty for all.
        ended: The last repair that ended: `generation`, `kind`, `rows`, `swept`; and `repaired`,
            generation and `since_us` of all that have ended (`transforms.state.gap_events`); None
            for none.
        table_id: The id of the table when the run began; empty if nobody said.
    """

    generation: int = 0
    snapshot_until_us: int = 0
    step: Literal["settled", "switching", "loading", "sweeping"] = "settled"
    policy: str = ""
    since_us: int = 0
    lost_in: int = 0
    plan: Mapping[str, Any] | None = None
    snapshot_us: int = 0
    asked: str = ""
    key_range: str = ""
    ended: Mapping[str, Any] | None = None
    table_id: str = ""

    def write(self, folder: ControlFolder, table: str) -> None:
        """Replaces the file of a table."""
        _FILE.write(folder.generation_file(table), self)


_FILE = VersionedFile(
    TableGeneration,
    DocumentFormat(
        "the file of a table's generation",
        hint="Restore it from a copy, or take over with catch-up rounds",
    ),
)


def read_generation(folder: ControlFolder, table: str) -> TableGeneration:
    """The file of a table; one that says nothing if there is none.

    Raises:
        StateError: It cannot be read, or is of an unknown format.
    """
    return _FILE.find(folder.generation_file(table)) or TableGeneration()


class FolderGenerations:
    """What readers know, from the deployment's folder; see `transforms.stream.reader_spec`.

    Args:
        folder: The deployment's folder.
    """

    def __init__(self, folder: str) -> None:
        self._folder = ControlFolder(folder)

    def lookup(self, table: str, *, fresh: bool) -> LatestGeneration:
        """See `Generations.known`."""
        key = self._folder.path, table
        now = time.monotonic()
        with _lock:
            at, found = _cache.get(key, (0.0, _NOTHING))
        if key in _cache and not fresh and now - at < CACHED_SECONDS:
            return found
        read = read_generation(self._folder, table)
        known = LatestGeneration(read.generation, read.snapshot_until_us)
        with _lock:
            _cache[key] = now, known
        return known


_NOTHING = LatestGeneration(0, 0)
_lock = threading.Lock()
_cache: dict[tuple[str, str], tuple[float, LatestGeneration]] = {}
