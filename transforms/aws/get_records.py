# SPDX-License-Identifier: Apache-2.0
"""GetRecords in few steps, sent and signed by AWS's C runtime (`awscrt`).

Near the tip a reader asks every shard again and again and mostly gets nothing, so what a request
costs decides how many shards a worker can follow. boto3 takes 1.2 milliseconds of CPU for one, the
same request takes 0.14 to 0.3 this way (`tests/benchmarks/poll_cost.py`): the rest is validation,
endpoint rules and events, which are the same each time.

boto3 makes the first request. What it resolved is learned from its own events: the endpoint (also
one with an account id in its name), signing name and region from `before-sign` and `before-send`,
proxies, certificates and times from its HTTP session. Every later request is signed with boto3's
credentials, see `transforms.aws.signing_credentials`, if the first one is signed as botocore does.

Whatever does not end in a whole answer or a plain refusal, such as a lost connection, a fault of
the service or a wrong sum, is asked again by boto3, with all its retries; that is safe, because
reading changes nothing. What boto3 asks goes over the same connections, so that it is bounded as
well in time and size (botocore bounds neither).

boto3 does everything by itself, over connections of its own:

- with a client certificate, with `verify=False`, with a CA bundle that the runtime cannot read;
- behind a proxy that is itself reached by TLS or that has settings of its own (`proxies_config`),
  and behind any proxy if the endpoint is plain HTTP; a plain proxy for HTTPS is tunnelled through;
- if the service is asked with another signature than version 4, or with an own HTTP session;
- for a minute after the runtime did not get a connection, because of TLS, of a proxy, or in time:
  then boto3 says why, or shows that it can.

A clock that is wrong: botocore signs with this machine's. Here the service's own `Date` is used
from the first refusal that says that the time of a request is wrong.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import queue
import threading
import time
import zlib
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from awscrt.exceptions import AwsCrtError
from botocore.awsrequest import AWSResponse
from botocore.credentials import Credentials
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
)

from dynabeam.transforms.aws.boto3_routes import place_of
from dynabeam.transforms.aws.connection_pool import (
    Answer,
    Bounds,
    ConnectionPool,
    NotConnectedError,
    TooLargeError,
    TooSlowError,
)
from dynabeam.transforms.aws.errors import AwsErrorKind, classify
from dynabeam.transforms.aws.signed_requests import (
    RequestMaker,
    agrees_with_botocore,
    signed_by_botocore,
    text,
)
from dynabeam.transforms.aws.signing_credentials import SigningCredentials
from dynabeam.transforms.errors import StreamError

__all__ = ["Answer", "GetRecords", "Taken", "checksum_matches"]

_LOGGER = logging.getLogger(__name__)
_EVENTS = "dynamodb-streams.GetRecords"
_KEPT_HEADERS = ("X-Amz-Target", "Content-Type", "User-Agent")
_AVOID_SECONDS = 60.0
_MEASURE_EVERY = 60.0
_LEAST_OFFSET_US = 30 * 1_000_000
"""Less than this is no reason for a refusal: AWS bears five minutes."""
_WRONG_TIME = frozenset(
    {
        "InvalidSignatureException",
        "RequestExpired",
        "RequestInTheFuture",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)

Taken = Callable[[Answer | Exception | None], None]
"""Takes an answer with status 200, the error to raise, or None if boto3 is to ask."""


@dataclasses.dataclass(frozen=True)
class _Learned:
    """What boto3 resolved for its own request."""

    url: str
    credentials: SigningCredentials
    maker: RequestMaker
    pool: ConnectionPool


class GetRecords:
    """The faster way to GetRecords for one boto3 client; thread-safe.

    Args:
        boto3_client: A client for `dynamodbstreams`; it gets hooks.
        bounds: What a request may cost.
    """

    def __init__(self, boto3_client: Any, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._client = boto3_client
        self._signing: tuple[Any, str, str] | None = None
        self._learned: _Learned | None = None
        self._off = False
        self._avoided_until = 0.0
        self._lock = threading.Lock()
        self._signed_offset_us = 0
        self._measured: tuple[float, int] | None = None
        events = boto3_client.meta.events
        events.register(f"before-sign.{_EVENTS}", self._learn_signing)
        events.register(f"before-send.{_EVENTS}", self._send_for_boto3)

    @property
    def clock_offset_us(self) -> int | None:
        """How far the service's clock is ahead of this one, by the `Date` of an answer.

        Microseconds, exact to about a second, some minutes old at most while there are polls;
        None before there was an answer.
        """
        return None if self._measured is None else self._measured[1]

    def begin(self, iterator: str, limit: int, taken: Taken) -> bool:
        """Requests one page of records; returns at once.

        Args:
            iterator: A shard iterator.
            limit: The most records.
            taken: Called once, on a thread which must not be blocked, with the answer; with
                the `ClientError` that boto3 would raise, with a `StreamError` if the answer is
                larger than any of the service, or with the error of credentials that cannot be had;
                or with None if boto3 is to ask.

        Returns:
            False if boto3 is to ask; `taken` is not called then.
        """
        learned = self._learned
        if learned is None or self._off or time.monotonic() < self._avoided_until:
            return False
        content = json.dumps({"ShardIterator": iterator, "Limit": limit}).encode()
        self._ask(learned, content, _logged(taken), again=False)
        return True

    def _ask(self, learned: _Learned, content: bytes, taken: Taken, *, again: bool) -> None:
        def sign(credentials: Any) -> None:
            if isinstance(credentials, Exception):
                taken(credentials)
                return
            offset_us = self._signed_offset_us
            at = datetime.now(timezone.utc) + timedelta(microseconds=offset_us)
            try:
                request = learned.maker.request(credentials, content, at)
            except Exception:  # noqa: BLE001 - boto3 signs it, or says why it cannot be signed
                taken(None)
                return
            learned.pool.ask(request, lambda outcome: judge(outcome, offset_us), short=True)

        def judge(outcome: Answer | Exception, offset_us: int) -> None:
            try:
                found = self._judged(outcome)
            except Exception as error:  # noqa: BLE001 - handed to who asked
                found = error
            if not again and self._corrects_clock(found, offset_us):
                self._ask(learned, content, taken, again=True)
            elif not again and isinstance(found, ClientError) and _is_of_credentials(found):
                # They may have been renewed meanwhile: boto3 looks.
                taken(None)
            else:
                taken(found)

        learned.credentials.use(sign)

    def _judged(self, outcome: Answer | Exception) -> Answer | Exception | None:
        if isinstance(outcome, TooLargeError):
            return self._too_large(outcome)
        if not isinstance(outcome, Answer):
            self._avoid_if_refused(outcome)
            return None
        self._measure(outcome)
        if outcome.status == 200:
            return outcome if _is_whole(outcome) and checksum_matches(outcome) else None
        return _refusal(outcome.status, outcome.body)

    def _too_large(self, error: TooLargeError) -> StreamError:
        return StreamError(
            f"the answer to GetRecords has {error}; a page of DynamoDB Streams holds 1 MB",
            where=self._learned.url if self._learned is not None else "GetRecords",
            hint="Check what answers at this endpoint: it is not DynamoDB Streams",
        )

    def _avoid_if_refused(self, error: Exception) -> bool:
        """Leaves all to boto3 for a while if this is a matter of TLS, a proxy or connecting."""
        named = isinstance(error, AwsCrtError) and ("TLS" in error.name or "PROXY" in error.name)
        refused = named or isinstance(error, NotConnectedError)
        if refused:
            self._avoided_until = time.monotonic() + _AVOID_SECONDS
        return refused

    # The clock.

    def _measure(self, answer: Answer) -> None:
        now = time.monotonic()
        known = self._measured
        if answer.status == 200 and known is not None and now - known[0] < _MEASURE_EVERY:
            return
        try:
            date = parsedate_to_datetime(answer.headers["date"])
            # It is cut off to the second, so it was half a second later in the mean.
            ahead = date + timedelta(milliseconds=500) - datetime.now(timezone.utc)
        except (KeyError, ValueError, TypeError, OverflowError):
            return
        self._measured = now, ahead // timedelta(microseconds=1)

    def _corrects_clock(self, found: Answer | Exception | None, used_us: int) -> bool:
        """True if a request was refused for its time, and the next one has another."""
        if not isinstance(found, ClientError):
            return False
        if found.response["Error"]["Code"] not in _WRONG_TIME or self._measured is None:
            return False
        if abs(self._measured[1] - used_us) < _LEAST_OFFSET_US:
            return False
        self._signed_offset_us = self._measured[1]
        return True

    # What boto3 resolved, and what it asks.

    def _learn_signing(
        self, signing_name: str, region_name: str, request_signer: Any, **_: Any
    ) -> None:
        """Handler of `before-sign`."""
        self._signing = (request_signer, signing_name, region_name)

    def _send_for_boto3(self, request: Any, **_: Any) -> AWSResponse | None:
        """Handler of `before-send`: boto3's request over the same connections, within bounds.

        Returns:
            None if boto3 is to send it by itself.

        Raises:
            EndpointConnectionError: Nobody is there.
            ReadTimeoutError: The answer was not there in time.
            ConnectionClosedError: The connection was lost before.
            HTTPClientError: What came is no answer of AWS.
            StreamError: The answer is too large.
        """
        with self._lock:
            if self._learned is None and not self._off:
                self._learned = self._learn(request)
                self._off = self._learned is None
            learned = self._learned
        if learned is None or learned.url != request.url:
            return None
        if time.monotonic() < self._avoided_until:
            return None
        outcomes: queue.SimpleQueue[Answer | Exception] = queue.SimpleQueue()
        learned.pool.ask(signed_by_botocore(request), outcomes.put)
        outcome = outcomes.get()
        if isinstance(outcome, Answer):
            self._measure(outcome)
            if not _is_whole(outcome):
                error = "an answer without a length, or compressed, which AWS does not give"
                raise HTTPClientError(error=error)
            return AWSResponse(request.url, outcome.status, outcome.headers, _Whole(outcome.body))
        if self._avoid_if_refused(outcome):
            return None
        raise self._as_boto3s(outcome, request)

    def _as_boto3s(self, error: Exception, request: Any) -> Exception:
        """The error that boto3 knows for what became of its request."""
        if isinstance(error, TooLargeError):
            return self._too_large(error)
        if isinstance(error, TooSlowError):
            return ReadTimeoutError(endpoint_url=request.url, error=error)
        name = error.name if isinstance(error, AwsCrtError) else ""
        if name in _NOBODY_THERE:
            return EndpointConnectionError(endpoint_url=request.url, error=error)
        if name in _CLOSED:
            return ConnectionClosedError(endpoint_url=request.url, request=request, error=error)
        return HTTPClientError(error=error)

    def _learn(self, request: Any) -> _Learned | None:
        if self._signing is None:
            return None
        signer, signing_name, region = self._signing
        place = place_of(request.url, self._client)
        if place is None or signer.signature_version != "v4":
            return None
        headers = {
            name: text(request.headers[name]) for name in _KEPT_HEADERS if name in request.headers
        }
        maker = RequestMaker(request.url, headers, region=region, service=signing_name)
        # Any will do, and the client's own may have to be renewed for each look at them.
        sample = Credentials("AKID", "secret", "token")
        auth = signer.get_auth_instance(signing_name, region, request_credentials=sample)
        if not agrees_with_botocore(maker, auth, request, headers):
            return None
        return _Learned(
            request.url,
            SigningCredentials(signer, signing_name, region),
            maker,
            ConnectionPool(place, self._bounds),
        )


_NOBODY_THERE = frozenset(
    {
        "AWS_IO_DNS_INVALID_NAME",
        "AWS_IO_DNS_NO_ADDRESS_FOR_HOST",
        "AWS_IO_DNS_QUERY_FAILED",
        "AWS_IO_DNS_HOST_REMOVED_FROM_CACHE",
        "AWS_IO_SOCKET_CONNECTION_REFUSED",
        "AWS_IO_SOCKET_NETWORK_DOWN",
        "AWS_IO_SOCKET_NO_ROUTE_TO_HOST",
        "AWS_IO_SOCKET_TIMEOUT",
        "AWS_IO_SOCKET_CONNECT_ABORTED",
    }
)
_CLOSED = frozenset({"AWS_ERROR_HTTP_CONNECTION_CLOSED", "AWS_IO_SOCKET_CLOSED"})


class _Whole:
    """A body that has come, as botocore reads one."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, **_: Any) -> Any:
        yield self._body


