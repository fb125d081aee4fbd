# SPDX-License-Identifier: Apache-2.0
"""The demo: its proof finds every kind of difference, its workload counts right, it ends with 0."""

import copy
import json
import random
import sys
from collections import Counter

import pytest

from dynabeam.pipelines.demo import __main__ as demo
from dynabeam.pipelines.demo.proof import compare_items, compare_records, mirror_items
from dynabeam.pipelines.demo.workload import AGE, TABLES, Workload, make_tables
from dynabeam.transforms.model.version import encode_version
from dynabeam.transforms.testing.clock import SimClock
from dynabeam.transforms.testing.simulator import Simulator

ITEMS = [
    {"id": {"S": "a"}, "n": {"N": "12345678901234567890123456789012345678"}},
    {"id": {"S": "b"}, "s": {"NS": ["1", "2"]}, "none": {"NULL": True}},
]
OPS = {"INSERT": "c", "MODIFY": "u", "REMOVE": "d"}


class TestItems:
    def test_spelling_is_no_difference(self):
        other = copy.deepcopy(ITEMS)
        other[1]["s"]["NS"] = ["2.0", "1"]
        proof = compare_items(ITEMS, other[::-1])
        assert proof.equal
        assert (proof.compared, proof.found) == (2, 2)

    @pytest.mark.parametrize(
        "mirror",
        [
            pytest.param(ITEMS[:1], id="missing"),
            pytest.param([*ITEMS, {"id": {"S": "c"}}], id="too many"),
            pytest.param([*ITEMS, ITEMS[0]], id="twice"),
            pytest.param(
                [
                    {"id": {"S": "a"}, "n": {"N": "12345678901234567890123456789012345679"}},
                    ITEMS[1],
                ],
                id="last digit",
            ),
            pytest.param([ITEMS[0], {**ITEMS[1], "s": {"SS": ["1", "2"]}}], id="type"),
        ],
    )
    def test_difference_is_found(self, mirror):
        proof = compare_items(ITEMS, mirror)
        assert not proof.equal
        assert proof.differences

    def test_differences_are_few_and_short(self):
        items = [{"id": {"S": f"{n}" * 1000}} for n in range(10)]
        proof = compare_items(items, [])
        assert len(proof.differences) == 5
        assert max(map(len, proof.differences)) < 400


@pytest.fixture(scope="module")
def records():
    """The stream records of a table: two inserts, an update, a delete, one by time to live."""
    with Simulator(seed=1) as sim:
        sim.create_table("t", "id:S")
        sim.put_many("t", ITEMS)
        sim.put_many("t", [{"id": {"S": "a"}}])
        sim.delete_many("t", [{"id": {"S": "a"}}])
        sim.expire("t", {"id": {"S": "b"}})
        return sim.records("t")


class TestRecords:
    def changes(self, records):
        for record in records:
            data = record["dynamodb"]
            yield {
                "table": "t",
                "source": "stream",
                "op": OPS[record["eventName"]],
                "version": encode_version(1, data["SequenceNumber"]).decode(),
                "keys": data["Keys"],
                "old": data.get("OldImage"),
                "new": data.get("NewImage"),
                "ttl": "userIdentity" in record,
            }

    def compare(self, records, changes, folder):
        lines = [json.dumps(change) + "\n" for change in changes]
        (folder / "table=t").mkdir()
        (folder / "table=t" / "part.jsonl").write_text("".join(lines), encoding="utf-8")
        return compare_records("t", records, str(folder))

    def test_all_are_found(self, records, tmp_path):
        proof = self.compare(records, self.changes(records), tmp_path)
        assert proof.differences == []
        assert proof.compared == proof.found == len(records) == 5

    def test_other_tables_snapshots_and_staged_files_are_left_aside(self, records, tmp_path):
        changes = list(self.changes(records))
        (tmp_path / "_staging").mkdir()
        (tmp_path / "_staging" / "part.jsonl").write_text(json.dumps(changes[0]) + "\n")
        foreign = [{**changes[0], "table": "u"}, {**changes[0], "source": "export"}]
        assert self.compare(records, changes + foreign, tmp_path).equal

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(lambda changes: changes[1:], id="missing"),
            pytest.param(lambda changes: [*changes, changes[0]], id="twice"),
            pytest.param(lambda changes: [{**changes[0], "new": None}, *changes[1:]], id="image"),
            pytest.param(lambda changes: [*changes[:-1], {**changes[-1], "ttl": False}], id="ttl"),
            pytest.param(lambda changes: [{**changes[0], "op": "u"}, *changes[1:]], id="op"),
            pytest.param(
                lambda changes: [
                    {**changes[0], "version": encode_version(1, 5).decode()},
                    *changes[1:],
                ],
                id="version",
            ),
        ],
    )
    def test_difference_is_found(self, records, damage, tmp_path):
        proof = self.compare(records, damage(list(self.changes(records))), tmp_path)
        assert not proof.equal


