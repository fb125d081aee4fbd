# SPDX-License-Identifier: Apache-2.0
"""One call of `process`: many shards through one bounded pool, until it is time to hand over.

Requests run side by side; claims and output happen here, on the calling thread, one response at a
time: claim, gather, and at the latest at the end of the call emit. What is in flight when the call
ends is not waited for: its response is kept for the next call, or dropped with the worker.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.runtime.clock import Clock
from dynabeam.transforms.stream.frontier import Counts, Frontier
from dynabeam.transforms.stream.pacing import Pacing
from dynabeam.transforms.stream.progress import SeenReader
from dynabeam.transforms.stream.reader_spec import ReaderSpec
from dynabeam.transforms.stream.responses import IDLE_MARGIN_US, ResponseHandler
from dynabeam.transforms.stream.scheduler import ShardScheduler
from dynabeam.transforms.stream.tracker import Closed, Polled

__all__ = ["Output", "SliceReader"]

Output = Block | Report | DeadLetter

_SWEEP_MARGIN_US = IDLE_MARGIN_US
_LAGGING_NAMED = 20


class SliceReader:
    """Reads until the tip (catch-up) or for one slice (continuous).

    Args:
        spec: The reader.
        tracker: Beam's view of the restriction tracker.
        scheduler: What is due for the reader.
        pacing: Limits and times.
        clock: The clocks.
        bounded: True in catch-up mode.
    """

    def __init__(
        self,
        spec: ReaderSpec,
        tracker: Any,
        scheduler: ShardScheduler,
        pacing: Pacing,
        clock: Clock,
        *,
        bounded: bool,
    ) -> None:
        self._spec = spec
        self._scheduler = scheduler
        self._pacing = pacing
        self._clock = clock
        self._bounded = bounded
        scheduler.pace(pacing, clock, bounded=bounded)
        self._responses = ResponseHandler(spec, tracker, scheduler, pacing, clock)
        self._began = clock.monotonic()
        self._counts_before = self.frontier.counts

    def read(self) -> Iterator[Output]:
        """Reads, and yields blocks, dead letters and reports; at the end nothing is held back.

        Raises:
            GapError: If changes are lost and the table's policy is to stop.
            StreamError: If the service fails too often, or responds what may not be passed over.
            AwsAccessError: If a permission is missing.
            CredentialsError: If the credentials are not accepted.
        """
        responses = self._responses
        if not responses.claim(Polled()):
            return
        self._scheduler.follow(self.frontier)
        while not self._is_finished():
            self._send_due()
            response = self._scheduler.requests.next_response(self._wait())
            if response is not None:
                responses.handle(response)
            yield from responses.blocks.flush_full()
            yield from responses.take_notes()
        yield from responses.blocks.flush()
        yield from responses.take_notes()
        yield from self._finish()

    @property
    def frontier(self) -> Frontier:
        """The frontier after everything that is claimed."""
        return self._responses.frontier

    def watermark_us(self) -> int:
        """No record that is still to come is older, microseconds since 1970; 0 if unknown."""
        if self.frontier.shards:
            return min(each.low_us for each in self.frontier.shards)
        return max(0, self.frontier.swept_us - _SWEEP_MARGIN_US)

    def resume_delay(self) -> int:
        """Seconds after which to go on: 0, or 2 and more while every shard is idle."""
        return self._pacing.idle_delay if self._scheduler.is_idle(self.frontier) else 0

    def seen(self) -> SeenReader:
        """Where the reader is, for the metrics; costs next to nothing."""
        spec, frontier = self._spec, self.frontier
        behind = sum(1 for _ in self._scheduler.lagging(frontier))
        return SeenReader(
            table=spec.table.name,
            stream_arn=spec.stream_arn,
            reader=spec.reader,
            readers=spec.readers,
            frontier=frontier,
            behind=behind,
            caught_up=not behind,
            newest_us=frontier.counts.newest_event_us,
            seen_us=self._clock.now_us(),
            generation=spec.generation,
        )

    # Sending and waiting.

    def _send_due(self) -> None:
        scheduler, now = self._scheduler, self._clock.monotonic()
        if scheduler.listing_is_due(self.frontier):
            scheduler.begin_listing()
        while scheduler.has_room(self._responses.blocks.bytes):
            shard_id = scheduler.take_due(now)
            if shard_id is None:
                return
            self._responses.begin_next(shard_id)

    def _wait(self) -> float:
        seconds = self._scheduler.seconds_until_due(self.frontier, self._responses.blocks.bytes)
        if self._bounded:
            return seconds
        elapsed = self._clock.monotonic() - self._began
        at_tip = self._pacing.tip_slice - elapsed
        return min(seconds, self._pacing.slice - elapsed, at_tip if at_tip > 0 else seconds)

    # Ending.

    def _is_finished(self) -> bool:
        responses = self._responses
        if responses.refused or responses.over:
            return True
        if self._bounded:
            return self._has_read_enough() or self._scheduler.is_at_tip(self.frontier)
        elapsed = self._clock.monotonic() - self._began
        read = self.frontier.counts.bytes - self._counts_before.bytes
        if elapsed >= self._pacing.slice or read >= self._pacing.slice_bytes:
            return True
        if elapsed < self._pacing.tip_slice or self._lags():
            return False
        # What is there already does not wait for the next slice, which may be far away.
        return not self._scheduler.requests.has_response

    def _has_read_enough(self) -> bool:
        return 0 < self._spec.max_bytes <= self.frontier.counts.bytes

    def _lags(self) -> bool:
        return any(True for _ in self._scheduler.lagging(self.frontier))

    def _finish(self) -> Iterator[Report]:
        responses = self._responses
        if self._bounded:
            at_tip = self._scheduler.is_at_tip(self.frontier) and not self._has_read_enough()
            caught_up = (responses.over or at_tip) and self.frontier.swept_us > 0
            if responses.claim(Closed()):
                yield self._report(self.frontier.counts, caught_up=caught_up)
            return
        read = self.frontier.counts.since(self._counts_before)
        counts = self._scheduler.take_report(read, over=responses.over)
        if counts is not None:
            yield self._report(counts, caught_up=not self._lags())
        if responses.over:
            responses.claim(Closed())

    def _report(self, counts: Counts, *, caught_up: bool) -> Report:
        spec = self._spec
        frontier = dataclasses.replace(self.frontier, closed=False, counts=Counts())
        lagging = list(self._scheduler.lagging(frontier))
        fields: dict[str, Any] = {
            "reader": spec.reader,
            "readers": spec.readers,
            "stream_arn": spec.stream_arn,
            "generation": spec.generation,
            "frontier": frontier.to_json(),
            "caught_up": caught_up,
            "over": self._responses.over,
            "shards": len(frontier.shards),
            "at_us": self._clock.now_us(),
            "behind": len(lagging),
            "behind_shards": lagging[:_LAGGING_NAMED],
            **dataclasses.asdict(counts),
        }
        return Report("stream", spec.table.name, fields)
