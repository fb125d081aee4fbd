# SPDX-License-Identifier: Apache-2.0
"""What a stateful DoFn remembers: right on any worker, bounded in bytes, written a few times."""

import copy as copying
import dataclasses
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.model.order import supersedes
from dynabeam.transforms.model.version import encode_version
from dynabeam.transforms.reconcile.reconcile import _RUNS
from dynabeam.transforms.runtime import keyed_memory
from dynabeam.transforms.runtime.keyed_memory import GroupCells, KeyedMemory


class Bag:
    """A bag as Beam keeps it: it gives what was added in whatever order."""

    def __init__(self, random=None):
        self.values = []
        self.written = 0
        self._random = random

    def add(self, value):
        self.values.append(value)
        self.written += len(value)

    def read(self):
        found = list(self.values)
        if self._random is not None:
            self._random.shuffle(found)
        return found

    def clear(self):
        self.values = []


class Cell:
    def __init__(self):
        self.value = None

    def read(self):
        return self.value

    def write(self, value):
        self.value = value


class State:
    """The state of one group."""

    def __init__(self, random=None):
        self.token, self.small, self.merged = Cell(), Bag(random), Bag(random)
        self.cells = GroupCells(self.token, self.small, self.merged)

    def kept(self):
        parts = (self.token.value, self.small.values, self.merged.values)
        return copying.deepcopy(parts)

    def bring_back(self, kept):
        self.token.value, self.small.values, self.merged.values = copying.deepcopy(kept)


def age(entry):
    return entry[1], entry[0]


def memory(**options):
    return KeyedMemory(dataclasses.replace(_RUNS, age=age), **options)


def add(worker, group, state, fresh):
    copy = worker.recall(group, state.cells)
    fresh = {k: v for k, v in fresh.items() if supersedes(v, copy.known.get(k))}
    if fresh:
        worker.update(copy, fresh, state.cells)
    return copy


def known(worker, group, state):
    return worker.recall(group, state.cells).known


_STEPS = st.lists(
    st.tuples(
        st.integers(0, 1),  # worker
        st.integers(0, 2),  # group
        st.dictionaries(st.binary(min_size=1, max_size=2), st.integers(1, 30), min_size=1),
        st.booleans(),  # whether the bundle fails
    ),
    max_size=40,
)


@given(_STEPS, st.integers(1, 5), st.sampled_from([0, 700, 10**6]), st.randoms())
def test_any_worker_knows_the_newest_of_what_was_kept(steps, small_runs, limit, random):
    before, keyed_memory.SMALL_RUNS = keyed_memory.SMALL_RUNS, small_runs
    try:
        workers = [memory(limit=limit), memory(limit=limit)]
        states = [State(random) for _ in range(3)]
        truth = [{}, {}, {}]
        for at, group, changes, fails in steps:
            state, fresh = states[group], {k: encode_version(1, v) for k, v in changes.items()}
            kept = state.kept()
            add(workers[at], f"t/{group}", state, fresh)
            if fails:
                state.bring_back(kept)
            else:
                for key, version in fresh.items():
                    truth[group][key] = max(truth[group].get(key, b""), version)
            for worker in workers:
                assert known(worker, f"t/{group}", state) == truth[group]
    finally:
        keyed_memory.SMALL_RUNS = before


def test_each_key_is_written_a_few_times_however_many_blocks_there_are():
    state, worker = State(), memory()
    for n in range(6000):
        fresh = {b"S" + os.urandom(16): encode_version(1, 10**20 + 10 * n + i) for i in range(10)}
        add(worker, "t/0", state, fresh)
    written = state.small.written + state.merged.written
    kept = sum(map(len, [*state.small.values, *state.merged.values]))
    assert known(worker, "t/0", state).keys() == known(memory(), "t/0", state).keys()
    assert len(known(worker, "t/0", state)) == 60_000
    assert len(state.small.values) <= keyed_memory.SMALL_RUNS
    assert len(state.merged.values) < 200
    # Small runs alone are twice as large as merged ones: a few rows do not compress.
    assert written < 6 * kept


