# SPDX-License-Identifier: Apache-2.0
"""The PostgreSQL mirror: what people see in the database, its limits, its rounds, its refusals."""

import base64
import datetime
import hashlib
import secrets
from decimal import Decimal

import psycopg
import psycopg.types.string
import pyarrow as pa
import pytest

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.sinks.base import Round
from dynabeam.transforms.sinks.postgresql import table as postgresql_table
from dynabeam.transforms.sinks.postgresql import writer as postgresql_writer
from dynabeam.transforms.sinks.postgresql.names import column_name
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.values.plain_json import same_item
from tests.sinks.changes import NO_ROUND, STATE, Change, blocks, newest, round_number, table
from tests.sinks.postgres_server import server_for_tests
from tests.sinks.targets import Target, postgresql_rows, run_pipeline, run_round, schema_of

ORDERS = table("orders", ("id", "S"), ("n", "N"))
START = datetime.datetime(2026, 1, 31, 12, 0, 0, 7, tzinfo=datetime.timezone.utc)
UNPACKED = Target("postgresql://SERVER")
PACKED = Target("postgresql://SERVER?layout=packed")


def item(name="a", number="1", /, **attributes):
    return {"id": {"S": name}, "n": {"N": number}, **attributes}


@pytest.fixture
def sink(tmp_path):
    return UNPACKED.open(tmp_path)


@pytest.fixture
def packed(tmp_path):
    return PACKED.open(tmp_path / "packed")


def query(sink, sql):
    """Rows of SQL in the sink's schema; JSON as text."""
    with server_for_tests().connect() as connection:
        connection.adapters.register_loader("jsonb", psycopg.types.string.TextLoader)
        connection.execute(f"SET search_path TO {schema_of(sink)}; SET TimeZone TO 'UTC'")
        cursor = connection.execute(sql)
        return cursor.fetchall() if cursor.description else cursor.rowcount


def one_round(sink, changes, number=1, of=ORDERS):
    committed = NO_ROUND if number == 1 else round_number(number - 1)
    return run_round(sink, [of], blocks(of, changes), round_number(number), committed)


def assert_holds(target, sink, of, changes):
    held, wanted = dict(postgresql_rows(target, sink, of)), newest(of, changes)
    assert held.keys() == wanted.keys()
    for key, image in wanted.items():
        assert same_item(held[key], image)


def columns_of(sink, relation):
    found = query(
        sink,
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
        f"WHERE attrelid = '\"{relation}\"'::regclass AND attnum > 0 ORDER BY attnum",
    )
    return dict(found)


