# SPDX-License-Identifier: Apache-2.0
"""Listings of a stream's shards: a reader's, which goes on beside its polls, and a whole one.

`ShardListing` is a reader's: it says when a listing is due and holds one that is half done.
`list_shards` is for whoever asks once and has no reader. The account has ten DescribeStream calls a
second for all its readers, so a single call is throttled easily. As a reader does, whoever asks
there waits and asks again, within the same bounds.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import TypeVar

from dynabeam.transforms.aws.errors import AwsErrorKind, classify
from dynabeam.transforms.aws.streams import ShardInfo, StreamDescription, StreamsClient
from dynabeam.transforms.errors import StreamError
from dynabeam.transforms.stream.frontier import Frontier, ShardPosition
from dynabeam.transforms.stream.pacing import Pacing

__all__ = ["ListedShards", "ShardListing", "call_with_retries", "list_shards"]

_PACING = Pacing()

Result = TypeVar("Result")


@dataclasses.dataclass
class ShardListing:
    """A listing of the stream that is being made, and when the next one is due.

    It belongs to a reader's `ShardScheduler`, which alone calls what changes it.

    Attributes:
        due: Monotonic time of the next page, seconds.
        in_flight: A page is in flight.
        shards: What was listed so far.
        after: Where the next page begins.
        began: Monotonic time when the first page was requested, None if none was.
        began_us: Wall clock at the same time, microseconds since 1970.
        failures: Consecutive failures.
        throttles: Consecutive throttles.
        wanted: A complete listing is wanted that begins later than this monotonic time.
        done: When the last complete listing of this run was begun, monotonic.
        enabling: Consecutive listings of a stream that is only being switched on.
        starts: Starting sequence numbers of shards, as listed last.
        ends: Ending sequence numbers of closed shards, as listed last.
    """

    due: float = 0.0
    in_flight: bool = False
    shards: list[ShardInfo] = dataclasses.field(default_factory=list)
    after: str = ""
    began: float | None = None
    began_us: int = 0
    failures: int = 0
    throttles: int = 0
    wanted: float = -math.inf
    done: float = -math.inf
    enabling: int = 0
    starts: dict[str, str] = dataclasses.field(default_factory=dict)
    ends: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def shard_ids(self) -> set[str]:
        """The ids of what was listed so far."""
        return {each.shard_id for each in self.shards}

    @property
    def open_ids(self) -> set[str]:
        """Those of shards that are open: neither closed nor anybody's parent."""
        are_open = {each.shard_id for each in self.shards if not each.closed}
        return are_open - {each.parent_id for each in self.shards}

    def is_wanted(self, frontier: Frontier, pacing: Pacing, *, now_us: int, bounded: bool) -> bool:
        """True if a listing is to be begun or continued.

        Args:
            frontier: The position of the reader.
            pacing: Limits and times.
            now_us: Wall clock, microseconds since 1970.
            bounded: True in catch-up mode.
        """
        if self.began is not None or -math.inf < self.wanted >= self.done:
            return True
        if not frontier.swept_us:
            return not (bounded and self.enabling >= pacing.child_asks)
        if bounded and self.done > -math.inf:
            return False
        # Only a listing that is old by the wall clock: a run that lasts need not list for ever.
        age_us = now_us - frontier.swept_us
        return age_us / 1e6 >= _sweep_interval(frontier, pacing, now_us)

    def begin(self, now: float) -> str:
        """Marks a page as in flight; returns where it begins."""
        self.in_flight = True
        if self.began is None:
            self.began = now
        return self.after

    def add(
        self, page: StreamDescription, pacing: Pacing, *, after: str, now: float, began_us: int
    ) -> bool:
        """Adds a page.

        Args:
            page: The page.
            pacing: Limits and times.
            after: Where the page begins; empty for the first.
            now: Monotonic time, seconds.
            began_us: When the page was requested, microseconds since 1970.

        Returns:
            False if the stream is only being switched on: this is not a listing yet, the first
            shards are still to come.
        """
        self.failures = self.throttles = 0
        if not after:
            self.shards, self.began_us = [], began_us
        self.shards.extend(page.shards)
        self.starts.update((each.shard_id, each.start) for each in page.shards if each.start)
        self.ends.update((each.shard_id, each.end) for each in page.shards if each.end)
        self.after = page.next_after
        self.due = now + pacing.sweep_page
        if page.status == "ENABLING" and not self.shards and not page.next_after:
            self.enabling += 1
            self._restart(now + pacing.after_ask(self.enabling))
            return False
        return True

    def complete(self, frontier: Frontier, pacing: Pacing, now: float) -> None:
        """Ends a complete listing that the frontier has adopted, and drops what it lacks.

        Args:
            frontier: The frontier after it.
            pacing: Limits and times.
            now: Monotonic time, seconds.
        """
        listed = self.shard_ids
        for numbers in (self.starts, self.ends):
            for shard_id in numbers.keys() - listed:
                del numbers[shard_id]
        self.done = now if self.began is None else self.began
        undecided = frontier.swept_us < self.began_us
        self._restart(now + pacing.after_ask(1) if undecided else now)
        if undecided:
            # A parent is listed late; neither it nor its child is anybody's so far.
            self.wanted = now

    def is_at_end(self, position: ShardPosition) -> bool:
        """True if what was read of a shard reaches the ending number that is listed."""
        end = self.ends.get(position.shard_id, "")
        return bool(end and position.sequence) and int(position.sequence) >= int(end)

    def _restart(self, due: float) -> None:
        """Forgets what was listed; the next listing begins at `due`."""
        self.shards, self.after, self.began, self.due = [], "", None, due
        self.failures = self.throttles = 0


