# SPDX-License-Identifier: Apache-2.0
"""Who a PostgreSQL mirror may be: least permissions, what a missing one says, and passwords."""

import hashlib

import pytest

from dynabeam.transforms.errors import ConfigurationError, SinkError
from dynabeam.transforms.sinks.registry import open_sink
from tests.sinks.changes import NO_ROUND, Change, blocks, round_number, table
from tests.sinks.postgres_server import server_for_tests
from tests.sinks.targets import run_round

ORDERS = table()


@pytest.fixture
def place(tmp_path):
    """An empty database and two roles without any permission in it: `(server, database, role)`."""
    server = server_for_tests()
    name = "r" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:16]
    server.create_database(name)
    with server.connect(name) as connection:
        connection.execute(
            f"REVOKE ALL ON DATABASE {name} FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC;"
            f"CREATE ROLE {name} LOGIN; CREATE ROLE {name}_analyst LOGIN;"
            f"GRANT CONNECT ON DATABASE {name} TO {name}, {name}_analyst"
        )
    return server, name, name


def run_sql(place, sql):
    server, database, _ = place
    with server.connect(database) as connection:
        connection.execute(sql)


def documented_statements():
    """The SQL of the sink's documentation."""
    module = __import__("dynabeam.transforms.sinks.postgresql.mirror", fromlist=[""])
    text = module.__doc__.split("```sql\n")[1].split("```")[0]
    return [line.rstrip(";") for line in text.splitlines() if not line.startswith("--")]


class TestLeastPermissions:
    def test_the_documented_role_can_do_everything(self, place):
        server, database, role = place
        statements = [
            each.replace("DATABASE app", f"DATABASE {database}")
            .replace("TO dynabeam", f"TO {role}")
            .replace("TO analyst", f"TO {role}_analyst")
            for each in documented_statements()
        ]
        for_readers = [each for each in statements if each.endswith("_analyst")]
        assert len(for_readers) == 2
        assert statements[0] == "CREATE ROLE dynabeam LOGIN"
        run_sql(place, ";".join(each for each in statements[1:] if each not in for_readers))
        sink = open_sink(server.uri(database, role))
        changes = [Change(1, {"id": {"S": name}}) for name in "abc"]
        run_round(sink, [ORDERS], blocks(ORDERS, changes), round_number(1), NO_ROUND)
        run_sql(place, ";".join(for_readers))
        more = [
            Change(2, {"id": {"S": "a"}, "new": {"S": "x"}}),
            Change(2, None, keys=changes[1].new),
        ]
        run_round(sink, [ORDERS], blocks(ORDERS, more), round_number(2), round_number(1))
        assert sink.remove_older_generations(ORDERS, 2) == 2
        assert sink.remove_tombstones(ORDERS, 1) == 0
        with server.connect(database, f"{role}_analyst") as connection:
            assert connection.execute("SELECT count(*) FROM dynabeam.orders").fetchone() == (0,)

    def test_each_missing_permission_is_named_with_its_grant_until_it_works(self, place):
        """Doing what the error says leads to a mirror, step by step."""
        server, database, role = place
        sink = open_sink(server.uri(database, role))
        given = []
        while len(given) < 5:
            try:
                sink.check([ORDERS], NO_ROUND)
            except SinkError as error:
                given.append(error.hint.removeprefix("Have it granted: "))
                run_sql(place, given[-1])
            else:
                break
        assert given == [
            f'GRANT TEMPORARY ON DATABASE "{database}" TO "{role}"',
            f'CREATE SCHEMA "dynabeam" AUTHORIZATION "{role}"',
        ]

    def test_a_schema_of_someone_else(self, place):
        server, database, role = place
        run_sql(place, f"GRANT TEMPORARY ON DATABASE {database} TO {role}; CREATE SCHEMA dynabeam")
        sink = open_sink(server.uri(database, role))
        grant = f'GRANT USAGE, CREATE ON SCHEMA "dynabeam" TO "{role}"'
        with pytest.raises(SinkError) as caught:
            sink.check([ORDERS], NO_ROUND)
        assert grant in str(caught.value)
        run_sql(place, grant)
        sink.check([ORDERS], NO_ROUND)

    def test_tables_of_another_role(self, place):
        server, database, role = place
        open_sink(server.uri(database)).check([ORDERS], NO_ROUND)
        run_sql(
            place,
            f"GRANT TEMPORARY ON DATABASE {database} TO {role};"
            f"GRANT USAGE, CREATE ON SCHEMA dynabeam TO {role}",
        )
        with pytest.raises(SinkError, match=f'GRANT postgres TO "{role}"'):
            open_sink(server.uri(database, role)).check([ORDERS], NO_ROUND)

    def test_a_permission_taken_away_in_the_middle(self, place):
        server, database, role = place
        run_sql(place, f"GRANT CREATE, TEMPORARY ON DATABASE {database} TO {role}")
        sink = open_sink(server.uri(database, role))
        run_round(sink, [ORDERS], [], round_number(1), NO_ROUND)
        run_sql(place, "ALTER TABLE dynabeam.orders$rows OWNER TO postgres")
        with pytest.raises(SinkError, match=r"permission denied.*GRANT USAGE, CREATE") as caught:
            sink.apply(blocks(ORDERS, [Change(1, {"id": {"S": "a"}})]), round_number(2))
        assert "table orders" in str(caught.value)


class TestPasswords:
    @pytest.fixture
    def with_password(self, place):
        run_sql(
            place,
            "DO $$ BEGIN CREATE ROLE with_password; "
            "EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
            f"GRANT with_password TO {place[2]}; ALTER ROLE {place[2]} PASSWORD 'p@ss/wörd';"
            f"GRANT CREATE, TEMPORARY ON DATABASE {place[1]} TO {place[2]}",
        )
        return place

    @pytest.mark.parametrize("form", ["login", "option", "file", "libpq"])
    def test_by_reference(self, with_password, form, monkeypatch, tmp_path):
        server, database, role = with_password
        monkeypatch.setenv("DYNABEAM_TEST_SECRET", "p@ss/wörd")
        (tmp_path / "secret").write_text("p@ss/wörd\n", "utf-8")
        uri = server.uri(database, role)
        if form == "login":
            uri = uri.replace(f"{role}@", f"{role}:${{env:DYNABEAM_TEST_SECRET}}@")
        elif form == "option":
            uri += "?password=${env:DYNABEAM_TEST_SECRET}"
        elif form == "file":
            uri += f"?password=${{file:{tmp_path}/secret}}"
        else:
            monkeypatch.setenv("PGPASSWORD", "p@ss/wörd")
        sink = open_sink(uri)
        sink.check([ORDERS], NO_ROUND)
        assert "wörd" not in repr(vars(sink)) + str(sink.name)

    def test_a_wrong_one_is_said_but_not_shown(self, with_password, monkeypatch):
        server, database, role = with_password
        monkeypatch.setenv("DYNABEAM_TEST_SECRET", "something else")
        sink = open_sink(server.uri(database, role) + "?password=${env:DYNABEAM_TEST_SECRET}")
        with pytest.raises(SinkError, match="password authentication failed") as caught:
            sink.check([ORDERS], NO_ROUND)
        assert "something else" not in str(caught.value)

    @pytest.mark.parametrize("uri", ["postgresql://u@h/d?password=clear", "postgres://u:clear@h/d"])
    def test_in_clear_is_refused_and_not_shown(self, uri):
        with pytest.raises(ConfigurationError, match="in clear") as caught:
            open_sink(uri)
        assert "password=clear" not in str(caught.value)
        assert "u:clear" not in str(caught.value)
