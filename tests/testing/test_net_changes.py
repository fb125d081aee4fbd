# SPDX-License-Identifier: Apache-2.0
"""Contract of what an export sees: nets replay exactly, a blurred moment stays within its blur."""

import random
import threading
from datetime import datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.testing.clock import SimClock
from dynabeam.transforms.testing.faults import Dice, Faults
from dynabeam.transforms.testing.item_values import image
from dynabeam.transforms.testing.net_changes import fuzzy_items, net_changes
from dynabeam.transforms.testing.tables import SimTable

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
FUZZ = timedelta(minutes=1)


class History:
    """A table with one hash key whose clock moves by hand."""

    def __init__(self):
        self.clock = SimClock.manual(START)
        self.table = SimTable(
            "t",
            "arn:aws:dynamodb:eu-west-1:111122223333:table/t",
            [("id", "S")],
            region="eu-west-1",
            clock=self.clock,
            rng=random.Random(0),
            dice=Dice(0),
            lock=threading.RLock(),
        )

    def write(self, key, value):
        """Writes a value, or deletes the item if it is None."""
        keys = {"id": {"S": key}}
        item = None if value is None else image({**keys, "v": {"N": str(value)}})
        self.table.apply(image(keys), item, Faults())

    def after(self, **delay):
        self.clock.advance(timedelta(**delay))
        return self

    def at(self, moment):
        return values(self.table.items_at(moment))

    def net(self, begin, end):
        return net_changes(self.table.changes(begin, end))

    def fuzzy(self, moment, seed=0, fuzz=FUZZ, until=None):
        return values(
            fuzzy_items(self.table, moment, fuzz=fuzz, until=until or self.clock.now(), seed=seed)
        )


def values(items):
    items = list(items)
    found = {item["id"]["S"]: item["v"]["N"] for item in items}
    assert len(found) == len(items)
    return found


def value(item):
    return None if item is None else item["v"]["N"]


# A write is a key, a value or a delete, and the time until then in ms. No write falls on a whole
# second: delays are counted from half a second past.
writes = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.one_of(st.none(), st.integers(0, 3)),
        st.integers(0, 40).map(lambda seconds: seconds * 1000),
    ),
    max_size=25,
)


def history_of(steps):
    history = History().after(milliseconds=500)
    for key, content, delay in steps:
        history.after(milliseconds=delay).write(key, content)
    return history.after(seconds=1)


class TestNetChanges:
    @given(writes, st.integers(0, 500), st.integers(0, 500))
    def test_a_full_export_and_the_net_of_a_window_replay_to_its_end(self, steps, one, other):
        history = history_of(steps)
        begin, end = (START + timedelta(seconds=each) for each in sorted((one, other)))
        state = history.at(begin)
        for change in history.net(begin, end):
            key = change.keys["id"]["S"]
            assert state.pop(key, None) == value(change.old_image)
            if change.new_image is not None:
                state[key] = value(change.new_image)
        assert state == history.at(end)

    @given(writes)
    def test_touching_windows_tell_all_and_once(self, steps):
        history = history_of(steps)
        end = history.clock.now().replace(microsecond=0) + timedelta(seconds=1)
        state, begin = {}, START
        while begin < end:
            for change in history.net(begin, begin + FUZZ):
                key = change.keys["id"]["S"]
                assert state.pop(key, None) == value(change.old_image)
                if change.new_image is not None:
                    state[key] = value(change.new_image)
            begin += FUZZ
        assert state == history.at(end)

    @given(writes)
    def test_one_change_per_key_timed_by_its_last_write(self, steps):
        history = history_of(steps)
        changes = history.net(START, history.clock.now())
        keys = [change.keys["id"]["S"] for change in changes]
        assert len(keys) == len(set(keys))
        last = {write.keys["id"]["S"]: write.micros for write in history.table.history}
        assert {change.keys["id"]["S"]: change.write_micros for change in changes}.items() <= (
            last.items()
        )

    def test_inserted_and_deleted_inside_is_nothing(self):
        history = History()
        history.write("a", 1)
        history.after(seconds=1).write("a", None)
        assert history.net(START, START + FUZZ) == []

    def test_deleted_and_written_again_is_an_update(self):
        history = History()
        history.write("a", 1)
        history.after(seconds=10).write("a", None)
        history.after(seconds=1).write("a", 2)
        (change,) = history.net(START + timedelta(seconds=5), START + FUZZ)
        assert (value(change.old_image), value(change.new_image)) == ("1", "2")

    def test_the_window_begins_inclusive_and_ends_exclusive(self):
        history = History()
        history.write("a", 1)
        history.after(seconds=60).write("b", 1)
        assert [c.keys["id"]["S"] for c in history.net(START, START + FUZZ)] == ["a"]
        assert [c.keys["id"]["S"] for c in history.net(START + FUZZ, START + 2 * FUZZ)] == ["b"]


class TestFuzzyItems:
    @given(writes, st.integers(0, 500), st.integers())
    def test_each_key_is_as_it_was_at_some_time_within_the_fuzz(self, steps, second, seed):
        history = history_of(steps)
        moment = START + timedelta(seconds=second)
        seen = history.fuzzy(moment, seed)
        before = history.at(moment - FUZZ)
        possible = {key: {before.get(key)} for key in "abc"}
        for write in history.table.changes(moment - FUZZ, moment + FUZZ):
            possible[write.keys["id"]["S"]].add(value(write.new))
        assert all(seen.get(key) in states for key, states in possible.items())

    @given(writes, st.integers(0, 500), st.integers())
    def test_replaying_all_since_before_the_fuzz_gives_the_truth(self, steps, second, seed):
        history = history_of(steps)
        moment = START + timedelta(seconds=second)
        state = history.fuzzy(moment, seed)
        for write in history.table.changes(moment - FUZZ, history.clock.now()):
            state.pop(write.keys["id"]["S"], None)
            if write.new is not None:
                state[write.keys["id"]["S"]] = value(write.new)
        assert state == history.at(history.clock.now())

    @given(writes, st.integers(0, 500))
    def test_without_fuzz_it_is_exact(self, steps, second):
        history = history_of(steps)
        moment = START + timedelta(seconds=second)
        assert history.fuzzy(moment, fuzz=timedelta()) == history.at(moment)

    def blurred(self):
        """Thirty keys, each written two seconds before and after the moment."""
        history = History()
        for n in range(30):
            history.write(f"k{n}", 0)
        moment = history.after(hours=1).clock.now() + timedelta(seconds=2)
        for n in range(30):
            history.write(f"k{n}", 1)
        history.after(seconds=4)
        for n in range(30):
            history.write(f"k{n}", 2)
        history.after(hours=1)
        return history, moment

    def test_every_state_within_the_fuzz_does_occur(self):
        history, moment = self.blurred()
        assert set(history.fuzzy(moment).values()) == {"0", "1", "2"}

    def test_the_seed_decides(self):
        history, moment = self.blurred()
        assert history.fuzzy(moment, seed=1) == history.fuzzy(moment, seed=1)
        assert history.fuzzy(moment, seed=1) != history.fuzzy(moment, seed=2)

    def test_nothing_is_seen_that_came_after_the_end(self):
        history, moment = self.blurred()
        assert set(history.fuzzy(moment, until=moment).values()) == {"0", "1"}

    def test_nothing_is_seen_outside_the_fuzz(self):
        history, moment = self.blurred()
        assert set(history.fuzzy(moment, fuzz=timedelta(seconds=1)).values()) == {"1"}
