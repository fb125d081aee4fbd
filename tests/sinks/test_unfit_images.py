# SPDX-License-Identifier: Apache-2.0
"""What every sink does with images that it, or readers of what it writes, cannot take."""

import json

import pyarrow as pa
import pytest

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.model.block import SCHEMA
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.row_payload import block_of_payload
from dynabeam.transforms.values.keys import encode_key
from dynabeam.transforms.values.plain_json import canonical_json
from tests.sinks.changes import NO_ROUND, Change, image, only_block, round_number, table
from tests.sinks.targets import TARGETS, deliver_what_fits, read_back

pytestmark = pytest.mark.parametrize("target", TARGETS, ids=lambda each: each.id)


@pytest.fixture(autouse=True)
def _as_many(target, no_rows_are_few):
    if target.many:
        no_rows_are_few()


ORDERS = table()


def item(name="a", /, **attributes):
    return {"id": {"S": name}, **attributes}


def deep(levels, kind="L"):
    opening, closing = {"L": ('{"L":[', "]}"), "M": ('{"M":{"m":', "}}")}[kind]
    return f'{opening * levels}{{"S":"x"}}{closing * levels}'


FIT = {
    **{f"{levels} {kind}": deep(levels, kind) for levels in (31, 32, 33, 64, 100) for kind in "LM"},
    "brackets in a text": '{"S":"' + "[{" * 2000 + '"}',
    "many side by side": '{"L":[' + ",".join(['{"M":{}}'] * 2000) + "]}",
    "spaces": ' { "S" : "x" } ',
    "escapes": '{"\\u0053":"\\u0041\\ud83d\\ude00\\/"}',
    "no type": '{"Q":"x"}',
    "two types": '{"S":"x","N":"1"}',
    "no object": "7",
    "number of JSON": '{"N":12345678901234567890123456789012345678901234567890}',
    "number out of range": '{"N":"1e999"}',
    "no number": '{"N":"x"}',
    "no base64": '{"B":"?"}',
    "wide set": '{"NS":["1e999","x"]}',
    "escaped nul": '{"S":"a\\u0000"}',
}
"""Values of `v` that every sink keeps, if only as they came."""
UNFIT = {
    "no UTF-8": b'{"S":"\xff"}',
    "cut letter": b'{"S":"\xe2\x82"}',
    "surrogate in bytes": b'{"S":"\xed\xa0\x80"}',
    "overlong": b'{"S":"\xc0\xaf"}',
    "half a pair": b'{"S":"\\ud800"}',
    "half a pair in a name": b'{"M":{"\\udc00":{"S":"x"}}}',
    "500 levels": deep(500).encode(),
    "500 maps": deep(500, "M").encode(),
    "1000 levels": deep(1000).encode(),
    "20000 levels": deep(20_000).encode(),
    "open": b'{"L":[{"S":"x"}',
    "closed": b'{"S":"x"}}',
    "NaN": b'{"N":NaN}',
    "comma": b'{"L":[{"S":"x"},]}',
    "control": b'{"S":"a\nb"}',
    "escape": b'{"S":"\\x"}',
    "text": b'"x',
}
UNHOLDABLE = {
    "number beyond": b'{"N":1e400}',
    "bare number beyond": b"1e400",
    "number beyond within": b'{"L":[{"N":-1e400}]}',
}
"""JSON that no reader of Python's decodes: a row, or a dead letter."""
DEEP = {"500 levels", "500 maps", "1000 levels", "20000 levels"}


