# SPDX-License-Identifier: Apache-2.0
"""A reader is kept away while the stream loses changes: what each policy makes of it."""

import random
from datetime import timedelta

import duckdb
import pytest

from dynabeam.pipelines.command_line import main
from dynabeam.transforms.sinks.duckdb.mirror import DuckDBMirror
from dynabeam.transforms.state.state_directory import StateDirectory
from tests.pipelines.runs import World
from tests.pipelines.time_machine import TimeMachine

HISTORY = timedelta(days=34)
DAY = timedelta(hours=24)
GAPS = (timedelta(minutes=20), timedelta(hours=23), timedelta(days=3))


class Kept(World):
    """A world whose readers can be kept away: time passes at will."""

    def __init__(self, folder, capsys, monkeypatch):
        super().__init__(folder, capsys)
        self.catch_up()
        self.time = TimeMachine(monkeypatch, self.clock)
        self.random = random.Random(11)

    def put(self, *names, value=0):
        self.sim.put_many(
            "orders", [{"id": {"S": each}, "total": {"N": str(value)}} for each in names]
        )

    def delete(self, *names):
        self.sim.delete_many("orders", [{"id": {"S": each}} for each in names])

    def work(self, span, steps=6):
        """Random writes while a span passes, with shards that come and go."""
        for step in range(steps):
            self.time.let_pass(span / steps)
            names = [f"k{self.random.randrange(40)}" for _ in range(6)]
            self.put(*names[:4], value=self.random.randrange(1000))
            self.delete(*names[4:])
            if step % 4 == 1:
                self.sim.roll("orders")

    def replicate(self, *options):
        return self.run("--tables=orders", "--s3_export_bucket=exports", "--buckets=2", *options)

    def assert_equal(self):
        """The mirror is the table."""
        truth = {each["id"]["S"]: int(each["total"]["N"]) for each in self.sim.items("orders")}
        with duckdb.connect(str(self.mirror), read_only=True) as connection:
            held = connection.execute("SELECT id, total::int FROM orders").fetchall()
        assert dict(held) == truth
        assert len(held) == len(truth)


