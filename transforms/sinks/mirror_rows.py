# SPDX-License-Identifier: Apache-2.0
"""The rows of mirrors: how they are gathered, what they lack, the columns beside the item's.

Blocks gather per table and are merged piece by piece, so that neither memory nor a transaction
grows with the round. What a merge is, each mirror knows.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.model.table import Table

__all__ = [
    "KEY",
    "GatheredRows",
    "Merged",
    "SqlTypes",
    "refuse_missing_images",
    "refuse_other_form",
    "rows_of",
]

KEY = "_key"
"""The column of the canonical key, by which rows are found."""

_COLUMNS = ["key", "version", "op", "event_time", "new", "ttl"]


class Merged(NamedTuple):
    """What a merge did.

    Attributes:
        written: Rows that changed the mirror.
        unfit_numbers: Numbers that went to `_other`: the decimal type of their column is too
            narrow.
    """

    written: int
    unfit_numbers: int = 0


class GatheredRows(abc.ABC):
    """Gathers blocks per table and merges them piece by piece.

    Args:
        sink: The sink for people.
        piece_bytes: Rows are merged once this many bytes of them have gathered.

    Attributes:
        refused: A report of kind `refused` for each row that was left out.
        newest_us: Table → time of the newest change of a stream, microseconds since 1970, for a
            sink that reports it.
    """

    def __init__(self, sink: str, piece_bytes: int) -> None:
        self.refused: list[Report] = []
        self.newest_us: dict[str, int] = {}
        self._sink = sink
        self._piece_bytes = piece_bytes
        self._waiting: dict[Table, list[Block]] = {}
        self._bytes: dict[Table, int] = {}
        self._counts: dict[str, dict[str, int]] = {}

    def add(self, block: Block) -> None:
        """Takes one block that has rows; merges what has gathered most if enough is gathered."""
        table = block.header.table
        self._waiting.setdefault(table, []).append(block)
        self._bytes[table] = self._bytes.get(table, 0) + block.rows.nbytes
        while sum(self._bytes.values()) >= self._piece_bytes:
            self._merge(max(self._bytes, key=lambda each: self._bytes[each]))

    def finish(self) -> list[Report]:
        """Merges what is left.

        Returns:
            A report of kind `sink` per table (fields: `Sink.write`; `stale` are rows that lost
            against a higher version, stored or gathered too), and `refused`.

        Raises:
            SinkError: The mirror cannot be written.
        """
        for table in list(self._waiting):
            self._merge(table)
        reports = []
        for name, fields in sorted(self._counts.items()):
            if name in self.newest_us:
                fields["newest_event_us"] = self.newest_us[name]
            reports.append(Report("sink", name, {"sink": self._sink, **fields}))
        return [*reports, *self.refused]

    @abc.abstractmethod
    def merge(self, table: Table, blocks: Sequence[Block]) -> Merged:
        """Merges blocks of one table; reports rows that it leaves out in `refused`."""

    def _merge(self, table: Table) -> None:
        blocks, before = self._waiting.pop(table), len(self.refused)
        del self._bytes[table]
        merged = self.merge(table, blocks)
        rows = sum(each.rows.num_rows for each in blocks)
        counts = self._counts.setdefault(table.name, {"rows": 0, "written": 0, "stale": 0})
        counts["rows"] += rows
        counts["written"] += merged.written
        counts["stale"] += rows - merged.written - (len(self.refused) - before)
        if merged.unfit_numbers:
            counts["unfit_numbers"] = counts.get("unfit_numbers", 0) + merged.unfit_numbers


def rows_of(blocks: Sequence[Block]) -> pa.RecordBatch:
    """The rows of blocks, with the columns that a mirror takes."""
    batches = [each.rows.select(_COLUMNS) for each in blocks]
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def refuse_missing_images(rows: pa.RecordBatch, where: str) -> None:
    """Checks that each row that is no delete has its new image.

    Raises:
        SinkError: If one has none.
    """
    lacking = pc.and_(pc.is_null(rows.column("new")), pc.not_equal(rows.column("op"), "d"))
    if pc.any(lacking).as_py():
        raise SinkError(
            "a change that is no delete has no new image, which a mirror needs",
            where=where,
            found=rows.filter(lacking).column("key")[0].as_py(),
            hint="Set the stream's view type to NEW_AND_OLD_IMAGES or NEW_IMAGE",
        )


def refuse_other_form(forms: Mapping[str, tuple[str, str]], where: str, new: str) -> None:
    """Checks that a mirror holds a table as it is to be written.

    Args:
        forms: What is compared → as it is to be written, as it is held.
        where: The table, for errors.
        new: What a new mirror is made in.

    Raises:
        SinkError: If something differs.
    """
    for what, (expected, found) in forms.items():
        if expected != found:
            raise SinkError(
                f"the mirror holds this table with another {what}",
                where=where,
                expected=expected,
                found=found,
                hint=f"Mirror it to a new {new}, with a new state directory",
            )


@dataclasses.dataclass(frozen=True)
class SqlTypes:
    """A database's types of columns, by what DynamoDB calls them; a set is an array of them."""

    text: str
    number: str
    binary: str
    boolean: str
    json: str

    def of(self, tag: str) -> str:
        """The type of an attribute's column."""
        if tag in ("SS", "NS", "BS"):
            return f"{self.of(tag[0])}[]"
        known = {"N": self.number, "B": self.binary, "BOOL": self.boolean}
        return known.get(tag, self.json if tag in ("L", "M") else self.text)
