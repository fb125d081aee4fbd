# SPDX-License-Identifier: Apache-2.0
"""Several writers of one PostgreSQL mirror, servers that go away, and runs that never end."""

import collections
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.sinks.postgresql import connection as postgresql_connection
from dynabeam.transforms.sinks.postgresql import table as postgresql_table
from dynabeam.transforms.sinks.postgresql.writer import PostgreSQLRows
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.values.plain_json import same_item
from tests.sinks.changes import NO_ROUND, STATE, Change, blocks, newest, round_number, table
from tests.sinks.hostile_names import KEY_NAMES
from tests.sinks.postgres_server import PostgresServer, server_for_tests
from tests.sinks.targets import Target, postgresql_rows, run_round, schema_of

ORDERS = table()
UNPACKED = Target("postgresql://SERVER")
WRITERS = 8


def item(name="a", /, **attributes):
    return {"id": {"S": name}, **attributes}


@pytest.fixture
def sink(tmp_path):
    sink = UNPACKED.open(tmp_path)
    sink.check([ORDERS], NO_ROUND)
    return sink


@pytest.fixture
def open_writer():
    """Makes a writer of a sink; all are closed at the end."""
    made = []

    def make(sink):
        made.append(sink.writer(STATE))
        return made[-1]

    yield make
    for writer in made:
        writer.close()


def bundle(writer, changes):
    gathered = PostgreSQLRows(writer, "sink")
    for each in blocks(ORDERS, changes, buckets=1):
        gathered.add(each)
    return list(gathered.finish())


def assert_holds(sink, changes, server=None):
    held = dict(postgresql_rows(UNPACKED, sink, ORDERS, server))
    wanted = newest(ORDERS, changes)
    assert held.keys() == wanted.keys()
    for key, image in wanted.items():
        assert same_item(held[key], image)


def in_threads(work, arguments):
    """Runs them all at once; raises the first error."""
    with ThreadPoolExecutor(len(arguments)) as pool:
        return [each.result() for each in [pool.submit(work, *one) for one in arguments]]


def history(seed, count=60):
    """Changes of a few keys: versions in random order, most of them met by several writers."""
    chance = random.Random(seed)
    changes = []
    for _ in range(count):
        name, at = f"k{chance.randrange(12)}", chance.randrange(1000)
        # What a version says is the same whoever brings it.
        value = {"N": str(at)} if at % 3 else {"S": f"text {at}"}
        image = None if at % 5 == 0 else item(name, **{f"a{at % 7}": value})
        changes.append(Change(at, image, keys=item(name)))
    return changes


def query(sink, sql, server=None):
    with (server or server_for_tests()).connect() as connection:
        connection.execute(f"SET search_path TO {schema_of(sink)}")
        cursor = connection.execute(sql)
        return cursor.fetchall() if cursor.description else []


def wait_until_locked_out(relation):
    """Returns as soon as someone waits for a lock of a relation."""
    with server_for_tests().connect() as connection:
        for _ in range(1000):
            found = connection.execute(
                "SELECT 1 FROM pg_locks JOIN pg_class ON relation = pg_class.oid "
                "WHERE relname = %s AND NOT granted",
                [relation],
            )
            if found.fetchone():
                return
            time.sleep(0.01)
    raise AssertionError(f"nobody waits for {relation}")


