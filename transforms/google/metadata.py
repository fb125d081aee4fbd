# SPDX-License-Identifier: Apache-2.0
"""ID tokens of Google's metadata server: who a machine, a pod or a Dataflow worker runs as.

Asked directly, not by google-auth: off Google that takes twenty seconds to find out that nobody is
there, and it would rather take a key file that happens to lie on the machine. The server is found
as Google's libraries find it, by `GCE_METADATA_HOST`, else at its address.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from dynabeam.transforms.errors import CredentialsError

__all__ = ["claims_of", "identity_token", "metadata_host", "metadata_server_answers"]

_ADDRESS = "169.254.169.254"
"""Always there on Google; its name may take a resolver elsewhere a long time to deny."""
_NAME = "metadata.google.internal"
_PATH = "/computeMetadata/v1/instance/service-accounts/default/identity"
_FLAVOR = {"Metadata-Flavor": "Google"}
_CONNECT_SECONDS = 2.0
_READ_SECONDS = 10.0
_PAUSES = (0.2, 0.6, 1.2)
"""Before each further try: the server of a pod is not ready in its first seconds."""
_PASSING = frozenset({429, 500, 502, 503, 504})


def metadata_host(environment: Mapping[str, str] | None = None) -> str:
    """Host, or host and port, of the metadata server."""
    given = os.environ if environment is None else environment
    return given.get("GCE_METADATA_HOST") or given.get("GCE_METADATA_IP") or _ADDRESS


def metadata_server_answers() -> bool:
    """Whether Google's metadata server is there; known within two seconds."""
    try:
        _ask("/", _CONNECT_SECONDS)
    except (OSError, http.client.HTTPException, CredentialsError):
        return False
    return True


def identity_token(audience: str, *, option: str) -> str:
    """An ID token of the service account that this machine runs as; it lasts an hour at most.

    Args:
        audience: Who is to accept it; becomes the token's `aud`.
        option: What asked for it, for errors.

    Raises:
        CredentialsError: There is no metadata server, within three seconds, or it gives no token.
    """
    # `full` adds the account's e-mail address and the machine, which a trust policy cannot name
    # but which CloudTrail and errors show.
    path = f"{_PATH}?{urlencode({'audience': audience, 'format': 'full'})}"
    for pause in (*_PAUSES, None):
        try:
            status, text = _ask(path, _READ_SECONDS)
        except TimeoutError as error:
            raise _absent(option, error) from error
        except (OSError, http.client.HTTPException) as error:
            if pause is None:
                raise _absent(option, error) from error
        else:
            if status == 200:
                claims_of(text)
                return text
            if pause is None or status not in _PASSING:
                raise _refused(option, status, text)
        time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def claims_of(token: str) -> dict[str, Any]:
    """What an ID token says, its signature not checked.

    Raises:
        CredentialsError: It is no token; the text is not shown.
    """
    try:
        header, payload, _ = token.split(".")
        json.loads(_decoded(header))
        found = dict(json.loads(_decoded(payload)))
    except (ValueError, TypeError) as error:
        raise CredentialsError(
            f"what should be an ID token is none: {len(token)} characters",
            where=metadata_host(),
            hint="Check GCE_METADATA_HOST",
        ) from error
    return found


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _ask(path: str, timeout: float) -> tuple[int, str]:
    host = metadata_host()
    # No proxy: the server is on the machine.
    connection = http.client.HTTPConnection(host, timeout=_CONNECT_SECONDS)
    try:
        connection.connect()
        connection.sock.settimeout(timeout)
        # By its address it is to know itself by its name.
        named = {"Host": _NAME} if host == _ADDRESS else {}
        connection.request("GET", path, headers={**_FLAVOR, **named})
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace").strip()
        if answer.getheader("Metadata-Flavor") != "Google":
            raise CredentialsError(
                "what answers is not Google's metadata server",
                where=host,
                hint=_ELSEWHERE,
            )
        return answer.status, text
    finally:
        connection.close()


_ELSEWHERE = (
    "If this does not run on Google Cloud, leave --aws_web_identity out and give AWS_PROFILE, "
    "keys, or another provider's token by AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN; if it "
    "does, see that GCE_METADATA_HOST is right or not set"
)


def _absent(option: str, error: Exception) -> CredentialsError:
    return CredentialsError(
        f"Google's metadata server at {metadata_host()} does not answer: {error}",
        where=option,
        hint=_ELSEWHERE,
    )


def _refused(option: str, status: int, text: str) -> CredentialsError:
    return CredentialsError(
        f"Google's metadata server gives no ID token: HTTP {status} {text[:200]}".rstrip(),
        where=option,
        hint=(
            "Let the machine, pod or job run as a service account (of Dataflow: "
            "--service_account_email); with workload identity on GKE, let the pod's account "
            "impersonate one"
        ),
    )
