# SPDX-License-Identifier: Apache-2.0
"""Each mirror, written by its sink and read by its auditor: what was written is equal, whatever it
is, and one value that somebody changes by hand is a difference that is named.
"""

import json
import tempfile

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynabeam.transforms.audit.compare import compare_bucket
from dynabeam.transforms.audit.mirror_reader import StoredRows, open_reader
from dynabeam.transforms.audit.row_digests import digested, encode_rows, truth_rows
from dynabeam.transforms.audit.verdict import CommonPoint
from dynabeam.transforms.model.block import SCHEMA
from tests.sinks.changes import NO_ROUND, Change, only_block, round_number, table
from tests.sinks.hostile_names import HOSTILE_NAMES
from tests.sinks.postgres_server import server_for_tests
from tests.sinks.targets import Target, deliver_what_fits, postgresql_uri, published, schema_of
from tests.values.strategies import items

ORDERS = table()
POSTGRESQL = [
    Target("postgresql://SERVER"),
    Target("postgresql://SERVER?layout=packed"),
    Target("postgresql://SERVER?numbers=decimal(10,2)&nested=plain"),
    Target("postgresql://SERVER?numbers=text", many=True),
]
DUCKDB = [
    Target("duckdb:///FOLDER/m.duckdb"),
    Target("duckdb:///FOLDER/m.duckdb?layout=packed"),
    Target("duckdb:///FOLDER/m.duckdb?numbers=text&nested=plain", many=True),
]
PARQUET = [
    Target("file:///FOLDER/out?format=parquet"),
    Target("file:///FOLDER/out?format=parquet&layout=packed"),
    Target("file:///FOLDER/out?format=parquet&nested=plain"),
]
TARGETS = POSTGRESQL + DUCKDB + PARQUET
ODD_VALUES = [
    *("{}", "[]", "7", "1.0", "1E+2", "-0", "-0.0", '"x"', "null", "true", "1e400", "0.1e-30"),
    *('{"S":"x","N":"1"}', '{"Q":{"b":1.50,"a":[1.0,{}]}}', '{"S":1.0}', '{"N":1.0}', '{"N":"x"}'),
    *('{"SS":[1.0,"b"]}', '{"SS":["b","a","b"]}', '{"NS":["1.0","x","1"]}', '{"L":{}}', '{"M":[]}'),
    *('{"M":{"z":{},"a":{"N":"1.50"},"m":7.0}}', '{"L":[{"N":"1e2"},[1.0],{"SS":["b","a"]}]}'),
    *('{"S":"\\u0041\\/\\ud83d\\ude00\\u001f"}', '{"S":"2026-01-31T12:00:00.000Z"}'),
    *('{"M":{"a":{"S":"1"},"a":{"S":"2"}}}', '{"S":"a\\u0000b"}', '{"M":{"n\\u0000":{"N":"1.0"}}}'),
    *('{ "N" : "1.50" }', '{"B":"QQ=="}', '{"B":"?"}', '{"BS":["QQ==","AA=="]}', '{"NULL":true}'),
    '{"L":[' * 100 + '{"N":"1.0"}' + "]}" * 100,
    '{"M":{"m":' * 200 + '{"N":"1.0"}' + "}}" * 200,
    '{"N":"0.00000000000000000000000000000000000001"}',
    '{"N":"12345678901234567890123456789012345678"}',
]


def item(name="a", /, **attributes):
    return {"id": {"S": name}, **attributes}


def block_of(images):
    """Blocks take images as bytes, so they may be anything."""
    changes = [Change(1, item(f"k{at}")) for at in range(len(images))]
    rows = only_block(ORDERS, changes).rows.to_pylist()
    named = [
        {**row, "new": image.replace(b"@", f"k{at}".encode(), 1)}
        for at, (row, image) in enumerate(zip(rows, images, strict=True))
    ]
    block = only_block(ORDERS, changes)
    return block.with_rows(pa.RecordBatch.from_pylist(named, schema=SCHEMA))


