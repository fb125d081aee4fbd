# SPDX-License-Identifier: Apache-2.0
"""The DuckDB mirror: what people see in the file, its one transaction per round, its refusals."""

import datetime
import subprocess
import sys
import weakref
from decimal import Decimal

import duckdb
import pytest

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.sinks.base import Round
from dynabeam.transforms.sinks.duckdb import rows as duckdb_rows
from dynabeam.transforms.sinks.registry import open_sink
from tests.sinks.changes import NO_ROUND, STATE, Change, blocks, only_block, round_number, table
from tests.sinks.targets import run_pipeline, run_round

ORDERS = table("orders", ("id", "S"), ("n", "N"))
START = datetime.datetime(2026, 1, 31, 12, 0, 0, 7, tzinfo=datetime.timezone.utc)


def item(name="a", number="1", /, **attributes):
    return {"id": {"S": name}, "n": {"N": number}, **attributes}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.duckdb"


@pytest.fixture
def sink(path):
    return open_sink(f"duckdb:///{path}?retry_seconds=0")


def query(sink, sql):
    with sink.connect() as connection:
        return connection.sql(sql).fetchall()


def one_round(sink, changes, number=1, of=ORDERS):
    committed = NO_ROUND if number == 1 else round_number(number - 1)
    return run_round(sink, [of], blocks(of, changes), round_number(number), committed)


class TestWhatPeopleSee:
    def test_unpacked(self, sink):
        attributes = {
            "s": {"S": "x"},
            "m": {"M": {"a": {"N": "1"}}},
            "flag": {"BOOL": True},
            "tags": {"SS": ["x", "y"]},
            "none": {"NULL": True},
        }
        one_round(sink, [Change(3, item("a", "1.5", **attributes))])
        described = query(sink, "DESCRIBE orders")
        assert [row[:2] for row in described] == [
            ("id", "VARCHAR"),
            ("n", "DECIMAL(38,18)"),
            ("s", "VARCHAR"),
            ("m", "JSON"),
            ("flag", "BOOLEAN"),
            ("tags", "VARCHAR[]"),
            ("_other", "JSON"),
            ("_version", "VARCHAR"),
            ("_op", "VARCHAR"),
            ("_event_time", "TIMESTAMP WITH TIME ZONE"),
            ("_ttl", "BOOLEAN"),
            ("_deleted", "BOOLEAN"),
        ]
        (row,) = query(sink, "SELECT * EXCLUDE (_event_time) FROM orders")
        version = "00000001." + "3".zfill(40)
        nested, other = '{"a":{"N":"1"}}', '{"none":{"NULL":true}}'
        assert row == (
            *(
                "a",
                Decimal("1.5"),
                "x",
                nested,
                True,
                ["x", "y"],
                other,
                version,
                "u",
                False,
                False,
            ),
        )
        ((time,),) = query(sink, "SELECT epoch_us(_event_time) FROM orders")
        assert time == (START.timestamp() + 3) * 10**6

    def test_packed(self, path):
        sink = open_sink(f"duckdb:///{path}?layout=packed&numbers=text")
        one_round(sink, [Change(3, item("a", "1.50", s={"S": "x"}))])
        (row,) = query(sink, "SELECT id, n, item FROM orders")
        assert row == ("a", "1.5", '{"id":{"S":"a"},"n":{"N":"1.50"},"s":{"S":"x"}}')

    def test_a_new_attribute_adds_a_column(self, sink):
        one_round(sink, [Change(1, item("a"))])
        one_round(sink, [Change(2, item("b", size={"N": "7"}))], 2)
        assert query(sink, "SELECT id, size, _other FROM orders ORDER BY id") == [
            ("a", None, None),
            ("b", Decimal(7), None),
        ]

    def test_another_type_goes_to_other(self, sink):
        one_round(sink, [Change(1, item("a", size={"N": "7"}))])
        one_round(sink, [Change(2, item("b", size={"S": "large"}))], 2)
        assert query(sink, "SELECT id, size, _other FROM orders ORDER BY id") == [
            ("a", Decimal(7), None),
            ("b", None, '{"size":{"S":"large"}}'),
        ]

    def test_a_key_beyond_the_decimal_type(self, sink):
        one_round(sink, [Change(1, item("a", "1E-130"))])
        ((number, other),) = query(sink, "SELECT n, _other FROM orders")
        assert number is None
        assert other == '{"n":{"N":"1E-130"}}'

    def test_deleted_keys_are_tombstones_behind_the_view(self, sink):
        one_round(sink, [Change(1, item("a")), Change(5, None, old=item("a"), ttl=True)])
        assert query(sink, "SELECT count(*) FROM orders") == [(0,)]
        hidden = "SELECT id, n, _op, _ttl, _deleted FROM _dynabeam_rows.orders"
        assert query(sink, hidden) == [("a", Decimal(1), "d", True, True)]

    def test_other_tables_of_the_file_are_left_alone(self, sink, path):
        with duckdb.connect(str(path)) as connection:
            connection.execute("CREATE TABLE mine AS SELECT 42 AS answer")
        one_round(sink, [Change(1, item())])
        assert query(sink, "SELECT answer FROM mine, orders") == [(42,)]


