# SPDX-License-Identifier: Apache-2.0
"""From answers to claims: what each answer of the service means for the frontier.

Every method runs on the thread of `process`, claims first and hands out afterwards. Errors are
judged by `transforms.aws.errors` alone: a throttle waits, an expired iterator is replaced by one
behind the last claimed record, trimmed and vanished positions are gaps, a shard that the service
does not find is looked up in a listing before it is believed to be gone, an unreachable service is
asked again within bounds, and everything else is raised. No error finishes a shard.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from dynabeam.transforms.aws.errors import AwsErrorKind, classify, error_code
from dynabeam.transforms.aws.streams import StreamDescription
from dynabeam.transforms.errors import StreamError
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.gap import Gap, GapKind, GapPolicy
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.stream.block_builder import Gathered
from dynabeam.transforms.stream.frontier import Counts, Frontier, ShardPosition
from dynabeam.transforms.stream.lineage import (
    DAY_US,
    adopt_listing,
    drop_childless,
    replace_vanished,
)
from dynabeam.transforms.stream.pacing import Clock, Pacing
from dynabeam.transforms.stream.page_order import behind, credible, disorder
from dynabeam.transforms.stream.page_parser import Page
from dynabeam.transforms.stream.scheduler import Listing, ReaderMemory, ShardWork
from dynabeam.transforms.stream.shard_requests import (
    Answer,
    AskChildren,
    ListShards,
    ReadPage,
    usable_iterator,
)
from dynabeam.transforms.stream.source import StreamSource
from dynabeam.transforms.stream.tracker import ChildrenFound, Claim, Moved, PageRead, Polled, Step

__all__ = ["IDLE_MARGIN_US", "Steps"]

IDLE_MARGIN_US = 30 * 1_000_000
"""How much older than the last empty poll a record may still be that comes later."""

_UNREAD = "nothing was read of it within the 24 hours that are kept"
_LISTING_SECONDS = 0.02
_NEAR_TIP_US = 10 * 1_000_000
_CLOCK_SKEW_US = 300 * 1_000_000


class Steps:
    """The steps of one call of `process`.

    Args:
        source: The reader.
        tracker: Beam's view of the restriction tracker.
        memory: The reader's memory.
        pacing: Limits and times.
        clock: The clocks.
        bounded: True in catch-up mode.

    Attributes:
        frontier: The frontier behind everything that is claimed.
        refused: A claim was refused: the rest belongs to somebody else.
        gathered: Claimed rows.
        notes: Reports and dead letters to be emitted.
        over: The stream is gone or at its end for good.
    """

    def __init__(
        self,
        source: StreamSource,
        tracker: Any,
        memory: ReaderMemory,
        pacing: Pacing,
        clock: Clock,
        *,
        bounded: bool,
    ) -> None:
        self._source = source
        self._tracker = tracker
        self._memory = memory
        self._pacing = pacing
        self._clock = clock
        self._bounded = bounded
        self.frontier: Frontier = tracker.current_restriction()
        self.refused = False
        self.over = False
        self.gathered = Gathered(source, pacing.block_bytes)
        self.notes: list[Report | DeadLetter] = []

    def claim(self, step: Claim) -> bool:
        """Claims a step and follows it; False if it was refused."""
        if self.refused:
            return False
        made = Step.of(self.frontier, step)
        if not self._tracker.try_claim(made):
            self.refused = True
            return False
        # Not read back from the tracker: a split from another thread may have emptied it.
        self.frontier = made.after
        return True

    def follow_shards(self) -> None:
        """Brings the memory in line with the frontier."""
        for each in self.frontier.shards:
            self._memory.work(each.shard_id)

    def take(self, answer: Answer) -> None:
        """Does what an answer asks for."""
        request = answer.request
        if isinstance(request, ReadPage):
            self._take_page(answer, request)
        elif isinstance(request, AskChildren):
            self._take_children(answer, request)
        else:
            self._take_listing(answer, request)

    def proof(self, position: ShardPosition) -> str | None:
        """From where to read a shard of which nothing was read for a day; it may have lost records.

        The trim horizon would pass over them unseen. The service refuses an iterator at a sequence
        number that is older than what it still holds (TrimmedDataAccessException), so one at the
        shard's starting number proves, if it is given, that no record of the shard is gone, and
        nothing is lost. If it is refused, or the shard or its number is not listed, the shard may
        have lost records, and that is a gap.

        Returns:
            The starting number to read from; empty to read from the position; None if that is not
            known before the listing is complete.

        Raises:
            GapError: If changes may be lost and the table's policy is to stop.
        """
        now_us = self._clock.now_us()
        if position.sequence or now_us - position.known_us <= DAY_US:
            return ""
        if usable_iterator(position, now_us):
            return ""
        listing = self._memory.listing
        start = listing.starts.get(position.shard_id, "")
        if start:
            return start
        if listing.done == -math.inf:
            if listing.wanted == -math.inf:
                self._want_listing()
            self._memory.schedule(position.shard_id, self._clock.monotonic() + _LISTING_SECONDS)
            return None
        self._pass_trimmed(position, _UNREAD)
        return ""

    # Pages.

    def _take_page(self, answer: Answer, request: ReadPage) -> None:
        position = request.position
        shard_id = position.shard_id
        work = self._memory.work(shard_id)
        work.running = False
        if self.frontier.shard(shard_id) != position:
            self._memory.schedule(shard_id, 0.0)
        elif isinstance(answer.value, Page):
            error = disorder(
                answer.value,
                position,
                went_on=answer.went_on,
                generation=self._source.generation,
                stream_arn=self._source.stream_arn,
            )
            if error is not None:
                self._retry_page(position, work, error)
                return
            work.throttles = 0
            work.gone = None
            work.fresh = False
            if position.ended:
                self._take_end(position, work, answer.value, answer.began_us)
                return
            work.failures = 0
            self._claim_page(position, work, answer.value, answer.began_us)
        elif position.ended:
            self._take_end_error(answer, work, position)
        else:
            self._take_page_error(answer, request, work)

    # Ends.

    def _take_end(
        self, position: ShardPosition, work: ShardWork, page: Page, began_us: int
    ) -> None:
        """A second answer about the end of a shard, asked for anew from where the first stood.

        One answer without an iterator is not enough: whatever is cut or made up between here and
        the service looks like it, and a shard that is finished is never asked again.
        """
        unread = behind(page, position, self._source.generation).rows.num_rows
        if not page.next_iterator and not unread and not page.dead:
            work.failures = 0
            self._confirm_end(position, work)
            return
        after = position.reopened
        if not unread and not page.dead:
            # It may be at its end all the same; the next page will say so.
            after = dataclasses.replace(after, iterator=page.next_iterator, polled_us=began_us)
        else:
            work.end = None
        self._reopen(position, work, after)

    def _confirm_end(self, position: ShardPosition, work: ShardWork) -> None:
        """Counts one more answer that the shard ends where it was read to."""
        work.confirmed += 1
        work.sure = work.confirmed >= self._pacing.end_asks
        delay = 0.0 if work.sure else self._pacing.after_ask(work.confirmed)
        self._memory.schedule(position.shard_id, self._clock.monotonic() + delay)

    def _reopen(self, position: ShardPosition, work: ShardWork, after: ShardPosition) -> None:
        work.refuted += 1
        if work.refuted > self._pacing.retries:
            raise StreamError(
                f"GetRecords said {work.refuted} times that the shard is at its end, and it is not",
                where=f"shard {position.shard_id}, stream {self._source.stream_arn}",
                hint="See what answers in the service's place: a proxy, an endpoint of your own",
            )
        if self.claim(Moved(self.frontier, self.frontier.with_shard(after))):
            work.sure = work.caught_up = False
            work.confirmed = work.confirmed if after.iterator else 0
            work.asks = work.empties = 0
            delay = self._pacing.after_failures(work.refuted)
            self._memory.schedule(position.shard_id, self._clock.monotonic() + delay)

    def _take_end_error(self, answer: Answer, work: ShardWork, position: ShardPosition) -> None:
        error = answer.error
        assert error is not None
        if classify(error) in (AwsErrorKind.TRIMMED, AwsErrorKind.GONE):
            # Too old to be asked: then its end is as the first answer said.
            work.sure = True
            self._memory.schedule(position.shard_id, 0.0)
            return
        self._retry_page(position, work, error)

    def _retry_page(self, position: ShardPosition, work: ShardWork, error: Exception) -> None:
        if classify(error) is AwsErrorKind.EXPIRED_ITERATOR:
            self._bear(work, error, "GetRecords")
            delay = self._pacing.after_failures(work.failures)
        else:
            delay = self._retry_delay(work, error, "GetRecords")
        self._memory.schedule(position.shard_id, self._clock.monotonic() + delay)

    def _claim_page(
        self, position: ShardPosition, work: ShardWork, page: Page, began_us: int
    ) -> None:
        read = page.rows.num_rows
        page = behind(page, position, self._source.generation)
        page = credible(page, self._clock.now_us() + _CLOCK_SKEW_US)
        empties = 0 if page.records else work.empties + 1
        after = self._behind_page(position, page, empties, began_us)
        counts = Counts(
            changes=page.rows.num_rows,
            bytes=page.bytes if page.records else 0,
            pages=1 if page.records else 0,
            empty_polls=0 if page.records else 1,
            newest_event_us=page.newest_event_us,
            repeats=read - page.rows.num_rows,
        )
        if not self.claim(PageRead(position, after, counts)):
            return
        self.gathered.add(position.shard_id, page.rows, page.bytes, last=after.ended)
        self.notes.extend(page.dead)
        work.empties = empties
        work.refuted = 0 if page.rows.num_rows else work.refuted
        if after.ended:
            listed = self._memory.listing.ends.get(position.shard_id, "")
            at_end = bool(listed and after.sequence) and int(after.sequence) >= int(listed)
            # Confirmed if it ended here before and nothing has come since.
            work.confirmed = work.confirmed + 1 if work.end == after.sequence else 0
            work.sure = at_end or work.confirmed >= self._pacing.end_asks
            work.end, work.ended = after.sequence, self._clock.monotonic()
        self._judge_tip(position.shard_id, work, page, began_us)
        self._memory.schedule(position.shard_id, self._next_poll(after, work, page, began_us))

    def _behind_page(
        self, before: ShardPosition, page: Page, empties: int, began_us: int
    ) -> ShardPosition:
        sequence = page.last_row_sequence or before.sequence
        # From a new iterator that began before what was read: the next one shall begin behind it.
        again = sequence == before.sequence and page.last_row_sequence and before.kind != "after"
        low_us = max(before.low_us, page.newest_event_us)
        if empties >= self._pacing.tip_empties:
            low_us = max(low_us, began_us - IDLE_MARGIN_US)
        ended = not page.next_iterator
        return dataclasses.replace(
            before,
            kind="ended" if ended else "after" if page.last_row_sequence else before.kind,
            sequence=sequence,
            iterator="" if again else page.next_iterator,
            polled_us=began_us,
            low_us=low_us,
            ended_us=self._clock.now_us() if ended else 0,
        )

    def _judge_tip(self, shard_id: str, work: ShardWork, page: Page, began_us: int) -> None:
        started_us = self._source.started_us
        work.behind = bool(page.records) and page.newest_event_us < began_us - _NEAR_TIP_US
        # A shard whose children are known has an end, so empty pages are not the tip.
        has_end = any(parent == shard_id for _, parent in self.frontier.pending)
        enough = work.empties >= self._pacing.tip_empties and not has_end
        work.caught_up = enough or (bool(page.records) and page.newest_event_us >= started_us)

    def _next_poll(self, after: ShardPosition, work: ShardWork, page: Page, began_us: int) -> float:
        now = self._clock.monotonic()
        if after.ended or work.behind:
            return now
        if self._bounded:
            return now if page.records else now + self._pacing.tip_poll
        # From poll to poll: an answer may have waited for its turn for as long as that.
        passed = max(0.0, (self._clock.now_us() - began_us) / 1e6)
        pause = self._pacing.poll if page.records else self._pacing.after_empty(work.empties)
        return now + max(0.0, pause - passed)

    def _take_page_error(self, answer: Answer, request: ReadPage, work: ShardWork) -> None:
        position = request.position
        error = answer.error
        assert error is not None
        kind = classify(error)
        refused = bool(request.start) and error_code(error) == "ValidationException"
        if refused:
            self._pass_trimmed(position, _UNREAD)
            self._memory.schedule(position.shard_id, 0.0)
        elif kind is AwsErrorKind.TRIMMED:
            self._pass_trimmed(position, f"{_UNREAD}: {error}" if request.start else str(error))
            self._memory.schedule(position.shard_id, 0.0)
        elif kind is AwsErrorKind.EXPIRED_ITERATOR:
            self._bear(work, error, "GetRecords")
            work.fresh = True
            self._memory.schedule(position.shard_id, 0.0)
        elif kind is AwsErrorKind.GONE:
            # Listings decide: a shard is gone only if a complete one no longer holds it.
            work.gone = self._want_listing()
        elif self._is_too_early(position, error):
            self._bear(work, error, "GetShardIterator")
            delay = self._pacing.after_failures(work.failures)
            self._memory.schedule(position.shard_id, self._clock.monotonic() + delay)
        else:
            delay = self._retry_delay(work, error, "GetRecords")
            self._memory.schedule(position.shard_id, self._clock.monotonic() + delay)

    def _is_too_early(self, position: ShardPosition, error: Exception) -> bool:
        """The service's clock is behind ours, so that a start of just now is its future."""
        recent_us = self._clock.now_us() - _CLOCK_SKEW_US
        at_time = position.kind == "at_timestamp" and position.at_us > recent_us
        return at_time and error_code(error) == "ValidationException"

    def _pass_trimmed(self, position: ShardPosition, detail: str) -> None:
        now_us = self._clock.now_us()
        after = dataclasses.replace(
            position, kind="trim_horizon", at_us=0, iterator="", polled_us=0, since_us=now_us
        )
        self._pass_gap(GapKind.TRIMMED, position, detail, self.frontier.with_shard(after))

    def _pass_gap(
        self, kind: GapKind, position: ShardPosition | None, detail: str, after: Frontier
    ) -> None:
        """Stops, or reports the gap and goes on from another frontier.

        Raises:
            GapError: If the table's policy is to stop.
        """
        known = [each.known_us for each in ([position] if position else self.frontier.shards)]
        gap = Gap(
            table=self._source.table.name,
            kind=kind,
            stream_arn=self._source.stream_arn,
            shard_id=position.shard_id if position else "",
            last_sequence=position.sequence if position else "",
            from_us=min(known, default=0),
            to_us=self._clock.now_us(),
            detail=detail,
            generation=self._source.generation,
        )
        if self._source.gap_policy is GapPolicy.FAIL:
            raise gap.error()
        if self.claim(Moved(self.frontier, after)):
            self.notes.append(gap.report())
            self.follow_shards()

    # Children.

    def _take_children(self, answer: Answer, request: AskChildren) -> None:
        shard_id = request.shard_id
        work = self._memory.work(shard_id)
        work.running = False
        position = self.frontier.shard(shard_id)
        if position is None or not position.ended:
            return
        found = answer.value
        if isinstance(found, StreamDescription):
            work.failures = work.throttles = 0
            children = tuple(each.shard_id for each in found.shards)
        elif answer.error is not None and classify(answer.error) is AwsErrorKind.GONE:
            children = ()
        else:
            assert answer.error is not None
            delay = self._retry_delay(work, answer.error, "DescribeStream")
            self._memory.schedule(shard_id, self._clock.monotonic() + delay)
            return
        work.asks += 1
        if not children and not self._has_pending_child(shard_id):
            if work.asks == self._pacing.child_asks:
                self._want_listing()
            delay = self._pacing.after_ask(work.asks)
            self._memory.schedule(shard_id, self._clock.monotonic() + delay)
            return
        if self.claim(ChildrenFound(shard_id, children, self._clock.now_us())):
            self._memory.forget(shard_id)
            self.follow_shards()
            # A sibling may be listed late; the next complete listing will show it.
            self._want_listing()

    def _want_listing(self) -> float:
        self._memory.listing.wanted = self._clock.monotonic()
        return self._memory.listing.wanted

    def _has_pending_child(self, shard_id: str) -> bool:
        return any(parent == shard_id for _, parent in self.frontier.pending)

    # Listings.

    def _take_listing(self, answer: Answer, request: ListShards) -> None:
        listing = self._memory.listing
        listing.running = False
        found = answer.value
        now = self._clock.monotonic()
        if not isinstance(found, StreamDescription):
            self._take_listing_error(answer, listing)
            return
        listing.failures = listing.throttles = 0
        if not request.after:
            listing.shards, listing.began_us = [], answer.began_us
        listing.shards.extend(found.shards)
        listing.starts.update((each.shard_id, each.start) for each in found.shards if each.start)
        listing.ends.update((each.shard_id, each.end) for each in found.shards if each.end)
        listing.after = found.next_after
        listing.due = now + self._pacing.sweep_page
        if found.status == "ENABLING" and not listing.shards and not found.next_after:
            # Not a listing yet: the first shards are still to come.
            listing.enabling += 1
            listing.restart(now + self._pacing.after_ask(listing.enabling))
            return
        self._adopt(listing, complete=not found.next_after)
        if not found.next_after and not self.refused:
            listing.status = found.status
            self._settle(listing)
            listing.done = listing.began if listing.began is not None else now
            undecided = self.frontier.swept_us < listing.began_us
            listing.restart(now + self._pacing.after_ask(1) if undecided else now)
            if undecided:
                # A parent is listed late; neither it nor its child is anybody's so far.
                self._want_listing()
            self.over = self._is_over(found.status)

    def _adopt(self, listing: Listing, *, complete: bool) -> None:
        after = adopt_listing(
            self.frontier,
            listing.shards,
            complete=complete,
            reader=self._source.reader,
            readers=self._source.readers,
            start=self._source.starting_point(),
            began_us=listing.began_us,
        )
        if after != self.frontier and self.claim(Moved(self.frontier, after)):
            self.follow_shards()

    def _settle(self, listing: Listing) -> None:
        """After a complete listing: shards that are gone, and ended ones that stay childless."""
        listed = {each.shard_id for each in listing.shards}
        for position in self.frontier.live:
            work = self._memory.work(position.shard_id)
            if work.gone is None or listing.began is None or work.gone > listing.began:
                continue
            work.gone = None
            if position.shard_id in listed:
                error = StreamError("the service lists the shard but does not find it")
                self._bear(work, error, "GetRecords")
                delay = self._pacing.after_failures(work.failures)
                self._memory.schedule(position.shard_id, self._clock.monotonic() + delay)
            else:
                self._pass_vanished(position, listed)
        for numbers in (listing.starts, listing.ends):
            for shard_id in numbers.keys() - listed:
                del numbers[shard_id]
        self._check_ends(listing)
        self._drop_childless(disabled=listing.status == "DISABLED", began_us=listing.began_us)

    def _check_ends(self, listing: Listing) -> None:
        """A shard that is listed as open, by a listing begun after its end, has no end yet.

        A closed shard is listed with an ending sequence number. Whether a record has that number is
        not said, so the last one that was read need not be it.
        """
        are_open = {each.shard_id for each in listing.shards if not each.closed}
        parents = {each.parent_id for each in listing.shards}
        for position in self.frontier.ended:
            work = self._memory.work(position.shard_id)
            fresh = listing.began is not None and listing.began > work.ended
            if work.sure and fresh and position.shard_id in are_open - parents:
                self._reopen(position, work, position.reopened)

    def _pass_vanished(self, position: ShardPosition, listed: set[str]) -> None:
        after = replace_vanished(self.frontier, position.shard_id, listed, self._clock.now_us())
        detail = "it left the listing before it was read to its end"
        self._pass_gap(GapKind.VANISHED, position, detail, after)
        self._memory.forget(position.shard_id)

    def _drop_childless(self, *, disabled: bool, began_us: int) -> None:
        absent_us = began_us - self._memory.last_swept_us
        after, aged = drop_childless(
            self.frontier,
            disabled=disabled,
            now_us=began_us,
            is_sure=lambda shard_id: self._memory.work(shard_id).sure,
        )
        self._memory.last_swept_us = began_us
        if after == self.frontier:
            return
        if aged and absent_us > DAY_US:
            # Nobody looked for a day, so children may have come and gone.
            detail = "its children may have been trimmed: it was not looked at for a day"
            self._pass_gap(GapKind.VANISHED, aged[0], detail, after)
        else:
            self.claim(Moved(self.frontier, after))

    def _is_over(self, status: str) -> bool:
        return status == "DISABLED" and not self.frontier.shards and not self.frontier.pending

    def _take_listing_error(self, answer: Answer, listing: Listing) -> None:
        error = answer.error
        assert error is not None
        if classify(error) is not AwsErrorKind.GONE:
            delay = self._retry_delay(listing, error, "DescribeStream")
            listing.due = self._clock.monotonic() + delay
            return
        if not self.frontier.swept_us:
            raise StreamError(
                f"there is no such stream: {error}",
                where=f"table {self._source.table.name}, stream {self._source.stream_arn}",
                hint="Give the ARN of the table's latest stream",
            ) from error
        emptied = dataclasses.replace(self.frontier, shards=(), pending=())
        if self.frontier.shards:
            self._pass_gap(GapKind.VANISHED, None, f"the stream is gone: {error}", emptied)
        self.over = True

    # Failures.

    def _retry_delay(self, work: ShardWork | Listing, error: Exception, action: str) -> float:
        """How long to wait before the next try.

        Raises:
            Exception: The error itself, unless it is one that passes, and too often for one that
                does.
        """
        kind = classify(error)
        if kind is AwsErrorKind.THROTTLED:
            work.throttles += 1
            self.claim(Polled(Counts(throttles=1)))
            if work.throttles > self._pacing.throttles:
                raise StreamError(
                    f"{action} was throttled {work.throttles} times in a row: {error}",
                    where=f"stream {self._source.stream_arn}",
                    hint="Let fewer readers share the stream or the account's call rates",
                ) from error
            return self._pacing.after_failures(work.throttles)
        if kind is AwsErrorKind.UNREACHABLE or isinstance(error, StreamError):
            self._bear(work, error, action)
            return self._pacing.after_failures(work.failures)
        raise error

    def _bear(self, work: ShardWork | Listing, error: Exception, action: str) -> None:
        work.failures += 1
        if work.failures > self._pacing.retries:
            raise StreamError(
                f"{action} failed {work.failures} times in a row: {error}",
                where=f"table {self._source.table.name}, stream {self._source.stream_arn}",
                hint="Check the network and the service's health, then run again",
            ) from error
