# SPDX-License-Identifier: Apache-2.0
"""The contract of the restriction tracker, one test for each rule."""

import dataclasses
import threading

import pytest
from apache_beam.io.iobase import RestrictionTracker
from apache_beam.runners.sdf_utils import RestrictionTrackerView, ThreadsafeRestrictionTracker
from apache_beam.utils.timestamp import Duration

from dynabeam.transforms.stream.frontier import Counts, Frontier, ShardPosition
from dynabeam.transforms.stream.tracker import (
    ChildrenFound,
    Closed,
    FrontierTracker,
    Moved,
    PageRead,
    Polled,
    Step,
)

START = ShardPosition("a")
FRONTIER = Frontier((START, ShardPosition("b")))


def tracker(bounded=False):
    return FrontierTracker(FRONTIER, bounded=bounded)


def page(before, sequence, **changes):
    after = dataclasses.replace(before, kind="after", sequence=str(sequence), **changes)
    return PageRead(before, after, Counts(changes=1))


class TestClaims:
    def test_a_page_moves_its_shard(self):
        it = tracker()
        assert it.try_claim(page(START, 5))
        assert it.current_restriction().shard("a").sequence == "5"
        assert it.current_restriction().shard("b") == ShardPosition("b")
        assert it.current_restriction().counts.changes == 1

    def test_a_step_that_was_worked_out_already(self):
        """It is taken as it is if it begins here, else applied like any claim."""
        it, step = tracker(), Step.of(FRONTIER, page(START, 5))
        assert it.try_claim(step)
        assert it.current_restriction() is step.after
        with pytest.raises(ValueError, match="is at"):
            it.try_claim(step)
        moved = dataclasses.replace(FRONTIER, swept_us=6)
        it = FrontierTracker(moved, bounded=False)
        assert it.try_claim(step)
        assert it.current_restriction() == dataclasses.replace(step.after, swept_us=6)

    def test_a_page_from_another_position_is_an_error(self):
        it = tracker()
        it.try_claim(page(START, 5))
        with pytest.raises(ValueError, match="the frontier is at"):
            it.try_claim(page(START, 6))

    def test_a_page_that_moves_back_is_an_error(self):
        it = tracker()
        it.try_claim(page(START, 10))
        with pytest.raises(ValueError, match="moves back from sequence number 10 to 9"):
            it.try_claim(page(it.current_restriction().shard("a"), 9))

    def test_an_ended_shard_has_no_more_pages(self):
        ended = ShardPosition("a", "ended")
        it = FrontierTracker(Frontier((ended,)), bounded=False)
        with pytest.raises(ValueError, match="read to its end already"):
            it.try_claim(page(ended, 1))

    def test_children_replace_their_parent_in_the_same_claim(self):
        it = FrontierTracker(Frontier((ShardPosition("a", "ended"),)), bounded=False)
        assert it.try_claim(ChildrenFound("a", ("x", "y"), 1))
        standing = it.current_restriction()
        assert [each.shard_id for each in standing.shards] == ["x", "y"]
        assert standing.counts.children == 2

    def test_another_frontier_must_follow_from_the_present_one(self):
        it = tracker()
        with pytest.raises(ValueError, match="has moved"):
            it.try_claim(Moved(Frontier(), Frontier()))
        assert it.try_claim(Moved(FRONTIER, Frontier()))


class TestSplits:
    @pytest.mark.parametrize("fraction", [0, 0.5])
    def test_an_empty_split_is_declined(self, fraction):
        it = tracker()
        assert it.try_split(fraction) is None
        assert it.try_claim(page(START, 5))

    def test_an_empty_poll_is_claimed_so_that_there_is_a_residual(self):
        it = tracker()
        assert it.try_claim(Polled())
        primary, residual = it.try_split(0)
        assert (primary, residual) == (Frontier(closed=True), FRONTIER)

    @pytest.mark.parametrize("fraction", [0, 0.3, 0.9])
    def test_primary_and_residual_are_the_original(self, fraction):
        it = tracker()
        it.try_claim(page(START, 5))
        claimed = it.current_restriction()
        primary, residual = it.try_split(fraction)
        assert residual == claimed
        assert it.current_restriction() == primary
        assert primary.shards == ()

    def test_nothing_is_claimed_behind_a_split(self):
        it = tracker()
        it.try_claim(Polled())
        it.try_split(0)
        for claim in (page(START, 5), Polled(), Closed(), Moved(FRONTIER, Frontier())):
            assert not it.try_claim(claim)
        assert it.try_split(0) is None

    def test_a_closed_restriction_has_no_residual(self):
        it = tracker()
        it.try_claim(Closed())
        assert it.try_split(0) is None
        assert not it.try_claim(Polled())

    def test_splits_from_another_thread_lose_and_repeat_nothing(self):
        it = ThreadsafeRestrictionTracker(tracker())
        view = RestrictionTrackerView(it)
        done, residuals = [], []
        begun = threading.Event()

        def split():
            begun.wait()
            while not residuals:
                found = it.try_split(0)
                if found is not None:
                    residuals.append(found[1])

        thread = threading.Thread(target=split)
        thread.start()
        position = START
        for sequence in range(1, 20_000):
            claim = page(position, sequence)
            if not view.try_claim(claim):
                break
            done.append(sequence)
            position = claim.after
            begun.set()
        thread.join()
        assert residuals[0].shard("a").sequence == str(done[-1])

    def test_deferring_hands_the_frontier_over(self):
        it = ThreadsafeRestrictionTracker(tracker())
        view = RestrictionTrackerView(it)
        view.try_claim(Polled())
        view.defer_remainder(Duration(2))
        residual, _ = it.deferred_status()
        assert residual == FRONTIER
        assert it.check_done()


class TestEnd:
    def test_work_that_is_left_is_an_error(self):
        it = tracker()
        with pytest.raises(ValueError, match="neither closed nor deferred; it holds a, b"):
            it.check_done()
        it.try_claim(Polled())
        with pytest.raises(ValueError, match="neither closed nor deferred"):
            it.check_done()

    def test_closed_or_split_is_done(self):
        closed, split = tracker(), tracker()
        closed.try_claim(Closed())
        split.try_claim(Polled())
        split.try_split(0)
        assert closed.check_done()
        assert split.check_done()

    def test_bounded_is_what_the_mode_says(self):
        assert not tracker().is_bounded()
        assert tracker(bounded=True).is_bounded()
        assert FrontierTracker(Frontier(closed=True), bounded=False).is_bounded()

    def test_progress(self):
        it = tracker()
        assert it.current_progress().completed_work == 0
        it.try_claim(Closed())
        assert it.current_progress().remaining_work == 0

    def test_it_is_a_restriction_tracker(self):
        assert isinstance(tracker(), RestrictionTracker)
