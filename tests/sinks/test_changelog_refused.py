# SPDX-License-Identifier: Apache-2.0
"""Rows that no changelog can publish: left out of its files, in rounds and in continuous runs."""

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to

from dynabeam.transforms.model.block import SCHEMA, Block
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.row_payload import block_of_payload
from dynabeam.transforms.sinks.refused import SplitRefused
from dynabeam.transforms.values.keys import encode_key
from tests.sinks.changes import NO_ROUND, STATE, Change, only_block, round_number, table
from tests.sinks.targets import CHANGELOGS, read_back, read_changes

pytestmark = pytest.mark.parametrize("target", CHANGELOGS, ids=lambda each: each.id)

ORDERS = table()
BAD = [
    {"new": b'{"id":{"S":"x0"},"v":{"S":"\xff"}}'},
    {"new": b'{"id":{"S":"x1"},"v":{"N":1e999}}'},
    {"old": b'{"id":{"S":"x2"},}'},
    {"old": b"\xff"},
    {"envelope": b'{"userIdentity":{"principalId":"\xff"}}'},
    {"op": "d", "new": None, "old": b"[]"},
]


def mixed():
    good = only_block(ORDERS, [Change(1, {"id": {"S": f"k{each}"}}) for each in range(3)])
    rows = good.rows.to_pylist()
    bad = [
        {**rows[0], "key": encode_key({"id": {"S": f"x{at}"}}, ORDERS.keys), **change}
        for at, change in enumerate(BAD)
    ]
    rows = [*bad[:3], *rows, *bad[3:]]
    return good.with_rows(pa.RecordBatch.from_pylist(rows, schema=SCHEMA)), bad


def written_and_lacking(target, sink):
    """Checks what is there; how many rows are not."""
    held = read_back(target, sink, [ORDERS])["orders"]
    lines = {f"k{each}" for each in range(3)}
    if "parquet" not in target.uri or target.is_packed:
        lines.add("x1")  # JSON in UTF-8, though no computer holds the number
    assert {item["id"]["S"] for item in held.values()} == lines
    assert len(list(read_changes(target, sink))) == len(lines)
    return len(BAD) - len(lines) + 3


def letters_of(found, sink, bad):
    """Checks the letters; how many there are."""
    rows = [row for each in found for row in block_of_payload(each.raw).rows.to_pylist()]
    by_key = {row["key"]: row for row in bad}
    for row in rows:
        wanted = by_key[row["key"]]
        assert all(row[name] == wanted[name] for name in ("old", "new", "envelope", "version"))
    assert {(each.stage, each.severity, each.origin["sink"]) for each in found} == {
        ("sink", "severe", sink.place)
    }
    return len(rows)


@pytest.mark.parametrize("continuous", [False, True], ids=["round", "continuous"])
def test_the_others_are_written(target, tmp_path, continuous):
    sink, (block, bad) = target.open(tmp_path), mixed()
    sink.check([ORDERS], NO_ROUND)
    letters = tmp_path / "letters"
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        source = pipeline | beam.Create([block], reshuffle=False).with_output_types(Block)
        write = sink.write_continuously(STATE) if continuous else sink.write(round_number(1))
        out = source | "Sink" >> write | SplitRefused()
        _ = (
            out.dead_letters
            | beam.Map(lambda each: each.to_line().decode())
            | (beam.io.WriteToText(str(letters), num_shards=1, shard_name_template=""))
        )
        kinds = out.reports | beam.Map(lambda each: each.kind) | beam.Distinct()
        assert_that(kinds, equal_to(["sink"]))
    sink.publish(round_number(1))
    found = [DeadLetter.from_line(each) for each in letters.read_bytes().split(b"\n") if each]
    assert letters_of(found, sink, bad) == written_and_lacking(target, sink)
