# SPDX-License-Identifier: Apache-2.0
"""Assignments are found while a run goes on, each once."""

import dataclasses

import pytest
from apache_beam.pvalue import TaggedOutput
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp

from dynabeam.transforms.continuous.control_folder import Assignment, ControlFolder
from dynabeam.transforms.continuous.watch_assignments import Seen, SeenCoder, _WatchFn
from dynabeam.transforms.errors import StateError, ValueDecodeError
from dynabeam.transforms.export.elements import SnapshotRequest
from dynabeam.transforms.runtime.poll_tracker import PollTracker
from dynabeam.transforms.state.coverage import FUZZ_US
from dynabeam.transforms.stream.reader_group import MOST_GROUPS
from tests.export.test_request import Watermark
from tests.stream.scripted import TABLE, source

REQUEST = SnapshotRequest(TABLE, 1, 16, bucket="exports")
SECOND = 1_000_000


class Watching:
    """Runs the watch by hand, bundle by bundle."""

    def __init__(self, path):
        self.path = path
        self.now = 1_000 * SECOND
        self.fn = _WatchFn(10, lambda: self.now)
        self.state = self.fn.initial_restriction(path)
        self.watermark = Watermark()

    def bundle(self):
        tracker = Deferring(self.fn.create_tracker(self.state))
        outputs = list(self.fn.process(self.path, tracker, self.watermark))
        split = tracker.inner.try_split(0)
        assert tracker.inner.check_done()
        assert split is not None
        assert tracker.deferred
        # Restored from a savepoint, as it were.
        coder = self.fn.restriction_coder()
        self.state = coder.decode(coder.encode(split[1]))
        return outputs

    def look(self):
        self.now += 10 * SECOND
        return self.bundle()


class Deferring:
    """What Beam's view of a tracker adds."""

    def __init__(self, inner):
        self.inner = inner
        self.deferred = False

    def current_restriction(self):
        return self.inner.current_restriction()

    def try_claim(self, position):
        return self.inner.try_claim(position)

    def defer_remainder(self, delay):
        self.deferred = True


@pytest.fixture
def folder(tmp_path):
    return ControlFolder(str(tmp_path / "d"))


def split(outputs):
    groups = [each.value for each in outputs if not isinstance(each, TaggedOutput)]
    sources = [source for group in groups for source in group.sources]
    requests = [each.value.value for each in outputs if isinstance(each, TaggedOutput)]
    return sources, requests


class TestWatch:
    def test_each_assignment_is_taken_up_once(self, folder):
        folder.assign("1", Assignment([source()], [REQUEST]))
        watching = Watching(folder.path)
        assert split(watching.bundle()) == ([source()], [REQUEST])
        assert watching.look() == []
        folder.assign("2", Assignment([source(reader=1, readers=2)], []))
        assert split(watching.look()) == ([source(reader=1, readers=2)], [])
        assert watching.look() == []

    def test_readers_of_many_tables_share_elements(self, folder):
        tables = [dataclasses.replace(TABLE, name=f"t{n}") for n in range(20)]
        assigned = [dataclasses.replace(source(), table=each) for each in tables]
        folder.assign("1", Assignment(assigned, []))
        outputs = Watching(folder.path).bundle()
        assert len(outputs) == MOST_GROUPS
        found = [each.table.name for each in split(outputs)[0]]
        assert sorted(found) == sorted(each.name for each in tables)

    def test_nothing_yet(self, folder):
        assert Watching(folder.path).bundle() == []

    def test_a_runner_that_ignores_delays_looks_no_sooner(self, folder):
        watching = Watching(folder.path)
        watching.bundle()
        folder.assign("1", Assignment([source()], []))
        assert watching.bundle() == []
        assert len(watching.look()) == 1

    def test_elements_and_watermark_carry_the_time_of_the_look(self, folder):
        folder.assign("1", Assignment([source()], [REQUEST]))
        watching = Watching(folder.path)
        first, second = watching.bundle()
        assert first.timestamp == second.value.timestamp == Timestamp(1_000)
        assert watching.watermark.value == Timestamp(1_000)
        watching.look()
        assert watching.watermark.value == Timestamp(1_010)

    def test_keys_are_remembered_until_a_snapshot_that_begins_now(self, folder):
        folder.assign("1", Assignment([source(snapshot_until_us=5)], [REQUEST]))
        watching = Watching(folder.path)
        ((found,), _) = split(watching.bundle())
        assert found.snapshot_until_us == watching.now + FUZZ_US

    def test_a_damaged_assignment_stops_the_run(self, folder, tmp_path):
        folder.assign("1", Assignment([], []))
        (tmp_path / "d" / "assignments" / "1.json").write_text("{")
        with pytest.raises(StateError, match="damaged"):
            Watching(folder.path).bundle()

    def test_nothing_is_taken_up_that_was_not_claimed(self, folder):
        folder.assign("1", Assignment([source()], []))
        watching = Watching(folder.path)
        tracker = PollTracker(Seen())
        tracker.try_claim(Seen(names=("x",)))
        assert list(watching.fn.process(folder.path, Deferring(tracker), Watermark())) == []


class TestCoder:
    def test_golden_bytes(self):
        golden = b'{"done":false,"format":1,"names":["1.json"],"next_look_us":7}'
        seen = Seen(names=("1.json",), next_look_us=7)
        assert SeenCoder().encode(seen) == golden
        assert SeenCoder().decode(golden) == seen
        assert SeenCoder().is_deterministic()

    def test_unknown_format(self):
        with pytest.raises(ValueDecodeError, match="unknown format"):
            SeenCoder().decode(b'{"format":2}')

    def test_the_first_watermark_is_the_beginning(self):
        assert Watermark().value == MIN_TIMESTAMP
