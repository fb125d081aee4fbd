# SPDX-License-Identifier: Apache-2.0
"""A few rows of each of many tables: merged together, and one by one where that does not do."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.sinks.changes import NO_ROUND, STATE, Change, newest, only_block, table
from tests.sinks.postgres_server import server_for_tests
from tests.sinks.targets import Target, postgresql_rows, schema_of
from transforms.sinks.postgresql_merge import FEW_ROWS
from transforms.sinks.postgresql_writer import GatheredRows, MirrorWriter
from transforms.values.plain_json import same_item

TABLES = [table(f"table{number}") for number in range(6)]
TARGET = Target("postgresql://SERVER")
WRITERS = 4


def item(name, **attributes):
    return {"id": {"S": name}, **attributes}


@pytest.fixture
def sink(tmp_path):
    sink = TARGET.open(tmp_path)
    sink.check(TABLES, NO_ROUND)
    return sink


@pytest.fixture
def writer(sink):
    made = sink.writer(STATE)
    yield made
    made.close()


@pytest.fixture
def alone(monkeypatch):
    """Tables that were merged one by one, in order."""
    found = []
    merge = MirrorWriter.merge

    def noted(self, table, rows):
        found.append(table.name)
        return merge(self, table, rows)

    monkeypatch.setattr(MirrorWriter, "merge", noted)
    return found


def bundle(writer, changes):
    """Applies `{table: changes}` as one bundle; returns `{table name: report's fields}`."""
    gathered = GatheredRows(writer, "sink")
    for of, each in changes.items():
        gathered.add(only_block(of, each))
    reports = list(gathered.finish())
    counts = {report.table: report.fields for report in reports if report.kind == "sink"}
    return counts, [report for report in reports if report.kind == "refused"]


def assert_holds(sink, of, changes):
    held = dict(postgresql_rows(TARGET, sink, of))
    wanted = newest(of, changes)
    assert held.keys() == wanted.keys()
    assert all(same_item(held[key], image) for key, image in wanted.items())


def query(sink, sql):
    with server_for_tests().connect() as connection:
        connection.execute(f"SET search_path TO {schema_of(sink)}")
        connection.execute(sql)


def test_all_tables_are_merged_together(sink, writer, alone):
    first = {of: [Change(1, item("a", n={"N": str(at)}))] for at, of in enumerate(TABLES)}
    bundle(writer, first)
    alone.clear()
    more = {of: [Change(2, item("b", n={"N": "7"})), Change(0, item("a"))] for of in TABLES}
    counts, _ = bundle(writer, more)
    assert alone == []
    for of in TABLES:
        fields = counts[of.name]
        assert (fields["rows"], fields["written"], fields["stale"]) == (2, 1, 1)
        assert_holds(sink, of, first[of] + more[of])


def test_new_columns_and_deletes(sink, writer):
    steps = [
        {of: [Change(1, item("a", **{f"x{at}": {"S": of.name}}))] for at, of in enumerate(TABLES)},
        {
            of: [Change(2, None, keys=item("a")), Change(3, item("b", y={"N": "1"}))]
            for of in TABLES
        },
    ]
    for each in steps:
        bundle(writer, each)
    for of in TABLES:
        assert_holds(sink, of, [change for each in steps for change in each[of]])


def test_many_rows_of_one_table_go_their_own_way(sink, writer, alone):
    changes = {of: [Change(1, item("a"))] for of in TABLES}
    changes[TABLES[2]] = [Change(1, item(f"k{at}")) for at in range(FEW_ROWS + 1)]
    bundle(writer, changes)
    alone.clear()
    bundle(writer, changes)
    assert alone == [TABLES[2].name]
    assert_holds(sink, TABLES[2], changes[TABLES[2]])


def test_a_row_that_is_refused_costs_no_other_table_a_row(sink, writer):
    bundle(writer, {of: [Change(1, item("first", n={"N": "1"}))] for of in TABLES})
    query(sink, 'ALTER TABLE "table3$rows" ADD CONSTRAINT small CHECK (n < 100)')
    changes = {
        of: [Change(2, item("a", n={"N": "5"})), Change(2, item("b", n={"N": str(at * 50)}))]
        for at, of in enumerate(TABLES)
    }
    counts, refused = bundle(writer, changes)
    assert [each.table for each in refused] == ["table3"]
    assert counts["table3"]["rows"] == 2
    assert counts["table3"]["written"] == 1
    for of in TABLES:
        first = [Change(1, item("first", n={"N": "1"}))]
        wanted = changes[of][:1] if of.name == "table3" else changes[of]
        assert_holds(sink, of, first + wanted)


def test_columns_that_another_writer_has_added(sink, writer, alone):
    bundle(writer, {of: [Change(1, item("a"))] for of in TABLES})
    other = sink.writer(STATE)
    bundle(other, {TABLES[4]: [Change(2, item("a", new={"S": "x"}))]})
    other.close()
    alone.clear()
    changes = {of: [Change(3, item("a"))] for of in TABLES}
    counts, _ = bundle(writer, changes)
    assert alone == ["table4"]
    assert all(each["written"] == 1 for each in counts.values())
    for of in TABLES:
        assert_holds(sink, of, changes[of])


def test_a_connection_that_was_cut(sink, writer):
    bundle(writer, {of: [Change(1, item("a"))] for of in TABLES})
    query(
        sink,
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
        "WHERE application_name = 'dynabeam'",
    )
    changes = {of: [Change(2, item("b"))] for of in TABLES}
    counts, _ = bundle(writer, changes)
    assert all(each["written"] == 1 for each in counts.values())
    for of in TABLES:
        assert_holds(sink, of, [Change(1, item("a")), *changes[of]])


def test_writers_that_take_tables_in_any_order_do_not_deadlock(sink):
    began = len(server_for_tests().log())
    histories = []
    for seed in range(WRITERS):
        chance = random.Random(seed)
        history = []
        for _ in range(25):
            tables = chance.sample(TABLES, 4)
            history.append(
                {
                    of: [
                        Change(at, item(f"k{chance.randrange(6)}", n={"N": str(at)}))
                        for at in chance.sample(range(1000), 5)
                    ]
                    for of in tables
                }
            )
        histories.append(history)

    def write(history):
        own = sink.writer(STATE)
        for each in history:
            bundle(own, each)
        own.close()

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, histories))
    for of in TABLES:
        changes = [c for history in histories for each in history for c in each.get(of, [])]
        assert_holds(sink, of, changes)
    assert "deadlock detected" not in server_for_tests().log()[began:]