class TestMerge:
    def test_report(self, sink):
        changes = [Change(5, item("a")), Change(6, item("a")), Change(1, None, keys=item("b"))]
        (report,) = one_round(sink, changes)
        assert (report.kind, report.table) == ("sink", "orders")
        assert report.fields == {"sink": sink.name, "rows": 3, "written": 2, "stale": 1}
        (report,) = one_round(sink, [*changes, Change(7, item("b"))], 2)
        assert report.fields == {"sink": sink.name, "rows": 4, "written": 1, "stale": 3}

    def test_small_pieces_come_to_the_same(self, sink, monkeypatch):
        monkeypatch.setattr(duckdb_rows, "PIECE_BYTES", 500)
        changes = [
            Change(at, item(f"k{at % 7}", **{f"attribute{at % 11}": {"N": str(at)}}))
            for at in range(60)
        ]
        given = [only_block(ORDERS, changes[at : at + 3]) for at in range(0, 60, 3)]
        run_round(sink, [ORDERS], given, round_number(1), NO_ROUND)
        found = query(sink, "SELECT id, right(_version, 2)::INTEGER FROM orders ORDER BY id")
        assert found == [(f"k{key}", max(range(key, 60, 7))) for key in range(7)]

    def test_blocks_are_taken_one_at_a_time(self, sink, monkeypatch):
        """What is merged is let go: memory does not grow with the round."""
        monkeypatch.setattr(duckdb_rows, "PIECE_BYTES", 1)
        batches = []

        def stream():
            for at in range(6):
                block = only_block(ORDERS, [Change(at, item(f"k{at}"))])
                batches.append(weakref.ref(block.rows))
                yield block
                del block
                assert sum(batch() is not None for batch in batches) <= 2

        sink.check([ORDERS], NO_ROUND)
        (report,) = sink.apply(stream(), round_number(1))
        assert report.fields["written"] == 6

    def test_a_change_without_its_image_is_refused(self, sink):
        sink.check([ORDERS], NO_ROUND)
        with pytest.raises(SinkError, match="NEW_AND_OLD_IMAGES"):
            sink.apply(blocks(ORDERS, [Change(1, None, keys=item(), op="u")]), round_number(1))

    def test_older_generations_can_be_removed(self, sink):
        changes = [Change(9, item("stays")), Change(9, item("gone", x={"S": "x"}))]
        one_round(sink, changes)
        one_round(sink, [Change(0, item("stays"), generation=2)], 2)
        assert sink.remove_older_generations(ORDERS, 2) == 1
        assert sink.remove_older_generations(ORDERS, 2) == 0
        assert query(sink, "SELECT id FROM orders") == [("stays",)]
        late = [Change(10, item("gone")), Change(1, item("new"), generation=2)]
        one_round(sink, late, 3)
        assert query(sink, "SELECT id FROM orders ORDER BY id") == [("new",), ("stays",)]


class TestRounds:
    def test_a_failing_round_shows_nothing(self, sink):
        one_round(sink, [Change(1, item("a"))])

        def stream():
            yield only_block(ORDERS, [Change(2, item("a", x={"S": "new"})), Change(2, item("b"))])
            raise RuntimeError("the worker dies")

        with pytest.raises(RuntimeError, match="dies"):
            sink.apply(stream(), round_number(2))
        (row,) = query(sink, "FROM orders SELECT id, right(_version, 1)")
        assert row == ("a", "1")
        assert "x" not in [name for name, *_ in query(sink, "DESCRIBE orders")]
        assert query(sink, "SELECT round, attempt FROM _dynabeam.last_round") == [(1, "attempt-1")]

    def test_a_round_repeated_by_another_attempt(self, sink):
        changes = [Change(1, item("a")), Change(2, None, keys=item("b"))]
        one_round(sink, changes)
        # The process died before the state directory was written: one round ahead is legal.
        sink.check([ORDERS], NO_ROUND)
        sink.recover(NO_ROUND)
        (report,) = sink.apply(blocks(ORDERS, changes), round_number(1, "second"))
        assert report.fields["written"] == 0
        assert query(sink, "SELECT round, attempt FROM _dynabeam.last_round") == [(1, "second")]

    def test_an_empty_round_counts(self, sink):
        run_pipeline(sink, [ORDERS], [], round_number(1), NO_ROUND)
        sink.check([ORDERS], round_number(1))
        assert query(sink, "SELECT count(*) FROM orders") == [(0,)]


