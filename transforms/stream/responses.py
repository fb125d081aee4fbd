# SPDX-License-Identifier: Apache-2.0
"""From responses to claims: what each response of the service means for the frontier.

Every method runs on the thread of `process`, claims first and hands out afterwards. Errors are
judged by `transforms.aws.errors` alone: a throttle waits, an expired iterator is replaced by one
after the last claimed record, trimmed and vanished positions are gaps, a shard that the service
does not find is looked up in a listing before it is believed to be gone, an unreachable service is
asked again within bounds, and everything else is raised. No error finishes a shard. When a shard is
asked next is decided by `transforms.stream.scheduler`, which learns from here what happened.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from dynabeam.transforms.aws.errors import AwsErrorKind, classify, error_code
from dynabeam.transforms.aws.streams import StreamDescription
from dynabeam.transforms.errors import StreamError
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.gap import Gap, GapKind, GapPolicy
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.runtime.clock import Clock
from dynabeam.transforms.stream.block_builder import BlockBuilder
from dynabeam.transforms.stream.frontier import Counts, Frontier, ShardPosition
from dynabeam.transforms.stream.lineage import (
    DAY_US,
    adopt_listing,
    drop_childless,
    replace_vanished,
)
from dynabeam.transforms.stream.pacing import Pacing
from dynabeam.transforms.stream.page_order import credible, disorder, without_repeats
from dynabeam.transforms.stream.page_parser import Page
from dynabeam.transforms.stream.reader_spec import ReaderSpec
from dynabeam.transforms.stream.scheduler import ShardScheduler
from dynabeam.transforms.stream.shard_requests import (
    AskChildren,
    ListShards,
    ReadPage,
    Response,
    usable_iterator,
)
from dynabeam.transforms.stream.tracker import ChildrenFound, Claim, Moved, PageRead, Polled, Step

__all__ = ["IDLE_MARGIN_US", "ResponseHandler"]

IDLE_MARGIN_US = 30 * 1_000_000
"""How much older than the last empty poll a record may still be that comes later."""

_UNREAD = "nothing was read of it within the 24 hours that are kept"
_CLOCK_SKEW_US = 300 * 1_000_000


class ResponseHandler:
    """Handles the responses of one call of `process`.

    Args:
        spec: The reader.
        tracker: Beam's view of the restriction tracker.
        scheduler: What is due for the reader.
        pacing: Limits and times.
        clock: The clocks.

    Attributes:
        frontier: The frontier after everything that is claimed.
        refused: A claim was refused: the rest belongs to somebody else.
        blocks: Claimed rows.
        over: The stream is gone or at its end for good.
    """

    def __init__(
        self,
        spec: ReaderSpec,
        tracker: Any,
        scheduler: ShardScheduler,
        pacing: Pacing,
        clock: Clock,
    ) -> None:
        self._spec = spec
        self._tracker = tracker
        self._scheduler = scheduler
        self._pacing = pacing
        self._clock = clock
        self._notes: list[Report | DeadLetter] = []
        self.frontier: Frontier = tracker.current_restriction()
        self.refused = False
        self.over = False
        self.blocks = BlockBuilder(spec, pacing.block_bytes)

    def claim(self, claim: Claim) -> bool:
        """Claims a step and follows it; False if it was refused."""
        if self.refused:
            return False
        step = Step.of(self.frontier, claim)
        if not self._tracker.try_claim(step):
            self.refused = True
            return False
        # Not read back from the tracker: a split from another thread may have emptied it.
        self.frontier = step.after
        return True

    def take_notes(self) -> Iterator[Report | DeadLetter]:
        """The reports and dead letters that are to be emitted."""
        while self._notes:
            yield self._notes.pop(0)

    def handle(self, response: Response) -> None:
        """Does what a response means.

        Raises:
            GapError: If changes are lost and the table's policy is to stop.
            StreamError: If the service fails too often, or responds what may not be passed over.
            Exception: The error of the response, unless it is one that passes.
        """
        request = response.request
        if isinstance(request, ListShards):
            self._scheduler.answered(None)
            self._handle_listing(response, request)
            return
        self._scheduler.answered(request.shard_id)
        if isinstance(request, ReadPage):
            self._handle_page(response, request)
        else:
            self._handle_children(response, request)
        self._yield_if_refused(request.shard_id)

    def begin_next(self, shard_id: str) -> None:
        """Sends the next request about a shard that is due.

        Raises:
            GapError: If changes may be lost and the table's policy is to stop.
        """
        position = self.frontier.shard(shard_id)
        if position is None:
            self._scheduler.forget(shard_id)
            return
        request = self._scheduler.request_for(position)
        if isinstance(request, ReadPage) and not position.ended:
            request = self._proven(request)
        if request is not None:
            self._scheduler.begin(request)

    def _proven(self, request: ReadPage) -> ReadPage | None:
        """The request, so that it shows whether a shard that was unread for a day has lost records.

        The trim horizon would pass over them unseen. The service refuses an iterator at a sequence
        number that is older than what it still holds (TrimmedDataAccessException), so one at the
        shard's starting number proves, if it is given, that no record of the shard is gone, and
        nothing is lost. If it is refused, or the shard or its number is not listed, the shard may
        have lost records, and that is a gap.

        Returns:
            None if the starting number is not known before a listing is complete.
        """
        position, now_us = request.position, self._clock.now_us()
        if position.sequence or now_us - position.known_us <= DAY_US:
            return request
        if usable_iterator(position, now_us):
            return request
        start = self._scheduler.listed_start(request.shard_id)
        if start is None:
            return None
        if start:
            return dataclasses.replace(request, fresh=True, start=start)
        self._pass_trimmed(position, _UNREAD)
        self._yield_if_refused(request.shard_id)
        moved = self.frontier.shard(request.shard_id)
        if moved is None or self.refused:
            return None
        return dataclasses.replace(request, position=moved)

    def _yield_if_refused(self, shard_id: str) -> None:
        """Makes a shard due whose claim was refused: whoever goes on from here asks it again."""
        if self.refused:
            self._scheduler.schedule(shard_id)

    # Pages.

    def _handle_page(self, response: Response, request: ReadPage) -> None:
        position, page = request.position, response.value
        if self.frontier.shard(request.shard_id) != position:
            self._scheduler.schedule(request.shard_id)
        elif isinstance(page, Page):
            error = disorder(
                page,
                position,
                continued=response.continued,
                generation=self._spec.generation,
                stream_arn=self._spec.stream_arn,
            )
            if error is not None:
                self._retry_page(request.shard_id, error)
                return
            self._scheduler.page_arrived(position)
            if position.ended:
                self._check_end(position, page, response.began_us)
            else:
                self._claim_page(position, page, response.began_us)
        elif position.ended:
            self._handle_end_error(response, request.shard_id)
        else:
            self._handle_page_error(response, request)

    def _claim_page(self, position: ShardPosition, page: Page, began_us: int) -> None:
        read = page.rows.num_rows
        page = without_repeats(page, position, self._spec.generation)
        page = credible(page, self._clock.now_us() + _CLOCK_SKEW_US)
        after = self._after_page(position, page, began_us)
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
        self.blocks.add(position.shard_id, page.rows, page.bytes, last=after.ended)
        self._notes.extend(page.dead)
        self._scheduler.page_claimed(
            after,
            page,
            began_us=began_us,
            started_us=self._spec.started_us,
            has_children=self._has_pending_child(position.shard_id),
        )

    def _after_page(self, before: ShardPosition, page: Page, began_us: int) -> ShardPosition:
        sequence = page.last_row_sequence or before.sequence
        # From a new iterator that began before what was read: the next one shall begin after it.
        again = sequence == before.sequence and page.last_row_sequence and before.kind != "after"
        low_us = max(before.low_us, page.newest_event_us)
        empties = self._scheduler.empty_polls_with(before.shard_id, page)
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

    def _handle_page_error(self, response: Response, request: ReadPage) -> None:
        position, shard_id = request.position, request.shard_id
        error = response.error
        assert error is not None
        kind = classify(error)
        refused = bool(request.start) and error_code(error) == "ValidationException"
        if refused:
            self._pass_trimmed(position, _UNREAD)
            self._scheduler.schedule(shard_id)
        elif kind is AwsErrorKind.TRIMMED:
            self._pass_trimmed(position, f"{_UNREAD}: {error}" if request.start else str(error))
            self._scheduler.schedule(shard_id)
        elif kind is AwsErrorKind.EXPIRED_ITERATOR:
            self._count_failure(shard_id, error, "GetRecords")
            self._scheduler.iterator_expired(shard_id)
        elif kind is AwsErrorKind.GONE:
            # Listings decide: a shard is gone only if a complete one no longer holds it.
            self._scheduler.shard_not_found(shard_id)
        elif self._is_too_early(position, error):
            self._count_failure(shard_id, error, "GetShardIterator")
        else:
            self._retry(shard_id, error, "GetRecords")

    def _is_too_early(self, position: ShardPosition, error: Exception) -> bool:
        """The service's clock is slower than ours, so that a start of just now is its future."""
        recent_us = self._clock.now_us() - _CLOCK_SKEW_US
        at_time = position.kind == "at_timestamp" and position.at_us > recent_us
        return at_time and error_code(error) == "ValidationException"

    def _retry_page(self, shard_id: str, error: Exception) -> None:
        if classify(error) is AwsErrorKind.EXPIRED_ITERATOR:
            self._count_failure(shard_id, error, "GetRecords")
        else:
            self._retry(shard_id, error, "GetRecords")

    # Gaps.

    def _pass_trimmed(self, position: ShardPosition, detail: str) -> None:
        now_us = self._clock.now_us()
        after = dataclasses.replace(
            position, kind="trim_horizon", at_us=0, iterator="", polled_us=0, since_us=now_us
        )
        self._pass_gap(GapKind.TRIMMED, position, detail, self.frontier.with_shard(after))

    def _pass_vanished(self, position: ShardPosition, listed: set[str]) -> None:
        after = replace_vanished(self.frontier, position.shard_id, listed, self._clock.now_us())
        detail = "it left the listing before it was read to its end"
        self._pass_gap(GapKind.VANISHED, position, detail, after)
        self._scheduler.forget(position.shard_id)

    def _pass_gap(
        self, kind: GapKind, position: ShardPosition | None, detail: str, after: Frontier
    ) -> None:
        """Stops, or reports the gap and goes on from another frontier.

        Raises:
            GapError: If the table's policy is to stop.
        """
        known = [each.known_us for each in ([position] if position else self.frontier.shards)]
        gap = Gap(
            table=self._spec.table.name,
            kind=kind,
            stream_arn=self._spec.stream_arn,
            shard_id=position.shard_id if position else "",
            last_sequence=position.sequence if position else "",
            from_us=min(known, default=0),
            to_us=self._clock.now_us(),
            detail=detail,
            generation=self._spec.generation,
        )
        if self._spec.gap_policy is GapPolicy.FAIL:
            raise gap.error()
        if self._move(after):
            self._notes.append(gap.report())

    def _move(self, after: Frontier) -> bool:
        """Claims another frontier and follows it; False if it was refused."""
        moved = self.claim(Moved(self.frontier, after))
        if moved:
            self._scheduler.follow(after)
        return moved

    # Ends.

    def _check_end(self, position: ShardPosition, page: Page, began_us: int) -> None:
        """A second response about the end of a shard, from the position of the first.

        One response without an iterator is not enough: whatever is cut or made up between here and
        the service looks like it, and a shard that is finished is never asked again.
        """
        new = without_repeats(page, position, self._spec.generation)
        unread = bool(new.records)
        if not page.next_iterator and not unread:
            self._scheduler.confirm_end(position.shard_id)
            return
        after = position.reopened
        if not unread:
            # It may be at its end all the same; the next page will say so.
            after = dataclasses.replace(after, iterator=page.next_iterator, polled_us=began_us)
        self._reopen(after, unread=unread)

    def _reopen(self, after: ShardPosition, *, unread: bool = False) -> None:
        refuted = self._scheduler.refute_end(after.shard_id, unread=unread)
        if refuted > self._pacing.retries:
            raise StreamError(
                f"GetRecords said {refuted} times that the shard is at its end, and it is not",
                where=f"shard {after.shard_id}, stream {self._spec.stream_arn}",
                hint="See what answers in the service's place: a proxy, an endpoint of your own",
            )
        if self.claim(Moved(self.frontier, self.frontier.with_shard(after))):
            self._scheduler.reopened(after)

    def _handle_end_error(self, response: Response, shard_id: str) -> None:
        error = response.error
        assert error is not None
        if classify(error) in (AwsErrorKind.TRIMMED, AwsErrorKind.GONE):
            self._scheduler.trust_end(shard_id)
        else:
            self._retry_page(shard_id, error)

    # Children.

    def _handle_children(self, response: Response, request: AskChildren) -> None:
        shard_id = request.shard_id
        position = self.frontier.shard(shard_id)
        if position is None or not position.ended:
            return
        found, error = response.value, response.error
        children: tuple[str, ...] = ()
        if isinstance(found, StreamDescription):
            self._scheduler.children_answered(shard_id)
            children = tuple(each.shard_id for each in found.shards)
        elif error is None or classify(error) is not AwsErrorKind.GONE:
            assert error is not None
            self._retry(shard_id, error, "DescribeStream")
            return
        if not children and not self._has_pending_child(shard_id):
            self._scheduler.no_children_yet(shard_id)
        elif self.claim(ChildrenFound(shard_id, children, self._clock.now_us())):
            self._scheduler.replaced(shard_id, self.frontier)

    def _has_pending_child(self, shard_id: str) -> bool:
        return any(parent == shard_id for _, parent in self.frontier.pending)

    # Listings.

    def _handle_listing(self, response: Response, request: ListShards) -> None:
        scheduler, found = self._scheduler, response.value
        if not isinstance(found, StreamDescription):
            self._handle_listing_error(response)
            return
        if not scheduler.listed(found, after=request.after, began_us=response.began_us):
            return
        self._adopt(complete=not found.next_after)
        if not found.next_after and not self.refused:
            self._settle(found.status)
            scheduler.listing_complete(self.frontier)
            self.over = self._is_over(found.status)

    def _adopt(self, *, complete: bool) -> None:
        listing = self._scheduler.listing
        after = adopt_listing(
            self.frontier,
            listing.shards,
            complete=complete,
            reader=self._spec.reader,
            readers=self._spec.readers,
            start=self._spec.starting_point(),
            began_us=listing.began_us,
        )
        if after == self.frontier:
            return
        replaced = {each.shard_id for each in self.frontier.ended}
        replaced -= {each.shard_id for each in after.ended}
        if self._move(after) and replaced:
            # As for children that were asked for: a sibling may be listed late.
            self._scheduler.want_listing()

    def _settle(self, status: str) -> None:
        """After a complete listing: shards that are gone, and ended ones that stay childless."""
        scheduler = self._scheduler
        listed = scheduler.listing.shard_ids
        for position in scheduler.missing(self.frontier.live):
            if position.shard_id in listed:
                error = StreamError("the service lists the shard but does not find it")
                self._count_failure(position.shard_id, error, "GetRecords")
            else:
                self._pass_vanished(position, listed)
        for position in scheduler.listed_open(self.frontier.ended):
            self._reopen(position.reopened)
        self._drop_childless(disabled=status == "DISABLED")

    def _drop_childless(self, *, disabled: bool) -> None:
        began_us = self._scheduler.listing.began_us
        after, aged = drop_childless(
            self.frontier,
            disabled=disabled,
            now_us=began_us,
            is_sure=self._scheduler.end_is_sure,
        )
        absent_us = self._scheduler.swept(began_us)
        if after == self.frontier:
            return
        if aged and absent_us > DAY_US:
            # No listing for a day: children may have come and gone.
            detail = "its children may have been trimmed: it was not listed for a day"
            self._pass_gap(GapKind.VANISHED, aged[0], detail, after)
        else:
            self.claim(Moved(self.frontier, after))

    def _is_over(self, status: str) -> bool:
        return status == "DISABLED" and not self.frontier.shards and not self.frontier.pending

    def _handle_listing_error(self, response: Response) -> None:
        error = response.error
        assert error is not None
        if classify(error) is not AwsErrorKind.GONE:
            self._retry(None, error, "DescribeStream")
            return
        if not self.frontier.swept_us:
            raise StreamError(
                f"there is no such stream: {error}",
                where=f"table {self._spec.table.name}, stream {self._spec.stream_arn}",
                hint="Give the ARN of the table's latest stream",
            ) from error
        emptied = dataclasses.replace(self.frontier, shards=(), pending=())
        if self.frontier.shards:
            self._pass_gap(GapKind.VANISHED, None, f"the stream is gone: {error}", emptied)
        self.over = True

    # Failures.

    def _retry(self, shard_id: str | None, error: Exception, action: str) -> None:
        """Lets a request about a shard, or a page of the listing (None), be sent again later.

        Raises:
            Exception: The error itself, unless it is one that passes, and too often for one that
                does.
        """
        kind = classify(error)
        if kind is AwsErrorKind.THROTTLED:
            self.claim(Polled(Counts(throttles=1)))
            throttles = self._scheduler.throttled(shard_id)
            if throttles > self._pacing.throttles:
                raise StreamError(
                    f"{action} was throttled {throttles} times in a row: {error}",
                    where=f"stream {self._spec.stream_arn}",
                    hint="Let fewer readers share the stream or the account's call rates",
                ) from error
        elif kind is AwsErrorKind.UNREACHABLE or isinstance(error, StreamError):
            self._count_failure(shard_id, error, action)
        else:
            raise error

    def _count_failure(self, shard_id: str | None, error: Exception, action: str) -> None:
        failures = self._scheduler.failed(shard_id)
        if failures > self._pacing.retries:
            raise StreamError(
                f"{action} failed {failures} times in a row: {error}",
                where=f"table {self._spec.table.name}, stream {self._spec.stream_arn}",
                hint="Check the network and the service's health, then run again",
            ) from error
