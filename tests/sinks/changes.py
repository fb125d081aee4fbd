# SPDX-License-Identifier: Apache-2.0
"""Changes for tests of sinks: written as short Python, turned into blocks."""

import dataclasses
import datetime
import json

import pyarrow as pa

from dynabeam.transforms.model.block import SCHEMA, Block, BlockHeader, split_by_bucket
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.model.version import encode_version
from dynabeam.transforms.sinks.base import Round
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema
from dynabeam.transforms.values.keys import encode_key

STATE = "state-1"
START = datetime.datetime(2026, 1, 31, 12, 0, 0, tzinfo=datetime.timezone.utc)


def table(name="orders", *keys):
    """`table("orders", ("id", "S"), ("at", "N"))`; the default key is `id` of type S."""
    attributes = [KeyAttribute(*each) for each in keys or [("id", "S")]]
    return Table(name, KeySchema(*attributes), f"arn:aws:dynamodb:eu-west-1:1:table/{name}")


def round_number(number, attempt=None, state_id=STATE):
    return Round(state_id, number, attempt or f"attempt-{number}")


NO_ROUND = Round(STATE, 0, "")


@dataclasses.dataclass(frozen=True)
class Change:
    """One change: `new` None deletes; `keys` are needed only where no image is given."""

    sequence: int
    new: dict | None
    old: dict | None = None
    keys: dict | None = None
    generation: int = 1
    op: str = ""
    ttl: bool = False
    envelope: str | None = None

    def item(self):
        return self.new if self.new is not None else self.old or self.keys

    def row(self, of):
        op = self.op or ("d" if self.new is None else "r" if self.sequence == 0 else "u")
        return {
            "key": encode_key(self.item(), of.keys),
            "version": encode_version(self.generation, self.sequence),
            "op": op,
            "event_time": START + datetime.timedelta(seconds=self.sequence % 10**6, microseconds=7),
            "old": image(self.old),
            "new": image(self.new),
            "ttl": self.ttl,
            "envelope": None if self.envelope is None else self.envelope.encode(),
        }


def image(item):
    if item is None:
        return None
    return json.dumps(item, separators=(",", ":"), ensure_ascii=False).encode()


def blocks(of, changes, *, buckets=4, source="stream", origin=None):
    """The blocks of these changes, one per bucket that occurs."""
    rows = pa.RecordBatch.from_pylist([each.row(of) for each in changes], schema=SCHEMA)
    header = BlockHeader(of, 0, buckets, 1, source, origin or {"shard_id": "shardId-1"})
    return list(split_by_bucket(header, rows))


def newest(of, changes):
    """What a mirror must hold: `{key: item}` of each key's highest version, deletes left out."""
    best = {}
    for each in changes:
        row = each.row(of)
        if row["key"] not in best or row["version"] > best[row["key"]][0]:
            best[row["key"]] = (row["version"], each.new)
    return {key: item for key, (_, item) in best.items() if item is not None}


def only_block(of, changes):
    rows = pa.RecordBatch.from_pylist([each.row(of) for each in changes], schema=SCHEMA)
    return Block(BlockHeader(of, 0, 1, 1, "stream", {"shard_id": "shardId-1"}), rows)
