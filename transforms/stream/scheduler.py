# SPDX-License-Identifier: Apache-2.0
"""What a reader remembers between two calls of `process` without promising to.

Pacing, consecutive empty pages, failures, a listing half done and answers that came late: none of
it is part of the restriction. A reader that moves to another worker starts this memory afresh; that
costs a few requests and no record.
"""

from __future__ import annotations

import dataclasses
import heapq
import math

from dynabeam.transforms.aws.streams import ShardInfo
from dynabeam.transforms.stream.frontier import Counts
from dynabeam.transforms.stream.shard_requests import Requests

__all__ = ["Listing", "ReaderMemory", "ShardWork"]


@dataclasses.dataclass
class ShardWork:
    """How the work on one shard goes.

    Attributes:
        due: Monotonic time of the next request, seconds.
        running: A request is under way.
        empties: Consecutive empty pages.
        failures: Consecutive failures.
        throttles: Consecutive throttles.
        caught_up: Read up to the tip in this run.
        fresh: The stored iterator is not to be used.
        gone: When the service said that the shard does not exist, monotonic; None if it did not.
        asks: How often the children were asked for.
        behind: The last page held old records, or there was none yet.
        end: Where the shard was said to end: the last number read of it; None if it was not.
        ended: When that was, monotonic.
        sure: That end was confirmed by enough answers.
        confirmed: By how many so far.
        refuted: How often an end was refuted since the last record was read.
    """

    due: float = 0.0
    running: bool = False
    empties: int = 0
    failures: int = 0
    throttles: int = 0
    caught_up: bool = False
    fresh: bool = False
    gone: float | None = None
    asks: int = 0
    behind: bool = True
    end: str | None = None
    ended: float = 0.0
    sure: bool = False
    confirmed: int = 0
    refuted: int = 0


@dataclasses.dataclass
class Listing:
    """A listing of the stream that is being made, and when the next one is due.

    Attributes:
        due: Monotonic time of the next page, seconds.
        running: A page is under way.
        shards: What was listed so far.
        after: Where the next page begins.
        began: Monotonic time when the first page was asked for, None if none was.
        began_us: Wall clock at the same time, microseconds since 1970.
        failures: Consecutive failures.
        throttles: Consecutive throttles.
        wanted: A complete listing is wanted that begins later than this monotonic time.
        done: When the last complete listing of this run was begun, monotonic.
        enabling: Consecutive listings of a stream that is only being switched on.
        status: The stream's status in the last complete listing.
        starts: Starting sequence numbers of shards, as listed last.
        ends: Ending sequence numbers of closed shards, as listed last.
    """

    due: float = 0.0
    running: bool = False
    shards: list[ShardInfo] = dataclasses.field(default_factory=list)
    after: str = ""
    began: float | None = None
    began_us: int = 0
    failures: int = 0
    throttles: int = 0
    wanted: float = -math.inf
    done: float = -math.inf
    enabling: int = 0
    status: str = ""
    starts: dict[str, str] = dataclasses.field(default_factory=dict)
    ends: dict[str, str] = dataclasses.field(default_factory=dict)

    def restart(self, due: float) -> None:
        """Forgets what was listed; the next listing begins at `due`."""
        self.shards, self.after, self.began, self.due = [], "", None, due
        self.failures = self.throttles = 0


class ReaderMemory:
    """The memory of one reader of one stream.

    Args:
        requests: Its requests.
        last_swept_us: When the last complete listing was begun, 0 if none was.

    Attributes:
        unreported: What was read since the last report of a continuous run.
        reported: Monotonic time of that report.
        left: The counts of the restriction that the last call left; None before the first.
    """

    def __init__(self, requests: Requests, last_swept_us: int) -> None:
        self.last_swept_us = last_swept_us
        self.requests = requests
        self.listing = Listing()
        self.unreported = Counts()
        self.reported = -math.inf
        self.left: Counts | None = None
        self._work: dict[str, ShardWork] = {}
        self._due: list[tuple[float, str]] = []

    def work(self, shard_id: str) -> ShardWork:
        """The work on one shard; a shard that is new here is due at once."""
        if shard_id not in self._work:
            self._work[shard_id] = ShardWork()
            heapq.heappush(self._due, (0.0, shard_id))
        return self._work[shard_id]

    def schedule(self, shard_id: str, due: float) -> None:
        """Sets when a shard is asked next."""
        self.work(shard_id).due = due
        heapq.heappush(self._due, (due, shard_id))

    def forget(self, shard_id: str) -> None:
        """Drops the work on a shard that has left the frontier."""
        self._work.pop(shard_id, None)

    def next_due(self) -> float | None:
        """When the next shard is due, monotonic seconds; None if none is."""
        while self._due:
            due, shard_id = self._due[0]
            work = self._work.get(shard_id)
            if work is not None and not work.running and work.due == due:
                return due
            heapq.heappop(self._due)
        return None

    def take_due(self, now: float) -> str | None:
        """The id of a shard that is due; it is not offered again before it is scheduled."""
        due = self.next_due()
        if due is None or due > now:
            return None
        return heapq.heappop(self._due)[1]
