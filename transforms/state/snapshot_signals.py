# SPDX-License-Identifier: Apache-2.0
"""Orders of new snapshots: small files in the state directory, `requests/<table>/<order>.json`.

`dynabeam snapshot` writes one, and whoever replicates the table (the next round, or the run that
never ends) takes it up, remembers its id with the table, and only then removes it: so an order is
carried out once, whenever a process dies. Before that it can be cancelled.

Each order is a file of its own, named by time and id. So whoever removes one that was taken up can
never remove one that was given meanwhile.
"""

from __future__ import annotations

import dataclasses
from urllib.parse import quote

from dynabeam.transforms.errors import StateError
from dynabeam.transforms.runtime.stored_format import DocumentFormat
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.storage.versioned_file import VersionedFile

__all__ = ["SnapshotSignal", "SnapshotSignals"]


@dataclasses.dataclass(frozen=True)
class SnapshotSignal:
    """An order.

    Attributes:
        table: The table.
        order_id: Unique.
        at_us: When it was given, microseconds since 1970.
        key_range: The range of keys that is meant; empty for the whole table.
    """

    table: str
    order_id: str
    at_us: int
    key_range: str = ""


_FILE = VersionedFile(
    SnapshotSignal,
    DocumentFormat("the order of a snapshot", hint="Remove the file and order the snapshot again"),
)


class SnapshotSignals:
    """The orders of a state directory.

    Args:
        state_dir: Path of the state directory.
    """

    def __init__(self, state_dir: str) -> None:
        self._folder = filesystem.join(state_dir, "requests")

    def give(self, order: SnapshotSignal) -> None:
        """Writes an order; of several for a table only the newest counts."""
        name = f"{order.at_us:020d}-{quote(order.order_id, safe='')}.json"
        _FILE.write(filesystem.join(self._of(order.table), name), order)

    def pending(self, table: str) -> SnapshotSignal | None:
        """The newest order of a table that was not taken up yet.

        Raises:
            StateError: It is damaged or of an unknown format.
        """
        paths = self._paths(table)
        return _FILE.read(paths[-1]) if paths else None

    def remove(self, table: str, order_id: str) -> bool:
        """Removes an order that was taken up, and those that it took the place of.

        Args:
            table: The table.
            order_id: The order; newer ones stay.

        Returns:
            False if it is not there.
        """
        paths = self._paths(table)
        ids = [_FILE.read(path).order_id for path in paths]
        if order_id not in ids:
            return False
        # The newest goes last: a crash in between leaves none that it has taken the place of.
        filesystem.delete(paths[: ids.index(order_id) + 1], StateError)
        return True

    def cancel(self, table: str) -> bool:
        """Removes all orders of a table; False if there is none."""
        paths = self._paths(table)
        filesystem.delete(paths, StateError)
        return bool(paths)

    def _of(self, table: str) -> str:
        return filesystem.join(self._folder, quote(table, safe=""))

    def _paths(self, table: str) -> list[str]:
        """The orders of a table, oldest first."""
        below = filesystem.join(self._of(table), "")
        # As orders were written when a table had one file:
        former = f"{self._of(table)}.json"
        found = filesystem.list_files(self._folder)
        mine = [each for each in found if each.startswith(below) and each.endswith(".json")]
        return [*(each for each in found if each == former), *sorted(mine)]
