# SPDX-License-Identifier: Apache-2.0
"""Numbers as people store them are in their columns; those that are not are counted."""

import json
import struct
from decimal import Context, Decimal

import pytest

from dynabeam.transforms.sinks.registry import open_sink
from tests.sinks.changes import NO_ROUND, Change, blocks, newest, round_number, table
from tests.sinks.targets import Target, read_back, run_round

ORDERS = table()
TARGET = Target("duckdb:///FOLDER/m.duckdb")
STORED = [
    *["33.10318374633789", "-117.16108471155167", "0.1", "19.99", "-0.5", "0", "1e-7", "1.5E+3"],
    *["0.30000000000000004", "123456.78901234567", "1e-18"],
    *["1700000000.123457", "1700000000123", "1700000000123456", "1700000000123456789"],
    *["9007199254740993", str(2**63 - 1), str(-(2**63)), str(2**64 - 1), "99999999999999999999"],
    repr(struct.unpack("f", struct.pack("f", 33.3))[0]),
]
TOO_WIDE = [
    *[
        "100000000000000000000",
        "1" * 38,
        "1E+125",
        "1E-130",
        "1e-19",
        "2.220446049250313e-16",
        "12.3456789012345678901",
    ],
    str(Context(prec=38).create_decimal_from_float(33.1)),
]


def item(key, **attributes):
    return {"id": {"S": key}, **attributes}


def changes_of(numbers):
    return [Change(at + 1, item(f"k{at}", v={"N": each})) for at, each in enumerate(numbers)]


@pytest.fixture(params=[False, True], ids=["few", "many"])
def sink(request, tmp_path, no_rows_are_few):
    if request.param:
        no_rows_are_few()
    return TARGET.open(tmp_path)


def one_round(sink, changes, number=1):
    committed = NO_ROUND if number == 1 else round_number(number - 1)
    (report,) = run_round(sink, [ORDERS], blocks(ORDERS, changes), round_number(number), committed)
    return report


def query(sink, sql):
    with sink.connect() as connection:
        return connection.sql(sql).fetchall()


class TestDefault:
    def test_what_people_store_is_in_its_column(self, sink):
        report = one_round(sink, changes_of(STORED))
        found = query(sink, "SELECT v, _other FROM orders ORDER BY id[2:]::INT")
        assert found == [(Decimal(each), None) for each in STORED]
        assert "unfit_numbers" not in report.fields

    def test_an_average_is_that_of_the_numbers(self, sink):
        floats = ["33.10318374633789", "51.50735091209412", "-0.12775819778442383"]
        one_round(sink, changes_of(floats))
        ((total, mean),) = query(sink, "SELECT sum(v), avg(v) FROM orders")
        assert total == sum(map(Decimal, floats))
        assert mean == pytest.approx(float(total / 3), rel=1e-15)

    def test_what_does_not_fit_is_exact_elsewhere_and_counted(self, sink):
        numbers = [*STORED, *TOO_WIDE]
        report = one_round(sink, changes_of(numbers))
        assert report.fields["unfit_numbers"] == len(TOO_WIDE)
        found = query(sink, "SELECT v, _other FROM orders WHERE v IS NULL ORDER BY id[2:]::INT")
        assert [json.loads(other)["v"]["N"] for _, other in found] == TOO_WIDE
        again = one_round(sink, changes_of(numbers), 2)
        assert "unfit_numbers" not in again.fields

    def test_only_numbers_are_counted(self, sink):
        changes = [
            Change(1, item("a", v={"N": "1"}, s={"NS": ["1"]})),
            Change(2, item("b", v={"S": "1E-130"}, s={"SS": ["x"]})),
            Change(3, item("c", v={"NULL": True}, s={"NS": ["1", "1E-130"]})),
            Change(4, item("d", v={"N": "no number"}, s={"N": "1E-130"})),
        ]
        assert one_round(sink, changes).fields["unfit_numbers"] == 1
        assert read_back(TARGET, sink, [ORDERS])["orders"] == newest(ORDERS, changes)

    def test_text_holds_all(self, tmp_path):
        sink = open_sink(f"duckdb:///{tmp_path}/m.duckdb?numbers=text")
        report = one_round(sink, changes_of([*STORED, *TOO_WIDE]))
        assert "unfit_numbers" not in report.fields
        assert query(sink, "SELECT count(v), count(_other) FROM orders") == [
            (len(STORED) + len(TOO_WIDE), 0)
        ]


class TestExistingFiles:
    def test_a_mirror_keeps_its_type_when_the_default_changes(self, tmp_path):
        path = f"{tmp_path}/m.duckdb"
        made = open_sink(f"duckdb:///{path}?numbers=decimal(38,9)")
        one_round(made, changes_of(["1.5", "33.10318374633789"]))
        sink = open_sink(f"duckdb:///{path}")
        changes = [Change(99, item("k0", v={"N": "2.25"})), Change(99, item("n", v={"N": "1e-18"}))]
        report = one_round(sink, changes, 2)
        assert report.fields["unfit_numbers"] == 1
        assert query(sink, "SELECT id, v FROM orders ORDER BY id") == [
            ("k0", Decimal("2.25")),
            ("k1", None),
            ("n", None),
        ]
        assert ("v", "DECIMAL(38,9)") in [row[:2] for row in query(sink, "DESCRIBE orders")]

    def test_another_type_that_is_asked_for_is_refused(self, tmp_path):
        path = f"{tmp_path}/m.duckdb"
        one_round(open_sink(f"duckdb:///{path}?numbers=decimal(38,9)"), changes_of(["1.5"]))
        with pytest.raises(Exception, match="another options"):
            open_sink(f"duckdb:///{path}?numbers=decimal(38,18)").check([ORDERS], round_number(1))
