# SPDX-License-Identifier: Apache-2.0
"""How boto3 would go to an endpoint, said for AWS's C runtime: whom it trusts, through which proxy.

What decides stands in boto3's own HTTP session only: `verify=`, `ca_bundle` of the configuration,
`AWS_CA_BUNDLE` and `REQUESTS_CA_BUNDLE`, proxies of the environment (with `NO_PROXY`) and of
botocore's `Config`. Names and dates of certificates are always checked.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

from awscrt.exceptions import AwsCrtError
from awscrt.http import (
    HttpProxyAuthenticationType,
    HttpProxyConnectionType,
    HttpProxyOptions,
)
from awscrt.io import ClientTlsContext, TlsContextOptions, TlsVersion
from botocore.httpsession import where

from dynabeam.transforms.aws.connection_pool import Place
from dynabeam.transforms.aws.signed_requests import PORTS

__all__ = ["place_of"]


def place_of(url: str, boto3_client: Any) -> Place | None:
    """Where and how boto3's own HTTP session would go; None if the runtime cannot go there so.

    Args:
        url: Of a request of the client.
        boto3_client: The client.
    """
    try:
        # The only places where these stand.
        session = boto3_client._endpoint.http_session
        verify = session._verify
        certificate = session._cert_file
        proxies = session._proxy_config
        proxy_url = proxies.proxy_url_for(url)
        settings = proxies.settings
    except AttributeError:
        return None
    parts = urlsplit(url)
    if parts.hostname is None or parts.scheme not in PORTS or certificate or parts.query:
        return None
    encrypted = parts.scheme == "https"
    proxy = None
    if proxy_url:
        proxy = _proxy(proxy_url, proxies) if encrypted and not settings else None
        if proxy is None:
            return None
    tls = _trust(verify) if encrypted else None
    if encrypted and tls is None:
        return None
    return Place(
        host=parts.hostname,
        port=parts.port or PORTS[parts.scheme],
        tls=tls,
        proxy=proxy,
        connect_seconds=float(boto3_client.meta.config.connect_timeout or 5.0),
    )


def _proxy(url: str, proxies: Any) -> HttpProxyOptions | None:
    """A tunnel through a proxy; None if it is of another kind."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        return None
    named = bool(proxies.proxy_headers_for(url))
    return HttpProxyOptions(
        parts.hostname,
        parts.port or 80,
        auth_type=(
            HttpProxyAuthenticationType.Basic if named else HttpProxyAuthenticationType.Nothing
        ),
        auth_username=unquote(parts.username or "") if named else None,
        auth_password=unquote(parts.password or "") if named else None,
        connection_type=HttpProxyConnectionType.Tunneling,
    )


def _trust(verify: Any) -> ClientTlsContext | None:
    """Whom boto3 trusts; None if the runtime cannot know."""
    if not verify:
        return None
    options = TlsContextOptions()
    options.min_tls_ver = TlsVersion.TLSv1_2
    try:
        options.override_default_trust_store_from_path(
            ca_dirpath=None, ca_filepath=str(where() if verify is True else verify)
        )
        return ClientTlsContext(options)
    except (OSError, ValueError, AwsCrtError):
        return None