@pytest.mark.usefixtures("few_and_many")
class TestWhatPeopleSee:
    def test_unpacked(self, sink):
        attributes = {
            "s": {"S": "x"},
            "b": {"B": "AAE="},
            "m": {"M": {"a": {"N": "1"}}},
            "flag": {"BOOL": True},
            "tags": {"SS": ["x", 'q"\\, {}']},
            "counts": {"NS": ["1", "2.5"]},
            "parts": {"BS": ["AAE=", ""]},
            "none": {"NULL": True},
        }
        one_round(sink, [Change(3, item("a", "1.5", **attributes))])
        metadata = {
            "_other": "jsonb",
            "_raw": "bytea",
            "_version": "text",
            "_op": "text",
            "_event_time": "timestamp with time zone",
            "_ttl": "boolean",
            "_deleted": "boolean",
        }
        added = {
            "s": "text",
            "b": "bytea",
            "m": "jsonb",
            "flag": "boolean",
            "tags": "text[]",
            "counts": "numeric[]",
            "parts": "bytea[]",
        }
        described = columns_of(sink, "orders")
        assert described == {"id": "text", "n": "numeric", **metadata, **added}
        assert list(described) == ["id", "n", *metadata, *added]
        (row,) = query(sink, "SELECT * FROM orders")
        assert row == (
            *("a", Decimal("1.5"), '{"none": {"NULL": true}}', None),
            *("00000001." + "3".zfill(40), "u", START + datetime.timedelta(seconds=3)),
            *(False, False, "x", b"\x00\x01", '{"a": {"N": "1"}}', True, ["x", 'q"\\, {}']),
            *([Decimal(1), Decimal("2.5")], [b"\x00\x01", b""]),
        )

    def test_packed(self, packed):
        one_round(packed, [Change(3, item("a", "1.50", s={"S": "x"}))])
        assert query(packed, "SELECT id, n, item, _raw FROM orders") == [
            (
                *("a", Decimal("1.5")),
                *('{"n": {"N": "1.50"}, "s": {"S": "x"}, "id": {"S": "a"}}', None),
            )
        ]

    def test_a_new_attribute_adds_a_column_and_the_view_keeps_its_grants(self, sink):
        one_round(sink, [Change(1, item("a"))])
        query(sink, "GRANT SELECT ON orders TO PUBLIC; CREATE VIEW mine AS SELECT id FROM orders")
        one_round(sink, [Change(2, item("b", size={"N": "7"}))], 2)
        assert query(sink, "SELECT id, size, _other FROM orders ORDER BY id") == [
            ("a", None, None),
            ("b", Decimal(7), None),
        ]
        assert query(sink, "SELECT count(*) FROM mine") == [(2,)]
        assert query(sink, "SELECT has_table_privilege('public', 'orders', 'SELECT')") == [(True,)]

    def test_another_type_goes_to_other(self, sink):
        one_round(sink, [Change(1, item("a", size={"N": "7"}))])
        one_round(sink, [Change(2, item("b", size={"S": "large"}))], 2)
        found = query(sink, "SELECT id, size, _other FROM orders ORDER BY id")
        assert found == [("a", Decimal(7), None), ("b", None, '{"size": {"S": "large"}}')]

    def test_an_attribute_that_goes_away_leaves_its_column(self, sink):
        one_round(sink, [Change(1, item("a", size={"N": "7"}, x={"NULL": True}))])
        one_round(sink, [Change(2, item("a"))], 2)
        assert query(sink, "SELECT size, _other FROM orders") == [(None, None)]

    def test_deleted_keys_are_tombstones_behind_the_view(self, sink):
        one_round(sink, [Change(1, item("a", s={"S": "x"}))])
        one_round(sink, [Change(5, None, old=item(), ttl=True)], 2)
        assert query(sink, "SELECT count(*) FROM orders") == [(0,)]
        (row,) = query(sink, "SELECT id, n, s, _op, _ttl, _deleted, _deleted_at FROM orders$rows")
        assert row[:-1] == ("a", Decimal(1), None, "d", True, True)
        assert row[-1] is not None

    def test_other_relations_of_the_schema_are_left_alone(self, sink):
        query(sink, f"CREATE SCHEMA {schema_of(sink)}")
        query(sink, "CREATE TABLE mine AS SELECT 42 AS answer")
        one_round(sink, [Change(1, item())])
        assert query(sink, "SELECT answer FROM mine, orders") == [(42,)]


