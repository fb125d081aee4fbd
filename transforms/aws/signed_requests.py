# SPDX-License-Identifier: Apache-2.0
"""Requests as AWS's C runtime sends them, with its signature of version 4.

botocore's signature stays the measure: who uses this compares the first one with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

from awscrt.auth import AwsCredentialsProvider, AwsSigningConfig, aws_sign_request
from awscrt.exceptions import AwsCrtError
from awscrt.http import HttpHeaders, HttpRequest
from botocore.awsrequest import AWSRequest

__all__ = ["PORTS", "RequestMaker", "agrees_with_botocore", "signed_by_botocore", "text"]

PORTS = {"http": 80, "https": 443}
_SIGNING_SECONDS = 60.0


class RequestMaker:
    """Makes whole requests that differ in nothing but their content; safe for several threads.

    Args:
        url: Of each request; its path is sent, its host is signed.
        headers: Further headers that are the same in each request.
        region: Of the signature.
        service: Signing name of the service.
    """

    def __init__(self, url: str, headers: Mapping[str, str], *, region: str, service: str) -> None:
        self._path = urlsplit(url).path or "/"
        self._region = region
        self._service = service
        agent = {name: value for name, value in headers.items() if name == "User-Agent"}
        signed = {name: value for name, value in headers.items() if name not in agent}
        self._signed = [("Host", _host(url)), *signed.items()]
        # The runtime would sign this one, which botocore adds when it has signed.
        self._unsigned = [("Accept-Encoding", "identity"), *agent.items()]
        self._provider: tuple[tuple[str, str, str | None], AwsCredentialsProvider] | None = None

    def request(self, credentials: Any, content: bytes, at: datetime) -> HttpRequest:
        """A request, signed.

        Args:
            credentials: As botocore freezes them.
            content: The body.
            at: When it is sent, by the service's clock.

        Raises:
            AwsCrtError: The runtime cannot sign.
        """
        headers = HttpHeaders(self._signed)
        request = HttpRequest("POST", self._path, headers, BytesIO(content))
        config = AwsSigningConfig(
            credentials_provider=self._provider_of(credentials),
            region=self._region,
            service=self._service,
            date=at,
            signed_body_value=hashlib.sha256(content).hexdigest(),
        )
        # Nothing is waited for: credentials that are given are signed with at once.
        aws_sign_request(request, config).result(timeout=_SIGNING_SECONDS)
        headers.add_pairs([*self._unsigned, ("Content-Length", str(len(content)))])
        return request

    def _provider_of(self, credentials: Any) -> AwsCredentialsProvider:
        key = (credentials.access_key, credentials.secret_key, credentials.token or None)
        known = self._provider
        if known is None or known[0] != key:
            self._provider = known = key, AwsCredentialsProvider.new_static(*key)
        return known[1]


def agrees_with_botocore(
    maker: RequestMaker, auth: Any, request: Any, headers: Mapping[str, str]
) -> bool:
    """True if botocore signs a request with the same headers in the same way.

    Args:
        maker: What signs requests with these headers.
        auth: botocore's signer.
        request: A request of botocore to the same URL.
        headers: The headers.
    """
    content = request.body or b""
    signed = AWSRequest("POST", request.url, headers=dict(headers), data=content)
    auth.add_auth(signed)
    at = datetime.strptime(signed.headers["X-Amz-Date"] + "+0000", "%Y%m%dT%H%M%SZ%z")
    try:
        made = maker.request(auth.credentials, content, at)
    except AwsCrtError:
        return False
    return made.headers.get("Authorization") == signed.headers["Authorization"]


def signed_by_botocore(request: Any) -> HttpRequest:
    """A request that botocore has made and signed, as it is."""
    parts = urlsplit(request.url)
    body = request.body or b""
    headers = [(name, text(value)) for name, value in request.headers.items()]
    names = {name.lower() for name, _ in headers}
    for name, value in (
        ("Host", _host(request.url)),
        ("Accept-Encoding", "identity"),
        ("Content-Length", str(len(body))),
    ):
        if name.lower() not in names:
            headers.append((name, value))
    return HttpRequest(request.method, parts.path or "/", HttpHeaders(headers), BytesIO(body))


def _host(url: str) -> str:
    """The header `Host`, as the signature has it: with the port if it is not the scheme's own."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    own = parts.port is None or parts.port == PORTS[parts.scheme]
    return name if own else f"{name}:{parts.port}"


def text(value: str | bytes) -> str:
    """The value of a header of botocore, which may be bytes."""
    return value.decode("latin-1") if isinstance(value, bytes) else value
