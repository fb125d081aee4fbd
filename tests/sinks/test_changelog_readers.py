# SPDX-License-Identifier: Apache-2.0
"""What programs see that read a changelog's folder as they read any: no option of ours, a glob."""

import json
import pathlib

import duckdb
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from tests.sinks.changes import NO_ROUND, Change, blocks, newest, round_number, table
from tests.sinks.hostile_names import HOSTILE_NAMES
from tests.sinks.targets import Target, published, read_back, run_round
from transforms.sinks.change_parquet import METADATA

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
