# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 to one service, many requests at once, on one thread of the process.

A thread per request would spend most of its time on being woken: each send and each receive lets go
of the interpreter and has to get it back, and with a dozen threads that want it that takes longer
than the request's own work (measured: 2 milliseconds of CPU instead of 0.6 for a poll, with 300
shards). Here one thread waits for all sockets, and takes what has arrived meanwhile in one go.

Only what AWS's JSON services do is understood: an answer with `Content-Length`. Whatever else
happens, the request has no answer, and who asked asks another way.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import ssl
import threading
from collections.abc import Callable, Mapping

__all__ = ["Answer", "Connections", "Place"]

_ANSWER_SECONDS = 30.0
_END_OF_HEAD = b"\r\n\r\n"
_MOST_HEAD_BYTES = 1 << 16
_UNTRUSTED = ssl.SSLCertVerificationError


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a service listens.

    Attributes:
        host: Name or address.
        port: TCP port.
        context: For TLS; None to go without.
    """

    host: str
    port: int
    context: ssl.SSLContext | None = None


@dataclasses.dataclass(frozen=True)
class Answer:
    """A whole answer.

    Attributes:
        status: HTTP status.
        headers: By name in lower case.
        body: As it was sent.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


Done = Callable[[Answer | Exception | None], None]
"""Takes an answer; None if none came, an error if none will come here. Called on the thread."""


class Connections:
    """Connections to one place that are kept open.

    Args:
        place: The place.
        limit: The most connections; further requests wait for one.
    """

    def __init__(self, place: Place, limit: int) -> None:
        self._place = place
        self._limit = limit
        self._open = 0
        self._idle: list[_Connection] = []
        self._waiting: list[tuple[Callable[[], bytes], Done]] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._asked: list[tuple[Callable[[], bytes], Done]] = []
        self._lock = threading.Lock()
        self._loop = _loop()

    @property
    def idle(self) -> int:
        """How many wait for a request."""
        return len(self._idle)

    def ask(self, make: Callable[[], bytes], done: Done) -> None:
        """Sends a request; returns at once.

        Args:
            make: Gives the whole request; called on the thread, so that it is signed when it goes.
            done: Called once, on the thread; it must not wait.
        """
        with self._lock:
            self._asked.append((make, done))
            first = len(self._asked) == 1
        if first:
            # Waking the thread is a call of the system, so it is woken once for all that it finds.
            self._loop.call_soon_threadsafe(self._take_asked)

    # On the thread.

    def _take_asked(self) -> None:
        with self._lock:
            asked, self._asked = self._asked, []
        for make, done in asked:
            self._ask(make, done)

    def _ask(self, make: Callable[[], bytes], done: Done) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                connection.send(make, done)
                return
        self._waiting.append((make, done))
        if self._open < self._limit:
            self._open += 1
            connecting = self._loop.create_task(self._connect())
            # The loop itself keeps no task alive.
            self._connecting.add(connecting)
            connecting.add_done_callback(self._connecting.discard)

    async def _connect(self) -> None:
        place = self._place
        try:
            _, connection = await asyncio.wait_for(
                self._loop.create_connection(
                    lambda: _Connection(self._loop, self._release, self._lost),
                    place.host,
                    place.port,
                    ssl=place.context,
                ),
                _ANSWER_SECONDS,
            )
        except Exception as error:  # noqa: BLE001 - handed to who asked
            self._open -= 1
            passing = isinstance(error, (OSError, asyncio.TimeoutError))
            outcome = None if passing and not isinstance(error, _UNTRUSTED) else error
            # All that wait: whoever comes next tries to connect again.
            waiting, self._waiting = self._waiting, []
            for _, done in waiting:
                done(outcome)
            return
        self._release(connection)

    def _release(self, connection: _Connection) -> None:
        if not connection.usable:
            # It is or will be lost, and then what waits is asked again.
            return
        if self._waiting:
            connection.send(*self._waiting.pop(0))
        else:
            self._idle.append(connection)

    def _lost(self, connection: _Connection) -> None:
        self._open -= 1
        if connection in self._idle:
            self._idle.remove(connection)
        if self._waiting:
            # It had the place of a connection that would serve them.
            self._ask(*self._waiting.pop(0))


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        release: Callable[[_Connection], None],
        lost: Callable[[_Connection], None],
    ) -> None:
        self._loop = loop
        self._release = release
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._done: Done | None = None
        self._received = bytearray()
        self._head: tuple[int, dict[str, str], int, int] | None = None
        self._limit: asyncio.TimerHandle | None = None

    @property
    def usable(self) -> bool:
        """True if a request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, make: Callable[[], bytes], done: Done) -> None:
        """Sends a request."""
        assert self._transport is not None
        self._done = done
        try:
            request = make()
        except Exception as error:  # noqa: BLE001 - handed to who asked
            # Later, because the next request may fail alike, and the one behind it.
            self._loop.call_soon(self._finish, error)
            return
        self._limit = self._loop.call_later(_ANSWER_SECONDS, self._transport.abort)
        self._transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if self._done is None:
            # Nobody has asked.
            self._give_up()
            return
        self._received += data
        if self._head is None:
            end = self._received.find(_END_OF_HEAD)
            if end < 0:
                if len(self._received) > _MOST_HEAD_BYTES:
                    self._give_up()
                return
            self._head = _parsed_head(bytes(self._received[:end]), end + len(_END_OF_HEAD))
            if self._head is None:
                self._give_up()
                return
        status, headers, begin, size = self._head
        if len(self._received) < begin + size:
            return
        body = bytes(memoryview(self._received)[begin : begin + size])
        if headers.get("connection", "").lower() == "close":
            self._give_up(Answer(status, headers, body))
        else:
            self._finish(Answer(status, headers, body))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._end(None)
        self._lost(self)

    def _finish(self, outcome: Answer | Exception) -> None:
        self._end(outcome)
        self._release(self)

    def _give_up(self, outcome: Answer | None = None) -> None:
        """Ends the request, and the connection with it."""
        self._end(outcome)
        if self._transport is not None:
            self._transport.abort()

    def _end(self, outcome: Answer | Exception | None) -> None:
        """Tells who asked, if somebody has and was not told before."""
        done, self._done = self._done, None
        if self._limit is not None:
            self._limit.cancel()
        self._received, self._head = bytearray(), None
        if done is not None:
            done(outcome)


def _parsed_head(head: bytes, begin: int) -> tuple[int, dict[str, str], int, int] | None:
    """Status, headers, where the body begins and its size; None if it is of another kind."""
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    size = headers.get("content-length", "")
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
        return None
    if words[0] == "HTTP/1.0" or not size.isdecimal():
        return None
    return int(words[1]), headers, begin, int(size)


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """The loop of this process; its thread ends with the process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="dynabeam-quick", daemon=True).start()
    return loop
