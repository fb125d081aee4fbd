# SPDX-License-Identifier: Apache-2.0
"""Readers of a job share memories and threads in a process; calls that fail keep theirs."""

import threading

from tests.stream.scripted import QUICK
from transforms.stream.memory import ReaderMemory
from transforms.stream.turns import hold, release, turns_of

KEY = ("arn", 0, 1, 1)
OTHER = ("arn", 1, 2, 1)


def memory():
    return ReaderMemory(None, 0)


class TestMemories:
    def test_a_memory_belongs_to_one_call_at_a_time(self):
        turns = turns_of("one at a time", 1)
        assert turns.take(KEY, 3) is None
        mine = memory()
        turns.give(KEY, mine)
        assert turns.take(KEY, 3) is mine
        # A call that goes on though its bundle was given up still has it.
        assert turns.take(KEY, 3) is None

    def test_all_copies_of_a_job_share_them(self):
        mine = memory()
        turns_of("copies", 1).give(KEY, mine)
        assert turns_of("copies", 1).take(KEY, 3) is mine
        assert turns_of("another job", 1).take(KEY, 3) is None

    def test_readers_that_went_elsewhere_are_forgotten(self, monkeypatch):
        now = [0.0]
        monkeypatch.setattr("transforms.stream.turns.time.monotonic", lambda: now[0])
        turns = turns_of("elsewhere", 1)
        turns.take(KEY, 3)
        turns.give(KEY, memory())
        turns.take(OTHER, 3)
        assert (turns.readers, turns.shards) == (2, 6)
        now[0] = 61.0
        turns.take(OTHER, 3)
        assert (turns.readers, turns.shards) == (1, 3)
        assert turns.take(KEY, 3) is None


class TestThreads:
    def test_they_end_with_the_last_user(self):
        hold("threads")
        hold("threads")
        pool = turns_of("threads", 2).pool
        (thread,) = pool.submit(lambda: [threading.current_thread()]).result()
        release("threads")
        assert pool.submit(int).result() == 0
        release("threads")
        thread.join(10)
        assert not thread.is_alive()
        assert turns_of("threads", 2).pool is not pool


class TestPacing:
    def test_the_more_readers_the_shorter_their_turns(self):
        pacing = QUICK.__class__()
        assert pacing.shared(1, 1) == pacing
        four = pacing.shared(4, 4)
        assert (four.slice, four.tip_slice) == (pacing.slice / 4, pacing.tip_slice / 4)
        many = pacing.shared(1000, 1000)
        assert many.slice == pacing.tip_slice
        assert 0 < many.tip_slice < 0.05

    def test_the_more_shards_the_longer_each_waits(self):
        pacing = QUICK.__class__()
        assert pacing.shared(3, 10).poll == pacing.poll
        assert pacing.shared(3, 300).poll == 300 / pacing.requests
        assert pacing.shared(3, 3000).idle_poll == 3000 / pacing.requests

    def test_the_more_readers_the_rarer_their_listings(self):
        pacing = QUICK.__class__()
        assert pacing.shared(2, 2).quick_sweep == pacing.quick_sweep
        assert pacing.shared(20, 20).quick_sweep == 20 / pacing.listings
        assert pacing.shared(1000, 1000).sweep == 1000 / pacing.listings