class TestWorkload:
    @pytest.fixture
    def sim(self):
        with Simulator(seed=2, clock=SimClock(offset=-AGE), initial_shards=2) as sim:
            yield sim

    def test_most_items_are_older_than_their_stream(self, sim):
        before = sim.clock.now()
        for name, table in make_tables(sim, random.Random(1)).items():
            described = sim.client("dynamodb").describe_table(TableName=name)["Table"]
            assert described["LatestStreamLabel"] < (before + AGE / 2).isoformat()
            created = [r for r in sim.records(name) if r["eventName"] == "INSERT"]
            assert 0 < len(created) < table.counts.start == len(sim.items(name))
        assert sim.clock.now() - before >= AGE

    def test_counts_are_what_the_streams_tell(self, sim):
        tables = make_tables(sim, random.Random(1))
        assert tables.keys() == TABLES.keys()
        before = {name: len(sim.records(name)) for name in tables}
        workload = Workload(tables, seconds=0.2)
        workload.start()
        workload.finish()
        for name, table in tables.items():
            new = sim.records(name)[before[name] :]
            told = Counter(
                "expired" if "userIdentity" in record else record["eventName"] for record in new
            )
            counts = table.counts
            assert told["INSERT"] == counts.inserts > 0
            assert told["MODIFY"] == counts.updates > 0
            assert told["REMOVE"] == counts.deletes > 0
            assert told["expired"] == counts.expired > 0
            assert (counts.rolls, counts.splits) == (2, 1)
            assert len({record["ShardId"] for record in sim.records(name)}) > 4
            items = sim.items(name)
            assert len(items) == len(table.keys)
            assert len(items) == counts.start + counts.inserts - counts.deletes - counts.expired

    def test_halt_ends_it_early(self, sim):
        workload = Workload(make_tables(sim, random.Random(1)), seconds=3600)
        workload.start()
        workload.halt()
        workload.finish()
        assert not workload.is_alive()

    def test_failure_is_told(self, sim):
        tables = make_tables(sim, random.Random(1))
        tables["orders"].keys = []
        for key in list(sim.items("orders")):
            sim.delete_many("orders", [{name: key[name] for name in ("customer", "number")}])
        tables["orders"].insert = lambda _: None
        workload = Workload(tables, seconds=1)
        workload.start()
        with pytest.raises(RuntimeError, match="workload failed"):
            workload.finish()


class TestFolder:
    def test_foreign_files_are_never_deleted(self, tmp_path, capsys):
        (tmp_path / "mine").write_text("keep")
        assert demo.main(["--dir", str(tmp_path)]) == 1
        assert "name another folder" in capsys.readouterr().out
        assert (tmp_path / "mine").read_text() == "keep"

    @pytest.mark.parametrize("seconds", ["0", "-1", "61", "nan", "x"])
    def test_bad_seconds_are_refused(self, seconds, tmp_path):
        with pytest.raises(SystemExit) as ended:
            demo.main(["--dir", str(tmp_path), f"--seconds={seconds}"])
        assert ended.value.code == 2


class TestWhole:
    def test_failing_replication_is_told(self, tmp_path, monkeypatch, capsys):
        failing = [sys.executable, "-c", "raise SystemExit('no such thing')", "", "", ""]
        monkeypatch.setattr(demo, "_command", lambda *_: failing)
        assert demo.main(["--dir", str(tmp_path / "demo"), "--seconds=0.1"]) == 1
        told = capsys.readouterr().out
        assert "ended with 1" in told
        assert "no such thing" in told

    @pytest.mark.slow
    def test_everything_is_equal_and_a_difference_is_not(self, tmp_path, capsys):
        folder = tmp_path / "de mo#%41"
        folder.mkdir()
        assert demo.main(["--dir", str(folder), "--seconds=1"]) == 0
        told = capsys.readouterr().out
        assert told.count("mirror = table       yes") == len(TABLES)
        assert told.count("changelog = stream   yes") == len(TABLES)
        for name in TABLES:
            mirrored = mirror_items(str(folder / "mirror.duckdb"), name)
            assert mirrored
            assert not compare_items(mirrored[1:], mirrored).equal
