# SPDX-License-Identifier: Apache-2.0
"""Images of any kind in one round with good ones: written as they are, or dead letters of the sink.

Whether a row is refused is up to its image alone, whatever else is in the round.
"""

import json

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dynabeam.transforms.model.block import SCHEMA
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.row_payload import block_of_payload
from tests.fuzz.cases import cases
from tests.fuzz.hostile import damaged, images
from tests.fuzz.plain_decoder import DoubtfulError, UnreadableError, plain_item, plain_json
from tests.sinks.changes import NO_ROUND, Change, only_block, round_number, table
from tests.sinks.targets import Target, deliver_what_fits

ORDERS = table()
MIRRORS = [Target("duckdb:///FOLDER/m.duckdb?layout=packed"), Target("duckdb:///FOLDER/m.duckdb")]
LINES = Target("file:///FOLDER/out")


def block_of(hostile):
    """Hostile images between good ones; the key says which is which."""
    count = len(hostile)
    changes = [Change(1, {"id": {"S": f"h{n}"}}) for n in range(count)]
    changes += [Change(1, {"id": {"S": f"g{n}"}, "n": {"N": f"{n}"}}) for n in range(3)]
    block = only_block(ORDERS, changes)
    rows = block.rows.to_pylist()
    for row, image in zip(rows, hostile, strict=False):
        row["new"] = image
    return block.with_rows(pa.RecordBatch.from_pylist(rows[1:] + rows[:1], schema=SCHEMA))


def deliver(target, folder, hostile):
    """Delivers a round: the sink, and the images that it refused."""
    sink = target.open(folder)
    sink.check([ORDERS], NO_ROUND)
    reports = deliver_what_fits(sink, [block_of(hostile)], round_number(1))
    sink.publish(round_number(1))
    refused = {}
    for each in reports:
        if each.kind == "refused":
            letter = DeadLetter.from_line(each.fields["letter"].encode())
            (row,) = block_of_payload(letter.raw).rows.to_pylist()
            refused[row["key"]] = row["new"]
    return sink, refused


def check(hostile, held, refused):
    """`held` is key → text of the item, or None where the layout does not have it as one."""
    keys = {f"Sh{n}".encode(): image for n, image in enumerate(hostile)}
    assert all(keys[key] == image for key, image in refused.items())
    assert not held.keys() & refused.keys()
    assert held.keys() | refused.keys() == {*keys, b"Sg0", b"Sg1", b"Sg2"}
    for n in range(3):
        text = held[f"Sg{n}".encode()]
        assert text is None or json.loads(text) == {"id": {"S": f"g{n}"}, "n": {"N": f"{n}"}}
    for key, image in keys.items():
        try:
            parsed = plain_json(image)
            good = isinstance(parsed, dict)
        except DoubtfulError:
            continue
        except UnreadableError:
            good = False
        if not good:
            assert key in refused
            continue
        try:
            item = plain_item(parsed)
        except UnreadableError:
            continue
        assert key in held, "a good image was refused"
        if held[key] is not None:
            assert plain_item(plain_json(held[key].encode())) == item


hostile_images = st.lists(
    images({"id": {"S": "h"}}).flatmap(lambda image: st.just(image) | damaged(image)),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("target", MIRRORS, ids=["packed", "unpacked"])
@cases(0.05)
@given(hostile=hostile_images)
@example(hostile=[b'{"id":{"S":"h"},"a":{"L":[{"S":"x"},]}}'])
@example(hostile=[b'{"id":{"S":"h"},"a":NaN}'])
@example(hostile=[b'{"id":{"S":"h"},"a":1e400}'])
@example(hostile=[b'{"id":{"S":"h"},"n":{"N":1e400}}', b'{"id":{"S":"h"},"n":[]}'])
def test_duckdb(hostile, target, tmp_path_factory):
    sink, refused = deliver(target, tmp_path_factory.mktemp("mirror"), hostile)
    item = "item" if "packed" in target.uri else "NULL"
    with sink.connect() as connection:
        found = connection.sql(f"SELECT _key, {item} FROM _dynabeam_rows.orders").fetchall()
    check(hostile, {bytes(key): text for key, text in found}, refused)


@cases(0.1)
@given(hostile=hostile_images)
@example(hostile=[b'{"id":{"S":"h"},"a":{"S":"\xff"}}', b'{"id":{"S":"h"}}\n{"x":1}'])
def test_json_lines(hostile, tmp_path_factory):
    folder = tmp_path_factory.mktemp("changelog")
    _, refused = deliver(LINES, folder, hostile)
    held = {}
    for path in sorted((folder / "out").rglob("part-*")):
        for line in path.read_bytes().splitlines():
            change = json.loads(line)
            held[b"S" + change["keys"]["id"]["S"].encode()] = json.dumps(change["new"])
    check(hostile, held, refused)