def written(target, folder, block):
    sink = target.open(folder)
    sink.check([ORDERS], NO_ROUND)
    reports = deliver_what_fits(sink, [block], round_number(1))
    sink.publish(round_number(1))
    assert not [each for each in reports if each.kind == "refused"]
    return sink


def audited(target, folder, block):
    """What `pipelines.audit` finds, without a graph."""
    uri = postgresql_uri(target.uri, folder) if target.is_postgresql else target.uri
    reader = open_reader(uri.replace("FOLDER", str(folder)))
    shape = reader.describe(ORDERS)
    truth = truth_rows(block.rows, "")
    stored = StoredRows(
        reader.stored_keys(truth.column("key")),
        truth.column("version"),
        truth.column("event_us"),
        truth.column("deleted"),
        reader.lay_out(shape, truth.column("key"), truth.column("new")),
    )
    values = [b"T" + encode_rows(digested(stored, truth.column("shard"), shape, are_text=False))]
    for part in reader.parts(shape):
        for rows in reader.read(shape, part):
            nowhere = pa.repeat(pa.scalar(""), len(rows.keys))
            found = digested(rows, nowhere, shape, are_text=reader.cells_are_text)
            values.append(b"M" + encode_rows(found))
    point = CommonPoint(0)
    return compare_bucket(values, shape, point, examples=3)


def assert_equal(found, count):
    assert found.examples == []
    assert found.counts["equal"] == count


