# SPDX-License-Identifier: Apache-2.0
"""The chain of changes of each key: does every change begin where the one before ended?

A link is a change as version, digest of the image after it (empty for no item) and time. Of each
key the newest link is known, and a row that does not begin with its digest does not fit. Rows may
arrive late or repeatedly, so that is not a break yet: it opens a window, in which all rows of its
key are gathered until nothing older can arrive; only then they are sorted and compared.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from dynabeam.transforms.model.version import GENERATION_DIGITS
from dynabeam.transforms.runtime.arrow_ipc import encode_stream, open_stream
from dynabeam.transforms.runtime.keyed_memory import RunFormat

__all__ = ["LINK_RUNS", "SLACK_US", "Break", "ChainWindows", "Link", "Row"]

SLACK_US = 1_000_000
"""A row's time is known to the second."""

_LINK_BYTES = 330
"""What a link takes in memory, with its places in dicts and beside the bytes of its key."""

_RUN_SCHEMA = pa.schema(
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


class ChainWindows:
    """The windows of one table and bucket: the rows that wait until they can be judged."""

    def __init__(self) -> None:
        self._windows: dict[bytes, _Window] = {}

    def __len__(self) -> int:
        """How many keys have rows that wait."""
        return len(self._windows)

    def add(self, key: bytes, row: Row, last: Link | None) -> bool:
        """Compares a row with what is known of its key.

        Args:
            key: Its key.
            row: The row.
            last: The newest link of the key; None if none is known.

        Returns:
            True if the row is newer, so that its link is to be known from now on.
        """
        window = self._windows.get(key)
        if last is not None and row.version <= last.version:
            # Repeated, or late; only a window can have missed it.
            if window is not None and row.version > window.base.version:
                window.rows.append(row)
            return False
        if last is not None and _generation(last) == _generation(row):
            if window is None and row.old != last.digest:
                window = self._windows[key] = _Window(last, [])
            if window is not None:
                window.rows.append(row)
        return True

    def next_due_us(self) -> int | None:
        """The time at which the next rows can be judged; None if none wait."""
        times = [row.event_us for each in self._windows.values() for row in each.rows]
        return min(times) + SLACK_US if times else None

    def breaks(self, passed_us: int) -> Iterator[Break]:
        """Judges the rows before which nothing can arrive any more, and forgets them.

        Args:
            passed_us: The watermark.
        """
        for key, window in list(self._windows.items()):
            before = window.base
            later: list[Row] = []
            # A row that was repeated is the same row.
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

    def encode(self) -> bytes:
        """The rows that wait, as JSON; empty if none do."""
        if not self._windows:
            return b""
        document = [
            [key.hex(), _texts(window.base), [_texts(row) for row in window.rows]]
            for key, window in self._windows.items()
        ]
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, encoded: bytes) -> ChainWindows:
        """The reverse of `encode`."""
        windows = cls()
        for key, base, rows in json.loads(encoded) if encoded else ():
            window = _Window(_link(base), [_row(row) for row in rows])
            windows._windows[bytes.fromhex(key)] = window
        return windows


def _encode_links(links: Mapping[bytes, Link]) -> bytes:
    """Key → link, as a run: an Arrow stream."""
    rows = [(key, *link) for key, link in links.items()]
    arrays = [
        pa.array([row[place] for row in rows], field.type)
        for place, field in enumerate(_RUN_SCHEMA)
    ]
    return encode_stream(pa.record_batch(arrays, schema=_RUN_SCHEMA), _RUN_SCHEMA)


def _decode_links(run: bytes) -> Iterable[tuple[bytes, Link]]:
    """The reverse of `_encode_links`."""
    with open_stream(run) as reader:
        columns = [each.to_pylist() for each in reader.read_next_batch().columns]
    for key, *values in zip(*columns, strict=True):
        yield key, Link(*values)


def _is_newer(link: Link, known: Link) -> bool:
    """True if the first link replaces the second."""
    return link.version > known.version


def _changed_at(entry: tuple[bytes, Link]) -> tuple[int, bytes]:
    """Orders keys by when they changed; the same on every worker."""
    key, link = entry
    return link.event_us, key


LINK_RUNS = RunFormat(_encode_links, _decode_links, _is_newer, _LINK_BYTES, _changed_at)
"""What a bucket remembers of its keys: the newest link of each."""


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
