# SPDX-License-Identifier: Apache-2.0
"""What a reader does with what the service answers, against a scripted client."""

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError

from dynabeam.transforms.errors import GapError, StreamError
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.gap import GapPolicy
from dynabeam.transforms.stream.frontier import Frontier, ShardPosition
from dynabeam.transforms.stream.page_parser import PageParser
from dynabeam.transforms.stream.scheduler import ShardScheduler
from dynabeam.transforms.stream.shard_requests import RequestPool
from dynabeam.transforms.stream.tracker import FrontierTracker
from tests.stream.scripted import (
    ARN,
    HOUR_US,
    NOW_US,
    QUICK,
    TABLE,
    FixedClock,
    ScriptedStreams,
    Shard,
    api_error,
    pages,
    record,
    resumed,
    run,
    shard_id,
    source,
    unreachable,
)

A, B, C, D = (shard_id(n, 9 - n) for n in range(4))
CONTINUE = source(gap_policy=GapPolicy.CONTINUE)


def new_scheduler(client, pool):
    """The scheduler of a reader that has done nothing yet, for several calls of `process`."""
    return ShardScheduler(
        RequestPool(ARN, client, PageParser(TABLE, 1, ARN), FixedClock(), pool), 0
    )


class TestCatchUp:
    def test_a_lineage_is_read_parents_first(self):
        client = ScriptedStreams(
            Shard(A, "", pages([1, 2], [3]), closed=True),
            Shard(B, A, pages([4]), closed=True),
            Shard(C, A, pages([5], [6])),
            Shard(D, B, pages([7])),
        )
        result = run(client)
        assert sorted(result.sequences) == [1, 2, 3, 4, 5, 6, 7]
        order = result.sequences.index
        assert order(3) < min(order(4), order(5))
        assert order(4) < order(7)
        (report,) = result.reports()
        assert report["caught_up"]
        assert (report["changes"], report["pages"], report["children"]) == (7, 6, 3)
        assert (report["reader"], report["readers"], report["stream_arn"]) == (0, 1, ARN)
        assert report["newest_event_us"] == NOW_US - 60_000_000
        assert report["shards"] == 2
        assert result.tracker.check_done()

    def test_the_tail_page_is_emitted_and_an_empty_one_ends_a_shard_too(self):
        client = ScriptedStreams(
            Shard(A, "", pages([1], [2]), closed=True, empty_tail=True), Shard(B, A, pages([3]))
        )
        assert run(client).sequences == [1, 2, 3]

    def test_blocks_say_where_they_come_from(self):
        client = ScriptedStreams(Shard(A, "", pages([1], [2])))
        blocks = run(client, source(snapshot_until_us=5)).of(Block)
        for block in blocks:
            assert block.header.origin == {"stream_arn": ARN, "shard_id": A}
            assert block.header.source == "stream"
            assert (block.header.buckets, block.header.snapshot_until_us) == (4, 5)

    def test_an_empty_page_does_not_prove_the_tip(self):
        client = ScriptedStreams(Shard(A, "", pages(None, None, [1], None, None, [2])))
        assert run(client).sequences == [1, 2]

    def test_how_many_empty_pages_prove_it_is_an_argument(self):
        client = ScriptedStreams(Shard(A, "", pages(None, None, [1])))
        pacing = dataclasses.replace(QUICK, tip_empties=2)
        first = run(client, pacing=pacing)
        assert first.sequences == []
        # The next round goes on through the stretch instead of beginning it again.
        assert run(client, resumed(first), pacing=pacing).sequences == [1]
        assert client.count("shard_iterator") == 1

    def test_a_record_of_the_run_itself_proves_the_tip(self):
        client = ScriptedStreams(Shard(A, "", pages([1], [2], time=NOW_US // 10**6 + 1)))
        result = run(client)
        assert result.sequences == [1]
        assert result.reports()[0]["caught_up"]
        assert result.reports()[0]["empty_polls"] == 0

    def test_it_stops_at_so_many_bytes(self):
        client = ScriptedStreams(Shard(A, "", pages([1], [2], [3])))
        first = run(client, source(max_bytes=1))
        assert first.sequences == [1]
        assert not first.reports()[0]["caught_up"]
        second = run(client, resumed(first))
        assert second.sequences == [2, 3]
        assert second.reports()[0]["caught_up"]

    def test_a_closed_shard_without_children_waits(self):
        client = ScriptedStreams(Shard(A, "", pages([1]), closed=True))
        first = run(client)
        assert first.reports()[0]["caught_up"]
        assert client.count("children") == QUICK.child_asks
        assert client.count("describe") == 2
        client.add(Shard(B, A, pages([2])))
        assert run(client, resumed(first)).sequences == [2]

    def test_children_that_are_listed_late_are_asked_for_again(self):
        client = ScriptedStreams(Shard(A, "", pages([1]), closed=True), Shard(B, A, pages([2])))
        client.shards[B].listed = False
        client.hide_children = 3
        client.on_records = lambda name: setattr(client.shards[B], "listed", True)
        assert run(client).sequences == [1, 2]
        assert client.count("children") == 4

    def test_asking_for_children_does_not_hold_up_other_shards(self):
        client = ScriptedStreams(
            Shard(A, "", pages([1]), closed=True), Shard(B, "", pages(*[[n] for n in range(2, 40)]))
        )
        pacing = dataclasses.replace(QUICK, child_backoff=0.05)
        assert len(run(client, pacing=pacing).sequences) == 39
        last_ask = max(n for n, call in enumerate(client.calls) if call[0] == "children")
        last_read = max(n for n, call in enumerate(client.calls) if call == ("get_records", B))
        assert last_read < last_ask

    def test_a_new_stream_without_shards_is_no_position(self):
        client = ScriptedStreams(status="ENABLING")
        result = run(client)
        assert result.reports()[0]["caught_up"] is False
        assert result.reports()[0]["frontier"]["swept_us"] == 0
        client.status = "ENABLED"
        client.add(Shard(A, "", pages([1])))
        assert run(client, resumed(result)).sequences == [1]

    def test_a_disabled_stream_is_read_and_dropped(self):
        client = ScriptedStreams(Shard(A, "", pages([1]), closed=True), status="DISABLED")
        result = run(client)
        assert result.sequences == [1]
        assert result.reports()[0]["caught_up"]
        assert result.reports()[0]["frontier"]["shards"] == []

    def test_many_idle_shards_cost_little_time(self):
        client = ScriptedStreams(*(Shard(shard_id(n), "", []) for n in range(300)))
        began = time.monotonic()
        result = run(client, pacing=dataclasses.replace(QUICK, tip_poll=0.03))
        assert result.reports()[0]["empty_polls"] >= 900
        assert time.monotonic() - began < 10

    def test_a_run_that_is_tried_again_does_not_trust_the_first_try(self):
        client = ScriptedStreams(Shard(A, "", pages([1])))
        first = run(client)
        again = run(client)
        assert first.sequences == again.sequences == [1]


class TestFailures:
    @pytest.mark.parametrize("operation", ["describe", "children", "shard_iterator", "get_records"])
    @pytest.mark.parametrize(
        "make",
        [
            unreachable,
            lambda: api_error("ThrottlingException"),
            lambda: api_error("LimitExceededException"),
            lambda: api_error("InternalServerError", 500),
        ],
    )
    def test_what_passes_is_borne(self, operation, make):
        client = ScriptedStreams(Shard(A, "", pages([1]), closed=True), Shard(B, A, pages([2])))
        client.failures[operation] = [make() for _ in range(4)]
        assert run(client).sequences == [1, 2]

    @pytest.mark.parametrize("operation", ["describe", "children", "shard_iterator", "get_records"])
    def test_what_does_not_pass_is_raised(self, operation):
        client = ScriptedStreams(Shard(A, "", pages([1]), closed=True), Shard(B, A, pages([2])))
        client.failures[operation] = [unreachable() for _ in range(100)]
        with pytest.raises(StreamError, match="9 times in a row"):
            run(client)

    def test_endless_throttling_is_raised(self):
        client = ScriptedStreams(Shard(A, "", pages([1])))
        client.failures["get_records"] = [api_error("ThrottlingException") for _ in range(999)]
        with pytest.raises(StreamError, match="throttled 11 times"):
            run(client, pacing=dataclasses.replace(QUICK, throttles=10))

    @pytest.mark.parametrize("operation", ["describe", "children", "shard_iterator", "get_records"])
    def test_the_unknown_is_raised_as_it_is(self, operation):
        client = ScriptedStreams(Shard(A, "", pages([1]), closed=True), Shard(B, A, pages([2])))
        client.failures[operation] = [api_error("ValidationException")]
        with pytest.raises(ClientError, match="ValidationException"):
            run(client)

    def test_an_expired_iterator_is_replaced_behind_the_last_claim(self):
        client = ScriptedStreams(Shard(A, "", pages([1, 2], [3])))
        client.failures["get_records"] = [None, api_error("ExpiredIteratorException")]
        assert run(client).sequences == [1, 2, 3]
        iterators = [call[1:] for call in client.calls if call[0] == "shard_iterator"]
        assert iterators == [(A, "", 0), (A, "2", 0)]

    def test_a_start_that_is_the_future_for_the_service_is_tried_again(self):
        client = ScriptedStreams(Shard(A, "", pages([1], time=NOW_US // 10**6)))
        client.failures["shard_iterator"] = [api_error("ValidationException")] * 3
        assert run(client, source(start="latest")).sequences == [1]
        client.failures["shard_iterator"] = [api_error("ValidationException")]
        with pytest.raises(ClientError, match="ValidationException"):
            run(client, source(start="2027-01-15T06:00:00Z"))

    def test_an_old_iterator_is_not_tried(self):
        client = ScriptedStreams(Shard(A, "", pages([1], [2])))
        first = run(client, source(max_bytes=1))
        later = FixedClock(NOW_US + 15 * 60_000_000)
        assert run(client, resumed(first), clock=later).sequences == [2]
        assert any(call[:3] == ("shard_iterator", A, "1") for call in client.calls)

    def test_a_body_that_is_no_json_is_asked_for_again(self):
        client = ScriptedStreams(Shard(A, "", pages([1])))
        real, bad = client.get_records, [b"<html>", b"<html>"]
        client.get_records = lambda arn, it: bad.pop() if bad else real(arn, it)
        assert run(client).sequences == [1]
        client.get_records = lambda arn, it: b"<html>"
        with pytest.raises(StreamError, match="GetRecords"):
            run(client)

    def test_broken_records_are_dead_letters(self):
        broken = record(2)
        del broken["dynamodb"]["Keys"]
        client = ScriptedStreams(Shard(A, "", [[record(1), broken, record(3)]]))
        result = run(client)
        assert result.sequences == [1, 3]
        assert len(result.of(DeadLetter)) == 1
        assert run(client, resumed(result)).outputs[:-1] == []

    def test_the_stream_must_exist(self):
        client = ScriptedStreams()
        client.exists = False
        with pytest.raises(StreamError, match="there is no such stream"):
            run(client)


class TestGaps:
    def trimmed(self):
        client = ScriptedStreams(Shard(A, "", pages([1], [2], [3])))
        first = run(client, source(max_bytes=1))
        client.shards[A].trimmed = 2
        return client, first

    LATER = FixedClock(NOW_US + 20 * 60_000_000)

    def test_trimmed_stops(self):
        client, first = self.trimmed()
        with pytest.raises(GapError, match=r"after sequence number 1 \(trimmed") as caught:
            run(client, resumed(first), clock=self.LATER)
        assert A in str(caught.value)

    def test_trimmed_is_reported_and_read_from_what_is_left(self):
        client, first = self.trimmed()
        result = run(client, resumed(first, gap_policy=GapPolicy.CONTINUE), clock=self.LATER)
        assert result.sequences == [3]
        (gap,) = result.reports("gap")
        assert (gap["kind"], gap["shard_id"], gap["last_sequence"]) == ("trimmed", A, "1")
        assert gap["from_us"] == NOW_US - 60_000_000
        assert gap["to_us"] == self.LATER.wall_us

    def test_a_shard_unread_for_a_day_is_a_gap(self):
        frontier = Frontier((ShardPosition(A, since_us=NOW_US - 25 * HOUR_US),), swept_us=NOW_US)
        client = ScriptedStreams(Shard(A, "", pages([1])))
        with pytest.raises(GapError, match="24 hours"):
            run(client, source(frontier))
        result = run(client, source(frontier, gap_policy=GapPolicy.CONTINUE))
        assert result.sequences == [1]
        assert len(result.reports("gap")) == 1

    def test_a_vanished_shard_stops(self):
        client = ScriptedStreams(Shard(A, "", pages([1], [2])))
        first = run(client, source(max_bytes=1))
        client.shards[A].exists = client.shards[A].listed = False
        with pytest.raises(GapError, match="vanished"):
            run(client, resumed(first))

    def test_descendants_of_a_vanished_shard_are_read(self):
        client = ScriptedStreams(
            Shard(A, "", pages([1], [2]), closed=True),
            Shard(B, A, pages([3]), closed=True),
            Shard(C, B, pages([4])),
        )
        first = run(client, source(max_bytes=1))
        for each in (A, B):
            client.shards[each].exists = client.shards[each].listed = False
        result = run(client, resumed(first, gap_policy=GapPolicy.CONTINUE))
        assert result.sequences == [4]
        (gap,) = result.reports("gap")
        assert (gap["kind"], gap["shard_id"], gap["last_sequence"]) == ("vanished", A, "1")

    def test_a_listed_shard_that_is_not_found_is_no_gap(self):
        client = ScriptedStreams(Shard(A, "", pages([1])))
        client.failures["get_records"] = [api_error("ResourceNotFoundException")] * 2
        assert run(client).sequences == [1]

    def test_a_listed_shard_that_is_never_found_is_an_error(self):
        client = ScriptedStreams(Shard(A, "", pages([1])))
        client.shards[A].exists = False
        with pytest.raises(StreamError, match="does not find it"):
            run(client)

    def test_a_stream_that_is_gone_is_a_gap(self):
        client = ScriptedStreams(Shard(A, "", pages([1], [2])))
        first = run(client, source(max_bytes=1))
        client.exists = client.shards[A].exists = False
        with pytest.raises(GapError, match="the stream is gone"):
            run(client, resumed(first))
        result = run(client, resumed(first, gap_policy=GapPolicy.CONTINUE))
        assert len(result.reports("gap")) == 1
        assert result.tracker.check_done()

    def test_children_that_came_and_went_while_nobody_looked(self):
        ended = ShardPosition(A, "ended", sequence="1", ended_us=NOW_US - 30 * HOUR_US)
        frontier = Frontier((ended,), swept_us=NOW_US - 30 * HOUR_US)
        client = ScriptedStreams()
        with pytest.raises(GapError, match="not listed for a day"):
            run(client, source(frontier))
        looked_at = dataclasses.replace(frontier, swept_us=NOW_US - 120_000_000)
        assert run(client, source(looked_at)).reports()[0]["frontier"]["shards"] == []


class TestContinuous:
    def test_a_slice_reads_and_leaves_the_rest_to_be_deferred(self):
        client = ScriptedStreams(Shard(A, "", pages([1], [2])))
        result = run(client, bounded=False)
        assert result.sequences == [1, 2]
        with pytest.raises(ValueError, match="neither closed nor deferred"):
            result.tracker.check_done()
        _, residual = result.tracker.try_split(0)
        assert residual.shard(A).sequence == "2"
        assert result.reports()[0]["changes"] == 2

    def test_reports_come_now_and_then_with_the_counts_since_the_last(self):
        client = ScriptedStreams(Shard(A, "", pages([1])))
        pacing = dataclasses.replace(QUICK, report=3600.0)
        with ThreadPoolExecutor(4) as pool:
            scheduler = new_scheduler(client, pool)

            def reported(pacing):
                result = run(client, bounded=False, pacing=pacing, scheduler=scheduler)
                return [(each["pages"], each["changes"]) for each in result.reports()]

            assert reported(pacing) == [(1, 1)]
            # The same records again, as far as this scheduler goes: a fresh tracker reads them.
            assert reported(pacing) == []
            assert reported(pacing) == []
            assert reported(QUICK) == [(3, 3)]

    def test_an_idle_reader_reports_now_and_then(self):
        client = ScriptedStreams(Shard(A, "", []))
        with ThreadPoolExecutor(4) as pool:
            scheduler = new_scheduler(client, pool)
            first, second = (run(client, bounded=False, scheduler=scheduler) for _ in range(2))
        assert [each["pages"] for each in first.reports()] == [0]
        assert second.outputs == []

    def test_answers_that_come_after_a_slice_are_used_by_the_next(self):
        client = ScriptedStreams(Shard(A, "", pages([1], [2])))
        release = threading.Event()
        client.on_records = lambda name: release.wait(60)
        pacing = dataclasses.replace(QUICK, slice=0.05, poll=60)
        clock = FixedClock()
        with ThreadPoolExecutor(2) as pool:
            scheduler = new_scheduler(client, pool)
            first = run(client, bounded=False, pacing=pacing, clock=clock, scheduler=scheduler)
            assert first.sequences == []
            asked = client.count("get_records")
            release.set()
            _, residual = first.tracker.try_split(0)
            tracker = FrontierTracker(residual, bounded=False)
            again = dataclasses.replace(pacing, slice=60, slice_bytes=1)
            second = run(
                client,
                bounded=False,
                pacing=again,
                clock=clock,
                scheduler=scheduler,
                tracker=tracker,
            )
        assert second.sequences == [1]
        assert (asked, client.count("get_records")) == (1, 1)

    def test_a_slice_ends_while_behind(self):
        client = ScriptedStreams(Shard(A, "", pages(*[[n] for n in range(1, 3000)])))
        pacing = dataclasses.replace(QUICK, slice=0.1)
        began = time.monotonic()
        result = run(client, bounded=False, pacing=pacing)
        assert time.monotonic() - began < 5
        assert 0 < len(result.sequences) < 2999

    def test_a_slice_ends_at_so_many_bytes(self):
        client = ScriptedStreams(Shard(A, "", pages(*[[n] for n in range(1, 100)])))
        result = run(client, bounded=False, pacing=dataclasses.replace(QUICK, slice_bytes=1))
        assert result.sequences == [1]

    def test_a_disabled_stream_ends_for_good(self):
        client = ScriptedStreams(Shard(A, "", pages([1]), closed=True), status="DISABLED")
        pacing = dataclasses.replace(QUICK, slice=10.0, tip_slice=10.0)
        result = run(client, bounded=False, pacing=pacing)
        assert result.sequences == [1]
        assert result.tracker.check_done()

    def test_idle_readers_are_deferred_for_two_seconds(self):
        client = ScriptedStreams(Shard(A, "", []))
        pacing = dataclasses.replace(QUICK, tip_slice=0.2)
        assert run(client, bounded=False, pacing=pacing).reader.resume_delay() == 2
        pacing = dataclasses.replace(QUICK, poll=0.1, idle_poll=0.1)
        client = ScriptedStreams(Shard(A, "", pages([1], time=NOW_US // 10**6)))
        assert run(client, bounded=False, pacing=pacing).reader.resume_delay() == 0

    def test_nothing_is_emitted_of_a_refused_claim(self):
        client = ScriptedStreams(Shard(A, "", pages([1], [2], [3])))
        tracker = FrontierTracker(Frontier(), bounded=False)
        residuals = []

        def split(name):
            if client.count("get_records") == 2:
                found = tracker.try_split(0)
                residuals.append(found[1])

        client.on_records = split
        result = run(client, bounded=False, tracker=tracker)
        assert residuals[0].shard(A).sequence == str(result.sequences[-1])
        client.on_records = None
        rest = run(client, tracker=FrontierTracker(residuals[0], bounded=True))
        assert result.sequences + rest.sequences == [1, 2, 3]

    def test_a_shard_whose_claim_was_refused_is_read_on_in_the_same_process(self):
        client = ScriptedStreams(Shard(A, "", pages([1], [2], [3])))
        tracker = FrontierTracker(Frontier(), bounded=False)
        residuals = []

        def split(name):
            if client.count("get_records") == 2:
                residuals.append(tracker.try_split(0)[1])

        client.on_records = split
        with ThreadPoolExecutor(4) as pool:
            scheduler = new_scheduler(client, pool)
            first = run(client, bounded=False, scheduler=scheduler, tracker=tracker)
            client.on_records = None
            again = FrontierTracker(residuals[0], bounded=False)
            rest = run(client, bounded=False, scheduler=scheduler, tracker=again)
        assert first.sequences == [1]
        assert rest.sequences == [2, 3]


class TestMemory:
    def test_rows_leave_when_enough_are_gathered(self):
        client = ScriptedStreams(Shard(A, "", pages(*[[n] for n in range(1, 50)])))
        pacing = dataclasses.replace(QUICK, block_bytes=2000)
        blocks = run(client, source(buckets=1), pacing=pacing).of(Block)
        assert len(blocks) > 5
        assert max(block.rows.num_rows for block in blocks) < 10

    def test_pages_under_way_are_bounded(self):
        client = ScriptedStreams(*(Shard(shard_id(n), "", pages([n + 1])) for n in range(30)))
        under_way, most, lock = [0], [0], threading.Lock()
        real = client.get_records

        def counted(arn, iterator):
            with lock:
                under_way[0] += 1
                most[0] = max(most[0], under_way[0])
            try:
                return real(arn, iterator)
            finally:
                with lock:
                    under_way[0] -= 1

        client.get_records = counted
        pacing = dataclasses.replace(QUICK, memory_bytes=2 * QUICK.page_bytes)
        assert sorted(run(client, pacing=pacing).sequences) == list(range(1, 31))
        assert most[0] <= 2
