# SPDX-License-Identifier: Apache-2.0
"""Streams that are switched off and on, tables that are deleted and made again, in rounds.

What the old stream holds is read under every policy, what was written between two streams is the
gap, and the other tables go on.
"""

import json
from datetime import timedelta

import duckdb
import pytest

import dynabeam.pipelines.rounds.run
from dynabeam.pipelines.command_line import main
from dynabeam.transforms.sinks.duckdb.mirror import DuckDBMirror
from dynabeam.transforms.sinks.files.changelog import FileChangelog
from dynabeam.transforms.state.state_directory import StateDirectory
from dynabeam.transforms.testing.clock import micros_of
from tests.pipelines.runs import ORDERS_ARN, ExportFolder, Place, orders
from tests.pipelines.test_gaps import Kept

OFF = {"StreamEnabled": False}
ON = {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}
HOUR = timedelta(hours=1)


class Replaced(Kept):
    """A world whose table has a second one beside it, and runs that read both."""

    def switch(self, on):
        self.sim.client("dynamodb").update_table(
            TableName="orders", StreamSpecification=ON if on else OFF
        )

    def write(self, number):
        """Puts, updates and deletes, each name of one number."""
        self.put(f"put{number}", f"gone{number}", value=number)
        self.put(f"put{number}", value=number + 100)
        self.delete(f"gone{number}")

    def replicate(self, *options, tables="orders,others"):
        return self.run(f"--tables={tables}", "--s3_export_bucket=exports", "--buckets=2", *options)

    def exports(self):
        return self.sim.client("dynamodb").list_exports()["ExportSummaries"]

    def order_snapshot(self):
        words = ["snapshot", "--tables=orders", f"--state_dir={self.state_dir}", *self.options]
        assert main(words) == 0

    def changes(self, table="orders"):
        """All changes that streams brought into the changelog: `(op, id, version)`."""
        found = []
        for path in sorted(self.changelog.rglob("*.jsonl")):
            for line in path.read_text().splitlines():
                change = json.loads(line)
                if change["table"] == table and change["source"] == "stream":
                    found.append((change["op"], change["keys"]["id"]["S"], change["version"]))
        return found

    def swept(self):
        """Keys of the deletes that repairs have appended, with repeats."""
        lines = [
            json.loads(line)
            for path in sorted(self.changelog.rglob("*.jsonl"))
            for line in path.read_text().splitlines()
        ]
        return [
            (each["table"], each["keys"]["id"]["S"], each["version"])
            for each in lines
            if each["origin"] == {"reason": "swept"}
        ]

    def newest(self, table="orders"):
        """What a reader of the changelog takes for the table: id → total."""
        rows = {}
        for path in sorted(self.changelog.rglob("*.jsonl")):
            for line in path.read_text().splitlines():
                change = json.loads(line)
                if change["table"] == table:
                    name = change["keys"]["id"]["S"]
                    if name not in rows or change["version"] > rows[name]["version"]:
                        rows[name] = change
        return {
            name: int(each["new"]["total"]["N"]) for name, each in rows.items() if each["op"] != "d"
        }

    def mirrored(self, table="orders"):
        with duckdb.connect(str(self.mirror), read_only=True) as connection:
            return dict(connection.execute(f'SELECT id, total::int FROM "{table}"').fetchall())

    def table(self, name="orders"):
        return {each["id"]["S"]: int(each["total"]["N"]) for each in self.sim.items(name)}

    def state(self, name="orders"):
        return self.committed()["tables"][name]

    def findings(self):
        path = self.state_dir / "findings.json"
        if not path.exists():
            return {}
        return {each["table"]: each for each in json.loads(path.read_text())["findings"]}

    def assert_written(self, number):
        """All that `write` did is in the changelog, once."""
        ops = sorted(
            (op, name)
            for op, name, _ in self.changes()
            if name in (f"put{number}", f"gone{number}")
        )
        put, gone = f"put{number}", f"gone{number}"
        assert ops == [("c", gone), ("c", put), ("d", gone), ("u", put)]