def test_a_key_that_changes_again_and_again_takes_no_room():
    state, worker = State(), memory()
    for n in range(2000):
        add(worker, "t/0", state, {b"Sone": encode_version(1, 10**20 + n)})
    assert len(state.small.values) <= keyed_memory.SMALL_RUNS
    assert len(state.merged.values) == 1
    assert known(memory(), "t/0", state) == {b"Sone": encode_version(1, 10**20 + 1999)}


def test_copies_are_bounded_in_bytes_and_not_in_groups():
    worker, states = memory(limit=100_000), [State() for _ in range(300)]
    for n, state in enumerate(states):
        add(worker, f"t/{n}", state, {b"S%04d" % i: encode_version(1, i + 1) for i in range(10)})
        assert worker.memory_bytes <= 100_000
    large = State()
    add(worker, "large", large, {b"S%07d" % i: encode_version(1, i + 1) for i in range(5000)})
    # The one that is worked on stays, whatever it takes.
    assert worker.memory_bytes == pytest.approx(5000 * 238)
    add(worker, "t/0", states[0], {b"new": encode_version(1, 99)})
    assert worker.memory_bytes < 100_000
    assert len(known(worker, "t/0", states[0])) == 11
    assert len(known(worker, "large", large)) == 5000


_CHANGES = st.lists(
    st.tuples(
        st.integers(0, 1),  # worker
        st.sets(st.sampled_from([b"%d" % n for n in range(8)]), min_size=1, max_size=3),
        st.booleans(),  # whether the bundle fails
    ),
    max_size=40,
)


@given(_CHANGES, st.integers(1, 3), st.integers(1, 6), st.randoms())
def test_of_a_limited_group_the_latest_are_known_and_never_an_older_value(
    changes, small_runs, max_keys, random
):
    """Also of a key that was forgotten: what a reader of the state finds of it is its newest."""
    before, keyed_memory.SMALL_RUNS = keyed_memory.SMALL_RUNS, small_runs
    try:
        state, truth = State(random), {}
        workers = [memory(), memory()]
        for number, (at, keys, fails) in enumerate(changes):
            kept = state.kept()
            copy = workers[at].recall("t/0", state.cells, max_keys)
            fresh = {key: encode_version(1, number + 1) for key in sorted(keys)}
            workers[at].update(copy, fresh, state.cells, max_keys)
            if fails:
                state.bring_back(kept)
            else:
                truth.update(fresh)
            latest = dict(sorted(truth.items(), key=age)[-max_keys:])
            for worker in (*workers, memory()):
                found = worker.recall("t/0", state.cells, max_keys)
                assert list(found.known.items()) == list(latest.items())
                assert worker.memory_bytes == sum(len(key) + 230 for key in latest)
            stored = memory().recall("t/0", state.cells).known
            assert all(truth[key] == version for key, version in stored.items())
    finally:
        keyed_memory.SMALL_RUNS = before


def test_what_leaves_a_limited_group_leaves_its_state():
    state, worker, limit = State(), memory(), 1000
    for number in range(20_000):
        copy = worker.recall("t/0", state.cells, limit)
        fresh = {b"S%06d" % number: encode_version(1, number + 1)}
        worker.update(copy, fresh, state.cells, limit)
    assert len(copy.known) == limit
    everything = memory().recall("t/0", state.cells).known
    assert len(everything) < 2 * limit + 2 * keyed_memory.SMALL_RUNS


def test_what_a_group_has_beside_its_keys_is_as_current_as_its_copy():
    state, one, other = State(), memory(), memory()
    add(one, "t/0", state, {b"a": encode_version(1, 1)})
    copy = one.recall("t/0", state.cells)
    copy.extra = "first"
    one.update(copy, {}, state.cells)
    assert one.recall("t/0", state.cells).extra == "first"
    theirs = other.recall("t/0", state.cells)
    assert (theirs.extra, len(state.small.values)) == (None, 1)
    other.update(theirs, {}, state.cells)
    assert one.recall("t/0", state.cells).extra is None