@pytest.fixture
def kept(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
    world = Kept(tmp_path, capsys, monkeypatch)
    with world.sim:
        world.put(*(f"k{n}" for n in range(30)), "old", "older")
        world.time.let_pass(HISTORY)
        world.work(timedelta(hours=2))
        yield world


@pytest.fixture
def begun(kept):
    """The first run is over, the snapshot has come of age, and the stream was read on."""
    ended = kept.replicate()
    assert ended.code == 0, ended.err
    kept.work(timedelta(minutes=30), steps=3)
    kept.put("just before", "kept")
    ended = kept.replicate()
    assert ended.code == 0, ended.err
    kept.assert_equal()
    return kept


class Killed(BaseException):
    """The process dies here."""


def lose(kept, span):
    """The reader is away while the stream loses puts and deletes."""
    kept.put("in the gap")
    kept.delete("old", "just before")
    kept.work(DAY + span)
    kept.delete("in the gap")


class TestPolicies:
    def test_fail_then_heal_after_gaps_of_all_lengths(self, begun):
        for number, span in enumerate(GAPS):
            lose(begun, span)
            if number == 0:
                ended = begun.replicate()
                assert ended.code == 1
                (line,) = ended.error_lines
                assert line.startswith("dynabeam: GapError: table orders, ")
                assert "--gaps=heal" in line
            ended = begun.replicate("--gaps=continue,orders:heal")
            assert ended.code == 0, ended.err
            begun.assert_equal()
            assert "orders: changes were lost" in ended.err
            assert "healing from" in ended.err
            assert "healed with" in ended.err
            assert f"(generation {number + 2}: " in ended.out
            begun.put("just before")
            assert begun.replicate("--gaps=heal").code == 0
        begun.assert_equal()

    def test_resnapshot(self, begun):
        for number, span in enumerate(GAPS[1:]):
            lose(begun, span)
            ended = begun.replicate("--gaps=resnapshot")
            assert ended.code == 0, ended.err
            begun.assert_equal()
            assert "taking a new snapshot" in ended.err
            assert "orders: loaded again with" in ended.err
            assert f"(generation {number + 2}: " in ended.out


class TestCrashes:
    def test_between_all_steps(self, begun, monkeypatch):
        """Dies once before and once after each commit and each sweep, and ends the same."""
        lose(begun, GAPS[0])
        steps = [(StateDirectory, "commit"), (DuckDBMirror, "remove_older_generations")]
        for place, name in steps:
            for when in ("before", "after"):
                with monkeypatch.context() as patch:
                    patch.setattr(place, name, dying(getattr(place, name), when, begun))
                    with pytest.raises(Killed):
                        begun.replicate("--gaps=heal")
        ended = begun.replicate("--gaps=heal")
        assert ended.code == 0, ended.err
        begun.assert_equal()
        state = begun.committed()["tables"]["orders"]
        assert (state["generation"], "repair" in state, "heal" in state) == (2, False, False)


def is_repaired(state):
    orders = state.tables.get("orders")
    return orders is not None and orders.repair is not None


def dying(step, when, kept):
    """The step, which dies before or after it is done; commits only those of a repair."""

    def die(self, *arguments):
        if step.__name__ == "commit" and not is_repaired(arguments[0]):
            return step(self, *arguments)
        if when == "after":
            step(self, *arguments)
        raise Killed

    return die


class TestStreamsThatChange:
    def test_healed(self, begun):
        client = begun.sim.client("dynamodb")
        lose(begun, timedelta(hours=1) - DAY)
        client.update_table(TableName="orders", StreamSpecification={"StreamEnabled": False})
        begun.put("without a stream")
        begun.delete("kept")
        client.update_table(
            TableName="orders",
            StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        )
        begun.put("after it")
        ended = begun.replicate("--gaps=heal")
        assert ended.code == 0, ended.err
        assert "orders: healing from" in ended.err
        begun.assert_equal()


def test_a_policy_of_a_table_that_is_not_replicated(kept):
    ended = kept.replicate("--gaps=customers:heal")
    assert ended.code == 1
    assert "--gaps" in ended.err
    assert "'customers'" in ended.err


class TestOrderedSnapshots:
    def command(self, kept, *options):
        kept.capsys.readouterr()
        words = ["snapshot", "--tables=orders", f"--state_dir={kept.state_dir}", *kept.options]
        return main([*words, *options]), *kept.capsys.readouterr()

    def test_ordered_cancelled_and_taken(self, begun):
        assert "ordered; the next round" in self.command(begun)[1]
        assert "not begun yet" in self.command(begun, "--status")[1]
        assert "cancelled" in self.command(begun, "--cancel")[1]
        assert "nothing to cancel" in self.command(begun, "--cancel")[1]
        # A mirror that somebody has tampered with, and a table that changes meanwhile.
        with duckdb.connect(str(begun.mirror)) as connection:
            rows = connection.execute(
                "SELECT table_schema, table_name FROM information_schema.tables "
                "WHERE table_type = 'BASE TABLE' AND table_name LIKE '%orders%'"
            ).fetchall()
            (schema, name) = rows[0]
            connection.execute(f'DELETE FROM "{schema}"."{name}" WHERE id = \'old\'')
        self.command(begun)
        begun.work(timedelta(minutes=5), steps=2)
        ended = begun.replicate()
        assert ended.code == 0, ended.err
        assert "as ordered; generation 2" in ended.err
        assert "orders: loaded again with" in ended.err
        begun.assert_equal()
        assert "nothing is ordered; generation 2" in self.command(begun, "--status")[1]

    def test_what_cannot_be_ordered(self, kept):
        code, _, err = self.command(kept)
        assert (code, "is not replicated from this state directory" in err) == (1, True)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--key_range=a"], "not a range of keys"),
            (["--key_range=b..a"], "the range is empty"),
            (["--key_range=a..b", "--cancel"], "Leave it out"),
            (["--key_range=a..b", "--status"], "Leave it out"),
        ],
    )
    def test_ranges_that_cannot_be_ordered(self, begun, options, says):
        code, _, err = self.command(begun, *options)
        assert (code, says in err, "--key_range" in err) == (1, True, True)
        assert "nothing is ordered" in self.command(begun, "--status")[1]

    def test_a_range_of_keys(self, begun):
        """Somebody has tampered with the mirror: only what is wrong in the range is put right."""
        with duckdb.connect(str(begun.mirror)) as connection:
            ((rows,),) = connection.execute(
                'SELECT format(\'"{}"."{}"\', table_schema, table_name) '
                "FROM information_schema.tables "
                "WHERE table_type = 'BASE TABLE' AND table_name LIKE '%orders%'"
            ).fetchall()
            for name in ("k1", "old"):
                connection.execute(f"UPDATE {rows} SET total = -1 WHERE id = '{name}'")
        begun.delete("kept")
        _, out, _ = self.command(begun, "--key_range=k..kz")
        assert "a new snapshot of the keys k..kz is ordered" in out
        begun.work(timedelta(minutes=5), steps=2)
        begun.put("k1", "old again", value=7)
        ended = begun.replicate()
        assert ended.code == 0, ended.err
        assert "taking a new snapshot of the keys k..kz, as ordered; generation 2" in ended.err
        table = {each["id"]["S"]: int(each["total"]["N"]) for each in begun.sim.items("orders")}
        part = sum("k" <= name <= "kz" for name in table)
        assert 0 < part < len(table)
        assert f"orders: loaded again with {part} rows, " in ended.err
        with duckdb.connect(str(begun.mirror), read_only=True) as connection:
            held = dict(connection.execute("SELECT id, total::int FROM orders").fetchall())
        assert held == {**table, "old": -1}
        # The stream goes on for all keys, and a snapshot of the whole table fixes the rest.
        self.command(begun)
        begun.work(timedelta(minutes=5), steps=2)
        ended = begun.replicate()
        assert ended.code == 0, ended.err
        begun.assert_equal()
