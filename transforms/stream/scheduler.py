# SPDX-License-Identifier: Apache-2.0
"""What is due next for one reader: polls of its shards, a listing of the stream, a report.

`ShardScheduler` is the only owner of this. Each of its methods is a rule: what happened goes in as
a call (`page_claimed`, `failed`, `iterator_expired` …), what to do comes out (`take_due`,
`request_for`, `listing_is_due` …); nobody else writes a task's or the listing's fields.

A scheduler lives between two calls of `process` without promising to. Pacing, consecutive empty
polls, failures, a listing half done and responses that came late: none of it is part of the
restriction. A reader that moves to another worker starts with a new scheduler; that costs a few
requests and no record.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Iterable, Iterator

from dynabeam.transforms.aws.streams import StreamDescription
from dynabeam.transforms.runtime.clock import Clock
from dynabeam.transforms.stream.frontier import Counts, Frontier, ShardPosition
from dynabeam.transforms.stream.pacing import Pacing
from dynabeam.transforms.stream.page_parser import Page
from dynabeam.transforms.stream.shard_listing import ShardListing
from dynabeam.transforms.stream.shard_requests import (
    AskChildren,
    ListShards,
    ReadPage,
    RequestPool,
)

__all__ = ["LONGEST_WAIT", "ShardScheduler", "ShardTask"]

LONGEST_WAIT = 1.0
"""Seconds after which a waiting reader checks again, due or not."""

_LISTING_SECONDS = 0.02
_NEAR_TIP_US = 10 * 1_000_000
_IDLE_POLLS = 8


@dataclasses.dataclass
class ShardTask:
    """How the reading of one shard goes.

    Attributes:
        due: Monotonic time of the next request, seconds.
        in_flight: A request is in flight.
        empty_polls: Consecutive empty pages.
        failures: Consecutive failures.
        throttles: Consecutive throttles.
        caught_up: Read up to the tip in this run.
        needs_iterator: The stored iterator is not to be used.
        missing_since: When the service said that the shard does not exist, monotonic; None if it
            did not.
        child_asks: How often the children were requested.
        lags: The last page held old records, or there was none yet.
        end: Where the shard was said to end: the last number read of it; None if it was not.
        ended_at: When that was, monotonic.
        end_is_sure: That end was confirmed by enough responses.
        confirmed: By how many so far.
        refuted: How often an end was refuted since the last record was read.
    """

    due: float = 0.0
    in_flight: bool = False
    empty_polls: int = 0
    failures: int = 0
    throttles: int = 0
    caught_up: bool = False
    needs_iterator: bool = False
    missing_since: float | None = None
    child_asks: int = 0
    lags: bool = True
    end: str | None = None
    ended_at: float = 0.0
    end_is_sure: bool = False
    confirmed: int = 0
    refuted: int = 0


class ShardScheduler:
    """Decides what one reader of one stream asks next, and when.

    Args:
        requests: Its requests.
        last_swept_us: When the last complete listing was begun, 0 if none was.

    Attributes:
        requests: Its requests.
        left: The counts of the restriction that the last slice left; None before the first.
    """

    def __init__(self, requests: RequestPool, last_swept_us: int) -> None:
        self.requests = requests
        self.left: Counts | None = None
        self._last_swept_us = last_swept_us
        self._listing = ShardListing()
        self._tasks: dict[str, ShardTask] = {}
        self._due: list[tuple[float, str]] = []
        self._deferred: list[str] = []
        self._unreported = Counts()
        self._reported = -math.inf
        self._pacing = Pacing()
        self._clock = Clock()
        self._bounded = False

    def pace(self, pacing: Pacing, clock: Clock, *, bounded: bool) -> None:
        """Sets how fast it goes from now on.

        Args:
            pacing: Limits and times.
            clock: The clocks.
            bounded: True in catch-up mode.
        """
        self._pacing, self._clock, self._bounded = pacing, clock, bounded

    # What is due.

    def add(self, shard_id: str) -> ShardTask:
        """The task of a shard; one that is new here is due at once."""
        task = self._tasks.get(shard_id)
        if task is None:
            task = self._tasks[shard_id] = ShardTask()
            heapq.heappush(self._due, (0.0, shard_id))
        return task

    def follow(self, frontier: Frontier) -> None:
        """Adds the shards of a frontier that are new."""
        for each in frontier.shards:
            self.add(each.shard_id)

    def forget(self, shard_id: str) -> None:
        """Drops the task of a shard that has left the frontier."""
        self._tasks.pop(shard_id, None)

    def schedule(self, shard_id: str, due: float = 0.0) -> None:
        """Sets when a shard is asked next, monotonic seconds; at once by default."""
        self.add(shard_id).due = due
        heapq.heappush(self._due, (due, shard_id))

    def next_due(self) -> float | None:
        """When the next shard is due, monotonic seconds; None if none is."""
        while self._due:
            due, shard_id = self._due[0]
            task = self._tasks.get(shard_id)
            if task is not None and not task.in_flight and task.due == due:
                return due
            heapq.heappop(self._due)
        return None

    def take_due(self, now: float) -> str | None:
        """The id of a shard that is due; it is not offered again before it is scheduled."""
        due = self.next_due()
        if due is None or due > now:
            return None
        return heapq.heappop(self._due)[1]

    def request_for(self, position: ShardPosition) -> ReadPage | AskChildren | None:
        """What to ask about a shard that is due.

        Returns:
            None if it waits for a listing, or, in catch-up mode, is at the tip.
        """
        task = self.add(position.shard_id)
        if position.ended and not task.end_is_sure:
            return ReadPage(position, fresh=True)
        if position.ended:
            asked_enough = task.child_asks >= self._pacing.child_asks
            return None if asked_enough else AskChildren(position.shard_id)
        if task.missing_since is not None or (self._bounded and task.caught_up):
            return None
        return ReadPage(position, fresh=task.needs_iterator)

    def begin(self, request: ReadPage | AskChildren) -> None:
        """Sends a request about a shard off."""
        self.add(request.shard_id).in_flight = True
        self.requests.begin(request)

    def has_room(self, held_bytes: int = 0) -> bool:
        """One more request may be in flight.

        Args:
            held_bytes: Bytes of the pages that are gathered.
        """
        # One page is always read, however little memory there is.
        fits = self._fits(held_bytes) or self.requests.pages_in_flight == 0
        return fits and self.requests.in_flight < self._pacing.threads

    def _fits(self, held_bytes: int) -> bool:
        pages = self.requests.pages_in_flight + 1
        return pages * self._pacing.page_bytes + held_bytes <= self._pacing.memory_bytes

    def seconds_until_due(self, frontier: Frontier, held_bytes: int) -> float:
        """In how many seconds something is due, if nothing changes before; bounded.

        Args:
            frontier: The position of the reader.
            held_bytes: Bytes of the pages that are gathered.
        """
        now = self._clock.monotonic()
        until = now + LONGEST_WAIT
        if not self._listing.in_flight and self._listing_is_wanted(frontier):
            until = min(until, max(self._listing.due, now))
        due = self.next_due()
        if due is not None and self.has_room(held_bytes):
            until = min(until, due)
        return until - now

    # Between two slices.

    def prefetch(self, frontier: Frontier) -> Iterator[ReadPage]:
        """The requests that are due and need no decision: next pages of open shards.

        They are counted as in flight, and to be sent by the caller. The rest waits for `resume`.
        """
        now = self._clock.monotonic()
        while self._has_room_parked() and (shard_id := self.take_due(now)) is not None:
            position = frontier.shard(shard_id)
            task = self.add(shard_id)
            if position is None or position.kind != "after" or task.missing_since is not None:
                self._deferred.append(shard_id)
                continue
            task.in_flight = True
            request = ReadPage(position, fresh=task.needs_iterator)
            self.requests.count(request)
            yield request

    def seconds_until_prefetch(self) -> float:
        """In how many seconds a page is due, if nothing changes before; bounded."""
        due = self.next_due() if self._has_room_parked() else None
        return LONGEST_WAIT if due is None else max(0.0, due - self._clock.monotonic())

    def resume(self) -> None:
        """Makes due what `prefetch` passed over."""
        while self._deferred:
            self.schedule(self._deferred.pop())

    def _has_room_parked(self) -> bool:
        return self._fits(0) and self.requests.in_flight < self._pacing.threads

    # Responses about a shard.

    def answered(self, shard_id: str | None) -> None:
        """The request about a shard, or the page of the listing (None), is no longer in flight."""
        self._of(shard_id).in_flight = False

    def page_arrived(self, position: ShardPosition) -> None:
        """The service gave a page that can be the shard's next."""
        task = self.add(position.shard_id)
        task.throttles = 0
        task.missing_since = None
        task.needs_iterator = False
        if not position.ended:
            task.failures = 0

    def empty_polls_with(self, shard_id: str, page: Page) -> int:
        """Consecutive empty pages of a shard, this one included."""
        return 0 if page.records else self.add(shard_id).empty_polls + 1

    def page_claimed(
        self,
        after: ShardPosition,
        page: Page,
        *,
        began_us: int,
        started_us: int,
        has_children: bool,
    ) -> None:
        """A page was claimed: judges whether the shard is at its tip or end, and schedules it.

        Args:
            after: The position in the shard now.
            page: What was new of the page.
            began_us: When it was requested, microseconds since 1970.
            started_us: When the run began.
            has_children: A child of the shard is listed.
        """
        task = self.add(after.shard_id)
        task.empty_polls = self.empty_polls_with(after.shard_id, page)
        if page.rows.num_rows:
            task.refuted = 0
        if after.ended:
            self._end_was_said(task, after)
        task.lags = bool(page.records) and page.newest_event_us < began_us - _NEAR_TIP_US
        # A shard whose children are known has an end, so empty pages are not the tip.
        quiet = task.empty_polls >= self._pacing.tip_empties and not has_children
        task.caught_up = quiet or (bool(page.records) and page.newest_event_us >= started_us)
        self.schedule(after.shard_id, self._next_poll(after, task, page, began_us))

    def _next_poll(self, after: ShardPosition, task: ShardTask, page: Page, began_us: int) -> float:
        now = self._clock.monotonic()
        if after.ended or task.lags:
            return now
        if self._bounded:
            return now if page.records else now + self._pacing.tip_poll
        # From poll to poll: a response may have waited for its slice for as long as that.
        passed = max(0.0, (self._clock.now_us() - began_us) / 1e6)
        pause = self._pacing.poll if page.records else self._pacing.after_empty(task.empty_polls)
        return now + max(0.0, pause - passed)

    def iterator_expired(self, shard_id: str) -> None:
        """The stored iterator is dead: a new one is requested at once."""
        self.add(shard_id).needs_iterator = True
        self.schedule(shard_id)

    def shard_not_found(self, shard_id: str) -> None:
        """The service does not find a shard: the next complete listing decides whether it is gone.

        The shard is not asked before.
        """
        self.add(shard_id).missing_since = self.want_listing()

    def failed(self, shard_id: str | None) -> int:
        """A request about a shard, or a page of the listing (None), failed; schedules the next try.

        Returns:
            How many failed in a row.
        """
        task = self._of(shard_id)
        task.failures += 1
        self._retry_after(shard_id, task.failures)
        return task.failures

    def throttled(self, shard_id: str | None) -> int:
        """As `failed`, for what the service refused as too many requests."""
        task = self._of(shard_id)
        task.throttles += 1
        self._retry_after(shard_id, task.throttles)
        return task.throttles

    def _of(self, shard_id: str | None) -> ShardTask | ShardListing:
        return self._listing if shard_id is None else self.add(shard_id)

    def _retry_after(self, shard_id: str | None, attempts: int) -> None:
        due = self._clock.monotonic() + self._pacing.after_failures(attempts)
        if shard_id is None:
            self._listing.due = due
        else:
            self.schedule(shard_id, due)

    # Ends of shards and their children.

    def _end_was_said(self, task: ShardTask, after: ShardPosition) -> None:
        # Confirmed if it ended here before and nothing has come since.
        task.confirmed = task.confirmed + 1 if task.end == after.sequence else 0
        at_end = self._listing.is_at_end(after)
        task.end_is_sure = at_end or task.confirmed >= self._pacing.end_asks
        task.end, task.ended_at = after.sequence, self._clock.monotonic()

    def end_is_sure(self, shard_id: str) -> bool:
        """The end of a shard is confirmed by enough responses."""
        return self.add(shard_id).end_is_sure

    def confirm_end(self, shard_id: str) -> None:
        """One more response says that the shard ends where it was read to."""
        task = self.add(shard_id)
        task.failures = 0
        task.confirmed += 1
        task.end_is_sure = task.confirmed >= self._pacing.end_asks
        delay = 0.0 if task.end_is_sure else self._pacing.after_ask(task.confirmed)
        self.schedule(shard_id, self._clock.monotonic() + delay)

    def trust_end(self, shard_id: str) -> None:
        """The end is too old to be requested again: it is as the first response said."""
        self.add(shard_id).end_is_sure = True
        self.schedule(shard_id)

    def refute_end(self, shard_id: str, *, unread: bool) -> int:
        """A shard that was said to be at its end is not.

        Args:
            shard_id: The shard.
            unread: There are records after that end.

        Returns:
            How often that happened since the last record was read.
        """
        task = self.add(shard_id)
        if unread:
            task.end = None
        task.refuted += 1
        return task.refuted

    def reopened(self, after: ShardPosition) -> None:
        """The shard is read on from before its supposed end; the claim of that was accepted."""
        task = self.add(after.shard_id)
        task.end_is_sure = task.caught_up = False
        if not after.iterator:
            task.confirmed = 0
        task.child_asks = task.empty_polls = 0
        delay = self._pacing.after_failures(task.refuted)
        self.schedule(after.shard_id, self._clock.monotonic() + delay)

    def children_answered(self, shard_id: str) -> None:
        """The service responded to the question for children, whatever it said."""
        task = self.add(shard_id)
        task.failures = task.throttles = 0

    def no_children_yet(self, shard_id: str) -> None:
        """No child of an ended shard is known: asks again, and at last for a whole listing."""
        task = self.add(shard_id)
        task.child_asks += 1
        if task.child_asks == self._pacing.child_asks:
            self.want_listing()
        delay = self._pacing.after_ask(task.child_asks)
        self.schedule(shard_id, self._clock.monotonic() + delay)

    def replaced(self, shard_id: str, frontier: Frontier) -> None:
        """A shard was replaced by its children, which are in the frontier."""
        self.forget(shard_id)
        self.follow(frontier)
        # A sibling may be listed late; the next complete listing will show it.
        self.want_listing()

    # Listings.

    @property
    def listing(self) -> ShardListing:
        """The listing that is being made; only to be read."""
        return self._listing

    def want_listing(self) -> float:
        """Asks for a complete listing that begins after now; returns now, monotonic seconds."""
        self._listing.wanted = self._clock.monotonic()
        return self._listing.wanted

    def listing_is_due(self, frontier: Frontier) -> bool:
        """True if a page of the listing is to be requested now."""
        listing, has_thread = self._listing, self.requests.in_flight < self._pacing.threads
        is_due = not listing.in_flight and listing.due <= self._clock.monotonic()
        return is_due and has_thread and self._listing_is_wanted(frontier)

    def begin_listing(self) -> None:
        """Asks for the next page of the listing."""
        self.requests.begin(ListShards(self._listing.begin(self._clock.monotonic())))

    def _listing_is_wanted(self, frontier: Frontier) -> bool:
        return self._listing.is_wanted(
            frontier, self._pacing, now_us=self._clock.now_us(), bounded=self._bounded
        )

    def listed(self, page: StreamDescription, *, after: str, began_us: int) -> bool:
        """Adds a page to the listing, see `ShardListing.add`."""
        now = self._clock.monotonic()
        return self._listing.add(page, self._pacing, after=after, now=now, began_us=began_us)

    def listing_complete(self, frontier: Frontier) -> None:
        """Ends a complete listing, see `ShardListing.complete`."""
        self._listing.complete(frontier, self._pacing, self._clock.monotonic())

    def missing(self, live: Iterable[ShardPosition]) -> list[ShardPosition]:
        """The shards that the service did not find before this complete listing was begun.

        The listing decides what becomes of them, so afterwards they are not missing any more.
        """
        found = []
        for position in live:
            task, began = self.add(position.shard_id), self._listing.began
            if task.missing_since is None or began is None or task.missing_since > began:
                continue
            task.missing_since = None
            found.append(position)
        return found

    def listed_open(self, ended: Iterable[ShardPosition]) -> list[ShardPosition]:
        """Ended shards that are listed as open by a complete listing begun after their end.

        A closed shard is listed with an ending sequence number. Whether a record has that number is
        not said, so the last one that was read need not be it.
        """
        began, are_open = self._listing.began, self._listing.open_ids
        found = []
        for position in ended:
            task = self.add(position.shard_id)
            is_newer = began is not None and began > task.ended_at
            if task.end_is_sure and is_newer and position.shard_id in are_open:
                found.append(position)
        return found

    def swept(self, began_us: int) -> int:
        """Keeps in mind when this complete listing began; returns how long after the last one."""
        absent_us = began_us - self._last_swept_us
        self._last_swept_us = began_us
        return absent_us

    def listed_start(self, shard_id: str) -> str | None:
        """The starting sequence number of a shard.

        Returns:
            Empty if a complete listing does not say it; None if there was no such listing yet:
            then the shard waits for it.
        """
        listing = self._listing
        start = listing.starts.get(shard_id, "")
        if start or listing.done > -math.inf:
            return start
        if listing.wanted == -math.inf:
            self.want_listing()
        self.schedule(shard_id, self._clock.monotonic() + _LISTING_SECONDS)
        return None

    # How far the reader is.

    def lagging(self, frontier: Frontier) -> Iterator[str]:
        """The shards that have changes waiting, as far as is known."""
        return (each.shard_id for each in frontier.live if self.add(each.shard_id).lags)

    def is_idle(self, frontier: Frontier) -> bool:
        """Every shard had many empty pages."""
        return all(self.add(each.shard_id).empty_polls >= _IDLE_POLLS for each in frontier.live)

    def is_at_tip(self, frontier: Frontier) -> bool:
        """Every shard is read up to the tip, or ended with nothing found after it."""
        for each in frontier.shards:
            task = self.add(each.shard_id)
            if each.ended:
                if task.child_asks < self._pacing.child_asks:
                    return False
            elif not task.caught_up:
                return False
        return not self._listing.in_flight and not self._listing_is_wanted(frontier)

    def take_report(self, read: Counts, *, over: bool) -> Counts | None:
        """What a continuous run is to report now; None if no report is due.

        Args:
            read: What was read in this slice.
            over: This was the last slice.

        Returns:
            The counts since the last report.
        """
        unreported, now = self._unreported.plus(read), self._clock.monotonic()
        quiet = now - self._reported
        reads_on = bool(unreported.pages) and quiet >= self._pacing.report
        if not (over or reads_on or quiet >= self._pacing.idle_report):
            self._unreported = unreported
            return None
        self._unreported, self._reported = Counts(), now
        return unreported
