# SPDX-License-Identifier: Apache-2.0
"""Secrets: given by reference, resolved where they are used, masked in whatever leaves as text.

Nothing of Dynabeam writes a secret anywhere. But drivers and libraries put what they were given
into their errors, and then a log would hold it: whatever was resolved here is masked there.

`${secret:…}` is asked of Google Secret Manager or AWS Secrets Manager. What they say is kept in
memory for ten seconds, so that the many connections of a start ask once, and a password that was
rotated is taken at the next login or the retry of one that failed: nothing has to be restarted.
"""

from __future__ import annotations

import importlib
import os
import re
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from dynabeam.transforms.errors import ConfigurationError

__all__ = [
    "MASK",
    "check_references",
    "is_reference",
    "masked",
    "references_shown",
    "remember_secret",
    "resolve_secrets",
]

MASK = "***"

_SHORTEST = 4
"""Shorter values would mask words of every line; they are no secrets either."""

_REFERENCE = re.compile(r"\$\{(env|file|secret):([^}]+)\}")
_STORES = {
    "projects/": "dynabeam.transforms.google.secret_manager",
    "arn:": "dynabeam.transforms.aws.secrets_manager",
}
"""How a secret's name begins → the module that asks for it, imported when one is wanted."""
_KEPT_SECONDS = 10.0

_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PGPASSWORD")

_lock = threading.Lock()
_known: set[str] = set()
_asking = threading.RLock()
_answers: dict[str, tuple[float, str]] = {}
"""Reference → until when its answer is good, and the answer. A process forgets it at its end."""


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


def references_shown(text: str) -> str:
    """The text with words that a policy document may hold in place of its references."""
    return _REFERENCE.sub(r"REPLACE-\1-\2", text)


def check_references(option: str, text: str) -> None:
    """Checks the form of the references in a text, without resolving them.

    Raises:
        ConfigurationError: One names no secret that any store can have.
    """
    for match in _REFERENCE.finditer(text):
        if match[1] == "secret":
            where = _where(option, match[0])
            _store(match[2], where).check(match[2], where=where)


def resolve_secrets(
    text: str, environment: Mapping[str, str] | None = None, *, option: str = ""
) -> str:
    """Replaces references by what they refer to, and keeps that out of logs.

    `${env:NAME}`, `${file:PATH}`, `${secret:projects/P/secrets/S[/versions/V]}` of Google and
    `${secret:arn:aws:secretsmanager:…[#JSON_KEY]}` of AWS.

    Args:
        text: The text.
        environment: Variables; by default the process's own.
        option: Where the text was given, for errors.

    Raises:
        ConfigurationError: A variable is not set, a file cannot be read, a secret cannot be had.
        CredentialsError: There are no credentials to ask for a secret.
    """
    variables = os.environ if environment is None else environment

    def value(match: re.Match[str]) -> str:
        secret = looked_up(match)
        remember_secret(secret)
        return secret

    def looked_up(match: re.Match[str]) -> str:
        kind, name = match.groups()
        where = _where(option, match[0])
        if kind == "secret":
            return _asked(name, where)
        if kind == "env":
            if name not in variables:
                raise ConfigurationError("the environment variable is not set", where=where)
            return variables[name]
        try:
            with open(name, encoding="utf-8") as file:
                return file.read().strip()
        except OSError as error:
            raise ConfigurationError(
                f"the secret's file cannot be read: {error.strerror}", where=where
            ) from error

    return _REFERENCE.sub(value, text)


def _asked(name: str, where: str) -> str:
    """What a store says, or said a moment ago; one asks, the others wait for it."""
    store = _store(name, where)
    with _asking:
        until, known = _answers.get(name, (0.0, ""))
        if time.monotonic() < until:
            return known
        _answers.pop(name, None)
        # Services keep what was put in, and editors and `echo` put a line's end there.
        found = str(store.value_of(name, where=where)).rstrip("\r\n")
        _answers[name] = time.monotonic() + _KEPT_SECONDS, found
        return found


def _store(name: str, where: str) -> Any:
    for beginning, module in _STORES.items():
        if name.startswith(beginning):
            # By name: they lie on higher floors, and whoever has no such secret does not need them.
            return importlib.import_module(module)
    raise ConfigurationError(
        "no store of secrets is known for this name",
        where=where,
        expected="projects/PROJECT/secrets/SECRET or arn:aws:secretsmanager:…",
    )


def _where(option: str, reference: str) -> str:
    return f"{option}: {reference}" if option else reference
