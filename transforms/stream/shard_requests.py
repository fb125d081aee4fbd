# SPDX-License-Identifier: Apache-2.0
"""Requests of one reader: carried out on other threads, their responses taken on the calling one.

The next page of a shard that is read already (nearly all requests near the tip) is requested on one
thread for all readers of the process; everything else on a pool of threads.

A request knows the position from which it was made. Its response counts only if the frontier is
still there: a response that comes after a restart, or twice, is dropped without harm, because
nothing is claimed before it is taken.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
from collections.abc import Callable
from concurrent.futures import Executor

from dynabeam.transforms.aws.streams import StreamDescription, StreamsClient
from dynabeam.transforms.runtime.clock import Clock
from dynabeam.transforms.stream.frontier import ShardPosition
from dynabeam.transforms.stream.page_parser import Page, PageParser

__all__ = ["AskChildren", "ListShards", "ReadPage", "Request", "RequestPool", "Response"]

_ITERATOR_LIFE_US = 14 * 60 * 1_000_000
_FUTURE_SLACK_US = 1_000_000
_SMALL_PAGE = 1 << 15


@dataclasses.dataclass(frozen=True)
class ReadPage:
    """One page of a shard.

    Attributes:
        position: From where.
        fresh: A new iterator is to be used though the position holds one.
        start: From this sequence number on, whatever the position says; empty for the position.
    """

    position: ShardPosition
    fresh: bool = False
    start: str = ""

    @property
    def shard_id(self) -> str:
        """The shard."""
        return self.position.shard_id


@dataclasses.dataclass(frozen=True)
class AskChildren:
    """The children of a shard that was read to its end."""

    shard_id: str


@dataclasses.dataclass(frozen=True)
class ListShards:
    """One page of the listing of the stream."""

    after: str


Request = ReadPage | AskChildren | ListShards


@dataclasses.dataclass(frozen=True)
class Response:
    """What became of a request.

    Attributes:
        request: The request.
        value: The page or the description; None if it failed.
        error: Why it failed.
        began_us: Wall clock when it was begun, microseconds since 1970.
        continued: A page that was read with the iterator that the page before gave: it begins after
            that page and repeats nothing.
    """

    request: Request
    value: Page | StreamDescription | None
    error: Exception | None
    began_us: int
    continued: bool = False


class RequestPool:
    """Requests that are in flight for one reader of one stream.

    Args:
        stream_arn: The stream.
        client: Its client.
        parser: Parses its pages, on the threads.
        clock: The clocks.
        pool: The threads.
    """

    def __init__(
        self,
        stream_arn: str,
        client: StreamsClient,
        parser: PageParser,
        clock: Clock,
        pool: Executor,
    ) -> None:
        self._pool = pool
        self._stream_arn = stream_arn
        self._client = client
        self._parser = parser
        self._clock = clock
        self._responses: queue.SimpleQueue[Response] = queue.SimpleQueue()
        self.in_flight = 0
        self.pages_in_flight = 0

    def begin(self, request: Request) -> None:
        """Sends a request off."""
        self.count(request)
        self.send(request)

    def count(self, request: Request) -> None:
        """Counts a request that is about to be sent; on the calling thread, as responses are."""
        self.in_flight += 1
        self.pages_in_flight += isinstance(request, ReadPage)

    def send(self, request: Request) -> None:
        """Sends a request that is counted; from any thread."""
        if not (isinstance(request, ReadPage) and self._begin_page(request)):
            self._pool.submit(self._carry_out, request)

    @property
    def has_response(self) -> bool:
        """True if a response is there to be taken."""
        return not self._responses.empty()

    def next_response(self, seconds: float) -> Response | None:
        """Waits for a response; None if none came in time."""
        try:
            response = self._responses.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None
        self.in_flight -= 1
        self.pages_in_flight -= isinstance(response.request, ReadPage)
        return response

    def _begin_page(self, request: ReadPage) -> bool:
        """Asks for a page without a thread of its own, if its iterator and the client allow it."""
        began_us = self._clock.now_us()
        iterator = _iterator_to_continue(request, began_us)
        if not iterator:
            return False

        def taken(found: bytes | Exception | None) -> None:
            if isinstance(found, Exception):
                self._responses.put(Response(request, None, found, began_us))
            elif found is None:
                self._on_pool(self._carry_out, request)
            elif len(found) > _SMALL_PAGE:
                self._on_pool(self._parse, request, found, began_us)
            else:
                self._parse(request, found, began_us)

        try:
            return self._client.begin_records(self._stream_arn, iterator, taken)
        except Exception as error:  # noqa: BLE001 - handed to the calling thread, which raises it
            # The thread that sends does so for all readers.
            self._responses.put(Response(request, None, error, began_us))
            return True

    def _on_pool(self, work: Callable[..., None], *arguments: object) -> None:
        # A pool that is closed takes nothing: the job is over, nobody waits.
        with contextlib.suppress(RuntimeError):
            self._pool.submit(work, *arguments)

    def _parse(self, request: ReadPage, body: bytes, began_us: int) -> None:
        self._respond(request, began_us, lambda: self._parser.parse(body, request.shard_id))

    def _carry_out(self, request: Request) -> None:
        began_us = self._clock.now_us()
        self._respond(request, began_us, lambda: self._ask(request, began_us))

    def _respond(
        self, request: Request, began_us: int, work: Callable[[], Page | StreamDescription]
    ) -> None:
        continued = isinstance(request, ReadPage) and bool(_iterator_to_continue(request, began_us))
        offset_us = self._clock.offset_us()
        try:
            value = work()
            # This process's first response may have set the clock.
            began_us += self._clock.offset_us() - offset_us
            response = Response(request, value, None, began_us, continued)
        except Exception as error:  # noqa: BLE001 - handed to the calling thread, which raises it
            response = Response(request, None, error, began_us)
        self._responses.put(response)

    def _ask(self, request: Request, began_us: int) -> Page | StreamDescription:
        if isinstance(request, ListShards):
            return self._client.describe(self._stream_arn, after=request.after)
        if isinstance(request, AskChildren):
            return self._client.describe(self._stream_arn, children_of=request.shard_id)
        position = request.position
        iterator = _iterator_to_continue(request, began_us)
        if not iterator and request.start:
            iterator = self._client.shard_iterator(
                self._stream_arn, position.shard_id, at=request.start
            )
        iterator = iterator or self._iterator(position, began_us)
        body = self._client.get_records(self._stream_arn, iterator)
        return self._parser.parse(body, position.shard_id)

    def _iterator(self, position: ShardPosition, now_us: int) -> str:
        if position.ended:
            position = position.reopened
        if position.kind == "after":
            return self._client.shard_iterator(
                self._stream_arn, position.shard_id, after=position.sequence
            )
        # The service refuses a time in the future; clocks differ a little.
        at_us = min(position.at_us, now_us - _FUTURE_SLACK_US)
        return self._client.shard_iterator(
            self._stream_arn,
            position.shard_id,
            at_us=at_us if position.kind == "at_timestamp" else 0,
        )


def _iterator_to_continue(request: ReadPage, now_us: int) -> str:
    return "" if request.fresh else usable_iterator(request.position, now_us)


def usable_iterator(position: ShardPosition, now_us: int) -> str:
    """The stored iterator if it is young enough to be alive, else empty."""
    age_us = now_us - position.polled_us
    return position.iterator if 0 <= age_us < _ITERATOR_LIFE_US else ""