@pytest.mark.usefixtures("few_and_many")
class TestSeveralWriters:
    def test_the_newest_wins_and_nobody_deadlocks(self, sink, open_writer):
        histories = [history(seed) for seed in range(WRITERS)]
        began = len(server_for_tests().log())

        def write(writer, changes):
            for at in range(0, len(changes), 6):
                bundle(writer, changes[at : at + 6])

        in_threads(write, [(open_writer(sink), each) for each in histories])
        assert_holds(sink, [change for each in histories for change in each])
        assert "deadlock detected" not in server_for_tests().log()[began:]

    def test_columns_that_several_add_at_once(self, sink, open_writer):
        kinds = [{"N": "1"}, {"S": "x"}, {"BOOL": True}, {"NULL": True}]
        start = threading.Barrier(WRITERS)
        changes = [
            [
                Change(
                    1,
                    item(
                        f"{at}-{step}",
                        shared={**kinds[at % 4]},
                        **{f"own {at} {step}": kinds[step % 3], f"Round {step}": kinds[at % 3]},
                    ),
                )
                for step in range(4)
            ]
            for at in range(WRITERS)
        ]

        def write(writer, own):
            start.wait()
            for change in own:
                bundle(writer, [change])

        in_threads(write, [(open_writer(sink), own) for own in changes])
        assert_holds(sink, [each for own in changes for each in own])
        found = query(sink, "SELECT attname FROM pg_attribute WHERE attrelid = 'orders'::regclass")
        names = {name for (name,) in found}
        assert {f"own {at} {step}" for at in range(WRITERS) for step in range(4)} <= names
        assert {f"Round {step}" for step in range(4)} <= names

    def test_a_table_that_several_create_at_once(self, tmp_path, open_writer):
        sink = UNPACKED.open(tmp_path / "new")
        in_threads(lambda: sink.check([], NO_ROUND), [()] * WRITERS)
        start = threading.Barrier(WRITERS)

        def write(writer, at):
            start.wait()
            bundle(writer, [Change(1, item(f"k{at}"))])

        in_threads(write, [(open_writer(sink), at) for at in range(WRITERS)])
        assert_holds(sink, [Change(1, item(f"k{at}")) for at in range(WRITERS)])

    def test_a_column_that_a_writer_has_never_heard_of_is_emptied_too(self, sink, open_writer):
        one, other = open_writer(sink), open_writer(sink)
        changes = [Change(1, item()), Change(2, item(new={"S": "x"})), Change(3, item())]
        for writer, change in zip((one, other, one), changes, strict=True):
            bundle(writer, [change])
        assert query(sink, "SELECT id, new, right(_version, 1) FROM orders") == [("a", None, "3")]

    def test_a_column_that_is_added_while_a_merge_waits_is_emptied_too(self, sink, open_writer):
        writer = open_writer(sink)
        bundle(writer, [Change(1, item())])
        attributes = '[["id", "S"], ["x", "S"]]'
        with server_for_tests().connect() as other, ThreadPoolExecutor(1) as pool:
            other.execute(f"SET search_path TO {schema_of(sink)}")
            other.execute('BEGIN; LOCK TABLE "orders$rows" IN ACCESS EXCLUSIVE MODE')
            merge = pool.submit(bundle, writer, [Change(2, item())])
            wait_until_locked_out("orders$rows")
            other.execute(
                """ALTER TABLE "orders$rows" ADD COLUMN x text; UPDATE "orders$rows" SET x = 'old';
                UPDATE "$tables" SET revision = revision + 1, attributes = '"""
                + attributes
                + "'; COMMIT"
            )
            assert [report.fields["written"] for report in merge.result()] == [1]
        (row,) = query(sink, 'SELECT x, right(_version, 1) FROM "orders$rows"')
        assert row == (None, "2")

    def test_a_query_that_runs_for_hours_stops_no_writer(self, sink, open_writer, monkeypatch):
        """While it runs a new attribute is in `_other`; later it gets its column."""
        monkeypatch.setattr(postgresql_table, "_TABLE_LOCK", "20ms")
        monkeypatch.setattr(postgresql_table, "_GROW_AGAIN_SECONDS", 10**6)
        writer = open_writer(sink)
        changes = [Change(1, item("a", early={"N": "1"}))]
        with server_for_tests().connect() as connection, connection.transaction():
            connection.execute(f"SELECT count(*) FROM {schema_of(sink)}.orders")
            bundle(writer, changes)
            assert query(sink, "SELECT _other FROM orders") == [({"early": {"N": "1"}},)]
        changes.append(Change(1, item("b", early={"N": "2"})))
        bundle(writer, changes[1:])
        assert query(sink, "SELECT _other FROM orders WHERE id = 'b'") == [({"early": {"N": "2"}},)]
        changes.append(Change(1, item("c", early={"N": "3"})))
        bundle(open_writer(sink), changes[2:])
        changes.append(Change(2, item("b", early={"N": "4"})))
        bundle(writer, changes[3:])
        assert query(sink, "SELECT id, early::int FROM orders ORDER BY id") == [
            ("a", None),
            ("b", 4),
            ("c", 3),
        ]
        assert_holds(sink, changes)

    def test_removal_of_older_generations_beside_writers(self, sink, open_writer):
        old = [Change(at, item(f"k{at}")) for at in range(50)]
        kept = [Change(0, item(f"k{at}"), generation=2) for at in range(0, 50, 2)]
        bundle(open_writer(sink), old + kept)
        more = [Change(at, item(f"k{at}", x={"S": "x"}), generation=2) for at in range(1, 50, 7)]

        def write(writer):
            for at in range(0, 50, 5):
                late = [each for each in more if at <= each.sequence < at + 5]
                bundle(writer, old[at : at + 20] + kept[at : at + 5] + late)

        def remove():
            for _ in range(5):
                sink.remove_older_generations(ORDERS, 2)

        jobs = [(write, open_writer(sink)), (write, open_writer(sink)), (remove,), (remove,)]
        in_threads(lambda work, *rest: work(*rest), jobs)
        assert_holds(sink, kept + more)