class TestPipeline:
    @pytest.mark.parametrize(
        "options",
        [(), ("--direct_running_mode=multi_processing", "--direct_num_workers=2")],
        ids=["in process", "two processes"],
    )
    def test_two_rounds(self, sink, options):
        tables = [ORDERS, table("customers")]
        first = blocks(ORDERS, [Change(at, item(f"k{at}")) for at in range(20)])
        first += blocks(tables[1], [Change(1, {"id": {"S": "c"}})])
        run_pipeline(sink, tables, first, round_number(1), NO_ROUND, *options)
        second = blocks(ORDERS, [Change(30, None, keys=item(f"k{at}")) for at in range(15)])
        run_pipeline(sink, tables, second, round_number(2), round_number(1), *options)
        assert query(sink, "SELECT count(*) FROM orders") == [(5,)]
        assert query(sink, "SELECT id FROM customers") == [("c",)]

    def test_a_failing_pipeline_shows_nothing(self, sink):
        broken = only_block(ORDERS, [Change(1, None, keys=item(), op="u")])
        good = only_block(ORDERS, [Change(1, item())])
        with pytest.raises(Exception, match="NEW_AND_OLD_IMAGES"):
            run_pipeline(sink, [ORDERS], [good, broken], round_number(1), NO_ROUND)
        assert query(sink, "SELECT count(*) FROM orders") == [(0,)]


class TestRefusals:
    def refuse(self, sink, committed, *said, tables=(ORDERS,)):
        with pytest.raises(SinkError) as caught:
            sink.check(tables, committed)
        for text in said:
            assert text in str(caught.value)
        assert sink.name in str(caught.value)

    def test_another_state_directory(self, sink):
        one_round(sink, [])
        other = Round("state-2", 1, "x")
        said = f"belongs to state directory {STATE}", "'state-2'"
        self.refuse(sink, other, *said)
        with pytest.raises(SinkError, match=said[0]):
            sink.apply([], other)

    def test_a_new_file_for_an_old_state_directory(self, sink, path):
        self.refuse(sink, round_number(7), "says round 7", str(path))
        assert not path.exists()
        duckdb.connect(str(path)).close()
        self.refuse(sink, round_number(7), "empty", "round 7", "round 0", "new file")

    @pytest.mark.parametrize(("committed", "word"), [(4, "behind"), (1, "set back")])
    def test_rounds_that_do_not_fit(self, sink, committed, word):
        one_round(sink, [])
        for number in (2, 3):
            one_round(sink, [], number)
        self.refuse(sink, round_number(committed), word, f"round {committed}", "'round 3'")

    @pytest.mark.parametrize("committed", [2, 3])
    def test_rounds_that_fit(self, sink, committed):
        for number in (1, 2, 3):
            one_round(sink, [], number)
        sink.check([ORDERS], round_number(committed))

    def test_no_duckdb_file(self, sink, path):
        path.write_text("id,name\n" * 1000)
        self.refuse(sink, NO_ROUND, "not a DuckDB database", str(path))

    def test_a_folder_that_cannot_be(self, tmp_path):
        (tmp_path / "file").write_text("")
        sink = open_sink(f"duckdb:///{tmp_path}/file/m.duckdb")
        self.refuse(sink, NO_ROUND, "cannot be created", f"{tmp_path}/file")

    def test_a_folder_that_is_not_there_yet(self, tmp_path):
        open_sink(f"duckdb:///{tmp_path}/a/b/m.duckdb").check([ORDERS], NO_ROUND)
        assert (tmp_path / "a" / "b" / "m.duckdb").exists()

    def test_a_file_that_another_process_holds(self, sink, path):
        one_round(sink, [])
        code = (
            "import duckdb, sys; connection = duckdb.connect(sys.argv[1]);"
            "print('open', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout.readline() == "open\n"
            self.refuse(sink, round_number(1), "another process holds the file")
            with pytest.raises(SinkError, match="another process holds"):
                sink.apply([], round_number(2))
            process.communicate("")
        sink.check([ORDERS], round_number(1))

    def test_a_connection_of_this_process(self, sink, path):
        one_round(sink, [])
        with duckdb.connect(str(path), read_only=True):
            self.refuse(sink, round_number(1), "Close the other connection")

    def test_other_options(self, sink, path):
        one_round(sink, [])
        packed = open_sink(f"duckdb:///{path}?layout=packed")
        self.refuse(packed, round_number(1), "options", "packed", "unpacked", "table orders")

    def test_another_key(self, sink):
        one_round(sink, [])
        other = table("orders", ("id", "S"))
        self.refuse(sink, round_number(1), "another key", '"n"', "new file", tables=[other])

    def test_names_that_differ_in_case(self, sink):
        other = table("Orders", ("id", "S"), ("n", "N"))
        self.refuse(sink, NO_ROUND, "'orders'", "'Orders'", tables=[ORDERS, other])

    @pytest.mark.parametrize("kind", ["TABLE", "VIEW"])
    def test_a_name_that_is_taken(self, sink, path, kind):
        with duckdb.connect(str(path)) as connection:
            connection.execute(f"CREATE {kind} ORDERS AS SELECT 1 AS x")
        self.refuse(sink, NO_ROUND, "not Dynabeam's", "table orders")
        with duckdb.connect(str(path)) as connection:
            assert connection.sql("FROM ORDERS").fetchall() == [(1,)]

    def test_a_format_of_the_future(self, sink, path):
        one_round(sink, [])
        with duckdb.connect(str(path)) as connection:
            connection.execute("UPDATE _dynabeam.last_round SET format = 99")
        with pytest.raises(SinkError, match="Upgrade Dynabeam"):
            sink.check([ORDERS], round_number(1))
