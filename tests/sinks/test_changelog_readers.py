# SPDX-License-Identifier: Apache-2.0
"""What programs see that read a changelog's folder as they read any: no option of ours, a glob."""

import itertools
import json
import pathlib
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import duckdb
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.sinks.files.change_parquet import METADATA
from dynabeam.transforms.sinks.files.continuous_files import ContinuousFiles
from tests.sinks.changes import NO_ROUND, STATE, Change, blocks, newest, round_number, table
from tests.sinks.continuous_worker import NOON
from tests.sinks.hostile_names import HOSTILE_NAMES
from tests.sinks.targets import Target, deliver, published, read_back, run_round

ORDERS = table()
PARQUET = Target("file:///FOLDER/out?format=parquet")
NAMES = [name for name in HOSTILE_NAMES if "\x00" not in name]
LINES = Target("file:///FOLDER/out")


def item(name="a", /, **attributes):
    return {"id": {"S": name}, **attributes}


def one_round(sink, changes, number=1, of=ORDERS):
    committed = NO_ROUND if number == 1 else round_number(number - 1)
    return run_round(sink, [of], blocks(of, changes), round_number(number), committed)


def as_begun_by_an_earlier_release(sink):
    root = pathlib.Path(sink.place)
    for folder in root.glob("*/dynabeam_round=*"):
        folder.rename(folder.with_name(folder.name.removeprefix("dynabeam_")))
    marker = json.loads((root / "_dynabeam.json").read_bytes())
    (root / "_dynabeam.json").write_text(json.dumps({**marker, "format": 1}))


class TestNamesOfFolders:
    """A reader that makes a column of a folder's name does not put it over an attribute's."""

    def two_rounds(self, sink):
        changes = [Change(1, item("all", **{name: {"S": f"v {name}"} for name in NAMES}))]
        one_round(sink, changes)
        one_round(sink, [Change(2, item("two", round={"S": "seven"}))], number=2)

    def columns(self, sink):
        """Attributes with columns, in the first file."""
        path = next(each for name, each in sorted(published(PARQUET, sink).items()))
        own = {*METADATA, "_other", "dynabeam_round"}
        return [each for each in pq.read_schema(path).names if each in NAMES and each not in own]

    @pytest.mark.parametrize("hive", ["", ", hive_partitioning = true"])
    def test_duckdb(self, tmp_path, hive):
        sink = PARQUET.open(tmp_path)
        self.two_rounds(sink)
        rows = duckdb.sql(
            f"SELECT * FROM read_parquet('{sink.place}/orders/*/*.parquet', union_by_name = true"
            f"{hive}) WHERE id = 'all'"
        ).to_arrow_table()
        row = rows.slice(0, 1).to_pylist()[0]
        columns = self.columns(sink)
        assert "round" in columns
        assert {name: row[name] for name in columns} == {name: f"v {name}" for name in columns}
        other = {f"v {name}" for name in NAMES if name not in columns}
        assert {each["S"] for each in json.loads(row["_other"]).values()} == other
        found = duckdb.sql(f"SELECT round FROM '{sink.place}/orders/*/*.parquet' WHERE id = 'two'")
        assert found.fetchall() == [("seven",)]

    @pytest.mark.parametrize("partitioning", ["hive", None])
    def test_pyarrow(self, tmp_path, partitioning):
        sink = PARQUET.open(tmp_path)
        self.two_rounds(sink)
        found = pyarrow.dataset.dataset(f"{sink.place}/orders", partitioning=partitioning)
        (row,) = found.to_table(filter=pyarrow.dataset.field("id") == "all").to_pylist()
        columns = self.columns(sink)
        assert {name: row[name] for name in columns} == {name: f"v {name}" for name in columns}
        rounds = pq.read_table(f"{sink.place}/orders", columns=["id", "round"]).to_pylist()
        assert sorted(each["round"] for each in rounds) == ["seven", "v round"]

    def test_lines(self, tmp_path):
        sink = LINES.open(tmp_path)
        for number, value in enumerate(("seven", "v round"), start=1):
            one_round(sink, [Change(1, item("a", round={"S": value}))], number=number)
        rows = duckdb.sql(
            f"SELECT new::JSON->>'$.round.S' AS round FROM '{sink.place}/orders/*/*.jsonl' "
        ).fetchall()
        assert sorted(rows) == [("seven",), ("v round",)]


