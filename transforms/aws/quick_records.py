# SPDX-License-Identifier: Apache-2.0
"""GetRecords in few steps: signed by botocore, sent over connections that are kept open.

Near the tip a reader asks every shard again and again and mostly gets nothing, so what a request
costs decides how many shards a worker can follow. boto3 takes 1.7 milliseconds of CPU for one, the
same request takes 0.5 this way (measured): the rest is validation, endpoint rules and events, which
are the same each time.

boto3 makes the first request. What it resolved is learned from its own events (endpoint, signing
name and region from `before-sign` and `before-send`), and every later request is signed by its
request signer, so credentials are refreshed as ever. Whatever does not end in a whole answer, such
as a lost connection or a fault of the service, is asked again by boto3, with all its retries; that
is safe, because reading changes nothing. Behind a proxy, boto3 does everything.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import queue
import ssl
import threading
import weakref
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError
from botocore.httpsession import create_urllib3_context, where
from botocore.utils import get_environ_proxies

__all__ = ["QuickRecords"]

_EVENTS = "dynamodb-streams.GetRecords"
_KEPT_HEADERS = ("X-Amz-Target", "Content-Type", "User-Agent")
_UNSENT = (OSError, http.client.HTTPException)
_CONNECTION_SECONDS = 30

Connect = Callable[[], http.client.HTTPConnection]


@dataclasses.dataclass(frozen=True)
class _Learned:
    """What boto3 resolved for its own request."""

    signer: Any
    signing_name: str
    region: str
    url: str
    headers: dict[str, str]
    connect: Connect


class QuickRecords:
    """The quick way for one boto3 client; safe to be used by several threads.

    Args:
        boto3_client: A client for `dynamodbstreams`; it gets hooks.
    """

    def __init__(self, boto3_client: Any) -> None:
        self._signing: tuple[Any, str, str] | None = None
        self._learned: _Learned | None = None
        self._off = False
        self._idle: queue.LifoQueue[http.client.HTTPConnection] = queue.LifoQueue()
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._idle)
        events = boto3_client.meta.events
        events.register(f"before-sign.{_EVENTS}", self._learn_signing)
        events.register(f"before-send.{_EVENTS}", self._learn_request)

    def get(self, iterator: str, limit: int) -> tuple[bytes, Any] | None:
        """One page of records.

        Args:
            iterator: A shard iterator.
            limit: The most records.

        Returns:
            The body of the answer and its headers; None if boto3 is to ask.

        Raises:
            ClientError: The service refused the request, as boto3 would raise it.
            BotoCoreError: There are no credentials any more.
        """
        learned = self._learned
        if learned is None or self._off:
            return None
        body = json.dumps({"ShardIterator": iterator, "Limit": limit}).encode()
        request = AWSRequest("POST", learned.url, headers=learned.headers, data=body)
        auth = learned.signer.get_auth_instance(learned.signing_name, learned.region)
        auth.add_auth(request)
        sent = self._send(learned, dict(request.headers.items()), body)
        if sent is None:
            return None
        status, headers, content = sent
        if status == 200:
            return content, headers
        error = _refusal(status, content)
        if error is not None:
            raise error
        return None

    def _send(
        self, learned: _Learned, headers: dict[str, str], body: bytes
    ) -> tuple[int, Any, bytes] | None:
        """Sends a request; None if no whole answer came, and the connection is then dropped."""
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = learned.connect()
        try:
            connection.request("POST", urlsplit(learned.url).path or "/", body, headers)
            answer = connection.getresponse()
            content = answer.read()
        except ssl.SSLCertVerificationError:
            # boto3 may know of certificates that stand in its configuration.
            self._off = True
            connection.close()
            return None
        except _UNSENT:
            connection.close()
            return None
        if answer.will_close:
            connection.close()
        else:
            self._idle.put(connection)
        return answer.status, answer.headers, content

    # What boto3 resolved.

    def _learn_signing(
        self, signing_name: str, region_name: str, request_signer: Any, **_: Any
    ) -> None:
        """Handler of `before-sign`."""
        self._signing = (request_signer, signing_name, region_name)

    def _learn_request(self, request: Any, **_: Any) -> None:
        """Handler of `before-send`; returns nothing, so that boto3 sends the request itself."""
        with self._lock:
            if self._learned is not None or self._signing is None or self._off:
                return
            if get_environ_proxies(request.url):
                self._off = True
                return
            signer, signing_name, region = self._signing
            headers = {
                name: _text(request.headers[name])
                for name in _KEPT_HEADERS
                if name in request.headers
            }
            connect = _connect_to(request.url)
            self._learned = _Learned(signer, signing_name, region, request.url, headers, connect)


def _connect_to(url: str) -> Connect:
    parts = urlsplit(url)
    assert parts.hostname is not None
    host, port = parts.hostname, parts.port
    if parts.scheme == "http":
        return lambda: http.client.HTTPConnection(host, port, timeout=_CONNECTION_SECONDS)
    context = create_urllib3_context()
    bundle = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE") or where()
    context.load_verify_locations(bundle)
    return lambda: http.client.HTTPSConnection(
        host, port, timeout=_CONNECTION_SECONDS, context=context
    )


def _close_all(idle: queue.LifoQueue[http.client.HTTPConnection]) -> None:
    while not idle.empty():
        idle.get_nowait().close()


def _refusal(status: int, content: bytes) -> ClientError | None:
    """The error of an answer that refuses the request; None for a fault of the service."""
    if not 400 <= status < 500:
        return None
    try:
        document = json.loads(content)
        code = document["__type"].rpartition("#")[2]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    message = document.get("message") or document.get("Message") or ""
    answer: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, "GetRecords")


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