@pytest.mark.parametrize("target", TARGETS, ids=lambda each: each.id)
class TestEqual:
    @pytest.fixture(autouse=True)
    def _as_many(self, target, no_rows_are_few):
        if target.many:
            no_rows_are_few()

    @given(images=st.lists(items, min_size=1, max_size=6))
    @settings(max_examples=max(1, settings.default.max_examples // 20))
    def test_any_item(self, target, images):
        # The key comes first: `block_of` fills in the first `@`, and a value may hold one too.
        key = {"id": {"S": "@"}}
        texts = [json.dumps({**key, **each, **key}).encode() for each in images]
        block = block_of(texts)
        with tempfile.TemporaryDirectory() as folder:
            written(target, folder, block)
            assert_equal(audited(target, folder, block), len(images))

    def test_values_that_the_service_does_not_write(self, target, tmp_path):
        values = [each for each in ODD_VALUES if "1e400" not in each]
        images = [f'{{"id":{{"S":"@"}},"v":{each}}}'.encode() for each in values]
        images += [
            f'{{"id":{{"S":"@"}}, "v{at}":{each}}}'.encode() for at, each in enumerate(values)
        ]
        block = block_of(images)
        written(target, tmp_path, block)
        assert_equal(audited(target, tmp_path, block), len(images))

    def test_names(self, target, tmp_path):
        images = [
            json.dumps(item("@", **{name: {"N": "1.0"}, "v": {"M": {name: {}}}})).encode()
            for name in HOSTILE_NAMES
        ]
        block = block_of(images)
        written(target, tmp_path, block)
        assert_equal(audited(target, tmp_path, block), len(images))


ITEM = item(
    "k1",
    t={"S": "text"},
    n={"N": "1.5"},
    b={"B": "QQ=="},
    y={"BOOL": True},
    ss={"SS": ["a", "b"]},
    m={"M": {"x": {"N": "1"}, "y": {"L": []}}},
)
ODD = {"odd": {}, "two": {"N": 1.0}, "nul": {"S": "a\x00"}}


def changed_postgresql(sink, column, value):
    with server_for_tests().connect() as connection:
        done = connection.execute(
            f"""UPDATE {schema_of(sink)}."orders$rows" SET "{column}" = {value} WHERE id = 'k1'"""
        )
        assert done.rowcount == 1


def changed_duckdb(sink, column, value):
    with duckdb.connect(sink.place) as connection:
        connection.execute(
            f"""UPDATE _dynabeam_rows.orders SET "{column}" = {value} WHERE id = 'k1'"""
        )


def changed_parquet(target, sink, column, change):
    (path,) = published(target, sink).values()
    rows = pq.read_table(path, partitioning=None)
    cells = [
        change(each) if row["id"] == "k1" else each
        for row, each in zip(rows.to_pylist(), rows.column(column).to_pylist(), strict=True)
    ]
    at = rows.column_names.index(column)
    pq.write_table(rows.set_column(at, column, pa.array(cells, rows.schema.field(at).type)), path)


def replaced(old, new):
    return lambda text: text.replace(old, new, 1)


class TestDifferent:
    """One value is another one than was written: a difference, of that attribute and no other."""

    def block(self):
        odd = json.dumps({**ITEM, **ODD}).encode()
        return block_of([b'{"id":{"S":"@"}}', odd, b'{"id":{"S":"@"},"t":{"S":"text"}}'])

    def named(self, target, folder, block):
        found = audited(target, folder, block)
        assert found.counts["equal"] == 2
        assert found.counts["different"] == 1
        (example,) = found.examples
        assert example["key"] == "id=k1"
        return example["attributes"]

    @pytest.mark.parametrize(
        ("column", "value", "named"),
        [
            ("t", "'Text'", ["t"]),
            ("t", "NULL", ["t"]),
            ("n", "1.50000000000000000001", ["n"]),
            ("b", "'\\x42'", ["b"]),
            ("y", "false", ["y"]),
            ("ss", "'{a,c}'", ["ss"]),
            ("m", "jsonb_set(m, '{x}', '{\"N\": \"2\"}')", ["m"]),
            ("m", "m - 'y'", ["m"]),
            ("_other", "_other - 'odd'", ["odd"]),
            ("_other", "jsonb_set(_other, '{odd}', '[]')", ["odd"]),
            ("_other", "jsonb_set(_other, '{two}', '{\"N\": 1.01}')", ["two"]),
            ("_other", "_other || '{\"new\": 1}'", ["new"]),
            ("_raw", "NULL", ["nul"]),
        ],
    )
    def test_postgresql(self, tmp_path, column, value, named):
        block = self.block()
        sink = written(POSTGRESQL[0], tmp_path, block)
        changed_postgresql(sink, column, value)
        assert self.named(POSTGRESQL[0], tmp_path, block) == named

    def test_postgresql_packed(self, tmp_path):
        block = block_of([b'{"id":{"S":"@"}}', json.dumps(ITEM).encode(), b'{"id":{"S":"@"}}'])
        sink = written(POSTGRESQL[1], tmp_path, block)
        changed_postgresql(sink, "item", 'item || \'{"t": {"S": ""}}\'')
        assert self.named(POSTGRESQL[1], tmp_path, block) == ["t"]

    @pytest.mark.parametrize(
        ("column", "value", "named"),
        [
            ("t", "''", ["t"]),
            ("n", "1.51", ["n"]),
            ("b", "'B'::BLOB", ["b"]),
            ("ss", "['a']", ["ss"]),
            ("m", "replace(m, '\"1\"', '\"2\"')", ["m"]),
            ("_other", "replace(_other, '{}', '[]')", ["odd"]),
        ],
    )
    def test_duckdb(self, tmp_path, column, value, named):
        block = self.block()
        sink = written(DUCKDB[0], tmp_path, block)
        changed_duckdb(sink, column, value)
        assert self.named(DUCKDB[0], tmp_path, block) == named

    @pytest.mark.parametrize(
        ("column", "change", "named"),
        [
            ("_new", replaced("text", "Text"), ["t", "t (column)"]),
            ("_new", replaced('"odd": {}', '"odd": []'), ["_other (column)", "odd"]),
            ("t", lambda _: "Text", ["t (column)"]),
            ("_other", replaced("{}", "[]"), ["_other (column)"]),
        ],
    )
    def test_parquet(self, tmp_path, column, change, named):
        block = self.block()
        sink = written(PARQUET[0], tmp_path, block)
        changed_parquet(PARQUET[0], sink, column, change)
        assert self.named(PARQUET[0], tmp_path, block) == named