@pytest.mark.usefixtures("few_and_many")
class TestServersThatGoAway:
    @pytest.fixture
    def server(self):
        with PostgresServer() as server:
            yield server

    def test_restarts_in_the_middle_of_writes(self, server, open_writer):
        sink = open_sink(server.uri())
        sink.check([ORDERS], NO_ROUND)
        histories = [history(seed, 200) for seed in range(4)]
        steps = collections.Counter()
        reached = threading.Condition()

        def write(at, writer, changes):
            for first in range(0, len(changes), 4):
                bundle(writer, changes[first : first + 4])
                with reached:
                    steps[at] += 1
                    reached.notify_all()

        with ThreadPoolExecutor(4) as pool:
            running = [
                pool.submit(write, at, open_writer(sink), changes)
                for at, changes in enumerate(histories)
            ]
            for goal, mode in ((5, "immediate"), (20, "fast"), (35, "immediate")):
                with reached:
                    assert reached.wait_for(lambda: min(steps[at] for at in range(4)) >= goal, 120)  # noqa: B023
                server.restart(mode)
            for each in running:
                each.result()
        assert set(steps.values()) == {50}
        assert_holds(sink, [change for each in histories for change in each], server)

    def test_a_server_that_is_away_for_a_while(self, server, open_writer, monkeypatch):
        sink = open_sink(server.uri())
        sink.check([ORDERS], NO_ROUND)
        writer = open_writer(sink)
        bundle(writer, [Change(1, item())])
        server.halt()
        pauses = []

        def pause(seconds):
            pauses.append(seconds)
            if len(pauses) == 9:
                server.start()

        monkeypatch.setattr(postgresql_connection.time, "sleep", pause)
        (report,) = bundle(writer, [Change(2, item(x={"N": "2"}))])
        assert report.fields["written"] == 1
        assert len(pauses) == 9
        assert pauses[0] < 0.2
        assert max(pauses) < 7.5
        assert_holds(sink, [Change(2, item(x={"N": "2"}))], server)

    def test_a_server_that_stays_away_is_an_error_in_time(self, server, open_writer, monkeypatch):
        sink = open_sink(server.uri() + "?retry_seconds=100")
        sink.check([ORDERS], NO_ROUND)
        writer = open_writer(sink)
        now = [1000.0]
        monkeypatch.setattr(postgresql_connection.time, "monotonic", lambda: now[0])
        monkeypatch.setattr(
            postgresql_connection.time,
            "sleep",
            lambda seconds: now.__setitem__(0, now[0] + seconds),
        )
        server.halt()
        with pytest.raises(SinkError, match="still failing after 100 s") as caught:
            bundle(writer, [Change(1, item())])
        assert now[0] == pytest.approx(1100.0)
        assert "table orders" in str(caught.value)
        assert "See that the server runs" in str(caught.value)
        server.start()
        bundle(writer, [Change(1, item())])
        assert_holds(sink, [Change(1, item())], server)

    def test_a_connection_that_is_cut_between_bundles(self, sink, open_writer):
        writer = open_writer(sink)
        bundle(writer, [Change(1, item())])
        query(
            sink,
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE application_name = 'dynabeam'",
        )
        (report,) = bundle(writer, [Change(2, item())])
        assert report.fields["written"] == 1

    def test_what_does_not_pass_is_an_error_at_once(self, sink, open_writer, monkeypatch):
        writer = open_writer(sink)
        bundle(writer, [Change(1, item())])
        query(sink, "DROP TABLE orders$rows CASCADE")
        monkeypatch.setattr(postgresql_connection.time, "sleep", lambda _: pytest.fail("waits"))
        with pytest.raises(SinkError, match="dropped by hand"):
            bundle(writer, [Change(2, item())])