def _sweep_interval(frontier: Frontier, pacing: Pacing, now_us: int) -> float:
    recent_us = now_us - int(pacing.sweep * 1e6)
    if any(finished_us > recent_us for _, finished_us in frontier.finished):
        return pacing.quick_sweep
    return pacing.sweep if frontier.shards else pacing.bare_sweep


@dataclasses.dataclass(frozen=True)
class ListedShards:
    """What a listing showed.

    Attributes:
        status: The stream's status, e.g. `ENABLED`.
        shards: Its shards, closed ones too.
        created_us: When the stream was switched on, microseconds since 1970, 0 if not known.
    """

    status: str
    shards: tuple[ShardInfo, ...]
    created_us: int

    @property
    def open(self) -> tuple[ShardInfo, ...]:
        """The shards that get new records."""
        return tuple(each for each in self.shards if not each.closed)


def list_shards(
    client: StreamsClient,
    stream_arn: str,
    *,
    most_open: int = 0,
    pacing: Pacing = _PACING,
    sleep: Callable[[float], None] = time.sleep,
) -> ListedShards:
    """Lists the shards of a stream, page by page; throttled and unanswered calls are repeated.

    Args:
        client: The streams client.
        stream_arn: The stream.
        most_open: Stop after so many open shards; 0 for the whole listing.
        pacing: How often and after which pauses a call is repeated.
        sleep: Waits so many seconds.

    Raises:
        StreamError: The service did not respond, or throttled, too often in a row.
        AwsAccessError: If `dynamodb:DescribeStream` is not allowed.
        CredentialsError: If the credentials are not accepted.
    """
    shards: list[ShardInfo] = []
    after, created_us = "", 0
    while True:
        page = call_with_retries(
            lambda after=after: client.describe(stream_arn, after=after),  # type: ignore[misc]
            "DescribeStream",
            f"stream {stream_arn}",
            pacing=pacing,
            sleep=sleep,
        )
        shards += page.shards
        created_us = page.created_us or created_us
        after = page.next_after
        enough = 0 < most_open <= sum(not each.closed for each in shards)
        if not after or enough:
            return ListedShards(page.status, tuple(shards), created_us)


def call_with_retries(
    call: Callable[[], Result],
    action: str,
    where: str,
    *,
    pacing: Pacing = _PACING,
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """Makes a call of the streams client, again while it is throttled or not answered.

    Args:
        call: The call.
        action: Its name, for the text of an error.
        where: What it is about, for the same.
        pacing: How often and after which pauses a call is repeated.
        sleep: Waits so many seconds.

    Raises:
        StreamError: It failed too often in a row.
        Exception: Whatever else the call raises.
    """
    throttles = failures = 0
    while True:
        try:
            return call()
        except Exception as error:
            kind = classify(error)
            if kind is AwsErrorKind.THROTTLED:
                throttles += 1
            elif kind is AwsErrorKind.UNREACHABLE or type(error) is StreamError:
                failures += 1
            else:
                raise
            if throttles > pacing.throttles or failures > pacing.retries:
                raise StreamError(
                    f"{action} failed {throttles + failures} times in a row: {error}",
                    where=where,
                    hint="Let fewer readers share the account's call rates, or check the network "
                    "and the service's health; then run again",
                ) from error
            sleep(pacing.after_failures(throttles or failures))
