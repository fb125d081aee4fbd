# SPDX-License-Identifier: Apache-2.0
"""One bucket compared: by sums, then by digests of single rows, then by the cells of two rows.

Rows whose digests agree are equal and are not looked at again. Python runs for the others only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dynabeam.transforms.audit.bucket_digests import Sums, add_sums, decode_sums
from dynabeam.transforms.audit.examples import Item, differing, item_of
from dynabeam.transforms.audit.mirror_schema import MirrorShape
from dynabeam.transforms.audit.row_digests import FACTS, decode_rows
from dynabeam.transforms.audit.verdict import DIFFERENCES, KINDS, CommonPoint, RowFacts, judge
from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.model.order import newest_per_key
from dynabeam.transforms.values.keys import decode_key

__all__ = ["BucketComparison", "compare_bucket"]

_NOTHING: Sums = (0, 0, 0)


@dataclasses.dataclass
class BucketComparison:
    """What was found in one bucket.

    Attributes:
        items: Items of the table, as far as they are in the truth.
        rows: Live rows of the mirror.
        counts: Keys per kind.
        settled: False if the bucket has to be looked at item by item.
        examples: Differences, JSON-able, a few of each kind.
        again: Lines of the export whose key another line has: what was named as key is none.
    """

    items: int = 0
    rows: int = 0
    counts: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    settled: bool = True
    examples: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    again: int = 0

    def to_json(self) -> dict[str, Any]:
        """The comparison as a JSON-able dict."""
        return dataclasses.asdict(self)


def compare_bucket(
    values: Iterable[bytes], shape: MirrorShape, point: CommonPoint, *, examples: int
) -> BucketComparison:
    """Compares what both sides gave of a bucket.

    Args:
        values: As `transforms.audit.bucket_digests` encodes them.
        shape: The table in the mirror.
        point: The common point.
        examples: Differences of each kind to keep at most. If the rows have no cells, none is kept,
            and a bucket with a difference is not settled.
    """
    sums = {b"t": _NOTHING, b"m": _NOTHING}
    rows: dict[bytes, list[pa.Table]] = {b"T": [], b"M": []}
    for value in values:
        side = value[:1]
        if side in sums:
            sums[side] = add_sums(sums[side], decode_sums(value[1:]))
        else:
            rows[side].append(decode_rows(value[1:]))
    truth_sums, mirror_sums = sums[b"t"], sums[b"m"]
    found = BucketComparison(truth_sums[0], mirror_sums[0])
    if truth_sums == mirror_sums:
        found.counts["equal"] = truth_sums[0]
    else:
        found.settled = False
    if rows[b"T"] or rows[b"M"]:
        _Rows(rows[b"T"], rows[b"M"], shape, point, examples).compare(found)
    return found


class _Rows:
    """The rows of both sides, one per key."""

    def __init__(
        self,
        truth: list[pa.Table],
        mirror: list[pa.Table],
        shape: MirrorShape,
        point: CommonPoint,
        examples: int,
    ) -> None:
        self._truth = _newest(truth)
        self._mirror = _newest(mirror)
        self._twice = _repeated(mirror)
        self._again = _lines_again(truth)
        self._shape = shape
        self._point = point
        self._most = examples
        one = self._truth if self._truth.num_rows else self._mirror
        self._has_cells = one.num_columns > len(FACTS.names)

    def compare(self, found: BucketComparison) -> None:
        """Adds what it finds."""
        truth, mirror = self._truth, self._mirror
        found.items += _live(truth)
        found.again += self._again
        found.rows += _live(mirror) + len(self._twice)
        at = pc.index_in(truth.column("key"), value_set=mirror.column("key"))
        partner = pc.fill_null(at, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        same = self._same(partner)
        found.counts["equal"] += int(same.sum())
        for row in np.flatnonzero(~same).tolist():
            self._judge(row, int(partner[row]), found)
        alone = np.ones(mirror.num_rows, np.bool_)
        alone[partner[partner >= 0]] = False
        for row in np.flatnonzero(alone).tolist():
            self._judge(-1, row, found)
        for key in self._twice:
            at = pc.index(self._mirror.column("key"), pa.scalar(key, pa.binary())).as_py()
            self._record("extra", None, _row(mirror, at), found, note="the key is there twice")

    def _same(self, partner: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Rows of the truth that are live on both sides, with one digest."""
        same = (partner >= 0) & ~_flags(self._truth)
        if not self._mirror.num_rows:
            return same & False
        other = np.maximum(partner, 0)
        same &= ~_flags(self._mirror)[other]
        for half in ("lower", "upper"):
            mine, theirs = (_numbers(each, half) for each in (self._truth, self._mirror))
            same &= mine == theirs[other]
        return same

    def _judge(self, truth_row: int, mirror_row: int, found: BucketComparison) -> None:
        truth = _row(self._truth, truth_row)
        mirror = _row(self._mirror, mirror_row)
        truth_facts, mirror_facts = _facts(truth), _facts(mirror)
        live = bool(truth_facts and mirror_facts) and not (truth["deleted"] or mirror["deleted"])
        same = live and self._has_cells and not differing(self._item(truth), self._item(mirror))
        kind = judge(truth_facts, mirror_facts, same, self._point)
        if kind == "equal":
            # Two tombstones, or none: there is no item to count.
            found.counts["equal"] += live
        elif kind in DIFFERENCES:
            self._record(kind, truth, mirror, found)
        else:
            found.counts[kind] += 1

    def _record(
        self, kind: str, truth: Any, mirror: Any, found: BucketComparison, note: str = ""
    ) -> None:
        found.counts[kind] += 1
        if not self._has_cells:
            found.settled = False
            return
        if sum(each["kind"] == kind for each in found.examples) >= self._most:
            return
        items = {
            side: self._item(row) if row and not row["deleted"] else None
            for side, row in (("truth", truth), ("mirror", mirror))
        }
        found.examples.append(
            {
                "kind": kind,
                "note": note,
                "key": self._key_text((truth or mirror)["key"]),
                "attributes": differing(items["truth"] or {}, items["mirror"] or {}),
                **items,
                "truth_version": _text(truth),
                "mirror_version": _text(mirror),
            }
        )

    def _item(self, row: Mapping[str, Any]) -> Item:
        cells = {name: row[_cell_name(at)] for at, name in enumerate(self._shape.names)}
        return item_of(cells, self._shape)

    def _key_text(self, key: bytes) -> str:
        try:
            attributes = decode_key(key, self._shape.table.keys)
        except ValueDecodeError:
            return "0x" + key.hex()  # one that the mirror has cut, as its index cannot hold it
        return ", ".join(f"{name}={next(iter(each.values()))}" for name, each in attributes.items())


