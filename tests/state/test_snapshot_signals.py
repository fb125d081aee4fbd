# SPDX-License-Identifier: Apache-2.0
"""Orders of snapshots: each is carried out once, and none is lost because another one was."""

import dataclasses
import json

import pytest

from dynabeam.transforms.errors import StateError
from dynabeam.transforms.state.snapshot_signals import SnapshotSignal, SnapshotSignals

FIRST = SnapshotSignal("or/ders", "first", 1)
SECOND = SnapshotSignal("or/ders", "second", 2, "a..b")


@pytest.fixture
def orders(tmp_path):
    return SnapshotSignals(str(tmp_path))


def test_removing_what_was_taken_up_leaves_what_was_ordered_meanwhile(orders):
    orders.give(FIRST)
    seen = orders.pending("or/ders")
    orders.give(SECOND)
    assert orders.remove("or/ders", seen.order_id)
    assert orders.pending("or/ders") == SECOND
    assert not orders.remove("or/ders", seen.order_id)
    assert orders.pending("or/ders") == SECOND
    assert orders.remove("or/ders", "second")
    assert orders.pending("or/ders") is None


def test_the_newest_takes_the_place_of_the_others(orders):
    orders.give(FIRST)
    orders.give(SECOND)
    assert orders.pending("or/ders") == SECOND
    assert orders.remove("or/ders", "second")
    assert orders.pending("or/ders") is None


def test_other_tables_are_others(orders):
    orders.give(FIRST)
    orders.give(dataclasses.replace(FIRST, table="or"))
    orders.give(dataclasses.replace(FIRST, table="or/ders2"))
    assert orders.cancel("or/ders")
    assert not orders.cancel("or/ders")
    assert orders.pending("or").table == "or"
    assert orders.pending("or/ders2").table == "or/ders2"


def test_an_order_of_an_earlier_version_is_read_and_removed(orders, tmp_path):
    path = tmp_path / "requests" / "or%2Fders.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"format": 1, **dataclasses.asdict(FIRST)}))
    assert orders.pending("or/ders") == FIRST
    orders.give(SECOND)
    assert orders.remove("or/ders", "first")
    assert not path.exists()
    assert orders.pending("or/ders") == SECOND


def test_a_damaged_one_is_named(orders, tmp_path):
    orders.give(FIRST)
    (path,) = (tmp_path / "requests").rglob("*.json")
    path.write_text("{")
    with pytest.raises(StateError, match="damaged"):
        orders.pending("or/ders")
    path.write_text('{"format":9}')
    with pytest.raises(StateError, match="unknown format"):
        orders.pending("or/ders")
