# SPDX-License-Identifier: Apache-2.0
"""How often a stream is polled, how long one slice of work is, and how much it may hold.

The reader paces itself, per shard and by its own monotonic clock, because runners differ in what
they make of a resume delay: the in-process runner ignores it, Flink keeps whole seconds of it.
"""

from __future__ import annotations

import dataclasses
import random

__all__ = ["Pacing"]


_SHORTEST_SLICE = 0.001
_WAITING_ELEMENTS = 4


@dataclasses.dataclass(frozen=True)
class Pacing:
    """Times in seconds, sizes in bytes. The service allows two readers a shard.

    Attributes:
        threads: Requests in flight at once.
        tip_empties: Consecutive empty pages that count as the tip: one proves nothing.
        tip_poll: Catch-up: between empty pages of one shard, so that idle shards cost little.
        poll: Continuous: between pages of a shard near the tip.
        idle_poll: Continuous: between pages of a shard that had many empty pages.
        requests: Continuous: requests a second that a worker process sends near the tip; each
            takes about a quarter of a millisecond of its CPU.
        listings: Continuous: listings a second that a worker process begins: the account has ten.
        slice: Continuous: length of one `process` while it lags.
        tip_slice: Continuous: its length at the tip; latency is about two of these on Flink.
        idle_delay: Continuous: resume delay while every shard is idle; 2 or more, as runners take
            elapsed time off and Flink keeps whole seconds.
        report: Continuous: between two reports of a reader that reads.
        idle_report: The same for one that does not.
        slice_bytes: Continuous: pages after which a slice ends.
        block_bytes: Rows of one shard that are gathered before they leave as blocks.
        memory_bytes: Pages that are in flight or gathered.
        page_bytes: What a page that is in flight counts for.
        sweep: Between complete listings of the stream.
        bare_sweep: The same for a reader without shards, whose watermark is that of its listing.
        quick_sweep: The same while a parent was replaced in the last `sweep`: a sibling of the
            children may be listed late.
        sweep_page: Between two pages of a listing: the account has 10 such calls a second.
        end_asks: How often the end of a shard is requested again before it is believed, unless the
            last record has the shard's ending number.
        child_asks: How often the children of an ended shard are requested.
        child_backoff: Before the second ask; doubles, up to a second.
        retries: Consecutive failures of one kind of request that are tolerated.
        throttles: Consecutive throttles that are tolerated.
        backoff: After the first failure; doubles, up to `max_backoff`, with jitter.
        max_backoff: See `backoff`.
    """

    threads: int = 16
    tip_empties: int = 3
    tip_poll: float = 0.03
    poll: float = 0.25
    idle_poll: float = 1.0
    requests: float = 600.0
    listings: float = 2.0
    slice: float = 5.0
    tip_slice: float = 0.25
    idle_delay: int = 2
    report: float = 5.0
    idle_report: float = 60.0
    slice_bytes: int = 64 << 20
    block_bytes: int = 4 << 20
    memory_bytes: int = 128 << 20
    page_bytes: int = 4 << 20
    sweep: float = 60.0
    bare_sweep: float = 10.0
    quick_sweep: float = 1.0
    sweep_page: float = 0.15
    end_asks: int = 3
    child_asks: int = 5
    child_backoff: float = 0.1
    retries: int = 8
    throttles: int = 100
    backoff: float = 0.1
    max_backoff: float = 5.0

    def shared(self, readers: int, shards: int, elements: float = 0.0) -> Pacing:
        """The pacing of one of several readers that share one worker.

        A record waits for a slice of every other reader, so the more there are, the shorter each;
        requests go on in between. And a worker sends so many requests a second and no more, so the
        more shards there are, the longer each waits for its next.

        Args:
            readers: Readers in this process.
            shards: Open shards of all of them.
            elements: In how many calls of `process` they all have their slices, as readers may
                share one; 0 if each has its own.
        """
        poll = max(self.poll, shards / self.requests)
        paced = dataclasses.replace(
            self,
            poll=poll,
            idle_poll=max(self.idle_poll, poll),
            sweep=max(self.sweep, readers / self.listings),
            bare_sweep=max(self.bare_sweep, readers / self.listings),
            quick_sweep=max(self.quick_sweep, readers / self.listings),
        )
        if readers <= 1:
            return paced
        # Of many slices each hardly waits for responses: these come in between, while others have
        # theirs and the runner ends its bundles, a tenth of a second each on Flink.
        tip_slice = self.tip_slice / readers * min(1.0, _WAITING_ELEMENTS / (elements or readers))
        return dataclasses.replace(
            paced,
            slice=max(self.slice / readers, min(self.slice, self.tip_slice)),
            tip_slice=max(tip_slice, min(self.tip_slice, _SHORTEST_SLICE)),
        )

    def after_failures(self, failures: int) -> float:
        """How long to wait after so many consecutive failures: exponential, with full jitter."""
        longest = min(self.max_backoff, self.backoff * 2 ** min(failures, 16))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret

    def after_ask(self, asks: int) -> float:
        """How long to wait before the next ask for the children of a shard."""
        return min(1.0, self.child_backoff * 2.0 ** max(0, asks - 1))

    def after_empty(self, empties: int) -> float:
        """Continuous: how long to wait after so many consecutive empty pages."""
        return min(self.idle_poll, self.poll * 2.0 ** min(max(0, empties - 1), 16))
