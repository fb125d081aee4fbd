# SPDX-License-Identifier: Apache-2.0
"""Positions are stored when the watermark has left them behind; a run that is over stores none."""

import apache_beam as beam
import pytest

from dynabeam.transforms.continuous.control_folder import ControlFolder
from dynabeam.transforms.continuous.store_positions import STORED_AFTER_US, StorePositions, _StoreFn
from dynabeam.transforms.errors import StateError
from dynabeam.transforms.model.report import Report

SECOND = 1_000_000


def gap(number):
    return Report("gap", "orders", {"shard_id": str(number)})


class Cell:
    def __init__(self):
        self.value = None

    def read(self):
        return self.value

    def write(self, value):
        self.value = value

    def clear(self):
        self.value = None


class Bag(Cell):
    def __init__(self):
        self.value = []

    def add(self, value):
        self.value.append(value)

    def read(self):
        return list(self.value)

    def clear(self):
        self.value = []


class Storing:
    """Drives the DoFn by hand: its state, its timer, its clock."""

    def __init__(self, path):
        self.now = 1_000 * SECOND
        self.fn = _StoreFn(path, lambda: self.now)
        self.stored, self.waiting, self.due = Cell(), Bag(), Cell()
        self.timer_us = None

    def set(self, at):
        self.timer_us = at.micros

    def report(self, number, at):
        self.now = at * SECOND
        self.fn.process(("orders", gap(number)), self.waiting, self.due, self)

    def watermark(self, seconds):
        """The watermark passes: the timer fires if it is due."""
        while self.timer_us is not None and self.timer_us <= seconds * SECOND:
            self.timer_us = None
            list(self.fn.store("orders", self.stored, self.waiting, self.due, self))


@pytest.fixture
def folder(tmp_path):
    return ControlFolder(str(tmp_path))


def stored(folder):
    found = folder.read_positions().get("orders", [])
    return [each.fields["shard_id"] for each in found]


AFTER = STORED_AFTER_US // SECOND


class TestStore:
    def test_not_before_the_watermark_has_passed(self, folder):
        storing = Storing(folder.path)
        storing.report(1, at=1_000)
        storing.watermark(1_000 + AFTER - 1)
        assert stored(folder) == []
        storing.watermark(1_000 + AFTER)
        assert stored(folder) == ["1"]

    def test_what_came_later_waits_for_its_own_time(self, folder):
        storing = Storing(folder.path)
        for number, at in ((1, 1_000), (2, 1_001), (3, 1_030)):
            storing.report(number, at)
        storing.watermark(1_000 + AFTER)
        assert stored(folder) == ["1"]
        storing.watermark(1_001 + AFTER)
        assert stored(folder) == ["1"]
        storing.watermark(1_030 + AFTER)
        assert stored(folder) == ["1", "2", "3"]

    def test_none_waits_long_for_others(self, folder):
        storing = Storing(folder.path)
        for at in range(1_000, 1_060, 5):
            storing.report(at, at)
        storing.watermark(1_000 + AFTER)
        storing.watermark(1_024 + AFTER)
        assert stored(folder) == ["1000"]
        storing.watermark(1_025 + AFTER)
        assert stored(folder) == ["1000", "1005", "1010", "1015", "1020", "1025"]

    def test_reports_that_keep_coming_do_not_put_it_off(self, folder):
        storing = Storing(folder.path)
        for at in range(1_000, 1_000 + 3 * AFTER, 5):
            storing.report(at, at)
            storing.watermark(at)
        assert len(stored(folder)) > AFTER // 5

    def test_it_goes_on_after_all_was_stored(self, folder):
        storing = Storing(folder.path)
        storing.report(1, at=1_000)
        storing.watermark(5_000)
        assert storing.due.value is None
        storing.report(2, at=5_000)
        storing.watermark(5_000 + AFTER)
        assert stored(folder) == ["1", "2"]

    def test_a_run_that_was_superseded_fails(self, folder):
        storing = Storing(folder.path)
        storing.report(1, at=1_000)
        folder.end("catch-up rounds")
        with pytest.raises(StateError, match="taken over"):
            storing.watermark(1_000 + AFTER)
        assert stored(folder) == []


def test_in_a_pipeline_the_end_of_the_input_stores_all(folder):
    reports = [gap(n) for n in range(3)] + [Report("gap", "other", {"shard_id": "x"})]
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        _ = pipeline | beam.Create(reports, reshuffle=False) | StorePositions(folder.path)
    assert sorted(stored(folder)) == ["0", "1", "2"]
    assert set(folder.read_positions()) == {"orders", "other"}
