# SPDX-License-Identifier: Apache-2.0
"""Rows that PostgreSQL refuses: found in their batch, all others written, and what they become."""

import json

import pyarrow as pa
import pytest

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.model.block import SCHEMA
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.row_payload import block_of_payload
from dynabeam.transforms.sinks.postgresql import writer as postgresql_writer
from dynabeam.transforms.values.keys import encode_key
from tests.sinks.changes import NO_ROUND, STATE, Change, only_block, round_number, table
from tests.sinks.postgres_server import server_for_tests
from tests.sinks.targets import Target, postgresql_rows, schema_of

ORDERS = table()


def item(name, **attributes):
    return {"id": {"S": name}, "n": {"N": "1"}, **attributes}


@pytest.fixture(params=["few", "many"])
def sink(request, tmp_path, no_rows_are_few):
    """A mirror that knows the table; somebody has put a constraint on it."""
    if request.param == "many":
        no_rows_are_few()
    sink = Target("postgresql://SERVER").open(tmp_path)
    sink.check([ORDERS], NO_ROUND)
    sink.apply([only_block(ORDERS, [Change(1, item("first"))])], round_number(1))
    change(sink, "ADD CONSTRAINT small CHECK (n < 100)")
    return sink


def change(sink, what):
    with server_for_tests().connect() as connection:
        connection.execute(f'ALTER TABLE {schema_of(sink)}."orders$rows" {what}')


def letters_of(reports):
    return [
        DeadLetter.from_line(each.fields["letter"].encode())
        for each in reports
        if each.kind == "refused"
    ]


def held(sink):
    return {
        json.dumps(each["id"])
        for _, each in postgresql_rows(Target("postgresql://SERVER"), sink, ORDERS)
    }


class TestRefused:
    def test_one_of_a_batch(self, sink):
        changes = [Change(2, item(f"k{number}")) for number in range(40)]
        changes[17] = Change(
            2, {"id": {"S": "bad"}, "n": {"N": "100"}}, old=item("bad"), envelope="{}"
        )
        reports = sink.apply([only_block(ORDERS, changes)], round_number(2))
        assert len(held(sink)) == 40
        (counts,) = [each.fields for each in reports if each.kind == "sink"]
        assert (counts["rows"], counts["written"], counts["stale"]) == (40, 39, 0)
        (letter,) = letters_of(reports)
        assert (letter.table, letter.stage, letter.severity) == ("orders", "sink", "retry")
        assert letter.error == "CheckViolation 23514"
        assert "small" in letter.reason
        assert letter.origin["sink"] == sink.place
        assert "shardId-1" in letter.place
        payload = json.loads(letter.raw)
        assert json.loads(payload["new"])["n"] == {"N": "100"}
        assert json.loads(payload["old"]) == item("bad")
        block = block_of_payload(letter.raw)
        assert block.header.table == ORDERS
        assert block.rows == pa.RecordBatch.from_pylist([changes[17].row(ORDERS)], schema=SCHEMA)

    def test_put_back_when_the_rule_is_gone_and_an_old_one_loses(self, sink):
        refused = [
            Change(2, item("a") | {"n": {"N": "100"}}),
            Change(2, item("b") | {"n": {"N": "100"}}),
        ]
        letters = letters_of(sink.apply([only_block(ORDERS, refused)], round_number(2)))
        sink.apply([only_block(ORDERS, [Change(3, item("b"))])], round_number(3))
        change(sink, "DROP CONSTRAINT small")
        sink.apply([block_of_payload(each.raw) for each in letters], round_number(4))
        rows = dict(postgresql_rows(Target("postgresql://SERVER"), sink, ORDERS))
        assert rows[encode_key(item("a"), ORDERS.keys)]["n"] == {"N": "100"}
        assert rows[encode_key(item("b"), ORDERS.keys)]["n"] == {"N": "1"}

    @pytest.mark.parametrize("image", [b'{"id":{"S":"x"},,}', b'{"id":{"S":"x"},"a":{"S":"\xff"}}'])
    def test_an_image_that_cannot_be_laid_out(self, sink, image):
        good = only_block(ORDERS, [Change(2, item("good"))])
        rows = good.rows.to_pylist()
        bad = {**rows[0], "key": encode_key(item("x"), ORDERS.keys), "new": image}
        block = good.with_rows(pa.RecordBatch.from_pylist([*rows, bad], schema=SCHEMA))
        (letter,) = letters_of(sink.apply([block], round_number(2)))
        assert held(sink) == {'{"S": "first"}', '{"S": "good"}'}
        assert letter.severity == "severe"
        assert block_of_payload(letter.raw).rows.column("new")[0].as_py() == image

    def test_a_trigger(self, sink):
        rows = f'{schema_of(sink)}."orders$rows"'
        with server_for_tests().connect() as connection:
            connection.execute(
                f"CREATE FUNCTION {schema_of(sink)}.refuse() RETURNS trigger LANGUAGE plpgsql AS "
                "$$BEGIN RAISE 'not today'; END$$; "
                f"CREATE TRIGGER refuse BEFORE INSERT ON {rows} FOR EACH ROW "
                f"WHEN (NEW.id = 'a') EXECUTE FUNCTION {schema_of(sink)}.refuse()"
            )
        block = only_block(ORDERS, [Change(2, item("a")), Change(2, item("b"))])
        (letter,) = letters_of(sink.apply([block], round_number(2)))
        assert (letter.error, letter.severity) == ("RaiseException P0001", "retry")
        assert "not today" in letter.reason

    def test_the_newest_row_that_fits_is_written(self, sink):
        changes = [Change(2, item("a")), Change(3, item("a") | {"n": {"N": "100"}})]
        (letter,) = letters_of(sink.apply([only_block(ORDERS, changes)], round_number(2)))
        assert held(sink) == {'{"S": "first"}', '{"S": "a"}'}
        assert letter.origin["version"].endswith("3")

    def test_a_table_that_refuses_all_is_an_error(self, sink, monkeypatch):
        monkeypatch.setattr(postgresql_writer, "MOST_REFUSED", 3)
        changes = [Change(2, item(f"k{number}") | {"n": {"N": "100"}}) for number in range(9)]
        with pytest.raises(SinkError, match="small"):
            sink.apply([only_block(ORDERS, changes)], round_number(2))

    def test_what_is_not_about_rows_is_an_error(self, sink):
        change(sink, "RENAME COLUMN n TO m")
        with pytest.raises(SinkError, match="PostgreSQL"):
            sink.apply([only_block(ORDERS, [Change(2, item("a"))])], round_number(2))

    def test_it_is_the_same_letter_whenever_it_is_refused(self, sink):
        refused = [Change(2, item("a") | {"n": {"N": "100"}})]
        (first,) = letters_of(sink.apply([only_block(ORDERS, refused)], round_number(2)))
        again = sink.apply([block_of_payload(first.raw)], round_number(3, state_id=STATE))
        (second,) = letters_of(again)
        assert (first.id, first.raw) == (second.id, second.raw)
