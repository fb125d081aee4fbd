# SPDX-License-Identifier: Apache-2.0
"""The rules of what is due: each by itself, on a clock that only the test moves."""

import ast
import dataclasses
import json
from pathlib import Path

import pytest

import dynabeam.transforms.stream
from dynabeam.transforms.aws.streams import ShardInfo, StreamDescription
from dynabeam.transforms.stream.frontier import Counts, Frontier, ShardPosition
from dynabeam.transforms.stream.pacing import Pacing
from dynabeam.transforms.stream.page_parser import PageParser
from dynabeam.transforms.stream.scheduler import LONGEST_WAIT, ShardScheduler, ShardTask
from dynabeam.transforms.stream.shard_listing import ShardListing
from dynabeam.transforms.stream.shard_requests import AskChildren, ListShards, ReadPage
from tests.stream.scripted import ARN, NOW_US, TABLE, record, shard_id

A, B, CHILD = shard_id(1), shard_id(2), shard_id(3)
PACING = Pacing(threads=4)
ROWLESS = PageParser(TABLE, 1, ARN).parse(b'{"Records":[],"NextShardIterator":"it"}', A)
OLD_US, RECENT_US = NOW_US - 60_000_000, NOW_US - 1_000_000


class HandClock:
    """Both clocks stand still until they are moved."""

    def __init__(self):
        self.seconds, self.wall_us = 100.0, NOW_US

    def now_us(self):
        return self.wall_us

    def monotonic(self):
        return self.seconds

    def advance(self, seconds):
        self.seconds += seconds
        self.wall_us += int(seconds * 1e6)


class Sent:
    """A request pool that keeps what it is given."""

    def __init__(self):
        self.sent = []
        self.in_flight = self.pages_in_flight = 0

    def count(self, request):
        self.in_flight += 1
        self.pages_in_flight += isinstance(request, ReadPage)

    def begin(self, request):
        self.count(request)
        self.sent.append(request)


class Desk:
    """A scheduler with its clock and its requests."""

    def __init__(self, *shards, bounded=False, pacing=PACING, swept_us=0):
        self.clock, self.requests = HandClock(), Sent()
        self.scheduler = ShardScheduler(self.requests, swept_us)
        self.scheduler.pace(pacing, self.clock, bounded=bounded)
        for each in shards:
            self.scheduler.add(each)

    def take(self):
        return self.scheduler.take_due(self.clock.monotonic())

    def in_seconds(self):
        due = self.scheduler.next_due()
        return None if due is None else pytest.approx(due - self.clock.monotonic())

    def read(self, after, page, began_us=None, started_us=NOW_US, **fields):
        self.scheduler.page_claimed(
            after,
            page,
            began_us=self.clock.now_us() if began_us is None else began_us,
            started_us=started_us,
            has_children=fields.get("has_children", False),
        )

    def listed(self, *shards, after="", next_after="", status="ENABLED"):
        page = StreamDescription(status, "", shards, next_after)
        return self.scheduler.listed(page, after=after, began_us=self.clock.now_us())


def at(shard, sequence="5", **fields):
    return ShardPosition(shard, kind="after", sequence=sequence, since_us=NOW_US, **fields)


def ended(shard, sequence="5"):
    return dataclasses.replace(at(shard, sequence), kind="ended", ended_us=NOW_US)