class TestContinuousRuns:
    def test_through_beam(self, sink):
        changes = [Change(at, item(f"k{at % 10}", x={"N": str(at)})) for at in range(40)]
        with beam.Pipeline(runner="FnApiRunner") as pipeline:
            source = pipeline | beam.Create(
                blocks(ORDERS, changes), reshuffle=False
            ).with_output_types(Block)
            reports = source | "Sink" >> sink.write_continuously(STATE)
            assert reports.element_type is Report
            rows = reports | beam.Map(lambda each: each.fields["rows"]) | beam.CombineGlobally(sum)
            assert_that(rows, equal_to([40]))
        assert_holds(sink, changes)
        left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dynabeam'"
        assert query(sink, left) == [(0,)]

    def test_names_that_no_column_can_have(self, tmp_path):
        """As key and beside it: a row is a row, and none is refused."""
        tables = [table(f"t{at}", (name, "S")) for at, name in enumerate(KEY_NAMES)]
        sink = UNPACKED.open(tmp_path / "hostile")
        sink.check(tables, NO_ROUND)
        given = {
            of: [
                Change(
                    1,
                    {
                        name: {"S": "a\x00"},
                        **{each: {"N": "1"} for each in KEY_NAMES if each != name},
                    },
                ),
                Change(2, {name: {"S": "b"}, "x": {"L": []}}),
                Change(3, None, keys={name: {"S": "b"}}),
            ]
            for of, name in zip(tables, KEY_NAMES, strict=True)
        }
        with beam.Pipeline(runner="FnApiRunner") as pipeline:
            source = pipeline | beam.Create(
                [each for of, changes in given.items() for each in blocks(of, changes)],
                reshuffle=False,
            ).with_output_types(Block)
            reports = source | "Sink" >> sink.write_continuously(STATE)
            assert_that(
                reports | beam.Map(lambda each: each.kind) | beam.Distinct(), equal_to(["sink"])
            )
        for of, changes in given.items():
            held, wanted = dict(postgresql_rows(UNPACKED, sink, of)), newest(of, changes)
            assert held.keys() == wanted.keys()
            assert all(same_item(held[key], image) for key, image in wanted.items())

    def test_rounds_say_nothing_after_one(self, sink):
        with beam.Pipeline(runner="FnApiRunner") as pipeline:
            source = pipeline | beam.Create(blocks(ORDERS, [Change(1, item())]))
            _ = source | sink.write_continuously(STATE)
        sink.check([ORDERS], round_number(7))
        run_round(sink, [ORDERS], [], round_number(8), round_number(7))
        with pytest.raises(SinkError, match="behind"):
            sink.check([ORDERS], round_number(9))

    def test_labels_stay(self, sink):
        """A savepoint knows stages by their labels."""
        pipeline = beam.Pipeline(runner="FnApiRunner")
        _ = pipeline | "Blocks" >> beam.Create([]) | "Sink" >> sink.write_continuously(STATE)
        found = [each for each in pipeline.applied_labels if each.startswith("Sink")]
        assert sorted(found) == ["Sink", "Sink/Apply"]

    def test_another_state_directory(self, sink):
        pipeline = beam.Pipeline(runner="FnApiRunner")
        source = pipeline | beam.Create(blocks(ORDERS, [Change(1, item())]))
        _ = source | sink.write_continuously("state-2")
        with pytest.raises(Exception, match=f"belongs to state directory {STATE}"):
            pipeline.run()
