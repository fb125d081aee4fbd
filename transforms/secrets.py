# SPDX-License-Identifier: Apache-2.0
"""Secrets: given by reference, resolved where they are used, masked in whatever leaves as text.

Nothing of Dynabeam writes a secret anywhere. But drivers and libraries put what they were given
into their errors, and then a log would hold it: whatever was resolved here is masked there.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from urllib.parse import quote

from dynabeam.transforms.errors import ConfigurationError

__all__ = ["MASK", "is_reference", "masked", "remember_secret", "resolve_secrets"]

MASK = "***"

_SHORTEST = 4
"""Shorter values would mask words of every line; they are no secrets either."""

_REFERENCE = re.compile(r"\$\{(env|file):([^}]+)\}")
_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PGPASSWORD")

_lock = threading.Lock()
_known: set[str] = set()


def remember_secret(value: str) -> None:
    """Makes a value known as secret to this process."""
    if len(value) >= _SHORTEST:
        with _lock:
            # A URL holds it quoted, and an error shows the URL.
            _known.update({value, quote(value, safe="")})


def masked(text: str) -> str:
    """The text with `***` in place of every secret that is known."""
    with _lock:
        known = set(_known)
    known.update(value for name in _VARIABLES if len(value := os.environ.get(name, "")) > 3)
    # The longest first: one secret may hold another.
    for each in sorted(known, key=len, reverse=True):
        if each in text:
            text = text.replace(each, MASK)
    return text


def is_reference(text: str) -> bool:
    """Whether a text is one reference to a secret, and nothing else."""
    return _REFERENCE.fullmatch(text) is not None


def resolve_secrets(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Replaces `${env:NAME}` and `${file:PATH}` by what they refer to, and keeps that out of logs.

    Raises:
        ConfigurationError: If a variable is not set or a file cannot be read.
    """
    variables = os.environ if environment is None else environment

    def value(match: re.Match[str]) -> str:
        secret = looked_up(match)
        remember_secret(secret)
        return secret

    def looked_up(match: re.Match[str]) -> str:
        kind, name = match.groups()
        if kind == "env":
            if name not in variables:
                raise ConfigurationError("the environment variable is not set", where=match[0])
            return variables[name]
        try:
            with open(name, encoding="utf-8") as file:
                return file.read().strip()
        except OSError as error:
            raise ConfigurationError(
                f"the secret's file cannot be read: {error.strerror}", where=match[0]
            ) from error

    return _REFERENCE.sub(value, text)
