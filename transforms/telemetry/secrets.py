# SPDX-License-Identifier: Apache-2.0
"""Belt and braces: values that are secret and known are masked in whatever leaves as text.

Nothing of Dynabeam writes a secret anywhere. But drivers and libraries put what they were given
into their errors, and then a log would hold it.
"""

from __future__ import annotations

import os
import threading
from urllib.parse import quote

__all__ = ["MASK", "masked", "remember_secret"]

MASK = "***"

_SHORTEST = 4
"""Shorter values would mask words of every line; they are no secrets either."""

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