@pytest.fixture
def world(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
    world = Replaced(tmp_path, capsys, monkeypatch)
    with world.sim:
        world.create("others")
        world.put(*(f"k{n}" for n in range(5)))
        world.time.let_pass(timedelta(days=2))
        world.put("last")
        ended = world.replicate()
        assert ended.code == 0, ended.err
        world.time.let_pass(HOUR)
        yield world


class TestStreamsSwitchedOffAndOn:
    @pytest.mark.parametrize("policy", ["continue", "heal", "resnapshot"])
    def test_what_the_old_one_holds_is_read_first(self, world, policy):
        world.write(1)
        world.time.let_pass(HOUR)
        world.switch(on=False)
        world.put("between")
        world.delete("k1")
        world.time.let_pass(HOUR)
        world.switch(on=True)
        created = world.sim.table("orders").streams[-1].created_micros
        world.write(2)
        world.time.let_pass(HOUR)
        ended = world.replicate(f"--gaps={policy}", "--start=latest")
        assert ended.code == 0, ended.err
        world.assert_written(1)
        world.assert_written(2)
        (gap,) = world.state()["gaps"]
        assert (gap["kind"], gap["to_us"]) == ("stream_changed", created)
        # Since the last change that the old one held, to the second, and not since the last run.
        history = world.sim.table("orders").history
        (_, deleted, *_) = (each for each in history if each.keys["id"]["S"][0] == "g")
        assert gap["from_us"] == deleted.micros // 1_000_000 * 1_000_000
        expected = world.table()
        if policy == "continue":
            expected = {**expected, "k1": 0}
            del expected["between"]
        assert world.mirrored() == expected
        assert world.newest() == expected

    def test_fail_delivers_what_the_old_one_holds_and_stops(self, world):
        world.write(1)
        world.switch(on=False)
        world.switch(on=True)
        world.write(2)
        for _ in range(2):
            ended = world.replicate()
            assert ended.code == 1
            (line,) = ended.error_lines
            assert "GapError: table orders" in line
            assert "--gaps=heal" in line
            world.assert_written(1)
            assert "gone1" not in world.mirrored()
            assert world.mirrored()["put1"] == 101
        ended = world.replicate("--gaps=continue")
        assert ended.code == 0, ended.err
        world.assert_written(1)
        world.assert_written(2)
        assert world.mirrored() == world.table() == world.newest()

    def test_several_times_within_a_day(self, world):
        for number in range(1, 5):
            world.write(number)
            world.switch(on=False)
            world.time.let_pass(HOUR)
            world.switch(on=True)
        world.write(5)
        ended = world.replicate("--gaps=continue")
        assert ended.code == 0, ended.err
        for number in range(1, 6):
            world.assert_written(number)
        assert len(world.state()["gaps"]) == 4
        assert world.state()["generation"] == 5
        assert world.mirrored() == world.table() == world.newest()

    def test_the_last_of_them_is_off(self, world):
        world.write(1)
        world.switch(on=False)
        world.switch(on=True)
        world.write(2)
        world.switch(on=False)
        ended = world.replicate("--gaps=continue")
        assert ended.code == 3
        world.assert_written(1)
        world.assert_written(2)
        assert world.findings()["orders"]["what"] == "stream_off"

    def test_while_rounds_run(self, world):
        """The run sees it by itself, as it would have gone on for ever."""
        world.write(1)
        switched = []

        def work(_):
            world.time.let_pass(timedelta(seconds=20))
            if not switched:
                switched.append(True)
                world.write(2)
                world.switch(on=False)
                world.switch(on=True)
                world.write(3)
            elif len(world.state().get("gaps", ())) and "put3" in world.mirrored():
                raise KeyboardInterrupt

        dynabeam.pipelines.rounds.run.time.sleep = work
        ended = world.replicate("--gaps=continue", "--every=1s")
        assert ended.code == 130
        for number in (1, 2, 3):
            world.assert_written(number)
        assert world.mirrored() == world.table()

    def test_while_a_snapshot_is_taken(self, world):
        """Its rows are older than what the other stream brings, and only they are swept."""
        world.write(1)
        world.order_snapshot()
        world.sim.exports.export_seconds = 600
        requested, switched = len(world.exports()), []

        def work(_):
            world.time.let_pass(timedelta(seconds=20))
            if not switched and len(world.exports()) > requested:
                switched.append(True)
                world.write(2)
                world.switch(on=False)
                world.switch(on=True)
                world.write(3)

        dynabeam.pipelines.rounds.run.time.sleep = work
        ended = world.replicate("--gaps=continue")
        assert ended.code == 0, ended.err
        assert switched
        state = world.state()
        assert (state["generation"], state["snapshot"]["generation"]) == (3, 2)
        assert state["snapshot"]["status"] == "done"
        assert state["snapshot"]["rows"] > 0
        assert "repair" not in state
        assert state["repaired"] == [[2, 0]]
        for number in (1, 2, 3):
            world.assert_written(number)
        assert world.mirrored() == world.table() == world.newest()

    def test_off_and_not_on_again(self, world):
        world.write(1)
        world.switch(on=False)
        world.sim.put_many("others", [{"id": {"S": "new"}, "total": {"N": "7"}}])
        ended = world.replicate()
        assert ended.code == 3
        world.assert_written(1)
        assert world.mirrored("others") == {"new": 7}
        assert world.state().get("gaps", []) == []
        finding = world.findings()["orders"]
        assert finding["what"] == "stream_off"
        assert "StreamEnabled=true" in finding["detail"]
        assert "--exclude_tables=orders" in finding["detail"]
        assert ended.err.count("stream off") == 1
        world.put("lost")
        world.switch(on=True)
        world.write(2)
        ended = world.replicate("--gaps=heal")
        assert ended.code == 0, ended.err
        world.assert_written(2)
        assert world.mirrored() == world.table() == world.newest()
        assert world.findings() == {}

    @pytest.mark.parametrize("policy", ["continue", "heal"])
    def test_an_old_one_that_is_gone_is_a_gap_since_the_last_position(self, world, policy):
        begun = micros_of(world.clock.now())
        world.write(1)
        world.switch(on=False)
        world.time.let_pass(timedelta(hours=30))
        world.switch(on=True)
        world.write(2)
        ended = world.replicate(f"--gaps={policy}")
        assert ended.code == 0, ended.err
        (gap,) = world.state()["gaps"]
        assert gap["kind"] == "stream_changed"
        assert 0 < gap["from_us"] <= begun
        world.assert_written(2)
        if policy == "heal":
            assert world.mirrored() == world.table() == world.newest()


class TestTablesDeletedAndMadeAgain:
    def drop(self, world, name="orders"):
        world.sim.client("dynamodb").delete_table(TableName=name)

    def test_deleted_its_last_changes_are_read_and_the_others_go_on(self, world):
        world.write(1)
        expected = world.table()
        self.drop(world)
        world.sim.put_many("others", [{"id": {"S": "new"}, "total": {"N": "7"}}])
        for _ in range(2):
            ended = world.replicate()
            assert ended.code == 3
            assert ended.err.count("orders: deleted") == 1
            assert "--exclude_tables=orders" in ended.err
            assert "NOT REPLICATED  orders: deleted" in ended.out
            world.assert_written(1)
            assert world.mirrored() == expected == world.newest()
            assert world.mirrored("others") == {"new": 7}
            assert world.findings()["orders"]["what"] == "deleted"
        ended = world.replicate("--exclude_tables=orders")
        assert ended.code == 0, ended.err

    def test_deleted_and_found_by_pattern(self, world):
        world.write(1)
        expected = world.table()
        self.drop(world)
        ended = world.replicate(tables="o*")
        assert ended.code == 3
        world.assert_written(1)
        assert world.mirrored() == expected
        assert world.replicate(tables="o*").code == 0

    def test_alone(self, world):
        world.write(1)
        self.drop(world)
        ended = world.replicate(tables="orders")
        assert ended.code == 1
        (line,) = ended.error_lines
        assert "TableError: table orders: the table was deleted" in line
        world.assert_written(1)

    @pytest.mark.parametrize("policy", ["fail", "continue", "heal"])
    def test_made_again_it_is_another_table(self, world, policy):
        world.write(1)
        expected = world.table()
        self.drop(world)
        world.create("orders")
        world.put("other table", value=9)
        world.sim.put_many("others", [{"id": {"S": "new"}, "total": {"N": "7"}}])
        world.time.let_pass(HOUR)
        for _ in range(2):
            ended = world.replicate(f"--gaps={policy}")
            assert ended.code == 3, ended.err
            world.assert_written(1)
            assert world.mirrored() == expected == world.newest()
            assert world.mirrored("others") == {"new": 7}
            assert world.findings()["orders"]["what"] == "recreated"
            assert "--gaps=orders:resnapshot" in ended.out
            assert world.state()["generation"] == 1

    def test_made_again_and_taken_in_its_place(self, world):
        world.write(1)
        self.drop(world)
        world.create("orders")
        world.put("k1", "other table", value=9)
        world.time.let_pass(HOUR)
        world.put("k2", value=10)
        ended = world.replicate("--gaps=resnapshot")
        assert ended.code == 0, ended.err
        world.assert_written(1)
        assert world.table() == {"k1": 9, "other table": 9, "k2": 10}
        assert world.mirrored() == world.table() == world.newest()
        assert world.state()["table_id"] == world.sim.table("orders").table_id
        assert world.state()["generation"] == 2
        world.write(2)
        assert world.replicate().code == 0
        assert world.mirrored() == world.table() == world.newest()

    def test_made_again_with_another_key(self, world):
        self.drop(world)
        world.sim.create_table("orders", "id:N")
        ended = world.replicate("--gaps=resnapshot")
        assert ended.code == 3
        assert "another primary key" in ended.out
        assert len(world.mirrored()) == 6

    def test_long_ago(self, world):
        self.drop(world)
        world.time.let_pass(timedelta(days=3))
        world.create("orders")
        world.put("k1", value=9)
        world.time.let_pass(HOUR)
        assert world.replicate("--gaps=others:continue").code == 3
        assert len(world.mirrored()) == 6
        ended = world.replicate("--gaps=orders:resnapshot,others:continue")
        assert ended.code == 0, ended.err
        assert world.mirrored() == world.table() == world.newest() == {"k1": 9}


class Killed(BaseException):
    """The process dies here."""


def dying(step, when):
    """The step, which dies before or after it is done."""

    def die(*arguments, **options):
        if when == "after":
            step(*arguments, **options)
        raise Killed

    return die


class TestCrashes:
    """Killed at one place after the other, and each time begun again: all ends the same."""

    PLACES = (
        # The round that has read the old stream to its end.
        (StateDirectory, "commit", "before"),
        (StateDirectory, "commit", "after"),
        # The end of the repair, step by step.
        (DuckDBMirror, "remove_older_generations", "before"),
        (FileChangelog, "append_swept", "before"),
        (FileChangelog, "_publish_swept", "before"),
        (FileChangelog, "_publish_swept", "after"),
        (DuckDBMirror, "remove_older_generations", "after"),
        (FileChangelog, "append_swept", "after"),
        (StateDirectory, "commit", "before"),
        (StateDirectory, "commit", "after"),
    )

    def run(self, world, monkeypatch):
        for place, name, when in self.PLACES:
            with monkeypatch.context() as patch:
                patch.setattr(place, name, dying(getattr(place, name), when))
                with pytest.raises(Killed):
                    world.replicate("--gaps=resnapshot")
        ended = world.replicate("--gaps=resnapshot")
        assert ended.code == 0, ended.err
        assert world.mirrored() == world.table() == world.newest()
        assert world.state()["generation"] == 2
        assert "repair" not in world.state()
        swept = world.swept()
        assert len(swept) == len(set(swept)) > 0

    def test_a_stream_that_was_switched_off_and_on(self, world, monkeypatch):
        world.write(1)
        world.switch(on=False)
        world.delete("k1")
        world.put("between")
        world.time.let_pass(HOUR)
        world.switch(on=True)
        world.write(2)
        self.run(world, monkeypatch)
        for number in (1, 2):
            world.assert_written(number)
        assert len(world.state()["gaps"]) == 1

    def test_a_table_that_was_made_again(self, world, monkeypatch):
        world.write(1)
        world.sim.client("dynamodb").delete_table(TableName="orders")
        world.create("orders")
        world.put("k1", "another", value=9)
        world.time.let_pass(HOUR)
        self.run(world, monkeypatch)
        world.assert_written(1)


class TestTablesThatAreNotReady:
    def test_new_ones_do_not_stop_the_others(self, world):
        world.create("bare", recovery=False)
        world.create("dumb", stream=None)
        world.sim.put_many("others", [{"id": {"S": "new"}, "total": {"N": "7"}}])
        ended = world.replicate(tables="bare,others,dumb")
        assert ended.code == 3, ended.err
        assert world.mirrored("others") == {"new": 7}
        found = world.findings()
        assert {name: each["what"] for name, each in found.items()} == {
            "bare": "not_ready",
            "dumb": "not_ready",
        }
        assert "update-continuous-backups" in found["bare"]["detail"]
        assert "StreamEnabled=true" in found["dumb"]["detail"]
        assert "--exclude_tables=dumb" in ended.out
        assert world.replicate(tables="others").code == 0

    def test_one_whose_recovery_was_switched_off_is_read_on(self, world):
        world.sim.client("dynamodb").update_continuous_backups(
            TableName="orders",
            PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": False},
        )
        world.write(1)
        ended = world.replicate()
        assert ended.code == 3
        world.assert_written(1)
        assert world.mirrored() == world.table()
        assert "update-continuous-backups" in world.findings()["orders"]["detail"]

    def test_one_that_was_mistyped_stops_the_run(self, world):
        before = world.committed()
        ended = world.replicate(tables="orders,ordres")
        assert (ended.code, world.committed()) == (1, before)
        assert "there is no such table" in ended.err


def test_an_empty_export_among_others(tmp_path, capsys):
    """Without AWS nobody knows the key of a table without items."""
    place = Place(tmp_path, capsys)
    full = ExportFolder(tmp_path / "full", orders(5))
    empty = ExportFolder(tmp_path / "empty", [], table_arn=ORDERS_ARN.replace("orders", "nothing"))
    ended = place.run(full.option, empty.option, "--keys=orders:id", "--keys=nothing:id")
    assert ended.code == 3, ended.err
    assert "nothing: not ready" in ended.err
    assert "--exclude_tables=nothing" in ended.err
    assert len(place.rows()) == 5


def test_a_table_of_which_only_snapshots_are_read(world, tmp_path):
    """Its state has no stream, though the table has one."""
    options = ("--snapshot=only", "--buckets=2", "--s3_export_bucket=exports", "--tables=orders")
    place = Place(tmp_path / "only", world.capsys, world.options)
    for _ in range(2):
        ended = place.run(*options)
        assert ended.code == 0, ended.err
    world.sim.client("dynamodb").delete_table(TableName="orders")
    ended = place.run(*options)
    assert ended.code == 1
    assert "the table was deleted" in ended.err