@pytest.mark.usefixtures("few_and_many")
class TestLimits:
    @pytest.mark.parametrize("target", [UNPACKED, PACKED], ids=["unpacked", "packed"])
    def test_nul_is_kept_in_raw_and_nowhere_else(self, target, tmp_path):
        sink = target.open(tmp_path)
        nul = {"s": {"S": "a\x00"}, "m": {"M": {"\x00": {"S": "x"}}}, "nul\x00": {"N": "1"}}
        changes = [
            Change(1, item("nul", **nul, good={"S": "x"})),
            Change(1, item("key\x00")),
            Change(1, item("escaped", s={"S": "\\u0000"})),
            Change(2, item("gone\x00")),
            Change(3, None, keys=item("gone\x00")),
        ]
        one_round(sink, changes)
        assert_holds(target, sink, ORDERS, changes)
        raw = query(sink, "SELECT id, _raw IS NULL FROM orders ORDER BY id NULLS LAST")
        assert raw == [("escaped", True), ("nul", False), (None, False)]
        if target is UNPACKED:
            assert query(sink, "SELECT good, s FROM orders WHERE id = 'nul'") == [("x", None)]

    def test_half_a_surrogate_pair_is_kept_in_raw(self, packed):
        image = b'{"id":{"S":"a"},"n":{"N":"1"},"s":{"S":"\\ud83d"},"t":{"S":"\\ud83d\\ude00"}}'
        (block,) = blocks(ORDERS, [Change(1, item())])
        rows = block.rows.set_column(5, "new", pa.array([image])).cast(block.rows.schema)
        whole = image.replace(b'"s":{"S":"\\ud83d"},', b"")
        (other,) = blocks(ORDERS, [Change(2, item("b"))])
        others = other.rows.set_column(5, "new", pa.array([whole])).cast(block.rows.schema)
        given = [block.with_rows(rows), other.with_rows(others)]
        run_round(packed, [ORDERS], given, round_number(1), NO_ROUND)
        found = query(packed, "SELECT item IS NULL, _raw FROM orders ORDER BY id")
        assert found == [(True, image), (False, None)]

    def test_all_digits_of_any_number(self, sink):
        numbers = ["9" * 38, "-1." + "23456789" * 4 + "12345", "1E-130", "9.9E+125", "0"]
        one_round(sink, [Change(1, item("a", each, v={"N": each})) for each in numbers])
        found = query(sink, "SELECT n, v, _other FROM orders")
        assert sorted(found) == sorted((Decimal(each), Decimal(each), None) for each in numbers)

    def test_keys_too_long_for_an_index(self, sink):
        long = [secrets.token_hex(1024), secrets.token_hex(1023), "\x01" * 2048, "\x00" * 2048]
        of = table("orders", ("id", "S"), ("b", "B"))
        ranges = ["AA==", base64.b64encode(secrets.token_bytes(1024)).decode()]
        keys = [{"id": {"S": each}, "b": {"B": data}} for each in long for data in ranges]
        changes = [Change(1, {**key, "v": {"N": "1"}}) for key in keys]
        changes += [Change(2, None, keys=key) for key in keys[:3]]
        changes += [Change(2, {**keys[3], "v": {"N": "2"}})]
        one_round(sink, changes, of=of)
        assert_holds(UNPACKED, sink, of, changes)

    def test_names_of_more_than_63_bytes(self, sink):
        long = "x" * 64
        shortened = f"{'x' * 46}~{'0' * 16}"
        names = [long, long + "y", "é" * 40, "é" * 39 + "x", "z" * 63, shortened, 'q"%s' * 30]
        changes = [Change(1, item("all", **{name: {"S": name} for name in names}))]
        changes += [Change(1, item(name, **{name: {"N": "1"}})) for name in names]
        one_round(sink, changes)
        assert_holds(UNPACKED, sink, ORDERS, changes)
        columns = columns_of(sink, "orders$rows")
        assert "z" * 63 in columns
        assert max(len(name.encode()) for name in columns) == 63
        assert len(columns) == 2 + len(names) + 9

    def test_names_that_an_earlier_release_could_not_tell_apart(self, sink):
        """The SHA-256 of both begins with the same 64 bits."""
        one, two = "x" * 64 + "db3c00d1820f85c3", "x" * 64 + "840ce10139fa1ef8"
        changes = [
            Change(1, item("1", **{one: {"S": "v"}})),
            Change(1, item("2", **{two: {"N": "1"}})),
        ]
        one_round(sink, changes)
        assert_holds(UNPACKED, sink, ORDERS, changes)
        assert query(sink, "SELECT count(*) FROM orders WHERE _other IS NOT NULL") == [(0,)]
        digests = [each[-33:] for each in columns_of(sink, "orders$rows") if "~" in each]
        assert digests == [
            f"~{hashlib.sha256(name.encode()).hexdigest()[:32]}" for name in (one, two)
        ]

    def test_columns_of_an_earlier_release_stay(self, sink):
        one, two = "x" * 64 + "db3c00d1820f85c3", "x" * 64 + "840ce10139fa1ef8"
        ending = "a~" + "0" * 16
        changes = [Change(1, item("1", short={"N": "1"}))]
        one_round(sink, changes)
        # As it left the mirror: 16 digits, no names stored, a format of its own.
        earlier = {
            one: f"{'x' * 46}~{hashlib.sha256(one.encode()).hexdigest()[:16]}",
            ending: f"{ending}~{hashlib.sha256(ending.encode()).hexdigest()[:16]}",
        }
        for name, column in earlier.items():
            query(
                sink,
                f"""DROP VIEW orders; ALTER TABLE "orders$rows" ADD COLUMN "{column}" text;
                CREATE VIEW orders AS SELECT id, n, _other, _raw, _version, _op, _event_time, _ttl,
                _deleted FROM "orders$rows";
                UPDATE "orders$rows" SET "{column}" = 'before';
                UPDATE "$tables" SET
                attributes = (attributes::jsonb || '[["{name}", "S"]]')::text""",
            )
        view = columns_of(sink, "orders$rows")
        query(
            sink,
            f"""DROP VIEW orders; ALTER TABLE "$tables" DROP COLUMN columns;
            CREATE VIEW orders AS SELECT id, n, _other, _raw, _version, _op, _event_time, _ttl,
            _deleted, short, {", ".join(f'"{each}"' for each in earlier.values())}
            FROM "orders$rows" WHERE NOT _deleted; UPDATE "$mirror" SET format = 1""",
        )
        before = {name: {"S": "before"} for name in earlier}
        changes = [Change(1, item("1", short={"N": "1"}, **before))]
        more = [
            Change(2, item("2", **{one: {"S": "after"}, ending: {"S": "e"}})),
            Change(2, item("3", **{two: {"S": "new"}})),
        ]
        one_round(sink, more[:1], number=2)
        assert columns_of(sink, "orders$rows") == view
        assert query(sink, 'SELECT format FROM "$mirror"') == [(1,)]
        one_round(sink, more[1:], number=3)
        assert_holds(UNPACKED, sink, ORDERS, changes + more)
        (added,) = [each for each in columns_of(sink, "orders$rows") if each not in view]
        assert added == f"{'x' * 30}~{hashlib.sha256(two.encode()).hexdigest()[:32]}"
        # A release that would look for another name must not write any more.
        assert query(sink, 'SELECT format FROM "$mirror"') == [(2,)]

    def test_a_name_that_somebody_has_taken_goes_to_other(self, sink):
        long = "x" * 64
        changes = [Change(1, item("1", mine={"N": "1"}))]
        one_round(sink, changes)
        for name in ("theirs", column_name(long)):
            query(sink, f'ALTER TABLE "orders$rows" ADD COLUMN "{name}" text DEFAULT \'kept\'')
        taken = {"theirs": {"S": "a"}, long: {"S": "b"}}
        changes += [Change(1, item("2", more={"N": "1"}, **taken))]
        one_round(sink, changes[1:], number=2)
        changes += [Change(2, item("1", **taken)), Change(2, item("2", theirs={"N": "7"}))]
        one_round(sink, changes[2:], number=3)
        assert_holds(UNPACKED, sink, ORDERS, changes)
        assert query(sink, 'SELECT DISTINCT theirs FROM "orders$rows"') == [("kept",)]
        assert {"mine", "more"} < set(columns_of(sink, "orders"))

    def test_tables_whose_names_begin_alike(self, sink):
        tables = [table("t" * 100), table("t" * 101), table("t" * 58), table("odd $rows")]
        given = [
            block for of in tables for block in blocks(of, [Change(1, {"id": {"S": of.name}})])
        ]
        run_round(sink, tables, given, round_number(1), NO_ROUND)
        for of in tables:
            assert [each["id"] for _, each in postgresql_rows(UNPACKED, sink, of)] == [
                {"S": of.name}
            ]

    def test_more_attributes_than_a_table_can_have_columns(self, sink):
        """Every value is as large as one that is kept in the row can be."""
        kinds = [{"S": "x" * 23}, {"N": "-1." + "123456789" * 4}, {"SS": ["a", "b"]}]
        many = {f"attribute {at}": kinds[at % 3] for at in range(2000)}
        changes = [Change(1, item("a", **many)), Change(1, item("b"))]
        changes += [Change(2, item("c", **dict(reversed(many.items()))))]
        one_round(sink, changes)
        assert_holds(UNPACKED, sink, ORDERS, changes)
        assert len(columns_of(sink, "orders$rows")) == postgresql_table.MAX_COLUMNS + 9

    @pytest.mark.parametrize("size", [16, 24, 25, 40])
    def test_a_row_of_all_columns_fits_a_page(self, sink, size):
        many = {f"a{at}": {"S": secrets.token_hex(size)[:size]} for at in range(400)}
        one_round(sink, [Change(1, item("a", **many))])
        assert_holds(UNPACKED, sink, ORDERS, [Change(1, item("a", **many))])