def page_of(newest_us):
    """A page with one record of that time."""
    body = {"Records": [record(6, time=newest_us // 10**6)], "NextShardIterator": "it"}
    return PageParser(TABLE, 1, ARN).parse(json.dumps(body).encode(), A)


class TestOrder:
    def test_new_shards_are_due_at_once_and_offered_once(self):
        desk = Desk(A, B)
        assert {desk.take(), desk.take()} == {A, B}
        assert desk.take() is None
        desk.scheduler.follow(Frontier(shards=(at(A), at(B))))
        assert desk.take() is None

    def test_the_earliest_comes_first_and_none_before_its_time(self):
        desk = Desk(A, B)
        desk.scheduler.schedule(A, 102.0)
        desk.scheduler.schedule(B, 101.0)
        assert desk.take() is None
        assert desk.in_seconds() == 1.0
        desk.clock.advance(2.0)
        assert [desk.take(), desk.take(), desk.take()] == [B, A, None]

    def test_a_shard_that_is_scheduled_again_keeps_only_the_last_time(self):
        desk = Desk(A)
        desk.scheduler.schedule(A, 101.0)
        desk.scheduler.schedule(A, 105.0)
        desk.clock.advance(2.0)
        assert desk.take() is None
        assert desk.in_seconds() == 3.0

    def test_one_request_a_shard_is_in_flight(self):
        desk = Desk(A)
        desk.scheduler.begin(ReadPage(at(A)))
        desk.scheduler.schedule(A)
        assert desk.take() is None
        desk.scheduler.answered(A)
        desk.scheduler.schedule(A)
        assert desk.take() == A

    def test_what_left_the_frontier_is_not_offered(self):
        desk = Desk(A)
        desk.scheduler.forget(A)
        assert desk.take() is None


class TestRoom:
    def test_threads_bound_what_is_in_flight(self):
        desk = Desk(pacing=dataclasses.replace(PACING, threads=1))
        assert desk.scheduler.has_room()
        desk.scheduler.begin(AskChildren(A))
        assert not desk.scheduler.has_room()
        assert not desk.scheduler.listing_is_due(Frontier())

    def test_pages_that_are_held_and_in_flight_share_the_memory(self):
        desk = Desk(pacing=dataclasses.replace(PACING, memory_bytes=10, page_bytes=4))
        desk.scheduler.begin(ReadPage(at(A)))
        assert desk.scheduler.has_room(2)
        assert not desk.scheduler.has_room(3)

    def test_one_page_is_read_however_little_memory_there_is(self):
        desk = Desk(A, pacing=dataclasses.replace(PACING, memory_bytes=1))
        assert desk.scheduler.has_room(1 << 30)
        assert list(desk.scheduler.prefetch(Frontier(shards=(at(A),)))) == []


class TestRequests:
    def test_an_open_shard_is_read(self):
        assert Desk(A).scheduler.request_for(at(A)) == ReadPage(at(A))

    def test_an_end_is_asked_for_again_until_it_is_sure_and_then_the_children(self):
        desk = Desk(A)
        for number in range(PACING.end_asks):
            assert desk.scheduler.request_for(ended(A)) == ReadPage(ended(A), fresh=True), number
            desk.scheduler.confirm_end(A)
        assert desk.take() == A
        assert desk.scheduler.request_for(ended(A)) == AskChildren(A)

    def test_children_are_asked_for_so_often_and_then_a_listing_is_wanted(self):
        desk = Desk(A)
        desk.scheduler.trust_end(A)
        swept = Frontier(shards=(ended(A),), swept_us=NOW_US)
        for _ in range(PACING.child_asks):
            assert not desk.scheduler.listing_is_due(swept)
            assert desk.scheduler.request_for(ended(A)) == AskChildren(A)
            desk.scheduler.no_children_yet(A)
        assert desk.scheduler.request_for(ended(A)) is None
        assert desk.scheduler.listing_is_due(swept)

    def test_catch_up_leaves_a_shard_at_the_tip_alone(self):
        desk = Desk(A, bounded=True)
        desk.read(at(A), page_of(NOW_US), started_us=NOW_US)
        assert desk.scheduler.request_for(at(A)) is None
        forever = Desk(A)
        forever.read(at(A), page_of(NOW_US), started_us=NOW_US)
        assert forever.scheduler.request_for(at(A)) == ReadPage(at(A))

    def test_a_dead_iterator_is_replaced_at_once_until_a_page_comes(self):
        desk = Desk(A)
        desk.scheduler.failed(A)
        desk.scheduler.iterator_expired(A)
        assert desk.take() == A
        assert desk.scheduler.request_for(at(A)) == ReadPage(at(A), fresh=True)
        desk.scheduler.page_arrived(at(A))
        assert desk.scheduler.request_for(at(A)) == ReadPage(at(A))


class TestPolls:
    def test_a_shard_that_lags_is_read_on_at_once(self):
        desk = Desk(A)
        frontier = Frontier(shards=(at(A),))
        assert list(desk.scheduler.lagging(frontier)) == [A], "nothing is known yet"
        desk.read(at(A), page_of(RECENT_US))
        assert list(desk.scheduler.lagging(frontier)) == []
        desk.read(at(A), page_of(OLD_US))
        assert list(desk.scheduler.lagging(frontier)) == [A]
        assert desk.in_seconds() == 0.0

    def test_near_the_tip_polls_are_paced_from_poll_to_poll(self):
        desk = Desk(A)
        desk.read(at(A), page_of(RECENT_US))
        assert desk.in_seconds() == PACING.poll
        desk.read(at(A), page_of(RECENT_US), began_us=NOW_US - 100_000)
        assert desk.in_seconds() == PACING.poll - 0.1
        desk.read(at(A), page_of(RECENT_US), began_us=NOW_US - 9_000_000)
        assert desk.in_seconds() == 0.0

    def test_empty_polls_slow_down_and_a_record_ends_that(self):
        desk, pauses = Desk(A), []
        for _ in range(5):
            desk.read(at(A), ROWLESS)
            pauses.append(desk.in_seconds().expected)
        assert pauses == pytest.approx([0.25, 0.5, 1.0, 1.0, 1.0])
        desk.read(at(A), page_of(RECENT_US))
        desk.read(at(A), ROWLESS)
        assert desk.in_seconds() == PACING.poll

    def test_catch_up_polls_fast_until_enough_are_empty(self):
        desk = Desk(A, bounded=True)
        frontier = Frontier(shards=(at(A),), swept_us=NOW_US)
        for number in range(PACING.tip_empties):
            assert not desk.scheduler.is_at_tip(frontier), number
            desk.read(at(A), ROWLESS)
            assert desk.in_seconds() == PACING.tip_poll
        assert desk.scheduler.is_at_tip(frontier)

    def test_empty_pages_of_a_shard_with_children_are_not_the_tip(self):
        desk = Desk(A, bounded=True)
        for _ in range(2 * PACING.tip_empties):
            desk.read(at(A), ROWLESS, has_children=True)
        assert not desk.scheduler.is_at_tip(Frontier(shards=(at(A),), swept_us=NOW_US))

    def test_a_reader_is_idle_after_many_empty_pages_of_every_shard(self):
        desk = Desk(A, B)
        frontier = Frontier(shards=(at(A), at(B)))
        for each in (A, B):
            assert not desk.scheduler.is_idle(frontier)
            for _ in range(8):
                desk.read(at(each), ROWLESS)
        assert desk.scheduler.is_idle(frontier)


class TestFailures:
    def test_they_are_counted_in_a_row_and_wait_longer_each_time(self):
        desk = Desk(A)
        for attempt in range(1, 5):
            assert desk.scheduler.failed(A) == attempt
            longest = PACING.backoff * 2**attempt
            assert longest / 2 <= desk.in_seconds().expected <= longest + 1e-6
        desk.scheduler.page_arrived(at(A))
        assert desk.scheduler.failed(A) == 1

    def test_throttles_are_counted_apart(self):
        desk = Desk(A)
        assert [desk.scheduler.throttled(A), desk.scheduler.throttled(A)] == [1, 2]
        assert desk.scheduler.failed(A) == 1
        desk.scheduler.children_answered(A)
        assert (desk.scheduler.throttled(A), desk.scheduler.failed(A)) == (1, 1)

    def test_a_page_about_an_end_does_not_forget_failures_before_it_confirms_it(self):
        desk = Desk(A)
        desk.scheduler.failed(A)
        desk.scheduler.page_arrived(ended(A))
        assert desk.scheduler.failed(A) == 2
        desk.scheduler.confirm_end(A)
        assert desk.scheduler.failed(A) == 1

    def test_the_listing_waits_by_itself(self):
        desk = Desk(A)
        assert desk.scheduler.listing_is_due(Frontier())
        assert (desk.scheduler.failed(None), desk.scheduler.throttled(None)) == (1, 1)
        assert not desk.scheduler.listing_is_due(Frontier())
        assert desk.take() == A
        desk.clock.advance(PACING.max_backoff)
        assert desk.scheduler.listing_is_due(Frontier())


class TestEnds:
    def test_an_end_at_the_listed_number_is_sure(self):
        desk = Desk(A)
        desk.listed(ShardInfo(A, closed=True, end="5"))
        desk.read(ended(A, "4"), page_of(RECENT_US))
        assert not desk.scheduler.end_is_sure(A)
        desk.read(ended(A, "5"), page_of(RECENT_US))
        assert desk.scheduler.end_is_sure(A)

    def test_the_same_end_again_counts_as_confirmed(self):
        desk = Desk(A)
        for number in range(PACING.end_asks + 1):
            assert not desk.scheduler.end_is_sure(A), number
            desk.read(ended(A), ROWLESS)
        assert desk.scheduler.end_is_sure(A)

    def test_records_behind_an_end_begin_the_count_again(self):
        desk = Desk(A)
        desk.read(ended(A), ROWLESS)
        desk.read(ended(A), ROWLESS)
        assert desk.scheduler.refute_end(A, unread=True) == 1
        desk.scheduler.reopened(at(A))
        for number in range(PACING.end_asks + 1):
            assert not desk.scheduler.end_is_sure(A), number
            desk.read(ended(A), ROWLESS)

    def test_an_end_that_is_not_believed_is_refuted_until_a_record_comes(self):
        desk = Desk(A)
        assert [desk.scheduler.refute_end(A, unread=False) for _ in range(3)] == [1, 2, 3]
        desk.scheduler.reopened(at(A))
        assert 0.0 < desk.in_seconds().expected <= PACING.max_backoff
        desk.read(at(A), ROWLESS)
        assert desk.scheduler.refute_end(A, unread=False) == 4
        desk.read(at(A), page_of(RECENT_US))
        assert desk.scheduler.refute_end(A, unread=False) == 1

    def test_children_take_the_place_of_their_parent(self):
        desk = Desk(A)
        desk.scheduler.replaced(A, Frontier(shards=(at(CHILD),)))
        assert [desk.take(), desk.take()] == [CHILD, None]
        swept = Frontier(shards=(at(CHILD),), swept_us=NOW_US)
        assert desk.scheduler.listing_is_due(swept), "a sibling may be listed late"


class TestListing:
    def begun(self, desk):
        assert desk.scheduler.listing_is_due(Frontier())
        desk.scheduler.begin_listing()

    def complete(self, desk, *shards, frontier=None):
        """One listing of one page, made and adopted."""
        desk.scheduler.begin_listing()
        desk.scheduler.answered(None)
        assert desk.listed(*shards)
        swept = Frontier(swept_us=desk.clock.now_us())
        desk.scheduler.listing_complete(frontier or swept)

    def test_the_first_is_due_at_once_and_made_page_by_page(self):
        desk = Desk()
        self.begun(desk)
        assert desk.requests.sent == [ListShards("")]
        assert not desk.scheduler.listing_is_due(Frontier()), "one page at a time"
        desk.scheduler.answered(None)
        desk.listed(ShardInfo(A), next_after=A)
        assert not desk.scheduler.listing_is_due(Frontier())
        desk.clock.advance(PACING.sweep_page)
        self.begun(desk)
        assert desk.requests.sent[1:] == [ListShards(A)]
        desk.listed(ShardInfo(B), after=A)
        assert desk.scheduler.listing.shard_ids == {A, B}

    def test_the_next_one_is_due_when_it_is_old(self):
        desk = Desk()
        self.complete(desk)
        reading = Frontier(shards=(at(A),), swept_us=NOW_US)
        cases = [
            (PACING.sweep, reading),
            (PACING.bare_sweep, Frontier(swept_us=NOW_US)),
            (PACING.quick_sweep, dataclasses.replace(reading, finished=((B, NOW_US),))),
        ]
        for seconds, frontier in cases:
            desk.clock.wall_us = NOW_US + int(seconds * 1e6) - 1
            assert not desk.scheduler.listing_is_due(frontier), seconds
            desk.clock.wall_us += 1
            assert desk.scheduler.listing_is_due(frontier), seconds

    def test_catch_up_makes_one_unless_another_is_wanted(self):
        desk = Desk(bounded=True)
        self.complete(desk)
        old = Frontier(swept_us=NOW_US - int(9e9))
        assert not desk.scheduler.listing_is_due(old)
        desk.clock.advance(1.0)
        desk.scheduler.want_listing()
        assert desk.scheduler.listing_is_due(old)

    def test_a_stream_that_is_only_being_switched_on_is_asked_again(self):
        desk = Desk(bounded=True)
        for number in range(PACING.child_asks):
            assert desk.scheduler.listing_is_due(Frontier()), number
            desk.scheduler.begin_listing()
            desk.scheduler.answered(None)
            assert not desk.listed(status="ENABLING")
            desk.requests.in_flight = 0
            desk.clock.advance(2.0)
        assert not desk.scheduler.listing_is_due(Frontier()), "catch-up gives up"

    def test_what_the_listing_leaves_undecided_is_listed_again(self):
        desk = Desk()
        self.complete(desk, frontier=Frontier(swept_us=NOW_US - 1))
        kept = Frontier(shards=(at(A),), swept_us=NOW_US)
        assert not desk.scheduler.listing_is_due(kept)
        desk.clock.advance(PACING.after_ask(1))
        assert desk.scheduler.listing_is_due(kept)

    def test_a_shard_that_is_not_found_waits_for_a_listing_begun_later(self):
        desk = Desk(A)
        desk.scheduler.begin_listing()
        desk.clock.advance(0.1)
        desk.scheduler.shard_not_found(A)
        assert desk.scheduler.request_for(at(A)) is None
        desk.listed()
        assert desk.scheduler.missing([at(A)]) == [], "this listing was begun before"
        desk.scheduler.listing_complete(Frontier(swept_us=NOW_US))
        desk.clock.advance(0.1)
        desk.scheduler.begin_listing()
        desk.listed()
        assert desk.scheduler.missing([at(A), at(B)]) == [at(A)]
        assert desk.scheduler.missing([at(A)]) == [], "decided once"
        assert desk.scheduler.request_for(at(A)) == ReadPage(at(A))

    def test_an_ended_shard_that_a_later_listing_shows_open_has_no_end(self):
        desk = Desk(A)
        desk.scheduler.begin_listing()
        desk.read(ended(A), ROWLESS)
        desk.scheduler.trust_end(A)
        desk.listed(ShardInfo(A))
        assert desk.scheduler.listed_open([ended(A)]) == [], "it was begun before the end"
        desk.scheduler.listing_complete(Frontier(swept_us=NOW_US))
        desk.clock.advance(1.0)
        desk.scheduler.begin_listing()
        desk.listed(ShardInfo(A), next_after=A)
        assert desk.scheduler.listed_open([ended(A)]) == [ended(A)]
        desk.listed(ShardInfo(CHILD, A), after=A)
        assert desk.scheduler.listed_open([ended(A)]) == [], "a parent is at its end"

    def test_the_start_of_a_shard_is_waited_for_until_a_listing_is_complete(self):
        desk = Desk(A)
        desk.take()
        assert desk.scheduler.listed_start(A) is None
        assert 0.0 < desk.in_seconds().expected < 0.1
        self.complete(desk, ShardInfo(A, start="7"))
        assert (desk.scheduler.listed_start(A), desk.scheduler.listed_start(B)) == ("7", "")
        self.complete(desk)
        assert desk.scheduler.listed_start(A) == "", "it is no longer listed"

    def test_how_long_nobody_looked(self):
        desk = Desk(swept_us=NOW_US - 7)
        assert desk.scheduler.swept(NOW_US) == 7
        assert desk.scheduler.swept(NOW_US + 2) == 2


class TestWaiting:
    SWEPT = Frontier(shards=(at(A),), swept_us=NOW_US)

    def test_until_the_next_shard_or_listing_is_due_but_not_for_ever(self):
        desk = Desk(A)
        assert desk.scheduler.seconds_until_due(self.SWEPT, 0) <= 0.0
        desk.scheduler.schedule(A, 100.3)
        assert desk.scheduler.seconds_until_due(self.SWEPT, 0) == pytest.approx(0.3)
        assert desk.scheduler.seconds_until_due(Frontier(), 0) == 0.0
        desk.scheduler.schedule(A, 900.0)
        assert desk.scheduler.seconds_until_due(self.SWEPT, 0) == LONGEST_WAIT

    def test_what_has_no_room_is_not_waited_for(self):
        desk = Desk(A, pacing=dataclasses.replace(PACING, threads=1))
        desk.scheduler.begin(ReadPage(at(B)))
        assert desk.scheduler.seconds_until_due(self.SWEPT, 0) == LONGEST_WAIT

    def test_between_slices_pages_are_fetched_and_the_rest_is_due_afterwards(self):
        desk = Desk(A, B)
        frontier = Frontier(shards=(at(A), ended(B)))
        assert desk.scheduler.seconds_until_prefetch() == 0.0
        assert list(desk.scheduler.prefetch(frontier)) == [ReadPage(at(A))]
        assert (desk.requests.in_flight, desk.requests.sent) == (1, [])
        assert list(desk.scheduler.prefetch(frontier)) == []
        assert desk.scheduler.seconds_until_prefetch() == LONGEST_WAIT
        assert desk.take() is None
        desk.scheduler.resume()
        assert [desk.take(), desk.take()] == [B, None]


class TestReports:
    def test_the_first_is_due_at_once_and_the_next_after_a_while(self):
        desk = Desk()
        assert desk.scheduler.take_report(Counts(pages=1), over=False) == Counts(pages=1)
        assert desk.scheduler.take_report(Counts(pages=1), over=False) is None
        desk.clock.advance(PACING.report)
        assert desk.scheduler.take_report(Counts(pages=1), over=False) == Counts(pages=2)

    def test_who_reads_nothing_reports_seldom(self):
        desk = Desk()
        desk.scheduler.take_report(Counts(), over=False)
        desk.clock.advance(PACING.report)
        assert desk.scheduler.take_report(Counts(), over=False) is None
        desk.clock.advance(PACING.idle_report)
        assert desk.scheduler.take_report(Counts(), over=False) == Counts()

    def test_the_last_one_is_made_in_any_case(self):
        desk = Desk()
        desk.scheduler.take_report(Counts(), over=False)
        assert desk.scheduler.take_report(Counts(empty_polls=1), over=True) is not None


def test_nobody_else_writes_what_is_due():
    fields = {each.name for kind in (ShardTask, ShardListing) for each in dataclasses.fields(kind)}
    folder = Path(dynabeam.transforms.stream.__file__).parent
    files = {each.name: each for each in folder.glob("*.py")}
    owners = {"scheduler.py", "shard_listing.py"}
    assert owners <= files.keys()
    written = [
        f"{name}:{node.lineno} {node.attr}"
        for name in files.keys() - owners
        for node in ast.walk(ast.parse(files[name].read_text("utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and node.attr in fields
        and not (isinstance(node.value, ast.Name) and node.value.id == "self")
    ]
    assert written == []
