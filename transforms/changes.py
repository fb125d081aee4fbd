# SPDX-License-Identifier: Apache-2.0
"""`Changes`: blocks unpacked into one Python object per change, for a Beam user's own transforms.

Handy, and slow: Beam handles some 50,000 Python elements a second and core, while a block goes
through as one. Sinks therefore work on blocks, in vectorised code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

import apache_beam as beam

from dynabeam.transforms.model.block import Block
from dynabeam.transforms.values.keys import decode_key
from dynabeam.transforms.values.python_values import Value, decode_item

__all__ = ["Change", "Changes"]


@dataclasses.dataclass(frozen=True)
class Change:
    """One row of history of one item; values as in `transforms.values.python_values`.

    Attributes:
        table: Name of the table.
        key: The primary key, attribute → value.
        version: Orders the changes of one key, as text (`transforms.model.version`).
        op: `r` snapshot row, `c` insert, `u` update, `d` delete.
        event_time: When it happened, to the second for stream records; UTC.
        old: The item before, None if there was none or it is not known.
        new: The item after, None after a delete.
        ttl: True if the service deleted the item because its time was over.
    """

    table: str
    key: Mapping[str, Value]
    version: str
    op: Literal["r", "c", "u", "d"]
    event_time: datetime
    old: Mapping[str, Value] | None
    new: Mapping[str, Value] | None
    ttl: bool


class Changes(beam.PTransform):
    """`PCollection[Block]` → `PCollection[Change]`."""

    def expand(self, blocks: Any) -> Any:
        """Unpacks each block."""
        return blocks | "Unpack" >> beam.FlatMap(unpack).with_output_types(Change)


def unpack(block: Block) -> Iterator[Change]:
    """The changes of a block, in its order.

    Raises:
        ValueDecodeError: If an image is not DynamoDB JSON.
    """
    table = block.header.table
    for row in block.rows.to_pylist():
        key = decode_item(decode_key(row["key"], table.keys))
        yield Change(
            table=table.name,
            key=key,
            version=row["version"].decode("ascii"),
            op=row["op"],
            event_time=row["event_time"],
            old=None if row["old"] is None else decode_item(row["old"]),
            new=None if row["new"] is None else decode_item(row["new"]),
            ttl=row["ttl"],
        )
