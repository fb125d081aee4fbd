# SPDX-License-Identifier: Apache-2.0
"""The simulated service's clock: real, shifted, sped up, or moved by hand.

Everything that ages in the simulator (iterators, retention, export times, rate limits) asks this
clock and no other, so a test can make a day pass in no time.
"""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta, timezone

__all__ = ["SimClock"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


class SimClock:
    """A clock that never runs backwards; safe to use from several threads.

    Args:
        start: The time that it shows first, with a time zone. Now, if not given.
        scale: Simulated seconds per real second: 1 is real time, 60 a minute a second, 0 a clock
            that only `advance` and `set` move.
        offset: Added to `start`.

    Raises:
        ValueError: `start` has no time zone, or `scale` is negative.
    """

    def __init__(
        self,
        start: datetime | None = None,
        *,
        scale: float = 1.0,
        offset: timedelta = timedelta(),
    ) -> None:
        if start is not None and start.tzinfo is None:
            raise ValueError(f"start: needs a time zone, found {start!r}")
        if scale < 0:
            raise ValueError(f"scale: must be 0 or more, found {scale!r}")
        self._lock = threading.Lock()
        self._base = micros_of((start or datetime.now(timezone.utc)) + offset)
        self._scale = scale
        self._started_ns = time.monotonic_ns()

    @classmethod
    def manual(cls, start: datetime | None = None) -> SimClock:
        """A clock that does not move until `advance` or `set` is called."""
        return cls(start, scale=0.0)

    @property
    def scale(self) -> float:
        """Simulated seconds per real second."""
        return self._scale

    @scale.setter
    def scale(self, scale: float) -> None:
        if scale < 0:
            raise ValueError(f"scale: must be 0 or more, found {scale!r}")
        with self._lock:
            self._base = self._read()
            self._started_ns = time.monotonic_ns()
            self._scale = scale

    def micros(self) -> int:
        """The time in whole microseconds since 1970, UTC."""
        with self._lock:
            return self._read()

    def now(self) -> datetime:
        """The time, with time zone UTC."""
        return datetime_of(self.micros())

    def advance(self, by: timedelta) -> datetime:
        """Let `by` pass at once, and return the new time.

        Raises:
            ValueError: `by` is negative: the clock never runs backwards.
        """
        if by < timedelta():
            raise ValueError(f"by: the clock never runs backwards, found {by!r}")
        with self._lock:
            self._base += by // _MICROSECOND
            return datetime_of(self._read())

    def set(self, to: datetime) -> datetime:
        """Move to a later time, and return it.

        Raises:
            ValueError: `to` has no time zone, or lies before the time shown.
        """
        return self.advance(to - self.now())

    def _read(self) -> int:
        passed_ns = time.monotonic_ns() - self._started_ns
        if self._scale == 1.0:
            return self._base + passed_ns // 1000
        return self._base + int(passed_ns * self._scale) // 1000


def micros_of(moment: datetime) -> int:
    """A time with zone as whole microseconds since 1970, UTC.

    Raises:
        ValueError: The time has no zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"A time needs a time zone, found {moment!r}")
    return (moment - _EPOCH) // _MICROSECOND


def datetime_of(micros: int) -> datetime:
    """Whole microseconds since 1970 as a time in UTC."""
    return _EPOCH + timedelta(microseconds=micros)
