# SPDX-License-Identifier: Apache-2.0
"""Orders of new snapshots: one small file a table in the state directory, `requests/<table>.json`.

`dynabeam snapshot` writes it, and whoever replicates the table (the next round, or the run that
never ends) takes it up, remembers its id with the table, and only then removes it: so an order is
carried out once, whenever a process dies. Before that it can be cancelled.
"""

from __future__ import annotations

import dataclasses
import json
from urllib.parse import quote

from transforms import storage
from transforms.errors import StateError
from transforms.stored_format import read_document

__all__ = ["SnapshotOrder", "SnapshotOrders"]

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class SnapshotOrder:
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


class SnapshotOrders:
    """The orders of a state directory.

    Args:
        state_dir: Path of the state directory.
    """

    def __init__(self, state_dir: str) -> None:
        self._folder = storage.join(state_dir, "requests")

    def give(self, order: SnapshotOrder) -> None:
        """Writes an order; a second one for a table takes the place of the first."""
        document = {"format": FORMAT, **dataclasses.asdict(order)}
        content = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
        storage.write_atomic(self._path(order.table), content, StateError)

    def pending(self, table: str) -> SnapshotOrder | None:
        """The order of a table that was not taken up yet.

        Raises:
            StateError: It is damaged or of an unknown format.
        """
        path = self._path(table)
        if not storage.exists(path):
            return None
        what, mend = "the order of a snapshot", "Remove the file and order the snapshot again"
        fields = [each.name for each in dataclasses.fields(SnapshotOrder)]
        document = read_document(
            storage.read_bytes(path, StateError),
            fields,
            known=FORMAT,
            what=what,
            where=path,
            mend=mend,
        )
        try:
            return SnapshotOrder(**document)
        except TypeError as problem:
            raise StateError(f"{what} is damaged: {problem!r}", where=path, mend=mend) from problem

    def remove(self, table: str) -> bool:
        """Removes the order of a table; False if there is none."""
        path = self._path(table)
        if not storage.exists(path):
            return False
        storage.delete([path], StateError)
        return True

    def _path(self, table: str) -> str:
        return storage.join(self._folder, f"{quote(table, safe='')}.json")
