# SPDX-License-Identifier: Apache-2.0
"""The demo's proof: what was replicated is what there is, item by item and record by record.

The other side is the truth that the simulator keeps (`Simulator.items`, `Simulator.records`), which
no part of the replication reads. Items are compared in canonical form: same types, same digits.
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import duckdb

from dynabeam.transforms.model.version import decode_version
from dynabeam.transforms.values.json_sql import quoted_name
from dynabeam.transforms.values.numbers import normalise_number
from dynabeam.transforms.values.plain_json import canonical_json

__all__ = ["Proof", "compare_items", "compare_records", "mirror_items"]

_DIFFERENCES = 5
"""How many differences are shown in full."""
_LONGEST = 300


@dataclasses.dataclass(frozen=True)
class Proof:
    """The outcome of a comparison.

    Attributes:
        compared: How many items or records the source has.
        found: How many the replica has.
        differences: The first differences, each a line for people; empty if all is equal.
    """

    compared: int
    found: int
    differences: list[str]

    @property
    def equal(self) -> bool:
        """Whether there is no difference."""
        return not self.differences


def mirror_items(path: str, table: str) -> list[dict[str, Any]]:
    """Reads a table of an unpacked DuckDB mirror back as items.

    Args:
        path: The mirror's file; no process may hold it for writing.
        table: The table's name.

    Returns:
        The items as DynamoDB JSON, in no order.
    """
    with duckdb.connect(path, read_only=True) as connection:
        rows = connection.sql(f"SELECT * FROM {quoted_name(table)}").to_arrow_table()  # noqa: S608
        ((attributes,),) = connection.execute(
            "SELECT attributes FROM _dynabeam.tables WHERE name = ?", [table]
        ).fetchall()
    tags = dict(json.loads(attributes))
    return [_item(row, tags) for row in rows.to_pylist()]


def compare_items(source: list[dict[str, Any]], mirror: list[dict[str, Any]]) -> Proof:
    """Compares the items of a table with those of its mirror.

    Args:
        source: DynamoDB JSON.
        mirror: DynamoDB JSON. An item that is there twice is a difference.
    """
    return _compare(
        Counter(canonical_json(item).decode() for item in source),
        Counter(canonical_json(item).decode() for item in mirror),
        "item",
    )


def compare_records(table: str, records: list[dict[str, Any]], folder: str) -> Proof:
    """Compares all stream records of a table with its changes in a changelog of JSON lines.

    Each record must be there exactly once: sequence number, keys, images and whether time to live
    deleted it. Rows of snapshots are no stream records and left aside.

    Args:
        table: The table's name.
        records: As GetRecords gives them, binaries in base64.
        folder: The changelog's root.
    """
    expected = Counter(_record_line(record) for record in records)
    found = Counter(_change_line(change) for change in _stream_changes(table, folder))
    return _compare(expected, found, "stream record")


def _compare(expected: Counter[str], found: Counter[str], what: str) -> Proof:
    differences = itertools.chain(
        (f"{count} x missing {what}: {_short(text)}" for text, count in (expected - found).items()),
        (f"{count} x wrong {what}: {_short(text)}" for text, count in (found - expected).items()),
    )
    return Proof(
        compared=sum(expected.values()),
        found=sum(found.values()),
        differences=list(itertools.islice(differences, _DIFFERENCES)),
    )


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def _item(row: dict[str, Any], tags: dict[str, str]) -> dict[str, Any]:
    """An unpacked row: typed columns, and in `_other` whatever fits no column."""
    item = {
        name: {tag: _payload(row[name], tag)}
        for name, tag in tags.items()
        if row.get(name) is not None and tag != "NULL"
    }
    other = json.loads(row["_other"] or "{}")
    if twice := item.keys() & other.keys():
        raise ValueError(f"an attribute is in a column and in _other: {sorted(twice)}")
    return item | other


def _payload(value: Any, tag: str) -> Any:
    if tag in ("SS", "NS", "BS"):
        return [_payload(each, tag[0]) for each in value]
    if tag in ("L", "M"):
        return json.loads(value)
    if tag == "N":
        return normalise_number(value if isinstance(value, str) else format(value, "f"))
    if tag == "B":
        return base64.b64encode(value).decode("ascii")
    return value


def _stream_changes(table: str, folder: str) -> Iterator[dict[str, Any]]:
    for place, names, files in os.walk(folder):
        if place == folder and "_staging" in names:
            names.remove("_staging")
        for file in files:
            if not file.endswith(".jsonl"):
                continue
            with open(os.path.join(place, file), encoding="utf-8", newline="\n") as lines:
                changes = map(json.loads, lines)
                yield from (c for c in changes if c["table"] == table and c["source"] == "stream")


def _change_line(change: dict[str, Any]) -> str:
    _, sequence = decode_version(change["version"].encode())
    images = (change["keys"], change["old"], change["new"])
    return _line(change["op"], sequence, change["ttl"], images)


def _record_line(record: dict[str, Any]) -> str:
    data = record["dynamodb"]
    op = {"INSERT": "c", "MODIFY": "u", "REMOVE": "d"}[record["eventName"]]
    ttl = record.get("userIdentity", {}).get("PrincipalId") == "dynamodb.amazonaws.com"
    images = (data["Keys"], data.get("OldImage"), data.get("NewImage"))
    return _line(op, int(data["SequenceNumber"]), ttl, images)


def _line(op: str, sequence: int, ttl: bool, images: tuple[dict[str, Any] | None, ...]) -> str:
    shown = ["null" if each is None else canonical_json(each).decode() for each in images]
    return f"{op} {sequence} ttl={ttl} keys={shown[0]} old={shown[1]} new={shown[2]}"