def _cell_name(at: int) -> str:
    return f"c{at}"


def _newest(tables: list[pa.Table]) -> pa.Table:
    if not tables:
        return FACTS.empty_table()
    rows = pa.concat_tables(tables).combine_chunks().to_batches()
    return pa.table(newest_per_key(rows[0])) if rows else tables[0]


def _repeated(tables: list[pa.Table]) -> list[bytes]:
    """Keys of live rows that are there again, once for each time."""
    if not tables:
        return []
    rows = pa.concat_tables(tables)
    keys = rows.filter(pc.invert(rows.column("deleted"))).column("key")
    counts = pc.value_counts(keys)
    many = counts.filter(pc.greater(counts.field("counts"), 1)).to_pylist()
    return [each["values"] for each in many for _ in range(each["counts"] - 1)]


def _row(table: pa.Table, at: int) -> dict[str, Any]:
    if at < 0:
        return {}
    # By place: `to_pylist` of a slice would do it by name.
    row: dict[str, Any] = {
        name: table.column(name)[at].as_py() for name in (*FACTS.names[:5], *_cells(table))
    }
    return row


def _cells(table: pa.Table) -> list[str]:
    names: list[str] = table.column_names
    return names[len(FACTS.names) :]


def _facts(row: Mapping[str, Any]) -> RowFacts | None:
    if not row:
        return None
    return RowFacts(row["version"], row["event_us"], row["deleted"], row["shard"] or "")


def _lines_again(tables: list[pa.Table]) -> int:
    """Rows of an export whose key is there again; those of a stream name their shard."""
    if not tables:
        return 0
    rows = pa.concat_tables(tables)
    of_export = rows.filter(pc.and_(pc.equal(rows.column("shard"), ""), _are_live(rows)))
    return len(of_export) - int(pc.count_distinct(of_export.column("key")).as_py())


def _are_live(rows: pa.Table) -> Any:
    return pc.invert(rows.column("deleted"))


def _text(row: Mapping[str, Any] | None) -> str:
    return row["version"].decode("ascii", "replace") if row else ""


def _flags(table: pa.Table) -> npt.NDArray[np.bool_]:
    flags: npt.NDArray[np.bool_] = table.column("deleted").to_numpy().astype(np.bool_)
    return flags


def _numbers(table: pa.Table, name: str) -> npt.NDArray[np.uint64]:
    numbers: npt.NDArray[np.uint64] = table.column(name).to_numpy()
    return numbers


def _live(table: pa.Table) -> int:
    return int((~_flags(table)).sum())
