# SPDX-License-Identifier: Apache-2.0
"""The chain of changes of each key: does every change begin where the one before ended?

A link is a change as version, digest of the image after it (empty for no item) and time. Of each
key the newest link is kept, within a budget, those that changed longest ago are forgotten first.
Rows may come late or again. So a row that does not fit is not a break yet: it opens a window, in
which all rows of its key are gathered until nothing older can arrive; only then they are put in
order and walked.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from dynabeam.transforms.model.version import GENERATION_DIGITS
from dynabeam.transforms.runtime.arrow_ipc import encode_stream, open_stream

__all__ = ["SLACK_US", "Break", "ChainMemory", "Link", "Row"]

SLACK_US = 1_000_000
"""A row's time is known to the second."""

RUN_SCHEMA = pa.schema(
    [
        ("key", pa.binary()),
        ("version", pa.binary()),
        ("digest", pa.binary()),
        ("event_us", pa.int64()),
    ]
)


class Link(NamedTuple):
    """The newest change known of a key."""

    version: bytes
    digest: bytes
    event_us: int


class Row(NamedTuple):
    """A change with the digests of both images, empty for no item."""

    version: bytes
    old: bytes
    new: bytes
    event_us: int

    @property
    def link(self) -> Link:
        """What is known of the key after it."""
        return Link(self.version, self.new, self.event_us)


class Break(NamedTuple):
    """A change that does not begin where the one before ended."""

    key: bytes
    before: Link
    after: Row


@dataclasses.dataclass
class _Window:
    base: Link
    rows: list[Row]


class ChainMemory:
    """The links of one table and bucket.

    Args:
        budget: Keys that are remembered at most.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._known: dict[bytes, Link] = {}
        self._windows: dict[bytes, _Window] = {}

    @property
    def windows(self) -> int:
        """How many keys have rows that wait to be judged."""
        return len(self._windows)

    def add(self, key: bytes, row: Row) -> bool:
        """Takes a row; true if it is the newest of its key."""
        last = self._known.get(key)
        window = self._windows.get(key)
        if last is not None and row.version <= last.version:
            # Again, or late; only a window can have missed it.
            if window is not None and row.version > window.base.version:
                window.rows.append(row)
            return False
        if last is not None and _generation(last) == _generation(row):
            if window is None and row.old != last.digest:
                window = self._windows[key] = _Window(last, [])
            if window is not None:
                window.rows.append(row)
        self._remember(key, row.link)
        return True

    def next_due_us(self) -> int | None:
        """The time at which the next rows can be judged; None if none wait."""
        times = [row.event_us for each in self._windows.values() for row in each.rows]
        return min(times) + SLACK_US if times else None

    def breaks(self, passed_us: int) -> Iterator[Break]:
        """Judges the rows of which nothing older can arrive any more, and forgets them.

        Args:
            passed_us: The watermark.
        """
        for key, window in list(self._windows.items()):
            before = window.base
            later: list[Row] = []
            # A row that came again is the same row.
            for row in sorted({each.version: each for each in window.rows}.values()):
                if row.event_us + SLACK_US > passed_us or later:
                    later.append(row)
                    continue
                if row.old != before.digest and _generation(row) == _generation(before):
                    yield Break(key, before, row)
                before = row.link
            if later:
                self._windows[key] = _Window(before, later)
            else:
                del self._windows[key]

    # What the runner keeps.

    def encode_links(self, keys: list[bytes] | None = None) -> bytes:
        """Links as an Arrow stream: of some keys, or all."""
        names = self._known if keys is None else [each for each in keys if each in self._known]
        links = [(name, *self._known[name]) for name in names]
        arrays = [
            pa.array([link[place] for link in links], field.type)
            for place, field in enumerate(RUN_SCHEMA)
        ]
        return encode_stream(pa.record_batch(arrays, schema=RUN_SCHEMA), RUN_SCHEMA)

    def load_links(self, stream: bytes) -> None:
        """Reads what `encode_links` wrote; the runs may come in any order, as bags have none.

        Of each key the newest link counts. `forget_oldest` is to be called behind the last run.
        """
        with open_stream(stream) as reader:
            columns = [each.to_pylist() for each in reader.read_next_batch().columns]
        for key, *values in zip(*columns, strict=True):
            link = Link(*values)
            standing = self._known.get(key)
            if standing is None or standing.version < link.version:
                self._known[key] = link

    def forget_oldest(self) -> None:
        """Keeps as many keys as are remembered: those whose newest change is the latest."""
        self._known = dict(sorted(self._known.items(), key=_changed)[-self._budget :])

    def encode_windows(self) -> bytes:
        """The rows that wait, as JSON; empty if none do."""
        if not self._windows:
            return b""
        document = [
            [key.hex(), _texts(window.base), [_texts(row) for row in window.rows]]
            for key, window in self._windows.items()
        ]
        return json.dumps(document, separators=(",", ":")).encode()

    def load_windows(self, encoded: bytes) -> None:
        """Reads what `encode_windows` wrote."""
        for key, base, rows in json.loads(encoded) if encoded else ():
            window = _Window(_link(base), [_row(row) for row in rows])
            self._windows[bytes.fromhex(key)] = window

    def _remember(self, key: bytes, link: Link) -> None:
        self._known.pop(key, None)
        self._known[key] = link
        while len(self._known) > self._budget:
            del self._known[next(iter(self._known))]


def _changed(entry: tuple[bytes, Link]) -> tuple[int, bytes]:
    """What orders keys by when they changed; the same whoever sorts them."""
    key, link = entry
    return link.event_us, key


def _generation(row: Link | Row) -> bytes:
    return row.version[:GENERATION_DIGITS]


def _texts(values: Link | Row) -> list[str | int]:
    return [each.hex() if isinstance(each, bytes) else each for each in values]


def _link(texts: list[Any]) -> Link:
    version, digest, event_us = texts
    return Link(bytes.fromhex(version), bytes.fromhex(digest), event_us)


def _row(texts: list[Any]) -> Row:
    version, old, new, event_us = texts
    return Row(bytes.fromhex(version), bytes.fromhex(old), bytes.fromhex(new), event_us)