class TestUnfitImages:
    """A row that a sink cannot take is a dead letter of that sink; the others are written."""

    def test_a_name_that_is_there_twice(self, target, tmp_path):
        """No column holds one of two values: it is a row where it is kept as it is, or none."""
        block = only_block(ORDERS, [Change(1, item("odd")), Change(1, item("good"))])
        odd, good = block.rows.to_pylist()
        odd["new"] = b'{"id":{"S":"odd"},"v":{"S":"first"},"w":{"N":"1"},"v":{"S":"second"}}'
        block = block.with_rows(pa.RecordBatch.from_pylist([odd, good], schema=SCHEMA))
        sink = target.open(tmp_path)
        sink.check([ORDERS], NO_ROUND)
        reports = deliver_what_fits(sink, [block], round_number(1))
        sink.publish(round_number(1))
        refused = [each for each in reports if each.kind == "refused"]
        unpacked = target.is_mirror or "format=parquet" in target.uri
        assert len(refused) == int(unpacked and not target.is_packed)
        for each in refused:
            letter = DeadLetter.from_line(each.fields["letter"].encode())
            row = block_of_payload(letter.raw).rows
            assert row.column("new").to_pylist() == [odd["new"]]
        held = read_back(target, sink, [ORDERS])["orders"]
        assert sorted(held) == sorted([good["key"], *([] if refused else [odd["key"]])])

    @pytest.mark.parametrize("name", UNHOLDABLE)
    def test_a_number_that_no_computer_holds(self, target, tmp_path, name):
        block = only_block(ORDERS, [Change(1, item("odd")), Change(1, item("good"))])
        odd, good = block.rows.to_pylist()
        odd["new"] = b'{"id":{"S":"odd"},"v":%b}' % UNHOLDABLE[name]
        block = block.with_rows(pa.RecordBatch.from_pylist([odd, good], schema=SCHEMA))
        sink = target.open(tmp_path)
        sink.check([ORDERS], NO_ROUND)
        reports = deliver_what_fits(sink, [block], round_number(1))
        sink.publish(round_number(1))
        refused = [
            block_of_payload(DeadLetter.from_line(each.fields["letter"].encode()).raw)
            for each in reports
            if each.kind == "refused"
        ]
        assert [each.rows.column("new").to_pylist() for each in refused] in ([], [[odd["new"]]])
        held = read_back(target, sink, [ORDERS])["orders"]
        assert sorted(held) == sorted([good["key"], *([] if refused else [odd["key"]])])

    @pytest.mark.parametrize("first", [True, False], ids=["before", "behind"])
    def test_each_row_is_written_or_a_dead_letter(self, target, tmp_path, first):
        given = {**{name: value.encode() for name, value in FIT.items()}, **UNFIT}
        if target.uri.startswith("duckdb"):
            # A row there, which no reader of Python's can read back: see `test_duckdb_refused`.
            given = {name: value for name, value in given.items() if name not in DEEP}
        changes = [Change(1, item(name)) for name in given] + [Change(1, item("good"))]
        block = only_block(ORDERS, changes)
        images = [b'{"id":{"S":"%s"},"v":%s}' % (name.encode(), v) for name, v in given.items()]
        images.append(image(item("good", v={"S": "x"})))
        plain_rows = block.rows.to_pylist()
        rows = [{**row, "new": new} for row, new in zip(plain_rows, images, strict=True)]
        if first:
            rows.reverse()
        block = block.with_rows(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
        sink = target.open(tmp_path)
        sink.check([ORDERS], NO_ROUND)
        reports = deliver_what_fits(sink, [block], round_number(1))
        sink.publish(round_number(1))
        letters = [
            block_of_payload(DeadLetter.from_line(each.fields["letter"].encode()).raw)
            for each in reports
            if each.kind == "refused"
        ]
        by_key = {row["key"]: row["new"] for row in rows}
        refused = {}
        for letter in letters:
            (row,) = letter.rows.to_pylist()
            assert row["new"] == by_key[row["key"]]
            refused[row["key"]] = row["new"]
        held = read_back(target, sink, [ORDERS])["orders"]
        assert len(refused) == len(letters)
        assert not held.keys() & refused.keys()
        assert held.keys() | refused.keys() == by_key.keys()
        keys = {name: encode_key(item(name), ORDERS.keys) for name in given}
        assert {name for name in FIT if keys[name] in refused} <= {"number of JSON"}
        assert encode_key(item("good"), ORDERS.keys) in held
        kept = {name for name in UNFIT if name in keys and keys[name] not in refused}
        assert kept <= ({"half a pair", "half a pair in a name"} if target.is_postgresql else set())
        for key, found in held.items():
            if not target.nested_is_plain:
                assert loaded(found) == loaded(json.loads(by_key[key]))

    def test_all_of_a_round(self, target, tmp_path):
        block = only_block(ORDERS, [Change(1, item())])
        row = {**block.rows.to_pylist()[0], "new": b'{"id":{"S":"a"},"v":{"S":"\xff"}}'}
        block = block.with_rows(pa.RecordBatch.from_pylist([row], schema=SCHEMA))
        sink = target.open(tmp_path)
        sink.check([ORDERS], NO_ROUND)
        reports = deliver_what_fits(sink, [block], round_number(1))
        sink.publish(round_number(1))
        assert [each.kind for each in reports if each.kind == "refused"] == ["refused"]
        assert read_back(target, sink, [ORDERS])["orders"] == {}


def loaded(item_of_json):
    """An item as it compares: numbers are numbers, sets have no order."""
    return json.loads(canonical(item_of_json))


def canonical(item_of_json):
    try:
        return canonical_json(item_of_json)
    except ValueDecodeError:
        return json.dumps(item_of_json)