class TestChangelogsOfEarlierReleases:
    @pytest.mark.parametrize("target", [PARQUET, LINES], ids=["parquet", "lines"])
    def test_go_on_in_folders_of_their_name(self, tmp_path, target):
        """A reader of partitions refuses a table with partitions of different names."""
        sink = target.open(tmp_path)
        changes = [Change(1, item("a", v={"N": "1"}))]
        one_round(sink, changes)
        as_begun_by_an_earlier_release(sink)
        sink = target.open(tmp_path)
        more = [Change(2, item("a", round={"S": "x"})), Change(2, item("b"))]
        one_round(sink, more, number=2)
        folders = {name.split("/")[1] for name in published(target, sink)}
        assert folders == {"round=0000000001", "round=0000000002"}
        held = read_back(target, sink, [ORDERS])["orders"]
        assert held == newest(ORDERS, changes + more)
        if target is PARQUET:
            # Its column would be hidden by the folder's.
            other = duckdb.sql(
                f"SELECT _other FROM '{sink.place}/orders/*2/*.parquet' WHERE id = 'a'"
            )
            assert other.fetchall() == [('{"round":{"S":"x"}}',)]
        # A round that was not committed is taken back, wherever it lies.
        sink.recover(round_number(1))
        assert {name.split("/")[1] for name in published(target, sink)} == {"round=0000000001"}
        marker = json.loads((pathlib.Path(sink.place) / "_dynabeam.json").read_bytes())
        assert marker == {"format": 1, "state_id": "state-1", "round": 1}


VALUES = [
    {"N": "1.5"},
    {"S": "x"},
    {"M": {"a": {"N": "1"}}},
    {"L": []},
    {"BOOL": True},
    {"B": "QQ=="},
    {"NS": ["1"]},
    {"SS": ["a"]},
    {"N": "1E-130"},
    {"NULL": True},
]


def schemas(sink):
    return [pq.read_schema(path) for _, path in sorted(published(PARQUET, sink).items())]


def assert_one_schema(sink):
    """A column has one type everywhere, and of two files one has all columns of the other."""
    found = schemas(sink)
    types = {}
    for schema in found:
        for field in schema:
            assert types.setdefault(field.name, field.type) == field.type
    by_size = sorted(found, key=len)
    for less, more in itertools.pairwise(by_size):
        assert set(less.names) <= set(more.names)
    return by_size[-1]