@pytest.mark.usefixtures("few_and_many")
class TestMerge:
    def test_report(self, sink):
        changes = [Change(5, item("a")), Change(6, item("a")), Change(1, None, keys=item("b"))]
        (report,) = one_round(sink, changes)
        assert (report.kind, report.table) == ("sink", "orders")
        newest = {"newest_event_us": report.fields["newest_event_us"]}
        assert report.fields == {"sink": sink.name, "rows": 3, "written": 2, "stale": 1, **newest}
        (report,) = one_round(sink, [*changes, Change(7, item("b"))], 2)
        assert report.fields["newest_event_us"] > newest["newest_event_us"]
        newest = {"newest_event_us": report.fields["newest_event_us"]}
        assert report.fields == {"sink": sink.name, "rows": 4, "written": 1, "stale": 3, **newest}

    def test_small_pieces_come_to_the_same(self, sink, monkeypatch):
        monkeypatch.setattr(postgresql_writer, "PIECE_BYTES", 500)
        changes = [
            Change(at, item(f"k{at % 7}", **{f"attribute{at % 11}": {"N": str(at)}}))
            for at in range(60)
        ]
        given = [each for one in changes for each in blocks(ORDERS, [one])]
        run_round(sink, [ORDERS], given, round_number(1), NO_ROUND)
        assert_holds(UNPACKED, sink, ORDERS, changes)

    def test_a_change_without_its_image_is_refused(self, sink):
        sink.check([ORDERS], NO_ROUND)
        with pytest.raises(SinkError, match="NEW_AND_OLD_IMAGES"):
            sink.apply(blocks(ORDERS, [Change(1, None, keys=item(), op="u")]), round_number(1))

    @pytest.mark.parametrize("target", [UNPACKED, PACKED], ids=["unpacked", "packed"])
    def test_older_generations_can_be_removed(self, target, tmp_path):
        sink = target.open(tmp_path)
        one_round(sink, [Change(9, item("stays")), Change(9, item("gone", x={"S": "\x00"}))])
        one_round(sink, [Change(0, item("stays"), generation=2)], 2)
        assert sink.remove_older_generations(ORDERS, 2) == 1
        assert sink.remove_older_generations(ORDERS, 2) == 0
        assert query(sink, "SELECT id FROM orders") == [("stays",)]
        one_round(sink, [Change(10, item("gone")), Change(1, item("new"), generation=2)], 3)
        assert query(sink, "SELECT id FROM orders ORDER BY id") == [("new",), ("stays",)]


