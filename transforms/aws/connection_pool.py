# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 to one service over connections that are kept open, by AWS's C runtime (`awscrt`).

The runtime parses HTTP, and does TLS: it checks certificates and the names in them. All its
connections share one thread of the process. A thread per request would spend most of its time on
being woken: each send and each receive releases the GIL and has to re-acquire it.

Promise: every request ends with exactly one outcome, whatever the service answers, in bounded time
and with bounded memory for the body. An outcome that its taker raises at is logged, and nothing
else suffers from it. The runtime has no bound on the size of an answer's head: there only time is
bounded (about 150 MB a second can come that way from a service on the same machine, measured, and
are given back).
"""

from __future__ import annotations

import atexit
import collections
import dataclasses
import functools
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from awscrt.http import HttpClientConnection, HttpProxyOptions, HttpRequest
from awscrt.io import (
    ClientBootstrap,
    ClientTlsContext,
    DefaultHostResolver,
    EventLoopGroup,
    SocketOptions,
)

from dynabeam.transforms.aws.deadlines import deadlines
from dynabeam.transforms.aws.forks import reset_in_child

__all__ = [
    "Answer",
    "Bounds",
    "ConnectionPool",
    "NotConnectedError",
    "Place",
    "TooLargeError",
    "TooSlowError",
]

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Answer:
    """A whole answer.

    Attributes:
        status: HTTP status.
        headers: By name in lower case; of a name that comes twice, the first.
        body: As it was sent, without the chunks of `Transfer-Encoding`.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def has_length(self) -> bool:
        """False if nothing says where the body ends; the runtime then gives none."""
        return "content-length" in self.headers or "transfer-encoding" in self.headers


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a service listens, and how to get there.

    Attributes:
        host: Name or address; of IPv6 without brackets.
        port: TCP port.
        tls: Whom to trust; None to go without TLS.
        proxy: A proxy that tunnels; None to connect directly.
        connect_seconds: How long TCP may take; with TLS and a proxy, a second more.
    """

    host: str
    port: int
    tls: ClientTlsContext | None = None
    proxy: HttpProxyOptions | None = None
    connect_seconds: float = 5.0


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a request may cost.

    Attributes:
        seconds: From sending to the last byte of the answer, and as long again to be sent at all.
        short_seconds: The same where somebody else asks again.
        body_bytes: Of an answer.
        connections: Kept to the place; further requests wait for one.
    """

    seconds: float = 30.0
    short_seconds: float = 8.0
    body_bytes: int = 32 << 20
    connections: int = 32


class NotConnectedError(Exception):
    """A connection was not there in time.

    The runtime reports a refused certificate only after 10 to 30 s: its TLS (s2n) keeps an
    attacker from measuring what it found.
    """


class TooSlowError(Exception):
    """An answer was not there in time."""


class TooLargeError(Exception):
    """An answer is larger than any that the service gives."""


Done = Callable[[Answer | Exception], None]
"""Takes the outcome; called once, on a thread that must not be blocked."""


