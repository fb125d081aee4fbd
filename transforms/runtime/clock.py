# SPDX-License-Identifier: Apache-2.0
"""The clocks: the time now, as the service counts it, and seconds that never run back.

Times of records, shards, exports and recovery are the service's. AWS bears five minutes between its
clock and a caller's, and another endpoint bears any, so whatever compares the two has to take the
difference off: else a tip is taken for reached that is not, and a heal ends before the loss did.
Every answer of DynamoDB says in its `Date` header what time it is there, to the second. From that
and from when the request left and the answer came follows within which bounds the difference lies
(`observe`); one that may be nought is nought, so that clocks that are right stay as they are.

A process has one offset: all of AWS goes by one time. Before its first answer, and if the service
sends no `Date`, it is nought.

What compares times of one machine with each other, such as those of its files, takes `machine_us`;
how long something takes is a matter of `time.monotonic` or, where a machine may be suspended
meanwhile, of `steady_seconds`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import TypeAlias

__all__ = [
    "Clock",
    "Monotonic",
    "WallClock",
    "machine_us",
    "now_us",
    "observe",
    "offset_us",
    "steady_seconds",
]

WallClock: TypeAlias = Callable[[], int]
"""Gives the time in microseconds since 1970; picklable, because transforms hold one."""

Monotonic: TypeAlias = Callable[[], float]
"""Gives seconds of a clock that never runs back."""

_SECOND_US = 1_000_000
_TOLERATED_US = 1_000_000
"""What NTP may leave between two machines, with a wide margin."""


class _Offset:
    """How far the service's clock is ahead of this machine's, microseconds."""

    us = 0


def now_us() -> int:
    """The time in microseconds since 1970, as the service counts it."""
    return machine_us() + _Offset.us


def machine_us() -> int:
    """The time in microseconds since 1970 by this machine's own clock."""
    return time.time_ns() // 1000


def offset_us() -> int:
    """How far the service's clock is ahead of this machine's, microseconds; 0 if not known."""
    return _Offset.us


def steady_seconds() -> float:
    """A clock that never goes back, and goes on while the machine is suspended where it can."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


@dataclasses.dataclass(frozen=True)
class Clock:
    """The clocks as one object, for whatever needs several; a subclass stands in for them in tests.

    Picklable.
    """

    def now_us(self) -> int:
        """See `now_us`."""
        return now_us()

    def offset_us(self) -> int:
        """See `offset_us`; known from the first answer on."""
        return offset_us()

    def monotonic(self) -> float:
        """Seconds of a clock that never runs back."""
        return time.monotonic()


def observe(date: str, sent_us: int, received_us: int) -> None:
    """Takes the offset from one answer of the service.

    Args:
        date: Its `Date` header; what is none is passed over.
        sent_us: When the request was sent, by `machine_us`.
        received_us: When the answer was there, by the same.
    """
    try:
        said_us = int(parsedate_to_datetime(date).timestamp()) * _SECOND_US
    except (TypeError, ValueError, OverflowError):
        return
    # The header has no fractions, and the answer was made at some moment between the two.
    least = said_us - received_us - _TOLERATED_US
    most = said_us + _SECOND_US - sent_us + _TOLERATED_US
    if least <= _Offset.us <= most and (_Offset.us == 0 or not least <= 0 <= most):
        return
    _Offset.us = 0 if least <= 0 <= most else (least + most) // 2