class TestTombstones:
    AGED = "UPDATE orders$rows SET _deleted_at = _deleted_at - interval '37 days' WHERE id <= 'b'"

    def three_deleted(self, sink):
        gone = [Change(2, None, keys=item(name)) for name in "abc"]
        one_round(sink, [*gone, Change(1, item("live"))])
        assert query(sink, self.AGED) == 2

    def test_old_ones_are_removed_on_demand(self, sink, monkeypatch):
        monkeypatch.setattr(postgresql_table, "PURGE_ROWS", 1)
        self.three_deleted(sink)
        assert sink.remove_tombstones(ORDERS, 38) == 0
        sink.remove_tombstones(ORDERS, 36)
        sink.remove_tombstones(ORDERS, 36)
        assert query(sink, "SELECT id FROM orders$rows ORDER BY id") == [("c",), ("live",)]

    def test_a_writer_removes_them_by_itself(self, sink):
        self.three_deleted(sink)
        one_round(sink, [Change(3, item("live"))], 2)
        assert query(sink, "SELECT id FROM orders$rows ORDER BY id") == [("c",), ("live",)]

    def test_they_can_be_kept(self, tmp_path):
        sink = Target("postgresql://SERVER?tombstone_days=keep").open(tmp_path)
        self.three_deleted(sink)
        one_round(sink, [Change(3, item("live"))], 2)
        assert query(sink, "SELECT count(*) FROM orders$rows") == [(4,)]

    def test_the_day_of_the_delete_here_counts_not_the_day_at_the_source(self, sink):
        """A delete that was read late guards as long as any other."""
        one_round(sink, [Change(2, None, keys=item())])
        query(sink, "UPDATE orders$rows SET _event_time = '2020-01-01Z'")
        one_round(sink, [Change(1, item())], 2)
        assert query(sink, "SELECT count(*) FROM orders") == [(0,)]


