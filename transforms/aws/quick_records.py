# SPDX-License-Identifier: Apache-2.0
"""GetRecords in few steps: signed with what is known, sent over connections that are kept open.

Near the tip a reader asks every shard again and again and mostly gets nothing, so what a request
costs decides how many shards a worker can follow. boto3 takes 1.7 milliseconds of CPU for one, the
same request takes 0.3 this way (measured): the rest is validation, endpoint rules and events, which
are the same each time. All requests are sent and received by one thread, see
`transforms.aws.quick_connection`.

boto3 makes the first request. What it resolved is learned from its own events (endpoint, signing
name and region from `before-sign` and `before-send`). Every later request takes its credentials
from boto3's request signer, so they are refreshed as ever, and is signed by
`transforms.aws.quick_signature`, if that signs the first one as botocore does. Whatever does not
end in a whole answer, such as a lost connection or a fault of the service, is asked again by boto3,
with all its retries; that is safe, because reading changes nothing. Behind a proxy, boto3 does
everything.
"""

from __future__ import annotations

import dataclasses
import json
import os
import ssl
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError, NoCredentialsError
from botocore.httpsession import create_urllib3_context, where
from botocore.utils import get_environ_proxies

from transforms.aws.quick_connection import Answer, Connections, Place
from transforms.aws.quick_signature import RequestSigner

__all__ = ["QuickRecords", "Taken"]

_EVENTS = "dynamodb-streams.GetRecords"
_KEPT_HEADERS = ("X-Amz-Target", "Content-Type", "User-Agent")
_MOST_CONNECTIONS = 32
_PORTS = {"http": 80, "https": 443}

Taken = Callable[[Answer | Exception | None], None]
"""Takes an answer with status 200, the error to raise, or None if boto3 is to ask."""


@dataclasses.dataclass(frozen=True)
class _Learned:
    """What boto3 resolved for its own request."""

    signer: Any
    signing_name: str
    region: str
    quick_signer: RequestSigner
    connections: Connections

    def request(self, content: bytes) -> bytes:
        """The whole request, signed now.

        Raises:
            BotoCoreError: There are no credentials any more.
        """
        # Credentials that have expired are renewed by this.
        auth = self.signer.get_auth_instance(self.signing_name, self.region)
        if auth.credentials is None:
            raise NoCredentialsError
        return self.quick_signer.request(auth.credentials, content)


class QuickRecords:
    """The quick way for one boto3 client; safe to be used by several threads.

    Args:
        boto3_client: A client for `dynamodbstreams`; it gets hooks.
    """

    def __init__(self, boto3_client: Any) -> None:
        self._signing: tuple[Any, str, str] | None = None
        self._learned: _Learned | None = None
        self._off = False
        self._lock = threading.Lock()
        events = boto3_client.meta.events
        events.register(f"before-sign.{_EVENTS}", self._learn_signing)
        events.register(f"before-send.{_EVENTS}", self._learn_request)

    def begin(self, iterator: str, limit: int, taken: Taken) -> bool:
        """Asks for one page of records; returns at once.

        Args:
            iterator: A shard iterator.
            limit: The most records.
            taken: Called once, on another thread, which must not be kept waiting, with the answer;
                with the `ClientError` that boto3 would raise, or a `BotoCoreError` if there are no
                credentials any more; or with None if boto3 is to ask.

        Returns:
            False if boto3 is to ask; `taken` is not called then.
        """
        learned = self._learned
        if learned is None or self._off:
            return False
        content = json.dumps({"ShardIterator": iterator, "Limit": limit}).encode()
        learned.connections.ask(
            lambda: learned.request(content), lambda found: taken(self._judged(found))
        )
        return True

    def _judged(self, found: Answer | Exception | None) -> Answer | Exception | None:
        if isinstance(found, ssl.SSLCertVerificationError):
            # boto3 may know of certificates that stand in its configuration.
            self._off = True
            return None
        if not isinstance(found, Answer) or found.status == 200:
            return found
        return _refusal(found.status, found.body)

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
            place = _place(request.url)
            path = urlsplit(request.url).path or "/"
            quick = RequestSigner(
                path, _host(place, request.url), headers, region=region, service=signing_name
            )
            if signer.signature_version != "v4" or not _agree(
                quick, signer.get_auth_instance(signing_name, region), request, headers
            ):
                self._off = True
                return
            connections = Connections(place, _MOST_CONNECTIONS)
            self._learned = _Learned(signer, signing_name, region, quick, connections)


def _agree(quick: RequestSigner, auth: Any, request: Any, headers: dict[str, str]) -> bool:
    """True if botocore would sign the request with these headers in the same way."""
    content = request.body or b""
    signed = AWSRequest("POST", request.url, headers=headers, data=content)
    auth.add_auth(signed)
    found = quick.authorization(auth.credentials, content, signed.headers["X-Amz-Date"])
    return found == signed.headers["Authorization"]


def _place(url: str) -> Place:
    parts = urlsplit(url)
    assert parts.hostname is not None
    port = parts.port or _PORTS[parts.scheme]
    if parts.scheme == "http":
        return Place(parts.hostname, port)
    context = create_urllib3_context()
    bundle = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE") or where()
    context.load_verify_locations(bundle)
    return Place(parts.hostname, port, context)


def _host(place: Place, url: str) -> str:
    """The header `Host`, as the signature has it: with the port if it is not the scheme's own."""
    name = f"[{place.host}]" if ":" in place.host else place.host
    return name if place.port == _PORTS[urlsplit(url).scheme] else f"{name}:{place.port}"


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