class _Exchange:
    """One request and what has come of its answer."""

    __slots__ = (
        "_bounds",
        "_done",
        "_lock",
        "_parts",
        "_promised",
        "_seconds",
        "_size",
        "_status_and_headers",
        "connection",
        "deadline",
        "over",
        "request",
    )

    def __init__(self, request: HttpRequest, done: Done, bounds: Bounds, seconds: float) -> None:
        self.request = request
        self.connection: HttpClientConnection | None = None
        self.deadline = -1
        self.over = False
        self._done = done
        self._bounds = bounds
        self._seconds = seconds
        self._lock = threading.Lock()
        self._status_and_headers: tuple[int, dict[str, str]] | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._promised = sys.maxsize

    def watch(self) -> None:
        """Begins to wait, again for the whole time."""
        deadlines.cancel(self.deadline)
        self.deadline = deadlines.add(self._seconds, self._give_up)

    def answer(self) -> Answer:
        """What has come, which is whole."""
        assert self._status_and_headers is not None
        status, headers = self._status_and_headers
        return Answer(status, headers, b"".join(self._parts))

    def end(self, outcome: Answer | Exception) -> None:
        """Reports the outcome, if none was reported before."""
        with self._lock:
            if self.over:
                return
            self.over = True
        deadlines.cancel(self.deadline)
        self._parts = []
        try:
            self._done(outcome)
        except BaseException:
            # The thread is not the taker's own: others' answers come on it.
            _LOGGER.exception("the outcome of a request could not be taken")

    # Called by the runtime, on its thread; nothing may leave these by an exception.

    def take_head(self, status_code: int, headers: list[tuple[str, str]], **_: Any) -> None:
        """Takes status and headers."""
        found: dict[str, str] = {}
        for name, value in headers:
            found.setdefault(name.lower(), value)
        self._status_and_headers = status_code, found
        length = found.get("content-length", "")
        if length.isascii() and length.isdigit() and "transfer-encoding" not in found:
            self._promised = int(length)

    def take_body(self, chunk: bytes, **_: Any) -> None:
        """Takes a part of the body."""
        if self.over:
            return
        self._size += len(chunk)
        if self._size > self._bounds.body_bytes:
            self._abort(TooLargeError(f"more than {self._bounds.body_bytes} bytes"))
            return
        surplus = self._size - self._promised
        if surplus <= 0:
            self._parts.append(chunk)
            return
        # An unsolicited answer, sent together with the whole one: the runtime hands its
        # body over as if it belonged to that.
        self._parts.append(chunk[:-surplus])
        self.end(self.answer())
        if self.connection is not None:
            self.connection.close()

    def _give_up(self) -> None:
        self._abort(TooSlowError(f"no whole answer within {self._seconds:g} s"))

    def _abort(self, error: Exception) -> None:
        if self.over:
            # The connection may be somebody else's by now.
            return
        if self.connection is not None:
            self.connection.close()
        self.end(error)


@dataclasses.dataclass
class _Attempt:
    """A connection that is being made."""

    deadline: int = -1
    late: bool = False
    over: bool = False