class TestRounds:
    def test_a_round_repeated_by_another_attempt(self, sink):
        changes = [Change(1, item("a")), Change(2, None, keys=item("b"))]
        one_round(sink, changes)
        sink.check([ORDERS], NO_ROUND)
        sink.recover(NO_ROUND)
        (report,) = sink.apply(blocks(ORDERS, changes), round_number(1, "second"))
        assert report.fields["written"] == 0
        assert query(sink, 'SELECT round, attempt FROM "$mirror"') == [(1, "second")]

    def test_an_empty_round_counts(self, sink):
        run_pipeline(sink, [ORDERS], [], round_number(1), NO_ROUND)
        sink.check([ORDERS], round_number(1))
        assert query(sink, "SELECT count(*) FROM orders") == [(0,)]

    @pytest.mark.parametrize(
        "options",
        [(), ("--direct_running_mode=multi_processing", "--direct_num_workers=2")],
        ids=["in process", "two processes"],
    )
    def test_two_rounds_through_beam(self, sink, options):
        tables = [ORDERS, table("customers")]
        first = blocks(ORDERS, [Change(at, item(f"k{at}")) for at in range(20)])
        first += blocks(tables[1], [Change(1, {"id": {"S": "c"}})])
        run_pipeline(sink, tables, first, round_number(1), NO_ROUND, *options)
        second = blocks(ORDERS, [Change(30, None, keys=item(f"k{at}")) for at in range(15)])
        run_pipeline(sink, tables, second, round_number(2), round_number(1), *options)
        assert query(sink, "SELECT count(*) FROM orders") == [(5,)]
        assert query(sink, "SELECT id FROM customers") == [("c",)]
        sink.check(tables, round_number(2))

    def test_a_failing_pipeline_does_not_record_its_round(self, sink):
        broken = blocks(ORDERS, [Change(1, None, keys=item(), op="u")])
        with pytest.raises(Exception, match="NEW_AND_OLD_IMAGES"):
            run_pipeline(sink, [ORDERS], broken, round_number(1), NO_ROUND)
        assert query(sink, 'SELECT round FROM "$mirror"') == [(0,)]


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
            sink.apply(blocks(ORDERS, [Change(1, item())]), other)

    def test_a_new_schema_for_an_old_state_directory(self, sink):
        self.refuse(sink, round_number(7), "holds no mirror", "round 7")
        assert query(sink, f"SELECT to_regnamespace('{schema_of(sink)}')") == [(None,)]

    @pytest.mark.parametrize(("committed", "word"), [(4, "behind"), (1, "set back")])
    def test_rounds_that_do_not_fit(self, sink, committed, word):
        for number in (1, 2, 3):
            one_round(sink, [], number)
        self.refuse(sink, round_number(committed), word, f"round {committed}", "'round 3'")
        sink.check([ORDERS], round_number(2))
        sink.check([ORDERS], round_number(3))

    def test_other_options_and_another_key(self, sink):
        one_round(sink, [])
        other = open_sink(sink.uri.text + "&layout=packed")
        self.refuse(other, round_number(1), "options", "packed", "unpacked", "table orders")
        other = open_sink(sink.uri.text + "&numbers=text")
        self.refuse(other, round_number(1), "options", "numeric", "text", "table orders")
        of = table("orders", ("id", "S"))
        self.refuse(sink, round_number(1), "another key", '"n"', "new schema", tables=[of])

    @pytest.mark.parametrize("kind", ["TABLE", "VIEW"])
    @pytest.mark.parametrize("name", ["orders", "orders$rows"])
    def test_a_name_that_is_taken(self, sink, kind, name):
        query(sink, f"CREATE SCHEMA {schema_of(sink)}")
        query(sink, f"CREATE {kind} {name} AS SELECT 1 AS x")
        self.refuse(sink, NO_ROUND, "not Dynabeam's", "table orders", name)
        assert query(sink, f"SELECT * FROM {name}") == [(1,)]

    def test_a_format_of_the_future(self, sink):
        one_round(sink, [])
        query(sink, 'UPDATE "$mirror" SET format = 99')
        self.refuse(sink, round_number(1), "Upgrade Dynabeam")

    def test_a_server_that_is_not_there(self):
        sink = open_sink("postgresql://u@127.0.0.1:1/db")
        self.refuse(sink, NO_ROUND, "refused", "See that the server runs")

    def test_a_database_of_another_encoding(self):
        with server_for_tests().connect() as connection:
            connection.execute("DROP DATABASE IF EXISTS latin")
            connection.execute(
                "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
            )
        sink = open_sink(server_for_tests().uri("latin"))
        self.refuse(sink, NO_ROUND, "encoding UTF8", "'LATIN1'")

    def test_a_server_that_takes_no_writes(self, sink):
        read_only = open_sink(sink.uri.text + "&options=-c default_transaction_read_only=on")
        self.refuse(read_only, NO_ROUND, "takes no writes", "target_session_attrs")


