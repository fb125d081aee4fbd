# SPDX-License-Identifier: Apache-2.0
"""What an export sees of a table's history: a blurred moment, or the net of a window.

A full export at T surely holds the writes before T - fuzz, surely none after T + fuzz, and of
those in between, for each key on its own, the first few in order. An incremental export holds one
net change per key: what was inserted and deleted inside the window is not in it at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from dynabeam.transforms.testing.export_layout import seeded
from dynabeam.transforms.testing.export_lines import Item, NetChange

__all__ = ["HistoricTable", "HistoricWrite", "fuzzy_items", "net_changes"]

_MICROSECOND = timedelta(microseconds=1)


class HistoricWrite(Protocol):
    """One write of one key, as a table remembers it."""

    @property
    def keys(self) -> Item:
        """The primary key's attributes."""

    @property
    def old(self) -> Item | None:
        """The item before the write; None if there was none."""

    @property
    def new(self) -> Item | None:
        """The item after the write; None if it was deleted."""

    @property
    def micros(self) -> int:
        """When, in microseconds since the epoch."""


class HistoricTable(Protocol):
    """What an export needs from a table; it must stay readable after the table is deleted."""

    @property
    def name(self) -> str:
        """The table's name."""

    @property
    def arn(self) -> str:
        """The table's ARN."""

    @property
    def table_id(self) -> str:
        """The table's UUID."""

    @property
    def key_schema(self) -> Sequence[tuple[str, str]]:
        """Name and type of the key attributes, partition key first."""

    @property
    def created_at(self) -> datetime:
        """When the table was created."""

    def items_at(self, moment: datetime) -> Iterable[Item]:
        """All items as of a moment."""

    def changes(self, begin: datetime, end: datetime) -> Iterable[HistoricWrite]:
        """Writes with `begin <= time < end`, in the order in which they happened."""


def net_changes(writes: Iterable[HistoricWrite]) -> list[NetChange]:
    """Compacts a window's writes to one net change per key, in order of first write.

    A key that is absent before and after yields nothing. A key that was deleted and written again
    is an update. Images may be equal, if the item changed and changed back.
    """
    first: dict[Any, HistoricWrite] = {}
    last: dict[Any, HistoricWrite] = {}
    for write in writes:
        identity = _identity(write.keys)
        first.setdefault(identity, write)
        last[identity] = write
    return [
        NetChange(
            keys=began.keys,
            write_micros=last[identity].micros,
            old_image=began.old,
            new_image=last[identity].new,
        )
        for identity, began in first.items()
        if began.old is not None or last[identity].new is not None
    ]


def fuzzy_items(
    table: HistoricTable,
    moment: datetime,
    *,
    fuzz: timedelta,
    until: datetime,
    seed: object,
) -> list[Item]:
    """Returns the items of a full export whose cut-off differs from key to key.

    Args:
        table: The exported table.
        moment: The export's time.
        fuzz: How far off each key's cut-off may be, to both sides; zero makes it exact.
        until: When the export ended: no write after it can be in.
        seed: Decides each key's cut-off; equal seeds and histories give equal items.
    """
    if not fuzz:
        return list(table.items_at(moment))
    begin = moment - fuzz
    names = [name for name, _ in table.key_schema]
    states: dict[Any, Item | None] = {
        _identity({name: item[name] for name in names}): item for item in table.items_at(begin)
    }
    doubtful: dict[Any, list[HistoricWrite]] = {}
    for write in table.changes(begin, min(moment + fuzz, until) + _MICROSECOND):
        doubtful.setdefault(_identity(write.keys), []).append(write)
    for identity, writes in doubtful.items():
        seen = seeded(seed, identity).randint(0, len(writes))
        if seen:
            states[identity] = writes[seen - 1].new
    return [item for item in states.values() if item is not None]


def _identity(keys: Item) -> tuple[tuple[str, str, str], ...]:
    """A key as a value to compare; the simulated table keeps each number in one spelling."""
    return tuple(
        sorted((name, tag, text) for name, value in keys.items() for tag, text in value.items())
    )
