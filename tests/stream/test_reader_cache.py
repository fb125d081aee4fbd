# SPDX-License-Identifier: Apache-2.0
"""Readers of a job share schedulers and threads in a process; calls that fail keep theirs."""

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dynabeam.transforms.runtime.clock import Clock
from dynabeam.transforms.stream.frontier import Frontier, ShardPosition
from dynabeam.transforms.stream.pacing import Pacing
from dynabeam.transforms.stream.page_parser import PageParser
from dynabeam.transforms.stream.reader_cache import ReaderCache, cache_of, release, retain
from dynabeam.transforms.stream.scheduler import ShardScheduler
from dynabeam.transforms.stream.shard_requests import RequestPool
from tests.stream.scripted import (
    ARN,
    NOW_US,
    QUICK,
    TABLE,
    ScriptedStreams,
    Shard,
    record,
    shard_id,
)

KEY = ("arn", 0, 1, 1)
OTHER = ("arn", 1, 2, 1)
PACING = Pacing()


FIRST, SECOND = shard_id(1), shard_id(2)


class Counting:
    """A pool that counts what it is given."""

    def __init__(self):
        self.begun = []
        self.changed = threading.Event()

    def submit(self, function, request):
        self.begun.append(request)
        self.changed.set()


def scheduler(pool=None):
    return ShardScheduler(RequestPool(ARN, None, None, Clock(), pool), 0)


def park(cache, key, mine, *positions, pacing=QUICK):
    mine.pace(pacing, Clock(), bounded=False)
    cache.park(key, mine, Frontier(shards=positions))


def at(shard, sequence="5", **fields):
    return ShardPosition(shard, kind="after", sequence=sequence, since_us=NOW_US, **fields)


def due_now(mine, *shards):
    for each in shards:
        mine.add(each)