@pytest.mark.usefixtures("few_and_many")
class TestNarrowNumbers:
    """What a decimal type cannot hold stands in `_other`, and is reported."""

    CHANGES = (
        Change(1, item("fits", v={"N": "12.5"}, s={"NS": ["1", "2.25"]})),
        Change(2, item("too large", v={"N": "1234.5"})),
        Change(3, item("too exact", v={"N": "0.001"}, s={"NS": ["0.001"]})),
        Change(4, item("no number", v={"S": "1234.5"})),
    )

    def test_are_counted(self, tmp_path):
        target = Target("postgresql://SERVER?numbers=decimal(5,2)")
        sink = target.open(tmp_path)
        (report,) = one_round(sink, self.CHANGES)
        assert report.fields["unfit_numbers"] == 3
        assert_holds(target, sink, ORDERS, self.CHANGES)
        (report,) = one_round(sink, [Change(5, item("fits", v={"N": "7"}))], 2)
        assert "unfit_numbers" not in report.fields

    @pytest.mark.parametrize("numbers", ["numeric", "text", "decimal(5,2)&layout=packed"])
    def test_where_all_fit_nothing_is(self, tmp_path, numbers):
        sink = Target(f"postgresql://SERVER?numbers={numbers}").open(tmp_path)
        (report,) = one_round(sink, self.CHANGES)
        assert "unfit_numbers" not in report.fields
