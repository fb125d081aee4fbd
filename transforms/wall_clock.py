# SPDX-License-Identifier: Apache-2.0
"""The time now, and its type as an argument, so that tests can give another."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["WallClock", "now_us"]

WallClock: TypeAlias = Callable[[], int]
"""Gives the time in microseconds since 1970; picklable, because transforms hold one."""


def now_us() -> int:
    """The time in microseconds since 1970."""
    return time.time_ns() // 1000