def checksum_matches(answer: Answer) -> bool:
    """True unless the answer names another sum than its body has, or none that is a number."""
    expected = answer.headers.get("x-amz-crc32")
    return expected is None or expected.strip() == str(zlib.crc32(answer.body))


def _is_whole(answer: Answer) -> bool:
    """False if the runtime cannot know where the body ends, or if it is not the text itself."""
    encoding = answer.headers.get("content-encoding", "identity")
    return answer.has_length and encoding.lower() == "identity"


def _refusal(status: int, content: bytes) -> ClientError | None:
    """The error of an answer that refuses the request; None for a fault of the service."""
    if not 400 <= status < 500:
        return None
    try:
        document = json.loads(content)
        code = document["__type"].rpartition("#")[2]
        message = document.get("message") or document.get("Message") or ""
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not code:
        return None
    answer: Any = {
        "Error": {"Code": code, "Message": message if isinstance(message, str) else str(message)},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, "GetRecords")


def _logged(taken: Taken) -> Taken:
    """The same, but what it raises is logged: it is called on threads that serve others too."""

    def take(found: Answer | Exception | None) -> None:
        try:
            taken(found)
        except BaseException:
            _LOGGER.exception("the outcome of GetRecords could not be taken")

    return take


def _is_of_credentials(error: ClientError) -> bool:
    return classify(error) is AwsErrorKind.CREDENTIALS