class TestOneSchema:
    def test_an_attribute_of_every_type_in_every_order(self, tmp_path):
        """A round each; plain globs read them all."""
        sink, changes = PARQUET.open(tmp_path), []
        for number, value in enumerate(VALUES, start=1):
            more = [Change(1, item(f"k{number}", v=value, **{f"only {number}": value}))]
            one_round(sink, more, number=number)
            changes += more
        assert_one_schema(sink)
        assert [len(each) for each in schemas(sink)] == sorted(len(each) for each in schemas(sink))
        files = f"{sink.place}/orders/*/*.parquet"
        plain = duckdb.sql(f"SELECT id, v, _other FROM '{files}' ORDER BY id").fetchall()
        assert len(plain) == len(VALUES)
        assert [v for _, v, _ in plain if v is not None] == [Decimal("1.5")]
        others = {key: json.loads(other)["v"] for key, v, other in plain if v is None}
        assert others == {f"k{at}": value for at, value in enumerate(VALUES, 1) if at > 1}
        by_name = duckdb.sql(f"SELECT * FROM read_parquet('{files}', union_by_name = true)")
        assert by_name.to_arrow_table().num_rows == len(VALUES)
        table_of_all = pyarrow.dataset.dataset(
            f"{sink.place}/orders", partitioning="hive"
        ).to_table()
        assert table_of_all.num_rows == len(VALUES)
        assert pq.read_table(f"{sink.place}/orders").num_rows == len(VALUES)
        assert read_back(PARQUET, sink, [ORDERS])["orders"] == newest(ORDERS, changes)

    def test_workers_of_one_round_that_meet_other_types(self, tmp_path):
        sink = PARQUET.open(tmp_path)
        sink.check([ORDERS], NO_ROUND)
        current = round_number(1)
        changes = [
            [
                Change(
                    1, item(f"{at} {n}", v=VALUES[(at + n) % len(VALUES)], **{f"of {n}": {"S": ""}})
                )
                for n in range(12)
            ]
            for at in range(6)
        ]

        def stage(of_worker):
            writer = sink.writer(sink.files().staging_folder(current.attempt))
            files = []
            for each in of_worker:
                for block in blocks(ORDERS, [each]):
                    writer.add(block)
                files = writer.finish()
            return files

        with ThreadPoolExecutor(6) as pool:
            staged = [file for files in pool.map(stage, changes) for file in files]
        sink.commit_list(staged, current)
        sink.publish(current)
        assert_one_schema(sink)
        every = [each for of_worker in changes for each in of_worker]
        files = f"{sink.place}/orders/*/*.parquet"
        count = duckdb.sql(f"SELECT count(*) FROM (SELECT * FROM '{files}')").fetchall()
        assert count == [(len(every),)]
        assert read_back(PARQUET, sink, [ORDERS])["orders"] == newest(ORDERS, every)

    def test_rounds_and_a_continuous_run(self, tmp_path):
        sink = PARQUET.open(tmp_path)
        one_round(sink, [Change(1, item("a", v={"N": "1"}))])
        files = ContinuousFiles(sink.files(), sink.name, STATE, sink.one_file_writer)
        later = [Change(2, item("b", v={"S": "x"}, w={"S": "x"}))]
        files.write(blocks(ORDERS, later), NOON)
        files.write(blocks(ORDERS, [Change(3, item("c", w={"N": "1"}))]), NOON)
        one_round(sink, [Change(4, item("d", v={"L": []}, w={"B": "QQ=="}))], number=2)
        assert_one_schema(sink)
        assert len(read_back(PARQUET, sink, [ORDERS])["orders"]) == 4

    def test_a_round_that_failed_leaves_columns_and_no_harm(self, tmp_path):
        sink = PARQUET.open(tmp_path)
        sink.check([ORDERS], NO_ROUND)
        deliver(sink, blocks(ORDERS, [Change(1, item(v={"S": "x"}))]), round_number(1, "dead"))
        changes = [Change(1, item(v={"N": "1"}))]
        one_round(sink, changes)
        one_round(sink, [], number=2)
        assert read_back(PARQUET, sink, [ORDERS])["orders"] == newest(ORDERS, changes)
        assert_one_schema(sink)

    def test_a_changelog_of_an_earlier_release_keeps_its_columns(self, tmp_path):
        asked = Target("file:///FOLDER/out?format=parquet&numbers=decimal(30,4)")
        sink = asked.open(tmp_path)
        kinds = {f"v{at}": value for at, value in enumerate(VALUES[:8])}
        changes = [Change(1, item("a", **kinds, text={"S": "x"}, nothing={"NULL": True}))]
        one_round(sink, changes)
        for path in pathlib.Path(sink.place, "orders").glob("*schema*"):
            path.unlink()
        as_begun_by_an_earlier_release(sink)
        (before,) = schemas(sink)
        # Whoever has not said what numbers he wants gets those that there are.
        sink = PARQUET.open(tmp_path)
        turned = dict(zip(kinds, reversed(kinds.values()), strict=True))
        more = [Change(2, item("b", **kinds, text={"L": []})), Change(2, item("c", **turned))]
        one_round(sink, more, number=2)
        assert assert_one_schema(sink) == before
        held = read_back(PARQUET, sink, [ORDERS])["orders"]
        assert held == newest(ORDERS, changes + more)
        listed = json.loads(pathlib.Path(sink.place, "orders", "_schema.json").read_bytes())
        tags = {
            "id": "S",
            **{name: next(iter(value)) for name, value in kinds.items()},
            "text": "S",
        }
        assert dict(listed["columns"]) == tags
        assert listed["numbers"] == "decimal(30,4)"
        other = Target("file:///FOLDER/out?format=parquet&numbers=text").open(tmp_path)
        with pytest.raises(SinkError, match=r"decimal\(30,4\)"):
            one_round(other, more, number=3)

    @pytest.mark.parametrize("content", ["", "[]", '{"format":99}', '{"format":1,"columns":7}'])
    def test_a_list_that_is_none(self, tmp_path, content):
        sink = PARQUET.open(tmp_path)
        one_round(sink, [Change(1, item())])
        pathlib.Path(sink.place, "orders", "_schema.json").write_text(content)
        with pytest.raises(SinkError, match=r"_schema\.json"):
            one_round(sink, [Change(2, item())], number=2)