class ConnectionPool:
    """Connections to one place; thread-safe.

    Args:
        place: The place.
        bounds: What a request may cost.
    """

    def __init__(self, place: Place, bounds: Bounds) -> None:
        self._place = place
        self._bounds = bounds
        self._inherited: list[object] = []
        self._idle: list[HttpClientConnection] = []
        self._open: set[HttpClientConnection] = set()
        self.reset_after_fork()
        reset_in_child(self)
        _pools.add(self)

    def reset_after_fork(self) -> None:
        """Leaves all connections to the process that made them."""
        # Never released: the runtime would wait for threads that are not here to close them.
        self._inherited += [*self._idle, *self._open]
        self._lock = threading.Lock()
        self._idle = []
        self._open = set()
        self._making = 0
        self._late = 0
        self._waiting: collections.deque[_Exchange] = collections.deque()

    @property
    def idle(self) -> int:
        """How many connections wait for a request."""
        return len(self._idle)

    def ask(self, request: HttpRequest, done: Done, *, short: bool = False) -> None:
        """Sends a request; returns at once.

        Args:
            request: All of it, signed.
            short: Wait for a short time only.
            done: Called once with the answer or the reason why there is none: `TooSlowError`,
                `TooLargeError`, `NotConnectedError`, or what the runtime raises; perhaps on this
                thread.
        """
        bounds = self._bounds
        seconds = bounds.short_seconds if short else bounds.seconds
        exchange = _Exchange(request, done, bounds, seconds)
        exchange.watch()
        with self._lock:
            connection = self._usable()
        if connection is None:
            self._wait(exchange)
        else:
            self._send(connection, exchange)

    def close(self) -> None:
        """Closes all connections; what is in flight ends with an error."""
        with self._lock:
            found = list(self._open)
        for each in found:
            each.close()

    def _usable(self) -> HttpClientConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open():
                return connection
        return None

    def _make_more(self) -> None:
        """Makes a connection for whoever waits, if there may be one more."""
        with self._lock:
            wanted = len(self._waiting) > self._making
            taken = len(self._open) + self._making + self._late
            if not wanted or taken >= self._bounds.connections:
                return
            self._making += 1
        place = self._place
        options = SocketOptions()
        options.connect_timeout_ms = int(place.connect_seconds * 1000)
        tls = None
        if place.tls is not None:
            tls = place.tls.new_connection_options()
            # The name that the certificate has to be for.
            tls.set_server_name(place.host)
        future = HttpClientConnection.new(
            host_name=place.host,
            port=place.port,
            bootstrap=_bootstrap(),
            socket_options=options,
            tls_connection_options=tls,
            proxy_options=place.proxy,
        )
        attempt = _Attempt()
        attempt.deadline = deadlines.add(
            place.connect_seconds + 1, functools.partial(self._is_late, attempt)
        )
        future.add_done_callback(functools.partial(self._made, attempt))

    def _is_late(self, attempt: _Attempt) -> None:
        with self._lock:
            if attempt.over:
                return
            # Nobody waits for it any more, but it still has its place among the connections.
            attempt.late = True
            self._making -= 1
            self._late += 1
        seconds = self._place.connect_seconds + 1
        self._refuse_waiting(NotConnectedError(f"no connection within {seconds:g} s"))

    def _refuse_waiting(self, error: Exception) -> None:
        # All that wait: whoever comes next tries to connect again.
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
        for each in waiting:
            each.end(error)

    def _made(self, attempt: _Attempt, future: Future[HttpClientConnection]) -> None:
        deadlines.cancel(attempt.deadline)
        with self._lock:
            attempt.over = True
            if attempt.late:
                self._late -= 1
            else:
                self._making -= 1
        error = future.exception()
        if error is not None and attempt.late:
            return
        if error is not None:
            self._refuse_waiting(_as_exception(error))
            return
        connection = future.result()
        with self._lock:
            self._open.add(connection)
        connection.shutdown_future.add_done_callback(
            functools.partial(self._lost, weakref.ref(connection))
        )
        self._release(connection, fresh=True)

    def _lost(self, reference: weakref.ref[HttpClientConnection], _: Future[None]) -> None:
        connection = reference()
        with self._lock:
            if connection is not None:
                self._open.discard(connection)
                if connection in self._idle:
                    self._idle.remove(connection)
        # It had the place of a connection that would serve those who wait.
        self._make_more()

    def _release(self, connection: HttpClientConnection, *, fresh: bool = False) -> None:
        with self._lock:
            usable = connection.is_open()
            exchange = self._next_waiting()
            if exchange is None:
                if usable:
                    self._idle.append(connection)
                return
        if usable:
            self._send(connection, exchange)
        elif fresh:
            # Reported, because the next connection may be closed at once as well, and so on.
            exchange.end(ConnectionAbortedError("the connection was closed as soon as it was made"))
        else:
            self._wait(exchange)

    def _wait(self, exchange: _Exchange) -> None:
        with self._lock:
            self._waiting.append(exchange)
        self._make_more()

    def _next_waiting(self) -> _Exchange | None:
        while self._waiting:
            exchange = self._waiting.popleft()
            if not exchange.over:
                return exchange
        return None

    def _send(self, connection: HttpClientConnection, exchange: _Exchange) -> None:
        exchange.connection = connection
        exchange.watch()
        try:
            stream = connection.request(exchange.request, exchange.take_head, exchange.take_body)
            stream.completion_future.add_done_callback(
                functools.partial(self._ended, connection, exchange)
            )
            stream.activate()
        except Exception as error:  # noqa: BLE001 - handed to who asked
            connection.close()
            exchange.end(error)

    def _ended(
        self, connection: HttpClientConnection, exchange: _Exchange, future: Future[int]
    ) -> None:
        error = future.exception()
        if error is not None:
            connection.close()
            exchange.end(_as_exception(error))
            return
        answer = exchange.answer()
        if answer.has_length:
            # First, so that the taker's time is nobody else's.
            self._release(connection)
        else:
            # What follows would be taken for the next answer.
            connection.close()
        exchange.end(answer)


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(repr(error))


class _Runtime:
    """The runtime's thread in this process."""

    def __init__(self) -> None:
        self._inherited: list[ClientBootstrap] = []
        self._bootstrap: ClientBootstrap | None = None
        self.reset_after_fork()
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Leaves the thread to the process that has it."""
        if self._bootstrap is not None:
            self._inherited.append(self._bootstrap)
        self._bootstrap = None
        self._lock = threading.Lock()

    def bootstrap(self) -> ClientBootstrap:
        """What connections are made with."""
        with self._lock:
            if self._bootstrap is None:
                group = EventLoopGroup(1)
                self._bootstrap = ClientBootstrap(group, DefaultHostResolver(group))
            return self._bootstrap


_runtime = _Runtime()
_pools: weakref.WeakSet[ConnectionPool] = weakref.WeakSet()


def _bootstrap() -> ClientBootstrap:
    return _runtime.bootstrap()


@atexit.register
def _close_all() -> None:
    """Closes all connections while Python can still be called back."""
    for each in list(_pools):
        each.close()
