# SPDX-License-Identifier: Apache-2.0
"""What options say of AWS, looked at before AWS is asked."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.secrets import is_reference, resolve_secrets

__all__ = ["checked_endpoint", "checked_region", "referenced_secret"]

_REGION = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def checked_region(name: str) -> str:
    """The name of a region, or nothing.

    Raises:
        ConfigurationError: No region can have this name. Whether there is one, AWS has to say.
    """
    if name and not _REGION.fullmatch(name):
        raise ConfigurationError(
            "not the name of a region", where="--region", expected="such as eu-west-1", found=name
        )
    return name


def checked_endpoint(url: str) -> str:
    """The URL of an endpoint, or nothing.

    Raises:
        ConfigurationError: It is none.
    """
    if not url:
        return url
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError(
            "not the URL of an endpoint",
            where="--endpoint_url",
            expected="http://HOST:PORT or https://HOST",
            found=url,
        )
    return url


def referenced_secret(option: str, given: str) -> str:
    """The secret that a reference names.

    Raises:
        ConfigurationError: It is none: a secret itself would be in the list of processes and in
            the shell's history. The error does not show it.
    """
    if not is_reference(given):
        raise ConfigurationError(
            "a secret is given by reference, never itself",
            where=option,
            expected="${env:NAME}, ${file:PATH} or ${secret:NAME}",
            hint=f"Put it into the environment or a file, e.g. {option}='${{env:MY_SECRET}}'",
        )
    return resolve_secrets(given, option=option)