def wait_for(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


class TestParking:
    def test_a_scheduler_belongs_to_one_call_at_a_time(self):
        cache = cache_of("one at a time", 1)
        assert cache.acquire(KEY, 3) is None
        mine = scheduler()
        park(cache, KEY, mine)
        assert cache.acquire(KEY, 3) is mine
        # A call that goes on though its bundle was given up still has it.
        assert cache.acquire(KEY, 3) is None

    def test_all_copies_of_a_job_share_them(self):
        mine = scheduler()
        park(cache_of("copies", 1), KEY, mine)
        assert cache_of("copies", 1).acquire(KEY, 3) is mine
        assert cache_of("another job", 1).acquire(KEY, 3) is None

    def test_readers_that_went_elsewhere_are_forgotten(self, monkeypatch):
        now = [0.0]
        monkeypatch.setattr(
            "dynabeam.transforms.stream.reader_cache.time.monotonic", lambda: now[0]
        )
        cache = cache_of("elsewhere", 1)
        cache.acquire(KEY, 3, 2)
        park(cache, KEY, scheduler())
        cache.acquire(OTHER, 3)
        assert cache.shared(PACING) == PACING.shared(2, 6, 1.5)
        now[0] = 61.0
        cache.acquire(OTHER, 3)
        assert cache.shared(PACING) == PACING.shared(1, 3, 1.0)
        assert cache.acquire(KEY, 3) is None


class TestSendingBetweenSlices:
    def test_a_page_that_falls_due_is_there_when_the_slice_begins(self):
        client = ScriptedStreams(Shard(FIRST, pages=[[record(6)]]))
        with ThreadPoolExecutor(1) as pool:
            parser = PageParser(TABLE, 1, ARN)
            mine = ShardScheduler(RequestPool(ARN, client, parser, Clock(), pool), 0)
            cache = ReaderCache(1)
            due_now(mine, FIRST)
            park(cache, KEY, mine, at(FIRST))
            wait_for(lambda: not mine.requests._responses.empty())
            assert cache.acquire(KEY, 1) is mine
            answer = mine.requests.next_response(0)
            assert (answer.request.position.shard_id, answer.error) == (FIRST, None)
            assert mine.requests.in_flight == mine.requests.pages_in_flight == 0
            cache.close()

    def test_it_is_sent_when_it_is_due_and_once(self):
        pool, cache = Counting(), ReaderCache(1)
        mine = scheduler(pool)
        due_now(mine, FIRST)
        mine.schedule(FIRST, time.monotonic() + 0.2)
        began = time.monotonic()
        park(cache, KEY, mine, at(FIRST))
        assert pool.changed.wait(30)
        assert time.monotonic() - began >= 0.2
        park(cache, OTHER, scheduler(pool))  # wakes the sender
        time.sleep(0.05)
        assert len(pool.begun) == 1
        cache.close()

    def test_what_needs_a_decision_waits_for_the_slice(self):
        pool, cache = Counting(), ReaderCache(1)
        mine = scheduler(pool)
        ended = dataclasses.replace(at(FIRST), kind="ended", ended_us=NOW_US)
        due_now(mine, FIRST, SECOND)
        park(cache, KEY, mine, ended, ShardPosition(SECOND, since_us=NOW_US))
        other = scheduler(pool)
        due_now(other, SECOND)
        park(cache, OTHER, other, at(SECOND))
        assert pool.changed.wait(30)
        cache.close()
        assert [each.position.shard_id for each in pool.begun] == [SECOND]
        # Nothing of it is forgotten.
        assert cache.acquire(KEY, 2) is mine
        now = time.monotonic()
        assert {mine.take_due(now), mine.take_due(now)} == {FIRST, SECOND}

    def test_a_scheduler_that_is_acquired_is_left_alone(self):
        pool, cache = Counting(), ReaderCache(1)
        mine = scheduler(pool)
        park(cache, KEY, mine, at(FIRST))
        assert cache.acquire(KEY, 1) is mine
        due_now(mine, FIRST)
        other = scheduler(pool)
        due_now(other, SECOND)
        park(cache, OTHER, other, at(SECOND))
        assert pool.changed.wait(30)
        cache.close()
        assert [each.position.shard_id for each in pool.begun] == [SECOND]

    def test_no_more_is_in_flight_than_the_memory_bears(self):
        pool, cache = Counting(), ReaderCache(1)
        pacing = dataclasses.replace(QUICK, memory_bytes=QUICK.page_bytes)
        mine = scheduler(pool)
        due_now(mine, FIRST, SECOND)
        park(cache, KEY, mine, at(FIRST), at(SECOND), pacing=pacing)
        assert pool.changed.wait(30)
        time.sleep(0.05)
        cache.close()
        assert len(pool.begun) == 1


class TestThreads:
    def test_they_end_with_the_last_user(self):
        retain("threads")
        retain("threads")
        pool = cache_of("threads", 2).pool
        (thread,) = pool.submit(lambda: [threading.current_thread()]).result()
        release("threads")
        assert pool.submit(int).result() == 0
        release("threads")
        thread.join(10)
        assert not thread.is_alive()
        assert cache_of("threads", 2).pool is not pool


class TestPacing:
    def test_the_more_readers_the_shorter_their_slices(self):
        pacing = QUICK.__class__()
        assert pacing.shared(1, 1) == pacing
        four = pacing.shared(4, 4)
        assert (four.slice, four.tip_slice) == (pacing.slice / 4, pacing.tip_slice / 4)
        many = pacing.shared(1000, 1000)
        assert many.slice == pacing.tip_slice
        assert 0 < many.tip_slice < 0.05

    def test_slices_in_one_call_wait_longer(self):
        pacing = QUICK.__class__()
        alone, together = pacing.shared(20, 20), pacing.shared(20, 20, 8.0)
        assert together.slice == alone.slice
        assert together.tip_slice == pytest.approx(alone.tip_slice * 20 / 8)

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
