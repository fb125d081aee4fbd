# SPDX-License-Identifier: Apache-2.0
"""One call of `process`: many shards through one bounded pool, until it is time to hand over.

Requests run side by side; claims and output happen here, on the calling thread, one answer at a
time: claim, gather, and at the latest at the end of the call emit. What is under way when the call
ends is not waited for: its answer is kept for the next call, or dropped with the worker.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.stream.frontier import Counts, Frontier
from dynabeam.transforms.stream.pacing import Clock, Pacing
from dynabeam.transforms.stream.progress import SeenReader
from dynabeam.transforms.stream.responses import IDLE_MARGIN_US, Steps
from dynabeam.transforms.stream.scheduler import ReaderMemory
from dynabeam.transforms.stream.shard_requests import AskChildren, ListShards, ReadPage
from dynabeam.transforms.stream.source import StreamSource
from dynabeam.transforms.stream.tracker import Closed, Polled

__all__ = ["Output", "SliceReader"]

Output = Block | Report | DeadLetter

_SWEEP_MARGIN_US = IDLE_MARGIN_US
_LONGEST_WAIT = 1.0
_IDLE_EMPTIES = 8
_BEHIND_NAMED = 20


class SliceReader:
    """Reads until the tip (catch-up) or for one slice (continuous).

    Args:
        source: The reader.
        tracker: Beam's view of the restriction tracker.
        memory: The reader's memory.
        pacing: Limits and times.
        clock: The clocks.
        bounded: True in catch-up mode.
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
        self._steps = Steps(source, tracker, memory, pacing, clock, bounded=bounded)
        self._began = clock.monotonic()
        self._counts_before = self._steps.frontier.counts

    def read(self) -> Iterator[Output]:
        """Reads, and yields blocks, dead letters and reports; at the end nothing is held back.

        Raises:
            GapError: If changes are lost and the table's policy is to stop.
            StreamError: If the service fails too often, or answers what may not be passed over.
            AwsAccessError: If a right is missing.
            CredentialsError: If the credentials are not accepted.
        """
        steps = self._steps
        if not steps.claim(Polled()):
            return
        steps.follow_shards()
        while not self._is_finished():
            self._send_due()
            answer = self._memory.requests.next_answer(self._wait())
            if answer is not None:
                steps.take(answer)
            yield from self._ready()
        yield from steps.gathered.take_all()
        yield from self._notes()
        yield from self._finish()

    @property
    def frontier(self) -> Frontier:
        """The frontier behind everything that is claimed."""
        return self._steps.frontier

    def watermark_us(self) -> int:
        """No record that is still to come is older, microseconds since 1970; 0 if unknown."""
        frontier = self._steps.frontier
        if frontier.shards:
            return min(each.low_us for each in frontier.shards)
        return max(0, frontier.swept_us - _SWEEP_MARGIN_US)

    def resume_delay(self) -> int:
        """Seconds after which to go on: 0, or 2 and more while every shard is idle."""
        live = self._steps.frontier.live
        idle = all(self._memory.work(each.shard_id).empties >= _IDLE_EMPTIES for each in live)
        return self._pacing.idle_delay if idle else 0

    def seen(self) -> SeenReader:
        """Where the reader is, for the figures; costs next to nothing."""
        source, frontier = self._source, self._steps.frontier
        behind = len(self._behind())
        return SeenReader(
            table=source.table.name,
            stream_arn=source.stream_arn,
            reader=source.reader,
            readers=source.readers,
            frontier=frontier,
            behind=behind,
            caught_up=not behind,
            newest_us=frontier.counts.newest_event_us,
            seen_us=self._clock.now_us(),
            generation=source.generation,
        )

    # Sending.

    def _send_due(self) -> None:
        now = self._clock.monotonic()
        requests = self._memory.requests
        if self._listing_is_due(now) and requests.running < self._pacing.threads:
            listing = self._memory.listing
            listing.running = True
            listing.began = now if listing.began is None else listing.began
            requests.begin(ListShards(self._memory.listing.after))
        while self._has_room():
            shard_id = self._memory.take_due(now)
            if shard_id is None:
                return
            self._send(shard_id)

    def _send(self, shard_id: str) -> None:
        position = self._steps.frontier.shard(shard_id)
        if position is None:
            self._memory.forget(shard_id)
            return
        work = self._memory.work(shard_id)
        if position.ended and not work.sure:
            work.running = True
            self._memory.requests.begin(ReadPage(position, fresh=True))
            return
        if position.ended:
            if work.asks < self._pacing.child_asks:
                work.running = True
                self._memory.requests.begin(AskChildren(shard_id))
            return
        if work.gone is not None or (self._bounded and work.caught_up):
            return
        start = self._steps.proof(position)
        position = self._steps.frontier.shard(shard_id)
        if position is not None and start is not None and not self._steps.refused:
            work.running = True
            fresh = work.fresh or bool(start)
            self._memory.requests.begin(ReadPage(position, fresh=fresh, start=start))

    def _has_room(self) -> bool:
        requests, pacing = self._memory.requests, self._pacing
        held = (requests.reading + 1) * pacing.page_bytes + self._steps.gathered.bytes
        roomy = held <= pacing.memory_bytes or requests.reading == 0
        return roomy and requests.running < pacing.threads

    def _listing_is_due(self, now: float) -> bool:
        listing = self._memory.listing
        return not listing.running and listing.due <= now and self._listing_is_wanted()

    def _listing_is_wanted(self) -> bool:
        """A listing is to be begun or to be gone on with."""
        listing = self._memory.listing
        if listing.began is not None or -math.inf < listing.wanted >= listing.done:
            return True
        frontier = self._steps.frontier
        if not frontier.swept_us:
            return not (self._bounded and self._gave_up_enabling())
        if self._bounded and listing.done > -math.inf:
            return False
        # Only a listing that is old by the wall clock: a run that lasts need not list for ever.
        age = (self._clock.now_us() - frontier.swept_us) / 1e6
        return age >= self._sweep_interval(frontier)

    def _sweep_interval(self, frontier: Frontier) -> float:
        recent_us = self._clock.now_us() - int(self._pacing.sweep * 1e6)
        if any(finished_us > recent_us for _, finished_us in frontier.finished):
            return self._pacing.quick_sweep
        return self._pacing.sweep if frontier.shards else self._pacing.bare_sweep

    def _gave_up_enabling(self) -> bool:
        return self._memory.listing.enabling >= self._pacing.child_asks

    # Waiting and ending.

    def _wait(self) -> float:
        now = self._clock.monotonic()
        until = now + _LONGEST_WAIT
        if not self._bounded:
            quick = self._began + self._pacing.tip_slice
            until = min(until, self._began + self._pacing.slice, quick if quick > now else until)
        listing = self._memory.listing
        if not listing.running and self._listing_is_wanted():
            until = min(until, max(listing.due, now))
        due = self._memory.next_due()
        if due is not None and self._has_room():
            until = min(until, due)
        return until - now

    def _is_finished(self) -> bool:
        steps = self._steps
        if steps.refused or steps.over:
            return True
        if self._bounded:
            return self._has_read_enough() or self._is_at_tip()
        elapsed = self._clock.monotonic() - self._began
        read = self._steps.frontier.counts.bytes - self._counts_before.bytes
        if elapsed >= self._pacing.slice or read >= self._pacing.slice_bytes:
            return True
        if elapsed < self._pacing.tip_slice or self._is_behind():
            return False
        # What is answered already does not wait for the next turn, which may be far away.
        return not self._memory.requests.answered

    def _has_read_enough(self) -> bool:
        return 0 < self._source.max_bytes <= self._steps.frontier.counts.bytes

    def _is_behind(self) -> bool:
        live = self._steps.frontier.live
        return any(self._memory.work(each.shard_id).behind for each in live)

    def _behind(self) -> list[str]:
        live = self._steps.frontier.live
        return [each.shard_id for each in live if self._memory.work(each.shard_id).behind]

    def _is_at_tip(self) -> bool:
        """Every shard is read up to the tip, or ended with nothing found behind it."""
        listing = self._memory.listing
        for each in self._steps.frontier.shards:
            work = self._memory.work(each.shard_id)
            if each.ended:
                if work.asks < self._pacing.child_asks:
                    return False
            elif not work.caught_up:
                return False
        return not listing.running and not self._listing_is_wanted()

    def _read(self) -> Counts:
        return self._steps.frontier.counts.since(self._counts_before)

    # Output.

    def _ready(self) -> Iterator[Output]:
        yield from self._steps.gathered.take_full()
        yield from self._notes()

    def _notes(self) -> Iterator[Output]:
        while self._steps.notes:
            yield self._steps.notes.pop(0)

    def _finish(self) -> Iterator[Report]:
        steps = self._steps
        if self._bounded:
            caught_up = steps.over or (self._is_at_tip() and not self._has_read_enough())
            caught_up = caught_up and steps.frontier.swept_us > 0
            if steps.claim(Closed()):
                yield self._report(steps.frontier.counts, caught_up=caught_up)
            return
        memory, now = self._memory, self._clock.monotonic()
        memory.unreported = memory.unreported.plus(self._read())
        quiet = now - memory.reported
        if (
            steps.over
            or quiet >= self._pacing.idle_report
            or (memory.unreported.pages and quiet >= self._pacing.report)
        ):
            yield self._report(memory.unreported, caught_up=not self._is_behind())
            memory.unreported, memory.reported = Counts(), now
        if steps.over:
            steps.claim(Closed())

    def _report(self, counts: Counts, *, caught_up: bool) -> Report:
        source = self._source
        frontier = dataclasses.replace(self._steps.frontier, closed=False, counts=Counts())
        behind = self._behind()
        fields: dict[str, Any] = {
            "reader": source.reader,
            "readers": source.readers,
            "stream_arn": source.stream_arn,
            "generation": source.generation,
            "frontier": frontier.to_json(),
            "caught_up": caught_up,
            "over": self._steps.over,
            "shards": len(frontier.shards),
            "at_us": self._clock.now_us(),
            "behind": len(behind),
            "behind_shards": behind[:_BEHIND_NAMED],
            **dataclasses.asdict(counts),
        }
        return Report("stream", source.table.name, fields)
