# SPDX-License-Identifier: Apache-2.0
"""Secrets of Google Secret Manager: `projects/P[/locations/L]/secrets/S[/versions/V]`.

Google's client is imported when the first secret is wanted. It speaks REST: workers fork, which
gRPC does not survive.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Any

from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.google.metadata import metadata_server_answers

__all__ = ["check", "value_of"]

_NAME = re.compile(
    r"(projects/[\w:.-]+(?:/locations/(?P<location>[a-z0-9-]+))?/secrets/[\w-]{1,255})"
    r"(?:/versions/(?P<version>[\w-]+))?"
)
_SECONDS = 20.0


def check(name: str, *, where: str) -> None:
    """Checks the form of a name.

    Raises:
        ConfigurationError: It cannot be the name of a secret.
    """
    if _NAME.fullmatch(name) is None:
        raise ConfigurationError(
            "not the name of a secret",
            where=where,
            expected="projects/PROJECT/secrets/SECRET[/versions/VERSION]",
        )


def value_of(name: str, *, where: str) -> str:
    """The text of a secret's version; without a version, of the newest.

    Args:
        name: The name.
        where: Option and reference, for errors.

    Raises:
        ConfigurationError: It cannot be had; the error does not show what it holds.
    """
    check(name, where=where)
    match = _NAME.fullmatch(name)
    assert match is not None
    try:
        from google.api_core.exceptions import GoogleAPIError  # noqa: PLC0415 - a second
        from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415
    except ImportError as error:
        raise _not_installed(where) from error
    path = f"{match[1]}/versions/{match['version'] or 'latest'}"
    try:
        answer = _client(match["location"] or "", where).access_secret_version(
            name=path, timeout=_SECONDS
        )
    except (GoogleAPIError, GoogleAuthError) as error:
        raise ConfigurationError(
            f"Google Secret Manager does not give the secret: {error}",
            where=where,
            hint=(
                "Check the name and that the version is enabled, and give the account that this "
                "runs as roles/secretmanager.secretAccessor on the secret"
            ),
        ) from error
    try:
        return str(answer.payload.data.decode())
    except UnicodeDecodeError:
        # Not the cause: its text would show the secret.
        raise ConfigurationError("the secret is not UTF-8 text", where=where) from None


def _not_installed(where: str) -> ConfigurationError:
    return ConfigurationError(
        "Google's client for Secret Manager is not installed",
        where=where,
        hint="Install dynabeam[dataflow], or google-cloud-secret-manager",
    )


def _client(location: str, where: str) -> Any:
    if not _has_key_file() and not metadata_server_answers():
        raise ConfigurationError(
            "no Google credentials: neither a key file nor Google's metadata server is there",
            where=where,
            hint="Run on Google Cloud, set GOOGLE_APPLICATION_CREDENTIALS, or run "
            "'gcloud auth application-default login'",
        )
    try:
        return _made_client(location)
    except ImportError as error:
        raise _not_installed(where) from error


@functools.cache
def _made_client(location: str) -> Any:
    from google.api_core.client_options import ClientOptions  # noqa: PLC0415
    from google.cloud.secretmanager import SecretManagerServiceClient  # noqa: PLC0415

    # A regional secret is known to its region alone.
    options = ClientOptions(
        api_endpoint=f"secretmanager.{location}.rep.googleapis.com" if location else None
    )
    return SecretManagerServiceClient(transport="rest", client_options=options)


def _has_key_file() -> bool:
    """Whether google-auth finds credentials without asking the network, which takes it long."""
    if os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        return True
    folder = os.environ.get("CLOUDSDK_CONFIG") or str(Path.home() / ".config" / "gcloud")
    return (Path(folder) / "application_default_credentials.json").exists()
